import type { RefusedSetting } from '../strategy.ts';

/** Clients that a strategy needs for `malicious` of them to lie: so many times as many, and three more. */
export interface LiarsBound {
  readonly strategy: string;
  /** Clients needed for each liar, besides three. */
  readonly times: number;
  readonly paper: string;
}

/** Krum and Multi-Krum: n >= 2 f + 3 (Blanchard, El Mhamdi, Guerraoui and Stainer 2017, proposition 4.2). */
export const krumBound = (strategy: string): LiarsBound => ({ strategy, times: 2, paper: 'Blanchard et al. 2017' });

/** Bulyan: n >= 4 f + 3 (El Mhamdi, Guerraoui and Rouault 2018, section 4). */
export const bulyanBound: LiarsBound = { strategy: 'bulyan', times: 4, paper: 'El Mhamdi et al. 2018' };

/** Liars among so many clients that a bound allows; below zero where it allows no round of that size. */
const allowed = ({ times }: LiarsBound, clients: number): number => Math.floor((clients - 3) / times);

/** Why a round of so many clients is not enough for `malicious` liars, and what is; null where it is enough. */
export function tooManyLiars(
  bound: LiarsBound,
  malicious: number,
  { cohort, clients }: { readonly cohort: number; readonly clients: number },
): RefusedSetting | null {
  const asked = Math.min(cohort, clients);
  const most = allowed(bound, asked);
  if (most >= malicious) return null;
  const { strategy, times, paper } = bound;
  const needed = times * malicious + 3;
  const more = cohort <= clients ? `raise scheduler.cohort to ${needed}` : `have ${needed} clients or more`;
  const fewer = most < 0 ? '' : `, or lower scheduler.malicious to ${most}`;
  return {
    key: 'malicious',
    message: `scheduler.malicious ${malicious}: ${strategy} stands up to so many liars among ${needed} clients or more (${times} f + 3, ${paper}), and a round asks ${asked}: ${more}${fewer}`,
  };
}

/** How many of the liars that were allowed for a round of so many answers still stands up to. */
export function liarsWithstood(bound: LiarsBound, malicious: number, answers: number): number {
  return Math.max(0, Math.min(malicious, allowed(bound, answers)));
}
