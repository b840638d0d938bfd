import { hostname } from 'node:os';
import type { ConnectNatsOptions } from '../../comm/index.ts';
import type { SlotPatience } from './slot.ts';

/** What one agent (`plexus worker`) is told. */
export interface AgentOptions {
  /** Where the NATS server is and how to log in. */
  readonly nats: ConnectNatsOptions;
  /** Name of the job to take part in. Default `default`. */
  readonly job?: string;
  /** Ranks that may run here at a time, each in a thread of its own. Default 1. */
  readonly slots?: number;
  /** Device of all slots, in place of the job's `engine.device`. */
  readonly device?: string;
  /** By slot; null leaves it to `device`, or to the job. */
  readonly devices?: readonly (string | null)[];
  /** Where direct links are listened for; each slot beyond the first takes the next port, unless it is 0. */
  readonly listen?: { readonly host: string; readonly port: number };
  /** Silence after which the coordinator counts this agent as dead, in milliseconds. Default 5000. */
  readonly leaseMs?: number;
  /** Ends when the first job that it has taken part in is over. */
  readonly once?: boolean;
  /** Beginning of its id. Default: the host's name. */
  readonly name?: string;
  readonly log?: (line: string) => void;
  /** Ends the agent in good order: its ranks finish the step, and the others take over. */
  readonly signal?: AbortSignal;
  /** How patient it is with its compute threads. */
  readonly patience?: Partial<SlotPatience>;
}

/** Options with everything filled in. */
export type ResolvedAgentOptions = Required<Omit<AgentOptions, 'device' | 'devices' | 'listen' | 'signal' | 'name'>> &
  Pick<AgentOptions, 'listen' | 'signal'> & {
    readonly name: string;
    /** By slot; null leaves it to the job. */
    readonly devices: readonly (string | null)[];
  };

/** @throws RangeError on a job, name, number of slots or lease that cannot be */
export function resolveOptions(options: AgentOptions): ResolvedAgentOptions {
  const { job = 'default', slots = 1, leaseMs = 5000, device = null, devices = [] } = options;
  const name =
    options.name ??
    (hostname()
      .replaceAll(/[^\w-]/g, '-')
      .slice(0, 48) ||
      'agent');
  for (const [what, text] of [
    ['job', job],
    ['name', name],
  ] as const)
    if (!/^[\w-]{1,64}$/.test(text))
      throw new RangeError(
        `the ${what} "${text}" cannot be part of a NATS subject: 1 to 64 letters, digits, - and _ were expected`,
      );
  if (!Number.isInteger(slots) || slots < 1 || slots > 1024)
    throw new RangeError(`an agent has 1 to 1024 slots, but ${slots} were asked for`);
  if (!(leaseMs >= 200)) throw new RangeError(`a lease of ${leaseMs} ms is too short to be renewed; take 200 or more`);
  return {
    nats: options.nats,
    job,
    slots,
    leaseMs,
    once: options.once ?? false,
    name,
    devices: Array.from({ length: slots }, (_, slot) => devices[slot] ?? device),
    log: options.log ?? (() => undefined),
    patience: options.patience ?? {},
    ...(options.listen ? { listen: options.listen } : {}),
    ...(options.signal ? { signal: options.signal } : {}),
  };
}
