import { createHash, randomBytes } from 'node:crypto';
import { mkdir, open, readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { gunzip, gzip } from 'node:zlib';
import type { NatsConnection } from '@nats-io/transport-node';
import { z } from 'zod';
import { sha256OfFile } from '../../../tensor/index.ts';
import { writeFileAtomically } from '../atomic.ts';
import {
  type CheckpointIndex,
  checkpointIndexSchema,
  checkpointPath,
  saveCheckpoint,
  superfluous,
  type UsableCheckpoint,
  verifyCheckpoint,
} from '../checkpoint.ts';
import { CheckpointError } from '../errors.ts';
import { ChunkStream } from './chunk-stream.ts';
import { folderStore } from './folder.ts';
import type { CheckpointStore } from './store.ts';

const FORMAT = 1;

const manifestSchema = z.object({
  format: z.literal(FORMAT),
  /** Completed steps. */
  step: z.int().min(0),
  /** Where the content lies: another place for each attempt, so that two never mix. */
  attempt: z.string(),
  chunkBytes: z.int().min(1),
  files: z.array(
    z.object({
      /** `index.json` and shards of the checkpoint; `run/<name>` of the run's folder, gzip. */
      name: z.string(),
      bytes: z.int().min(0),
      sha256: z.string(),
    }),
  ),
});

type Manifest = z.infer<typeof manifestSchema>;

const RUN = 'run/';

/** Files of a run's folder that are of no use to whoever goes on with it. */
const LEFT_OUT = new Set(['summary.json', 'trace.json', 'flight-recorder.json']);

/** Where a run's checkpoints are kept on NATS. */
export interface NatsStoreOptions {
  readonly connection: NatsConnection;
  readonly job: string;
  /** Id of the run. */
  readonly run: string;
  /** Folder of the run on this machine: checkpoints pass through it, and are read from it. */
  readonly folder: string;
  /** How long a message may take, over lost connections and restarted servers, in milliseconds. Default 60 s. */
  readonly deadlineMs?: number;
}

/** A store on NATS that can also bring a run to a machine that has never seen it. */
export interface NatsStore extends CheckpointStore {
  /** Puts the files that the run's folder had when the checkpoint of `step` was saved into the folder. */
  restoreFiles(step: number): Promise<void>;
}

/**
 * Checkpoints in a JetStream stream, with the run's config, model and metrics beside them: a manifest that is stored last
 * makes one valid, as a folder's name does on a disk. Each is written to the run's folder first and then sent; it counts
 * as safe when the server has all of it. What is read is verified by SHA-256.
 * @throws CheckpointError if the server has no JetStream
 */
export async function natsStore(options: NatsStoreOptions): Promise<NatsStore> {
  const { connection, job, run, folder, deadlineMs = 60_000 } = options;
  const stream = await openStream(connection, job, deadlineMs);
  return new JetStreamStore(stream, tokenOf(run), run, folder);
}

/** Ids of the runs of which there are checkpoints, with their steps, newest first. */
export async function storedRuns(
  connection: NatsConnection,
  job: string,
  deadlineMs = 10_000,
): Promise<ReadonlyMap<string, readonly number[]>> {
  const stream = await openStream(connection, job, deadlineMs);
  const runs = new Map<string, number[]>();
  for (const name of await stream.names('manifest.*.*')) {
    const [, token = '', step] = name.split('.');
    const run = decodeURIComponent(token);
    runs.set(run, [...(runs.get(run) ?? []), Number(step)]);
  }
  for (const steps of runs.values()) steps.sort((a, b) => b - a);
  return runs;
}

/**
 * Brings a run to this machine: makes `<dir>/<run>` with its files and its newest whole checkpoint, from which it can be
 * resumed. Returns the folder, and what was wrong with newer checkpoints.
 * @throws CheckpointError if there is no such run, or none of its checkpoints is whole
 */
export async function fetchRun(
  options: Omit<NatsStoreOptions, 'folder'> & { readonly dir: string; readonly step?: number },
): Promise<{ readonly path: string; readonly warnings: readonly string[] }> {
  const { connection, job, run, dir, step } = options;
  const known = await storedRuns(connection, job, options.deadlineMs);
  if (!known.has(run))
    throw new CheckpointError(
      `there is no run '${run}' of job '${job}' on ${connection.getServer()}; there are: ${[...known.keys()].join(', ') || 'none'}`,
    );
  const path = join(dir, run);
  await mkdir(path, { recursive: true });
  const store = await natsStore({ ...options, folder: path });
  const usable = await store.newest(step);
  await store.restoreFiles(usable.index.step);
  return { path, warnings: usable.warnings };
}

function openStream(connection: NatsConnection, job: string, deadlineMs: number): Promise<ChunkStream> {
  const name = `plexus-${job}-checkpoints`;
  return ChunkStream.open(connection, { name, prefix: `plexus.${job}.checkpoints`, patience: { deadlineMs } });
}

/** As one token of a subject. */
function tokenOf(text: string): string {
  return encodeURIComponent(text).replaceAll('.', '%2E').replaceAll('*', '%2A');
}

class JetStreamStore implements NatsStore {
  readonly #stream: ChunkStream;
  readonly #token: string;
  readonly #run: string;
  readonly #folder: string;
  readonly #checkpoints: string;
  readonly #local: CheckpointStore;

  constructor(stream: ChunkStream, token: string, run: string, folder: string) {
    this.#stream = stream;
    this.#token = token;
    this.#run = run;
    this.#folder = folder;
    this.#checkpoints = join(folder, 'checkpoints');
    this.#local = folderStore(this.#checkpoints);
  }

  async save(...[info, write]: Parameters<CheckpointStore['save']>): ReturnType<CheckpointStore['save']> {
    const saved = await this.#local.save(info, write);
    const index = JSON.parse(await readFile(join(saved.path, 'index.json'), 'utf8')) as CheckpointIndex;
    const attempt = randomBytes(4).toString('hex');
    const place = (file: number): string => `data.${this.#token}.${info.step}.${attempt}.${file}`;
    const files: Manifest['files'] = [];
    for (const { file: name, bytes, sha256 } of index.shards) {
      await this.#sendFile(place(files.length), join(saved.path, name), bytes);
      files.push({ name, bytes, sha256 });
    }
    for (const [name, content] of await this.#smallFiles(saved.path)) {
      await this.#stream.put(place(files.length), content.length, (at, length) => content.subarray(at, at + length));
      files.push({ name, bytes: content.length, sha256: sha256(content) });
    }
    const manifest: Manifest = { format: FORMAT, step: info.step, attempt, chunkBytes: this.#stream.chunkBytes, files };
    await this.#stream.set(`manifest.${this.#token}.${info.step}`, Buffer.from(JSON.stringify(manifest)));
    return saved;
  }

  async steps(): Promise<number[]> {
    const all = new Set([...(await this.#remoteSteps()), ...(await this.#local.steps())]);
    return [...all].sort((a, b) => b - a);
  }

  async newest(step?: number): Promise<UsableCheckpoint> {
    const steps = await this.steps();
    const candidates = step === undefined ? steps : steps.filter((other) => other === step);
    const warnings: string[] = [];
    for (const candidate of candidates)
      try {
        return { ...(await this.#bring(candidate)), warnings };
      } catch (error) {
        if (!(error instanceof CheckpointError)) throw error;
        warnings.push(`skipped a damaged checkpoint: ${error.message}`);
      }
    const where = `of run '${this.#run}' on NATS and in ${this.#checkpoints}`;
    if (warnings.length > 0)
      throw new CheckpointError(`no checkpoint ${where} is whole:\n${warnings.map((text) => `  ${text}`).join('\n')}`);
    throw new CheckpointError(
      step === undefined
        ? `there is no checkpoint ${where}`
        : `there is no checkpoint of step ${step} ${where}; there are: ${steps.join(', ') || 'none'}`,
    );
  }

  async prune(...[rule]: Parameters<CheckpointStore['prune']>): Promise<void> {
    await this.#local.prune(rule);
    const steps = await this.#remoteSteps();
    // A manifest goes first: what has none is nothing.
    for (const step of superfluous(steps, rule.last, rule.every)) await this.#stream.purge(this.#manifestOf(step));
    const kept = new Set<string>();
    for (const step of await this.#remoteSteps()) {
      const manifest = await this.#manifest(step).catch(() => null);
      if (manifest) kept.add(`${step}.${manifest.attempt}`);
    }
    const there = new Set<string>();
    for (const name of await this.#stream.names(`data.${this.#token}.>`))
      there.add(name.split('.').slice(2, 4).join('.'));
    for (const content of there) if (!kept.has(content)) await this.#stream.purge(`data.${this.#token}.${content}.>`);
  }

  async restoreFiles(step: number): Promise<void> {
    const manifest = await this.#manifest(step);
    // Of a checkpoint that never got there the files are here.
    if (!manifest) return;
    for (const [i, { name }] of manifest.files.entries()) {
      if (!name.startsWith(RUN)) continue;
      const content = await promisify(gunzip)(await this.#small(manifest, i));
      await writeFileAtomically(join(this.#folder, safeName(name.slice(RUN.length))), content);
    }
  }

  /** Makes sure that a checkpoint is in the folder, whole. */
  async #bring(step: number): Promise<Omit<UsableCheckpoint, 'warnings'>> {
    const path = checkpointPath(this.#checkpoints, step);
    const orProblem = (error: unknown): CheckpointError => {
      if (error instanceof CheckpointError) return error;
      throw error;
    };
    const manifest = await this.#manifest(step).catch(orProblem);
    const here = await verifyCheckpoint(path).catch(orProblem);
    if (manifest instanceof CheckpointError || manifest === null) {
      if (!(here instanceof CheckpointError)) return { path, index: here };
      throw manifest ?? here;
    }
    if (here instanceof CheckpointError) return this.#download(manifest);
    const same = here.shards.every(({ file, sha256 }) =>
      manifest.files.some((stored) => stored.name === file && stored.sha256 === sha256),
    );
    return same ? { path, index: here } : this.#download(manifest);
  }

  async #download(manifest: Manifest): Promise<Omit<UsableCheckpoint, 'warnings'>> {
    const at = manifest.files.findIndex(({ name }) => name === 'index.json');
    const parsed = checkpointIndexSchema.safeParse(
      at < 0 ? null : JSON.parse((await this.#small(manifest, at)).toString('utf8')),
    );
    if (!parsed.success) throw this.#damaged(manifest, 'its index.json is missing or damaged');
    const { shards, format: _, ...info } = parsed.data;
    const { path } = await saveCheckpoint(this.#checkpoints, info, async (folder) => {
      for (const { file } of shards) {
        const position = manifest.files.findIndex(({ name }) => name === file);
        if (position < 0) throw this.#damaged(manifest, `the shard ${file} is not in its manifest`);
        await this.#receive(manifest, position, join(folder, safeName(file)));
      }
      return shards;
    });
    return { path, index: parsed.data };
  }

  async #sendFile(place: string, path: string, bytes: number): Promise<void> {
    const file = await open(path, 'r');
    try {
      await this.#stream.put(place, bytes, async (offset, length) => {
        const content = Buffer.allocUnsafe(length);
        const { bytesRead } = await file.read(content, 0, length, offset);
        if (bytesRead < length) throw new CheckpointError(`${path} shrank while it was sent`);
        return content;
      });
    } finally {
      await file.close();
    }
  }

  async #receive(manifest: Manifest, position: number, path: string): Promise<void> {
    const { name, bytes, sha256: expected } = manifest.files[position] as Manifest['files'][number];
    const file = await open(path, 'w');
    try {
      await this.#stream.get(this.#placeOf(manifest, position), bytes, manifest.chunkBytes, async (offset, content) => {
        await file.write(content, 0, content.length, offset);
      });
    } finally {
      await file.close();
    }
    if ((await sha256OfFile(path)) !== expected) throw this.#damaged(manifest, `the content of ${name} has changed`);
  }

  async #small(manifest: Manifest, position: number): Promise<Buffer> {
    const { name, bytes, sha256: expected } = manifest.files[position] as Manifest['files'][number];
    const content = Buffer.alloc(bytes);
    await this.#stream.get(this.#placeOf(manifest, position), bytes, manifest.chunkBytes, (offset, part) => {
      content.set(part, offset);
    });
    if (sha256(content) !== expected) throw this.#damaged(manifest, `the content of ${name} has changed`);
    return content;
  }

  /** The checkpoint's index, and the files of the run as they are now. */
  async #smallFiles(checkpoint: string): Promise<(readonly [name: string, content: Buffer])[]> {
    const files: (readonly [string, Buffer])[] = [['index.json', await readFile(join(checkpoint, 'index.json'))]];
    for (const name of (await readdir(this.#folder)).sort()) {
      const path = join(this.#folder, name);
      if (name.startsWith('.') || LEFT_OUT.has(name) || !(await stat(path)).isFile()) continue;
      files.push([RUN + name, await promisify(gzip)(await readFile(path))]);
    }
    return files;
  }

  async #remoteSteps(): Promise<number[]> {
    const names = await this.#stream.names(`manifest.${this.#token}.*`);
    return names.map((name) => Number(name.split('.').at(-1))).sort((a, b) => b - a);
  }

  /** @throws CheckpointError if it is damaged or of another version */
  async #manifest(step: number): Promise<Manifest | null> {
    const found = await this.#stream.last(this.#manifestOf(step));
    if (!found) return null;
    const where = `the manifest of the checkpoint of step ${step} of run '${this.#run}' on NATS`;
    let value: unknown;
    try {
      value = JSON.parse(Buffer.from(found).toString('utf8'));
    } catch (error) {
      throw new CheckpointError(`${where} is not valid JSON (${(error as Error).message})`);
    }
    const parsed = manifestSchema.safeParse(value);
    if (!parsed.success) throw new CheckpointError(`${where} is damaged, or of another version of Plexus`);
    return parsed.data;
  }

  #manifestOf(step: number): string {
    return `manifest.${this.#token}.${step}`;
  }

  #placeOf({ step, attempt }: Manifest, file: number): string {
    return `data.${this.#token}.${step}.${attempt}.${file}`;
  }

  #damaged({ step }: Manifest, what: string): CheckpointError {
    return new CheckpointError(`the checkpoint of step ${step} of run '${this.#run}' on NATS: ${what}`);
  }
}

function sha256(content: Uint8Array): string {
  return createHash('sha256').update(content).digest('hex');
}

/** A name from the store may not lead out of the folder. @throws CheckpointError */
function safeName(name: string): string {
  if (name === '' || /[/\\]|^\.\.?$/.test(name))
    throw new CheckpointError(`a stored checkpoint names a file "${name}", which is no name of a file in a folder`);
  return name;
}
