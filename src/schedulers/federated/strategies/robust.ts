import * as z from 'zod';
import { addUpdate, type ClientUpdate, type FederatedServer, type FederatedStrategy } from '../strategy.ts';
import { bulyanBound, krumBound, liarsWithstood, tooManyLiars } from './liars.ts';

const NO_FIGURES: Readonly<Record<string, number>> = {};

/**
 * A server that turns the updates of a round into one, which is added to the parameters.
 * @param withstood liars that so many answers stand up to, where that depends on them: a figure of each round, since fewer may
 *   answer than were asked
 */
function combining(
  combine: (updates: readonly ClientUpdate[]) => Float32Array,
  withstood?: (answers: number) => number,
): FederatedServer {
  let answers: number | null = null;
  return {
    needs: 'each',
    apply: ({ updates }, params, state) => {
      answers = updates.length;
      if (updates.length > 0) addUpdate(combine(updates), params, state);
    },
    metrics: () => {
      // A round that is not counted is not applied, and has no figure: not that of the one before.
      const applied = answers;
      answers = null;
      return withstood && applied !== null ? { liars_withstood: withstood(applied) } : NO_FIGURES;
    },
  };
}

const vectors = (updates: readonly ClientUpdate[]): Float32Array[] => updates.map(({ update }) => update);

/** Combines the values of each coordinate; `values` is sorted, and used again. */
function byCoordinate(updates: readonly Float32Array[], combine: (values: Float64Array) => number): Float32Array {
  const values = new Float64Array(updates.length);
  return Float32Array.from({ length: updates[0]?.length ?? 0 }, (_, i) => {
    for (const [k, update] of updates.entries()) values[k] = update[i] as number;
    return combine(values.sort());
  });
}

function middle(values: Float64Array): number {
  const half = values.length >> 1;
  return values.length % 2 === 1
    ? (values[half] as number)
    : ((values[half - 1] as number) + (values[half] as number)) / 2;
}

function meanOf(updates: readonly Float32Array[]): Float32Array {
  const sum = new Float64Array(updates[0]?.length ?? 0);
  for (const update of updates)
    for (let i = 0; i < sum.length; i++) sum[i] = (sum[i] as number) + (update[i] as number);
  return Float32Array.from(sum, (value) => value / updates.length);
}

const none = z.object({});

/** The median of each coordinate: Yin, Chen, Ramchandran and Bartlett, Byzantine-Robust Distributed Learning (2018), option I. */
export const fedmedian: FederatedStrategy<typeof none> = {
  name: 'fedmedian',
  config: none,
  server: () => combining((updates) => byCoordinate(vectors(updates), middle)),
};

const trimConfig = z.object({
  trim: z.number().min(0).lt(0.5).default(0.2).describe('share of clients whose values are left out at either end'),
});

/** Values that are left out at either end. (Less than half at both, so that n > 2 f whatever the share.) */
const cutOff = (trim: number, clients: number): number => Math.floor(trim * clients);

/** The mean of each coordinate without its largest and smallest values: Yin et al. (2018), option II. */
export const fedtrimmedavg: FederatedStrategy<typeof trimConfig> = {
  name: 'fedtrimmedavg',
  config: trimConfig,
  caution: ({ trim }, { cohort }) =>
    trim === 0 || cutOff(trim, cohort) > 0
      ? null
      : `fedtrimmedavg leaves nobody out with scheduler.trim ${trim}: that share of the ${cohort} clients that a round asks is less than one, so it is the plain mean; raise scheduler.cohort to ${Math.ceil(1 / trim)}`,
  server: ({ trim }) =>
    combining(
      (updates) => {
        const cut = cutOff(trim, updates.length);
        return byCoordinate(vectors(updates), (values) => {
          let sum = 0;
          for (let k = cut; k < values.length - cut; k++) sum += values[k] as number;
          return sum / (values.length - 2 * cut);
        });
      },
      (answers) => cutOff(trim, answers),
    ),
};

const krumConfig = z.object({
  malicious: z
    .int()
    .min(0)
    .default(2)
    .describe('clients of a round that may lie; it asks twice as many, and three more'),
});
const multiKrumConfig = krumConfig.extend({
  keep: z.int().min(1).nullable().default(null).describe('clients that are averaged; null for all but the malicious'),
});

const bulyanConfig = z.object({
  malicious: z
    .int()
    .min(0)
    .default(1)
    .describe('clients of a round that may lie; it asks four times as many, and three more'),
});

/**
 * Positions by rising Krum score: the sum of squared distances to the n - f - 2 closest others (Blanchard, El Mhamdi, Guerraoui
 * and Stainer, Machine Learning with Adversaries, 2017, section 3).
 */
export function krumOrder(updates: readonly Float32Array[], malicious: number): number[] {
  const n = updates.length;
  const closest = Math.max(1, n - malicious - 2);
  const distances = updates.map(() => new Float64Array(n));
  for (let a = 0; a < n; a++)
    for (let b = a + 1; b < n; b++) {
      const distance = squaredDistance(updates[a] as Float32Array, updates[b] as Float32Array);
      (distances[a] as Float64Array)[b] = distance;
      (distances[b] as Float64Array)[a] = distance;
    }
  const scores = distances.map((row, a) => {
    const others = row.filter((_, b) => b !== a).sort();
    return others.subarray(0, closest).reduce((sum, distance) => sum + distance, 0);
  });
  return scores.map((_, i) => i).sort((a, b) => (scores[a] as number) - (scores[b] as number) || a - b);
}

