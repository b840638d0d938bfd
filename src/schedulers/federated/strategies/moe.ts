import * as z from 'zod';
import { type Place, partOf } from '../../local/index.ts';
import type {
  ClientUpdate,
  FederatedServer,
  FederatedStrategy,
  RoundOutcome,
  ServerShape,
  Traffic,
} from '../strategy.ts';

const config = z.object({
  max_experts: z
    .int()
    .min(1)
    .nullable()
    .default(null)
    .describe('experts of a mixture that a client sends at most: those with most of its rows; null for all it used'),
});

type Config = z.output<typeof config>;

/** A mixture of experts among the parameters. */
interface Mixture {
  readonly path: string;
  /** Parameters of each expert. */
  readonly experts: readonly (readonly Place[])[];
  /** Where the module state counts the rows of each expert. */
  readonly routed: Place;
}

function mixturesOf({ params, state }: ServerShape): { mixtures: Mixture[]; shared: Place[]; uncounted: string[] } {
  const found = new Map<string, Place[][]>();
  const shared: Place[] = [];
  for (const place of params.places) {
    const match = /^(.*)\.experts\.(\d+)\./.exec(place.path);
    if (!match) {
      shared.push(place);
      continue;
    }
    const experts = found.get(match[1] as string) ?? [];
    found.set(match[1] as string, experts);
    const index = Number(match[2]);
    experts[index] = [...(experts[index] ?? []), place];
  }
  const uncounted: string[] = [];
  const mixtures = [...found].flatMap(([path, experts]): Mixture[] => {
    const routed = state.places.find((place) => place.path === `${path}.routed`);
    if (routed) return [{ path, experts, routed }];
    uncounted.push(path);
    return [];
  });
  return { mixtures, shared, uncounted };
}

/** Rows that a client's fit gave each expert of a mixture. */
function rowsOf({ routed, experts }: Mixture, { update }: ClientUpdate, params: number): number[] {
  return experts.map((_, e) => update[params + routed.offset + e] as number);
}

/** The experts that a client sends: those that its rows went to, the most used ones where there is a bound. */
export function sentExperts(rows: readonly number[], most: number | null): number[] {
  return rows
    .map((count, expert) => ({ count, expert }))
    .filter(({ count }) => count > 0)
    .sort((a, b) => b.count - a.count || a.expert - b.expert)
    .slice(0, most ?? rows.length)
    .map(({ expert }) => expert)
    .sort((a, b) => a - b);
}

class MoeServer implements FederatedServer {
  readonly needs = 'each';
  readonly #most: number | null;
  readonly #shape: ServerShape;
  readonly #mixtures: readonly Mixture[];
  readonly #shared: readonly Place[];
  /** Of the round that was applied last. */
  #last: { readonly numbers: number; readonly sent: number; readonly used: number } | null = null;

  constructor({ max_experts }: Config, shape: ServerShape) {
    this.#most = max_experts;
    this.#shape = shape;
    const { mixtures, shared } = mixturesOf(shape);
    this.#mixtures = mixtures;
    this.#shared = shared;
  }

  apply({ updates }: RoundOutcome, params: Float32Array, state: Float32Array): void {
    this.#last = null;
    if (updates.length === 0) return;
    const size = params.length;
    const sharedSize = this.#shared.reduce((sum, place) => sum + place.size, 0);
    let numbers = updates.length * (sharedSize + state.length);
    let [sent, used] = [0, 0];
    const examples = updates.map(({ report }) => report.examples);
    for (const place of this.#shared) addMean(params, place, 0, updates, examples);
    for (const place of this.#shape.state.places) addMean(state, place, size, updates, examples);
    for (const mixture of this.#mixtures) {
      const rows = updates.map((update) => rowsOf(mixture, update, size));
      const chosen = rows.map((counts) => new Set(sentExperts(counts, this.#most)));
      for (const [e, places] of mixture.experts.entries()) {
        const senders = updates.filter((_, k) => chosen[k]?.has(e));
        const weights = rows.flatMap((counts, k) => (chosen[k]?.has(e) ? [counts[e] as number] : []));
        for (const place of places) addMean(params, place, 0, senders, weights);
        numbers += senders.length * places.reduce((sum, place) => sum + place.size, 0);
        sent += senders.length;
        used += senders.length > 0 ? 1 : 0;
      }
      // Clients count from 0 in every round, so that counts are exact however long a run is.
      partOf(state, mixture.routed).fill(0);
    }
    const all = this.#mixtures.reduce((sum, { experts }) => sum + experts.length, 0);
    this.#last = { numbers, sent: sent / (updates.length * all), used: used / all };
  }

  traffic(asked: number, reports: readonly unknown[]): Traffic {
    const dense = this.#shape.params.size + this.#shape.state.size;
    // Which experts a client's data will be routed to is only known once it has them.
    return { down: 4 * dense * asked, up: 4 * (this.#last ? this.#last.numbers : dense * reports.length) };
  }

  metrics(): Readonly<Record<string, number>> {
    return this.#last ? { experts_sent: this.#last.sent, experts_trained: this.#last.used } : {};
  }
}

/** Adds the weighted mean of a part of the updates to that part of a vector. */
function addMean(
  vector: Float32Array,
  place: Place,
  from: number,
  updates: readonly ClientUpdate[],
  weights: readonly number[],
): void {
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  if (total === 0) return;
  for (let i = place.offset; i < place.offset + place.size; i++) {
    let sum = 0;
    for (const [k, { update }] of updates.entries()) sum += (weights[k] as number) * (update[from + i] as number);
    vector[i] = (vector[i] as number) + sum / total;
  }
}

/**
 * Federated mixture of experts: a client sends only the experts that its examples (or tokens) were routed to, and each expert is
 * averaged over those who trained it, weighted by their rows; everything else is averaged as ever. Experts so become those of
 * clients with alike data, and what is sent shrinks with the share of experts that a client uses. After Parsaeefard, Etesami and
 * Leon-Garcia, Robust Federated Learning by Mixture of Experts (2021), and Mei, Cai, Xu et al., FedMoE (2024), without their client
 * clustering and submodel search. For models whose mixtures count rows: `moe-mlp`, or `transformer-lm` with `moe.count: true`.
 */
export const fedmoe: FederatedStrategy<typeof config> = {
  name: 'fedmoe',
  config,
  unsuited: (_, shape) => {
    const { mixtures, uncounted } = mixturesOf(shape);
    if (uncounted.length > 0)
      return `the mixture ${uncounted[0]} does not count the rows of its experts; set \`count: true\` in the arguments of the model`;
    return mixtures.length > 0 ? null : 'it needs a model with mixtures of experts, such as moe-mlp';
  },
  server: (settings, shape) => new MoeServer(settings, shape),
};
