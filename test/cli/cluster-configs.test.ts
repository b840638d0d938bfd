import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { NatsConnection } from '@nats-io/transport-node';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parse, parseAllDocuments } from 'yaml';
import { connectNats, findNatsServer, type NatsServer, startNatsServer } from '../../src/comm/index.ts';
import { runCli } from './run-cli.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const configs = join(root, 'configs', 'cluster');
const text = (name: string): string => readFileSync(join(configs, name), 'utf8');

/** Flags that a command knows. */
async function flagsOf(command: string): Promise<Set<string>> {
  const { stdout } = await runCli([command, '--help']);
  return new Set(stdout.match(/--[a-z-]+/g));
}

interface Container {
  readonly name: string;
  readonly image: string;
  readonly args: readonly string[];
  readonly env?: readonly { name: string; value?: string; valueFrom?: { secretKeyRef?: { name: string } } }[];
  readonly ports?: readonly { name: string; containerPort: number }[];
  readonly volumeMounts?: readonly { name: string }[];
  readonly resources?: { limits?: Record<string, unknown> };
}
interface Manifest {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: { readonly name: string };
  readonly spec?: {
    readonly selector?: Record<string, unknown> & { readonly matchLabels?: Record<string, string> };
    readonly serviceName?: string;
    readonly ports?: readonly { targetPort?: string }[];
    readonly volumeClaimTemplates?: readonly { metadata: { name: string } }[];
    readonly template?: {
      readonly metadata: { readonly labels: Record<string, string> };
      readonly spec: {
        readonly containers: readonly Container[];
        readonly volumes?: readonly { name: string; configMap?: { name: string } }[];
      };
    };
  };
}
/** The JSON schemas of Kubernetes' own API, where somebody has installed them (`npm install --no-save kubernetes-models`). */
const schemas = existsSync(join(root, 'node_modules', 'kubernetes-models'));

const manifests = (name: string): Manifest[] =>
  parseAllDocuments(text(name)).map((document) => document.toJS() as Manifest);

describe('Kubernetes', () => {
  const base = manifests('kubernetes.yaml');
  const gpu = manifests('kubernetes-gpu.yaml');
  const all = [...base, ...gpu];
  const workloads = all.filter(({ spec }) => spec?.template);

  it('has a server, a coordinator and workers', () => {
    expect(base.map(({ apiVersion, kind, metadata }) => `${apiVersion} ${kind} ${metadata.name}`)).toEqual([
      'v1 ConfigMap plexus-nats',
      'v1 Service plexus-nats',
      'apps/v1 StatefulSet plexus-nats',
      'v1 PersistentVolumeClaim plexus-runs',
      'batch/v1 Job plexus-coordinator',
      'v1 Service plexus-worker',
      'apps/v1 StatefulSet plexus-worker',
    ]);
    expect(gpu.map(({ kind, metadata }) => `${kind} ${metadata.name}`)).toEqual(['StatefulSet plexus-worker']);
  });

  it('refers only to what there is', () => {
    const labels = workloads.map(({ spec }) => spec?.template?.metadata.labels ?? {});
    const within = (selector: Record<string, unknown>) =>
      labels.some((set) => Object.entries(selector).every(([key, value]) => set[key] === value));
    for (const { kind, spec, metadata } of all) {
      if (kind === 'Service') expect(within(spec?.selector ?? {}), metadata.name).toBe(true);
      if (spec?.selector?.matchLabels) expect(spec.template?.metadata.labels).toMatchObject(spec.selector.matchLabels);
      if (spec?.serviceName)
        expect(all.some((other) => other.kind === 'Service' && other.metadata.name === spec.serviceName)).toBe(true);
    }
    for (const { spec, metadata } of workloads) {
      const { containers, volumes = [] } = spec?.template?.spec ?? { containers: [] };
      const known = [...volumes, ...(spec?.volumeClaimTemplates ?? []).map((claim) => claim.metadata)].map(
        ({ name }) => name,
      );
      for (const container of containers) {
        for (const mount of container.volumeMounts ?? [])
          expect(known, `${metadata.name} mounts ${mount.name}`).toContain(mount.name);
        for (const { valueFrom } of container.env ?? [])
          if (valueFrom?.secretKeyRef) expect(valueFrom.secretKeyRef.name).toBe('plexus-nats');
        // What `$(NAME)` stands for in arguments is a variable of the container.
        for (const [, name] of container.args.join(' ').matchAll(/\$\((\w+)\)/g))
          expect(container.env?.map((variable) => variable.name)).toContain(name);
      }
      for (const volume of volumes)
        if (volume.configMap) expect(['plexus-nats', 'plexus-config']).toContain(volume.configMap.name);
    }
  });

  it.skipIf(!schemas)('is valid against the schemas of Kubernetes', async () => {
    for (const manifest of all) {
      // (A name that the type checker does not look for: the package is optional.)
      const models = (await import(/* @vite-ignore */ `kubernetes-models/${manifest.apiVersion}`)) as Record<
        string,
        new (
          data: object,
        ) => { validate(): void }
      >;
      const Model = models[manifest.kind];
      expect(Model, manifest.kind).toBeDefined();
      if (Model) new Model(manifest).validate();
    }
  });

  it('starts commands with flags that they have', async () => {
    for (const { spec } of workloads)
      for (const { name, args } of spec?.template?.spec.containers ?? []) {
        if (name === 'nats') continue;
        const known = await flagsOf(args[0] as string);
        for (const flag of args.filter((arg) => arg.startsWith('--'))) expect(known).toContain(flag);
      }
  });

  it('asks for a GPU in the variant for GPUs only', () => {
    const limits = (of: Manifest[]) =>
      of.flatMap(({ spec }) => spec?.template?.spec.containers.map(({ resources }) => resources?.limits ?? {}) ?? []);
    expect(limits(gpu)).toEqual([expect.objectContaining({ 'nvidia.com/gpu': 1 })]);
    expect(limits(base).some((limit) => 'nvidia.com/gpu' in limit)).toBe(false);
  });
});

