import { existsSync } from 'node:fs';
import { hostname } from 'node:os';
import { basename, join, resolve } from 'node:path';
import { type ExitCode, exitCodes, UsageError } from './exit.ts';
import { listenForInterrupt } from './interrupt.ts';
import { type NatsFlags, natsPlace } from './nats-flags.ts';
import type { Streams } from './terminal.ts';
import { stateFolder } from './up-record.ts';

/** Options of `plexus client`. */
export interface ClientOptions extends NatsFlags {
  readonly data?: string;
  readonly part?: string;
  readonly name?: string;
  readonly allow?: string;
  readonly state?: string;
  readonly device?: string;
  readonly once?: boolean;
  readonly json?: boolean;
}

/**
 * `plexus client`: takes part in federated runs with data that stay on this machine, until it is stopped. Lines about itself go
 * to standard error, or as JSON to standard output.
 */
export async function client(options: ClientOptions, streams: Streams): Promise<ExitCode> {
  const place = natsPlace(options);
  if (options.data === undefined)
    throw new UsageError(
      'give the data to train on: --data FILE.csv, --data FOLDER, or for trying it out --data mnist --part 1/5',
    );
  const part = options.part === undefined ? null : parsePart(options.part);
  const name = options.name ?? defaultName(options.data, part);
  if (!/^[A-Za-z0-9_-]{1,64}$/.test(name))
    throw new UsageError(`--name '${name}': 1 to 64 letters, digits, - and _ were expected`);
  const state = resolve(options.state ?? join(stateFolder(), 'clients', `${place.job}-${name}`));
  const write = options.json
    ? (line: string) => streams.out.write(`${JSON.stringify({ type: 'log', at: Date.now(), line })}\n`)
    : (line: string) => streams.err.write(`${line}\n`);
  // Loaded only now: wrong usage is told at once.
  const { readAllowList, runFederatedClient } = await import('../schedulers/index.ts');
  const allow = options.allow === undefined ? {} : { allow: readAllowList(options.allow) };
  const interrupt = listenForInterrupt(() => write('leaving after what is being computed; Ctrl-C again ends at once'));
  write(`client '${name}' of job '${place.job}' at ${place.shown}: data ${options.data}, state in ${state}`);
  try {
    await runFederatedClient({
      nats: place.nats,
      job: place.job,
      ...{ name, part, state },
      data: existsSync(options.data) ? resolve(options.data) : options.data,
      ...allow,
      ...(options.device === undefined ? {} : { device: options.device }),
      once: options.once ?? false,
      log: write,
      signal: interrupt.signal,
    });
    return interrupt.signal.aborted ? interrupt.code() : exitCodes.ok;
  } finally {
    interrupt.dispose();
  }
}

/** `3/5`, counted from 1. @throws UsageError */
export function parsePart(text: string): { index: number; of: number } {
  const [, part, of] = /^(\d{1,9})\/(\d{1,9})$/.exec(text) ?? [];
  if (part === undefined || Number(part) < 1 || Number(part) > Number(of))
    throw new UsageError(`--part '${text}': a part of so many was expected, counted from 1, e.g. 3/5`);
  return { index: Number(part) - 1, of: Number(of) };
}

/** Clients of one machine with different data need no names of their own. */
function defaultName(data: string, part: { readonly index: number } | null): string {
  const what = part ? `part-${part.index + 1}` : basename(data).replace(/\.\w+$/, '');
  return (
    `${hostname().slice(0, 30)}-${what.slice(0, 30)}`.replaceAll(/[^A-Za-z0-9_-]/g, '-').replace(/^-+/, '') || 'client'
  );
}
