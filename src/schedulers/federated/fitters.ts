import type { SentParams } from './compression.ts';
import type { FitPool } from './fit-pool.ts';
import type { SharedStart } from './fit-task.ts';

/**
 * Whoever trains the clients of rounds: threads of this process that simulate them (`FitPool`), or clients elsewhere, with data
 * of their own (`NatsClients`). Rounds are the same code with either.
 */
export interface Fitters extends FitterBasics {
  /**
   * Puts what clients begin with where they can have it.
   * @param sent the parameters on their way, where a codec has written them
   */
  publish(
    params: Float32Array,
    state: Float32Array,
    round?: Readonly<Record<string, Float32Array>>,
    sent?: SentParams,
  ): SharedStart;
}

type FitterBasics = Pick<
  FitPool,
  'paramsSize' | 'stateSize' | 'receivedSize' | 'sentSize' | 'trained' | 'sum' | 'each' | 'add' | 'ask' | 'evaluate'
> &
  Partial<Pick<FitPool, 'mask' | 'giveBack' | 'retire'>>;
