import type { FitPool } from './fit-pool.ts';

/**
 * Whoever trains the clients of rounds: threads of this process that simulate them (`FitPool`), or clients elsewhere, with data
 * of their own (`NatsClients`). Rounds are the same code with either.
 */
export type Fitters = Pick<
  FitPool,
  | 'paramsSize'
  | 'stateSize'
  | 'receivedSize'
  | 'sentSize'
  | 'trained'
  | 'publish'
  | 'sum'
  | 'each'
  | 'add'
  | 'ask'
  | 'evaluate'
> &
  Partial<Pick<FitPool, 'mask' | 'giveBack' | 'retire'>>;