describe('containers', () => {
  it('compose starts what there is', async () => {
    const compose = parse(text('docker-compose.yaml'), { merge: true }) as {
      services: Record<
        string,
        { command: string[]; environment: Record<string, string>; depends_on?: Record<string, unknown> }
      >;
      volumes: object;
    };
    expect(Object.keys(compose.services)).toEqual(['nats', 'coordinator', 'worker']);
    for (const [name, { command, environment, depends_on = {} }] of Object.entries(compose.services)) {
      for (const other of Object.keys(depends_on)) expect(compose.services).toHaveProperty(other);
      if (name === 'nats') continue;
      expect(environment.PLEXUS_NATS).toBe('nats://nats:4222');
      const known = await flagsOf(command[0] as string);
      for (const flag of command.filter((arg) => arg.startsWith('--'))) expect(known).toContain(flag);
    }
    // A file in the image that is in the repository.
    const config = compose.services.coordinator?.command[1] ?? '';
    expect(existsSync(join(root, config.replace('/app/', '')))).toBe(true);
  });

  it('the image copies what there is', () => {
    const sources = [...text('Dockerfile').matchAll(/^COPY (?!--from)(.+) \S+$/gm)].flatMap(([, files]) =>
      (files as string).split(' '),
    );
    expect(sources.length).toBeGreaterThan(5);
    // (`vendor` is in the repository, or made by the build.)
    for (const source of sources) expect(existsSync(join(root, source)), source).toBe(true);
  });
});

describe('SLURM', () => {
  it('is a script that bash accepts, with the directives that it relies on', () => {
    const { status, stderr } = spawnSync('bash', ['-n', join(configs, 'slurm.sbatch')], { encoding: 'utf8' });
    expect(stderr).toBe('');
    expect(status).toBe(0);
    const lines = text('slurm.sbatch').split('\n');
    expect(lines[0]).toBe('#!/bin/bash');
    // sbatch stops reading directives at the first command.
    const firstCommand = lines.findIndex((line) => line.trim() !== '' && !line.startsWith('#'));
    const directives = lines.flatMap((line, index) =>
      /^#SBATCH /.test(line) && index < firstCommand ? [line.slice(8)] : [],
    );
    for (const needed of [/^--nodes=\d+$/, /^--ntasks-per-node=1$/, /^--signal=B:TERM@\d+$/, /^--requeue$/, /^--time=/])
      expect(directives).toContainEqual(expect.stringMatching(needed));
    expect(directives.every((directive) => /^--[a-z-]+(=\S+)?$/.test(directive))).toBe(true);
  });

  it('says how it is used', () => {
    const { status, stderr } = spawnSync('bash', [join(configs, 'slurm.sbatch')], { encoding: 'utf8' });
    expect(stderr).toMatch(/^usage: sbatch slurm.sbatch CONFIG/);
    expect(status).toBe(2);
  });
});

