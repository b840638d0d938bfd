import { hostname } from 'node:os';
import type { ClusterCalls } from './cluster-calls.ts';
import { type ExitCode, exitCodes, UsageError } from './exit.ts';
import { listenForInterrupt } from './interrupt.ts';
import { type NatsFlags, natsPlace } from './nats-flags.ts';
import { planSlots } from './slots.ts';
import type { Streams } from './terminal.ts';

/** Options of `plexus worker`. */
export interface WorkerOptions extends NatsFlags {
  readonly slots?: number | 'auto';
  readonly device?: string;
  readonly listen?: string;
  /** Seconds. */
  readonly lease?: number;
  readonly once?: boolean;
  readonly name?: string;
  readonly json?: boolean;
}

/**
 * `plexus worker`: joins a job and runs ranks of it until it is stopped. Lines about itself go to standard error, or as
 * JSON to standard output. Ctrl-C lets its ranks finish the step and leaves in good order; a second one ends it at once.
 */
export async function worker(
  options: WorkerOptions,
  streams: Streams,
  calls: () => Promise<ClusterCalls>,
): Promise<ExitCode> {
  const place = natsPlace(options);
  const plan = planSlots(options.slots, options.device);
  const listen = options.listen === undefined ? undefined : parseListen(options.listen);
  if (options.name !== undefined && !/^[A-Za-z0-9_-]{1,64}$/.test(options.name))
    throw new UsageError(`--name '${options.name}': 1 to 64 letters, digits, - and _ were expected`);
  const write = options.json
    ? (line: string) => streams.out.write(`${JSON.stringify({ type: 'log', at: Date.now(), line })}\n`)
    : (line: string) => streams.err.write(`${line}\n`);
  const interrupt = listenForInterrupt(() => write('leaving after this step; Ctrl-C again ends at once'));
  const devices = [...new Set(plan.devices.map((device) => device ?? "the config's device"))].join(', ');
  write(
    `joining job '${place.job}' at ${place.shown}: host ${hostname()}, ${plan.slots} slot${plan.slots === 1 ? '' : 's'} on ${devices}`,
  );
  try {
    const { runAgent } = await calls();
    await runAgent({
      nats: place.nats,
      job: place.job,
      slots: plan.slots,
      ...(plan.devices.some((device) => device !== null) ? { devices: plan.devices } : {}),
      ...(listen ? { listen } : {}),
      ...(options.lease === undefined ? {} : { leaseMs: options.lease * 1000 }),
      ...(options.once ? { once: true } : {}),
      ...(options.name === undefined ? {} : { name: options.name }),
      log: write,
      signal: interrupt.signal,
    });
    return interrupt.signal.aborted ? interrupt.code() : exitCodes.ok;
  } finally {
    interrupt.dispose();
  }
}

/**
 * `HOST`, `HOST:PORT`, `:PORT`, `[IPv6]:PORT`; port 0 takes a free one.
 * @throws UsageError
 */
export function parseListen(text: string): { host: string; port: number } {
  const fail = (): never => {
    throw new UsageError(
      `--listen '${text}': HOST or HOST:PORT was expected, HOST being an address of this machine, e.g. 10.0.0.5 or 0.0.0.0:7000`,
    );
  };
  const [, bracketed, plain, port = '0'] = /^(?:\[([^\]]+)\]|([^:]*))(?::(\d{1,5}))?$/.exec(text) ?? [];
  // (An IPv6 address without brackets has no port.)
  const host = bracketed ?? plain ?? (/^[0-9a-fA-F:.]+$/.test(text) && text.split(':').length > 2 ? text : undefined);
  if (host === undefined || Number(port) > 65_535 || /[^A-Za-z0-9._:%-]/.test(host)) return fail();
  if (host === '' && port === '0') return fail();
  return { host: host === '' ? '0.0.0.0' : host, port: Number(port) };
}
