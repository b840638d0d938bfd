import * as z from 'zod';
import { createRng } from '../../tensor/index.ts';
import { attackSchema, type ClientAttack, isMalicious } from './attack.ts';

/** How simulated clients behave: who is there, how fast, and who leaves in the middle of a round. */
export const behaviourSchema = z
  .strictObject({
    availability: z
      .number()
      .gt(0)
      .max(1)
      .default(1)
      .describe('share of rounds in which a client can be reached, drawn for each client and round'),
    dropout: z.number().min(0).max(1).default(0).describe('share of fits that never come back'),
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
  available(client: number, round: number): boolean;
  /** Whether its update never comes. */
  leaves(client: number, round: number): boolean;
  /** How fast it is; 1 is the geometric mean. */
  speed(client: number): number;
  /** Simulated seconds from being asked to its answer's arrival. */
  seconds(client: number, work: { readonly examples: number; readonly bytes: number }): number;
  /** What it does to spoil the training; null if it is honest. Absent: all are. */
  attack?(client: number, round: number): ClientAttack | null;
}

/** Makes the behaviour of simulated clients. */
export function clientBehaviour(config: BehaviourConfig, seed: number): ClientBehaviour {
  const rng = createRng(seed).fork('client behaviour');
  const chance = (what: string, ...keys: number[]) => rng.fork(what, ...keys).uniform();
  const speed = (client: number) =>
    config.speed_spread === 1 ? 1 : config.speed_spread ** (chance('speed', client) - 0.5);
  return {
    available: (client, round) => config.availability === 1 || chance('there', client, round) < config.availability,
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
