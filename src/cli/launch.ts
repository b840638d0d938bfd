import { createSocket } from 'node:dgram';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ClusterCalls } from './cluster-calls.ts';
import { type ExitCode, exitCodes, UsageError } from './exit.ts';
import { type HostEntry, parseHostfile } from './hostfile.ts';
import { wantsNats } from './nats-flags.ts';
import { isThisMachine, reachableAddresses } from './nats-host.ts';
import { joinUrl, type OwnServer, startOwnServer } from './own-server.ts';
import { describeEnd, quote, RemoteWorker } from './remote.ts';
import { gpuEnvironments } from './slots.ts';
import type { Streams } from './terminal.ts';
import { type TrainOptions, train } from './train.ts';

/** Options of `plexus launch`; those of `plexus train` are for the run. */
export interface LaunchOptions extends TrainOptions {
  readonly hosts?: string;
  readonly device?: string;
  /** Command that runs Plexus on the hosts. Default `npx plexus`. */
  readonly remoteCommand?: string;
  /** Folder to change to on the hosts. Default: the present one. */
  readonly remoteDir?: string;
  /** `NAME=VALUE`, or `NAME` for its value here. */
  readonly env?: readonly string[];
  /** ssh and its options, e.g. `ssh -p 2222`. */
  readonly ssh?: string;
  /** Address of this machine that the hosts use. */
  readonly address?: string;
  readonly port?: number;
}

/** One worker process to start. */
export interface LaunchItem {
  readonly host: string;
  /** Position among the workers of its host. */
  readonly index: number;
  /** How its output is marked. */
  readonly label: string;
  readonly env: Readonly<Record<string, string>>;
}

/** The workers of a launch could not be started, or all have ended. */
export class LaunchError extends Error {
  override readonly name = 'LaunchError';
}

const SSH = 'ssh -T -o BatchMode=yes -o ConnectTimeout=10 -o ServerAliveInterval=5 -o ServerAliveCountMax=3';

/** The processes to start: one a slot, each with a GPU of its own where the device is `cuda`. */
export function planLaunch(hosts: readonly HostEntry[], device: string | undefined): LaunchItem[] {
  return hosts.flatMap(({ host, slots }) => {
    const count = slots ?? 1;
    const gpus = device === 'cuda' || device === 'tensorrt' ? gpuEnvironments(undefined, count) : null;
    return Array.from({ length: count }, (_, index) => ({
      host,
      index,
      label: count > 1 ? `${host}/${index}` : host,
      env: gpus?.[index] ?? {},
    }));
  });
}

/**
 * `plexus launch --hosts FILE CONFIG`: starts a NATS server here (unless one is named) and a worker for each slot over ssh,
 * leads the run, and ends everything that it started, on whatever machine.
 */