function squaredDistance(a: Float32Array, b: Float32Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += ((a[i] as number) - (b[i] as number)) ** 2;
  return sum;
}

/** The one update that is closest to most others: Blanchard et al. (2017). */
export const krum: FederatedStrategy<typeof krumConfig> = {
  name: 'krum',
  config: krumConfig,
  refused: ({ malicious }, round) => tooManyLiars(krumBound('krum'), malicious, round),
  server: ({ malicious }) =>
    combining(
      (updates) => {
        const [best] = krumOrder(vectors(updates), malicious);
        return (updates[best as number] as ClientUpdate).update;
      },
      (answers) => liarsWithstood(krumBound('krum'), malicious, answers),
    ),
};

/** The mean of the updates with the lowest Krum scores: Blanchard et al. (2017), section 4. */
export const multikrum: FederatedStrategy<typeof multiKrumConfig> = {
  name: 'multikrum',
  config: multiKrumConfig,
  refused: ({ malicious }, round) => tooManyLiars(krumBound('multikrum'), malicious, round),
  server: ({ malicious, keep }) =>
    combining(
      (updates) => {
        const all = vectors(updates);
        const count = Math.max(1, Math.min(all.length, keep ?? all.length - malicious));
        return meanOf(
          krumOrder(all, malicious)
            .slice(0, count)
            .map((i) => all[i] as Float32Array),
        );
      },
      (answers) => liarsWithstood(krumBound('multikrum'), malicious, answers),
    ),
};

/**
 * Krum again and again until n - 2 f updates are chosen, then the mean of the values closest to the median of each coordinate: El
 * Mhamdi, Guerraoui and Rouault, The Hidden Vulnerability of Distributed Learning in Byzantium (2018), section 4.
 */
export const bulyan: FederatedStrategy<typeof bulyanConfig> = {
  name: 'bulyan',
  config: bulyanConfig,
  refused: ({ malicious }, round) => tooManyLiars(bulyanBound, malicious, round),
  server: ({ malicious }) =>
    combining(
      (updates) => {
        let left = vectors(updates);
        const chosen: Float32Array[] = [];
        const wanted = Math.max(1, left.length - 2 * malicious);
        while (chosen.length < wanted) {
          const [best] = krumOrder(left, malicious) as [number];
          chosen.push(left[best] as Float32Array);
          left = left.filter((_, i) => i !== best);
        }
        const keep = Math.max(1, chosen.length - 2 * malicious);
        return byCoordinate(chosen, (values) => {
          const centre = middle(values);
          const near = [...values].sort((a, b) => Math.abs(a - centre) - Math.abs(b - centre)).slice(0, keep);
          return near.reduce((sum, value) => sum + value, 0) / keep;
        });
      },
      (answers) => liarsWithstood(bulyanBound, malicious, answers),
    ),
};

const rfaConfig = z.object({
  iterations: z.int().min(1).default(8).describe('passes of the smoothed Weiszfeld algorithm'),
  smoothing: z.number().positive().default(1e-6).describe('distances below this count as this'),
});

/**
 * The geometric median of the updates, weighted by examples, by the smoothed Weiszfeld algorithm: Pillutla, Kakade and Harchaoui,
 * Robust Aggregation for Federated Learning (2019), algorithm 2.
 */
export const rfa: FederatedStrategy<typeof rfaConfig> = {
  name: 'rfa',
  config: rfaConfig,
  server: ({ iterations, smoothing }) =>
    combining((updates) => {
      const all = vectors(updates);
      const weights = updates.map(({ report }) => report.examples);
      let centre = weightedMean(all, weights);
      for (let pass = 0; pass < iterations; pass++) {
        const shrunk = all.map(
          (update, k) => (weights[k] as number) / Math.max(smoothing, Math.sqrt(squaredDistance(update, centre))),
        );
        centre = weightedMean(all, shrunk);
      }
      return centre;
    }),
};

function weightedMean(updates: readonly Float32Array[], weights: readonly number[]): Float32Array {
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  const mean = new Float64Array(updates[0]?.length ?? 0);
  for (const [k, update] of updates.entries()) {
    const share = (weights[k] as number) / total;
    for (let i = 0; i < mean.length; i++) mean[i] = (mean[i] as number) + share * (update[i] as number);
  }
  return Float32Array.from(mean);
}

const clipConfig = z.object({
  clip_norm: z.number().positive().default(1).describe('norm that a single update may have at most'),
});

/** Averaging of updates whose norm is cut to a bound: Sun, Kairouz, Suresh and McMahan, Can You Really Backdoor (2019). */
export const normclip: FederatedStrategy<typeof clipConfig> = {
  name: 'normclip',
  config: clipConfig,
  server: ({ clip_norm }) =>
    combining((updates) => {
      const weights = updates.map(({ report }) => report.examples);
      const clipped = updates.map(({ update, report }) => {
        const scale = Math.min(1, clip_norm / Math.max(report.norm, 1e-12));
        return scale === 1 ? update : update.map((value) => value * scale);
      });
      return weightedMean(clipped, weights);
    }),
};