describe('nats-server.conf', () => {
  const passwords = {
    COORDINATOR_PASSWORD: 'coordinators-own',
    WORKER_PASSWORD: 'workers-own',
    CLIENT_PASSWORD: 'clients-own',
  };
  let folder: string;
  let server: NatsServer;
  const connections: NatsConnection[] = [];
  const connect = async (user: 'coordinator' | 'worker') => {
    const password = user === 'worker' ? passwords.WORKER_PASSWORD : passwords.COORDINATOR_PASSWORD;
    const connection = await connectNats({ servers: server.url, user, password });
    connections.push(connection);
    return connection;
  };

  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), 'plexus-nats-conf-'));
    Object.assign(process.env, passwords);
    const file = join(folder, 'nats-server.conf');
    writeFileSync(
      file,
      text('nats-server.conf').replace('store_dir: "./nats"', `store_dir: ${JSON.stringify(folder)}`),
    );
    server = await startNatsServer({ configFile: file });
  });
  afterAll(async () => {
    for (const connection of connections) await connection.close();
    await server?.stop();
    for (const name of Object.keys(passwords)) delete process.env[name];
    rmSync(folder, { recursive: true, force: true });
  });

  it('is what nats-server accepts, and refuses without passwords', () => {
    const check = (env: NodeJS.ProcessEnv) =>
      spawnSync(findNatsServer() as string, ['-t', '-c', join(configs, 'nats-server.conf')], { encoding: 'utf8', env });
    expect(check({ ...process.env, ...passwords }).status).toBe(0);
    const { COORDINATOR_PASSWORD: _, ...without } = { ...process.env };
    expect(check(without).stderr).toMatch(/COORDINATOR_PASSWORD/);
  });

  it('refuses strangers', async () => {
    await expect(connectNats({ servers: server.url })).rejects.toMatchObject({ fault: 'login' });
    await expect(connectNats({ servers: server.url, user: 'worker', password: 'x' })).rejects.toMatchObject({
      fault: 'login',
    });
  });

  /** Subjects of these that a user may publish to. */
  async function allowed(user: 'coordinator' | 'worker', subjects: readonly string[]): Promise<string[]> {
    const connection = await connect(user);
    const refused = new Set<string>();
    void (async () => {
      for await (const status of connection.status())
        if (status.type === 'error') {
          const subject = /"([^"]+)"/.exec(status.error.message)?.[1];
          if (subject) refused.add(subject);
        }
    })();
    for (const subject of subjects) connection.publish(subject, '{}');
    // The server answers in order: what it refused is known after the second round trip.
    await connection.flush();
    await connection.flush();
    return subjects.filter((subject) => !refused.has(subject));
  }

  const tensors = ['plexus.moe.3.0', 'plexus.moe.events', 'plexus.moe.logs', 'plexus.moe.blobs.b'];
  const record = ['$KV.plexus-moe.members.a'];
  const orders = ['plexus.moe.agent.b'];
  const state = ['$KV.plexus-moe.leader', '$KV.plexus-moe.job', '$KV.plexus-moe.generation', '$KV.plexus-moe.position'];
  const destructive = [
    '$JS.API.STREAM.DELETE.KV_plexus-moe',
    '$JS.API.STREAM.PURGE.KV_plexus-moe',
    '$JS.API.STREAM.DELETE.OTHER',
  ];

  it('lets workers do what they must, and give no orders', async () => {
    expect(
      await allowed('worker', [...tensors, ...record, ...orders, ...state, ...destructive, 'other.subject']),
    ).toEqual([...tensors, ...record]);
  });

  it('lets coordinators lead, and nothing outside of Plexus', async () => {
    expect(await allowed('coordinator', [...tensors, ...record, ...orders, ...state, 'other.subject'])).toEqual([
      ...tensors,
      ...record,
      ...orders,
      ...state,
    ]);
  });

  it('lets a worker answer its coordinator', async () => {
    const [coordinator, worker] = [await connect('coordinator'), await connect('worker')];
    worker.subscribe('plexus.moe.agent.a', { callback: (_, message) => void message.respond('done') });
    await worker.flush();
    expect((await coordinator.request('plexus.moe.agent.a', 'do', { timeout: 5000 })).string()).toBe('done');
  });

  it('keeps what is not for workers from them', async () => {
    const worker = await connect('worker');
    const refused = new Promise<string>((resolve) => {
      worker.subscribe('$KV.plexus-moe.>', {
        callback: (error) => {
          if (error) resolve(error.message);
        },
      });
    });
    expect(await refused).toMatch(/permissions violation/i);
  });
});