export async function launch(
  config: string | undefined,
  options: LaunchOptions,
  streams: Streams,
  calls: () => Promise<ClusterCalls>,
): Promise<ExitCode> {
  if (options.hosts === undefined)
    throw new UsageError("give the machines with --hosts FILE: one a line, e.g. 'node1 slots=4'");
  if (config === undefined && options.resume === undefined)
    throw new UsageError('give a config to train (e.g. configs/quickstart.yaml), or a run to go on with (--resume)');
  const items = planLaunch(parseHostfile(readHostfile(options.hosts), options.hosts), options.device);
  const env = readEnvironment(options.env ?? []);
  const write = (value: Readonly<Record<string, unknown>>, text: string): unknown =>
    options.json
      ? streams.out.write(`${JSON.stringify(value)}\n`)
      : options.quiet
        ? undefined
        : streams.err.write(`${text}\n`);
  const note = (message: string): unknown => write({ type: 'note', message }, message);
  const store = mkdtempSync(join(tmpdir(), 'plexus-launch-'));
  let server: OwnServer | null = null;
  const workers: RemoteWorker[] = [];
  const stop = new AbortController();
  try {
    if (!wantsNats(options)) {
      const near = (await Promise.all(items.map(({ host }) => isThisMachine(nameOf(host))))).every(Boolean);
      server = await startOwnServer({ listen: near ? '127.0.0.1' : '0.0.0.0', port: options.port ?? 0, store, note });
    }
    const command = `${options.remoteCommand ?? 'npx plexus'} worker${workerFlags(options)}`;
    const dir = options.remoteDir ?? process.cwd();
    const state = {
      started: false,
      living: items.length,
      need: Math.min(options.minWorkers ?? items.length, items.length),
    };
    const failures: string[] = [];
    for (const item of items) {
      const url = server
        ? joinUrl(options.address ?? (await addressTowards(nameOf(item.host))), server.port, server.token)
        : typeof options.nats === 'string'
          ? options.nats
          : (process.env.PLEXUS_NATS as string);
      const remote = new RemoteWorker({
        host: item.host,
        ssh: (options.ssh ?? SSH).split(/\s+/).filter(Boolean),
        command,
        dir,
        env: { ...env, ...item.env },
        secret: { name: 'PLEXUS_NATS', value: url },
        onLine: (line) => write({ type: 'log', host: item.host, index: item.index, line }, `[${item.label}] ${line}`),
      });
      workers.push(remote);
      void remote.ended.then((end) => {
        if (stop.signal.aborted) return;
        state.living -= 1;
        const what = describeEnd(item.label, { command, dir }, end);
        failures.push(what);
        note(`! ${what}`);
        // While a run goes on it is the coordinator's matter who is lost, as long as there is anybody.
        if (state.living === 0 || (!state.started && state.living < state.need))
          stop.abort(new LaunchError(failures.join('\n')));
      });
    }
    const code = await train(config, { ...options, ...(server ? { nats: server.url } : {}) }, streams, calls, {
      signal: stop.signal,
      onEvent: (event) => {
        state.started ||= event.type === 'started';
      },
    });
    if (stop.signal.aborted && code !== exitCodes.ok) throw stop.signal.reason;
    return code;
  } catch (error) {
    // What the workers said is why the run could not go on.
    throw stop.signal.aborted ? stop.signal.reason : error;
  } finally {
    stop.abort();
    await Promise.all(workers.map((worker) => worker.end()));
    await server?.stop();
    rmSync(store, { recursive: true, force: true });
  }
}

function workerFlags(options: LaunchOptions): string {
  const device = options.device === undefined ? '' : ` --device ${quote(options.device)}`;
  const job = options.job === undefined ? '' : ` --job ${quote(options.job)}`;
  return `${device}${job}`;
}

const nameOf = (host: string): string => host.replace(/^.*@/, '').replace(/^\[|\]$/g, '');

function readHostfile(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    throw new UsageError(`--hosts '${file}' cannot be read: ${(error as Error).message}`);
  }
}

function readEnvironment(settings: readonly string[]): Record<string, string> {
  const env: Record<string, string> = {};
  for (const setting of settings) {
    const [, name, value] = /^([A-Za-z_]\w*)(?:=(.*))?$/s.exec(setting) ?? [];
    if (name === undefined)
      throw new UsageError(`--env '${setting}': NAME=VALUE was expected, or NAME for its value here`);
    const taken = value ?? process.env[name];
    if (taken === undefined) throw new UsageError(`--env ${name}: it is not set here; give a value, --env ${name}=…`);
    env[name] = taken;
  }
  return env;
}

/** The address of this machine from which packets to a host leave; nothing is sent. */
async function addressTowards(host: string): Promise<string> {
  if (await isThisMachine(host)) return '127.0.0.1';
  const socket = createSocket(host.includes(':') ? 'udp6' : 'udp4');
  try {
    return await new Promise<string>((resolve, reject) => {
      socket.once('error', reject);
      socket.connect(9, host, (error?: Error) => (error ? reject(error) : resolve(socket.address().address)));
    });
  } catch {
    // A name that only ssh knows: the first address that may be reachable, which --address corrects.
    return reachableAddresses()[0] ?? '127.0.0.1';
  } finally {
    socket.close();
  }
}
