import * as z from 'zod';
import { createRng } from '../../tensor/index.ts';
import { attackSchema, type ClientAttack, isMalicious } from './attack.ts';
import { type AvailabilityTrace, diurnalTrace, readTrace } from './availability.ts';

/** How simulated clients behave: who is there, how fast, and who leaves in the middle of a round. */
export const behaviourSchema = z
  .strictObject({
    availability: z
      .number()
      .gt(0)
      .max(1)
      .default(1)
      .describe(
        'share of rounds in which a client can be reached, drawn for each client and round; with `trace: diurnal` the part of each day',
      ),
    trace: z
      .string()
      .min(1)
      .nullable()
      .default(null)
      .describe(
        'when clients can be reached, in simulated time: `diurnal` (each in one stretch of the day, at hours of its own) or a CSV file with the columns client, from, until (seconds), path from the working directory. Who can no longer be reached before it is done has left',
      ),
    dropout: z.number().min(0).max(1).default(0).describe('share of fits that never come back'),
    late: z
      .enum(['drop', 'partial'])
      .default('drop')
      .describe(
        'what becomes of a client that would not be done by `round_deadline_s`: `drop` leaves it out, `partial` has it make as many local steps as it has time for',
      ),
    speed_spread: z
      .number()
      .min(1)
      .default(1)
      .describe('how many times faster the fastest clients are than the slowest (log-uniform)'),
    seconds_per_example: z
      .number()
      .positive()
      .default(0.001)
      .describe('simulated seconds that a client of speed 1 takes for one example of one epoch'),
    bytes_per_second: z
      .number()
      .positive()
      .default(1.25e6)
      .describe('simulated speed of a client of speed 1 at sending and receiving parameters'),
    attack: attackSchema,
  })
  .prefault({})
  .describe('how simulated clients behave');

/** Settings of simulated clients. */
export type BehaviourConfig = z.output<typeof behaviourSchema>;

/** What a client does in a round: a function of (seed, client, round), so that runs can be repeated. */
export interface ClientBehaviour {
  /** `time`: simulated seconds at which it is asked. */
  available(client: number, round: number, time: number): boolean;
  /** Whether its update never comes. */
  leaves(client: number, round: number): boolean;
  /** When a client that can be reached at a time no longer can, in simulated seconds; absent: never. */
  until?(client: number, time: number): number;
  /** The first time, from `time` on, at which one of these can be reached; absent: at once. */
  next?(clients: Iterable<number>, time: number): number;
  /** Whether one that would not be done by the deadline sends what it has by then. Absent: it does not answer. */
  readonly sendsWhatItHas?: boolean;
  /** How fast it is; 1 is the geometric mean. */
  speed(client: number): number;
  /** Simulated seconds from being asked to its answer's arrival. */
  seconds(client: number, work: { readonly examples: number; readonly bytes: number }): number;
  /** What it does to spoil the training; null if it is honest. Absent: all are. */
  attack?(client: number, round: number): ClientAttack | null;
}

/** Makes the behaviour of simulated clients. @throws DataError if there is a trace that cannot be read */
export function clientBehaviour(config: BehaviourConfig, seed: number): ClientBehaviour {
  const trace = traceOf(config, seed);
  const rng = createRng(seed).fork('client behaviour');
  const chance = (what: string, ...keys: number[]) => rng.fork(what, ...keys).uniform();
  const speed = (client: number) =>
    config.speed_spread === 1 ? 1 : config.speed_spread ** (chance('speed', client) - 0.5);
  // (A diurnal trace has the share of the day already.)
  const share = config.trace === 'diurnal' ? 1 : config.availability;
  return {
    available: (client, round, time) =>
      (trace === null || trace.until(client, time) !== null) && (share === 1 || chance('there', client, round) < share),
    ...(trace
      ? {
          until: (client, time) => trace.until(client, time) ?? time,
          next: (clients, time) => {
            let first = Number.POSITIVE_INFINITY;
            for (const client of clients) first = Math.min(first, trace.next(client, time));
            return first;
          },
        }
      : {}),
    sendsWhatItHas: config.late === 'partial',
    leaves: (client, round) => config.dropout > 0 && chance('leaves', client, round) < config.dropout,
    speed,
    attack: (client) =>
      config.attack && isMalicious(client, config.attack.share, seed)
        ? { name: config.attack.name, factor: config.attack.factor, seed }
        : null,
    seconds: (client, { examples, bytes }) =>
      (examples * config.seconds_per_example + bytes / config.bytes_per_second) / speed(client),
  };
}

function traceOf({ trace, availability }: BehaviourConfig, seed: number): AvailabilityTrace | null {
  if (trace === null) return null;
  return trace === 'diurnal' ? diurnalTrace(availability, seed) : readTrace(trace);
}
