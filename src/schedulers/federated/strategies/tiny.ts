import * as z from 'zod';
import { pathMatcher } from '../../../optim/index.ts';
import { createRng } from '../../../tensor/index.ts';
import { type Place, partOf } from '../../local/index.ts';
import {
  applyMask,
  drawnDensities,
  erkDensities,
  exchangeCount,
  growAndPrune,
  keptCounts,
  magnitudeMask,
  type PrunableWeight,
  type SparseBudget,
  sparseFlops,
  uniformDensities,
  weightFlops,
} from '../sparse/index.ts';
import {
  addMean,
  addUpdate,
  type FederatedServer,
  type FederatedStrategy,
  type RoundQuestions,
  type ServerShape,
  type Traffic,
} from '../strategy.ts';
import { meanVector, type TopGradients } from '../tasks/index.ts';

const config = z.object({
  density: z.number().gt(0).max(1).default(0.05).describe('share of all parameters that are not pruned, at most'),
  flops: z
    .number()
    .gt(0)
    .max(1)
    .default(1)
    .describe("share of the dense model's FLOPs that a forward of the sparse one takes, at most"),
  keep: z.array(z.string().min(1)).default([]).describe('paths of weights that are not pruned; * for any characters'),
  layers: z
    .enum(['chosen', 'uniform', 'size'])
    .default('chosen')
    .describe('densities of layers: chosen by clients among candidates, uniform, or smaller for larger weights (ERK)'),
  candidates: z
    .int()
    .min(1)
    .default(8)
    .describe('where chosen, coarsely pruned models to choose from: uniform, by size, then drawn densities of layers'),
  spread: z.number().min(1).default(4).describe('drawn densities of layers are up to so many times more or less'),
  trial_rounds: z
    .int()
    .min(0)
    .default(1)
    .describe('rounds that clients train each candidate before they compare: losses of random weights say little'),
  statistics_batches: z.int().min(1).default(4).describe("batches of a client's data that statistics are taken of"),
  every: z.int().min(1).default(2).describe('rounds from one exchange of weights to the next; each is of one layer'),
  until: z.int().min(0).default(60).describe('round from which on nothing is exchanged; 0 for never: a fixed mask'),
  rate: z
    .number()
    .min(0)
    .max(0.5)
    .default(0.15)
    .describe('half of the share of a layer that the first exchange may be of'),
  gradient_batches: z.int().min(1).default(1).describe("batches of a client's data that gradients are taken of"),
});

type Config = z.output<typeof config>;

/** A prunable weight and its place. */
interface Prunable extends PrunableWeight {
  readonly place: Place;
}

/** What is to be pruned, and the budget for it. */
interface Plan {
  readonly weights: readonly Prunable[];
  readonly budget: SparseBudget;
  /** Numbers, and FLOPs, of all that is not pruned. */
  readonly fixed: { readonly numbers: number; readonly flops: number };
  readonly dense: { readonly numbers: number; readonly flops: number };
}

function planOf({ density, flops, keep }: Config, { params, model }: ServerShape): Plan {
  const matchers = keep.map(pathMatcher);
  const measured = model ? weightFlops(model.model, model.info) : { total: 0, byWeight: new Map<string, number>() };
  // From the inputs to the outputs, as the model runs.
  const layers = model?.model.layers.map(({ name }) => `${name}.`) ?? [];
  const layerOf = (path: string) => layers.findIndex((name) => path.startsWith(name));
  const weights = [...params.places]
    .sort((a, b) => layerOf(a.path) - layerOf(b.path))
    .filter(({ path, shape }) => shape.length >= 2 && !matchers.some((matches) => matches(path)))
    .map(
      (place): Prunable => ({ ...place, place, flopsPerNumber: (measured.byWeight.get(place.path) ?? 0) / place.size }),
    );
  const numbers = weights.reduce((sum, { size }) => sum + size, 0);
  const products = weights.reduce((sum, { size, flopsPerNumber }) => sum + size * flopsPerNumber, 0);
  const fixed = { numbers: params.size - numbers, flops: measured.total - products };
  const budget = {
    numbers: Math.floor(density * params.size) - fixed.numbers,
    // (Where there is no model to measure there are no FLOPs either.)
    flops: flops * measured.total - fixed.flops,
  };
  return { weights, budget, fixed, dense: { numbers: params.size, flops: measured.total } };
}

/** Numbers of each weight that each candidate keeps. */
function candidateCounts({ weights, budget }: Plan, settings: Config, seed: number): number[][] {
  const { layers, candidates, spread } = settings;
  if (layers === 'uniform') return [keptCounts(weights, uniformDensities(weights), budget)];
  if (layers === 'size') return [keptCounts(weights, erkDensities(weights), budget)];
  const rng = createRng(seed).fork('candidates');
  return Array.from({ length: candidates }, (_, c) => {
    if (c === 0) return keptCounts(weights, uniformDensities(weights), budget);
    if (c === 1) return keptCounts(weights, erkDensities(weights), budget);
    return keptCounts(weights, drawnDensities(weights, spread, rng.fork(c)), budget);
  });
}

/** A sparse model. */
interface Candidate {
  readonly mask: Float32Array;
  readonly params: Float32Array;
  readonly state: Float32Array;
}

class TinyServer implements FederatedServer {
  readonly needs = 'sum';
  /** 1 for every number of the parameters that is not pruned; and whether a candidate has been chosen. */
  readonly vectors: { readonly mask: Float32Array; readonly chosen: Float32Array };
  readonly #config: Config;
  readonly #shape: ServerShape;
  readonly #plan: Plan;
  #exchanged = 0;

  constructor(settings: Config, shape: ServerShape) {
    this.#config = settings;
    this.#shape = shape;
    this.#plan = planOf(settings, shape);
    this.vectors = { mask: new Float32Array(shape.params.size).fill(1), chosen: new Float32Array(1) };
  }

  round() {
    return { mask: this.vectors.mask };
  }

  async prepare(questions: RoundQuestions, params: Float32Array, state: Float32Array): Promise<Traffic> {
    this.#exchanged = 0;
    if (this.#plan.weights.length === 0) return { down: 0, up: 0 };
    if (this.vectors.chosen[0] === 0) return this.#choose(questions, params, state);
    const { every, until } = this.#config;
    if (questions.round % every !== 0 || questions.round >= until) return { down: 0, up: 0 };
    return this.#exchange(questions, params, state);
  }

  apply(outcome: Parameters<FederatedServer['apply']>[0], params: Float32Array, state: Float32Array): void {
    addMean(outcome, params, state);
  }

  traffic(asked: number, reports: readonly unknown[]): Traffic {
    const sparse = 4 * (this.#kept() + this.#shape.state.size);
    return { down: asked * (sparse + this.#maskBytes()), up: reports.length * sparse };
  }

  metrics() {
    const { dense, fixed, weights } = this.#plan;
    const kept = weights.map(({ place }) => countOf(partOf(this.vectors.mask, place)));
    return {
      density: this.#kept() / dense.numbers,
      ...(dense.flops > 0 ? { flops_share: (fixed.flops + sparseFlops(weights, kept)) / dense.flops } : {}),
      exchanged: this.#exchanged,
    };
  }

  /**
   * Adaptive selection: clients train each candidate for a little and measure the statistics of its normalisation layers on their
   * own data, the server averages both, clients measure the loss with the averages, and the candidate with the lowest mean loss is
   * where training goes on.
   */
  async #choose(questions: RoundQuestions, params: Float32Array, state: Float32Array): Promise<Traffic> {
    const sizes = candidateCounts(this.#plan, this.#config, this.#shape.seed);
    const [only] = sizes;
    if (only && sizes.length === 1) {
      this.#adopt({ mask: this.#maskOf(params, only), params, state }, params, state);
      return { down: 0, up: 0 };
    }
    const weights = questions.clients.map(({ examples }) => examples.length);
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    let best: (Candidate & { readonly loss: number }) | null = null;
    let [down, up] = [0, 0];
    for (const counts of sizes) {
      const candidate = await this.#tried(questions, this.#maskOf(params, counts), params, state);
      const losses = await questions.losses(candidate);
      const loss = losses.reduce((sum, each, k) => sum + (each * (weights[k] as number)) / total, 0);
      if (Number.isFinite(loss) && (!best || loss < best.loss)) best = { ...candidate, loss };
      // Down: the sparse model with its mask, then what has become of it, for each trial and the comparison. Up: updates,
      // statistics and a loss.
      const sparse = 4 * (countOf(candidate.mask) + state.length);
      const { trial_rounds: trials } = this.#config;
      down += weights.length * ((trials + 1) * sparse + this.#maskBytes() + 4 * state.length);
      up += weights.length * (trials * sparse + 4 * state.length + 4);
    }
    if (!best)
      throw new Error('the losses of all coarsely pruned candidates are not finite: lower optim.lr, or check the data');
    this.#adopt(best, params, state);
    return { down, up };
  }

  /** A candidate after its trial, with the statistics that the clients' data give it. */
  async #tried(
    questions: RoundQuestions,
    mask: Float32Array,
    params: Float32Array,
    state: Float32Array,
  ): Promise<Candidate> {
    const at = { params: params.slice(), state: state.slice() };
    applyMask(at.params, mask);
    for (let trial = 0; trial < this.#config.trial_rounds; trial++) {
      const mean = await questions.train(at, { mask });
      if (mean) addUpdate(mean, at.params, at.state);
    }
    if (state.length === 0) return { ...at, mask };
    const { statistics_batches: batches } = this.#config;
    const answers = (await questions.ask('batch-statistics', { batches }, at)) as Float32Array[];
    const weights = questions.clients.map(({ examples }) => examples.length);
    return { params: at.params, state: meanVector(answers, weights), mask };
  }

  /** Makes a candidate the model. */
  #adopt(candidate: Candidate, params: Float32Array, state: Float32Array): void {
    params.set(candidate.params);
    state.set(candidate.state);
    this.vectors.mask.set(candidate.mask);
    this.vectors.chosen[0] = 1;
    applyMask(params, candidate.mask);
  }

  /** Progressive pruning: one layer, from the last to the first and again, by the largest gradients that clients see. */
  async #exchange(questions: RoundQuestions, params: Float32Array, state: Float32Array): Promise<Traffic> {
    const { every, until, rate, gradient_batches: batches } = this.#config;
    const { weights } = this.#plan;
    const turn = Math.floor(questions.round / every);
    const { place } = weights[weights.length - 1 - (turn % weights.length)] as Prunable;
    const mask = partOf(this.vectors.mask, place);
    const count = Math.min(exchangeCount(countOf(mask), questions.round, until, rate), place.size - countOf(mask));
    if (count === 0) return { down: 0, up: 0 };
    const eligible = Uint8Array.from(mask, (kept) => 1 - kept);
    const answers = (await questions.ask(
      'top-gradients',
      { path: place.path, eligible, count, batches },
      { params, state },
    )) as TopGradients[];
    const sent = answers.map((answer, k) => ({
      ...answer,
      weight: questions.clients[k]?.examples.length ?? 0,
    }));
    this.#exchanged = growAndPrune(partOf(params, place), mask, sent, count);
    // (The model that they are asked about is the one that they are sent for the round; its bytes are counted there.)
    return { down: 0, up: answers.reduce((sum, { places }) => sum + 8 * places.length, 0) };
  }

  #maskOf(params: Float32Array, counts: readonly number[]): Float32Array {
    const mask = new Float32Array(params.length).fill(1);
    for (const [i, { place }] of this.#plan.weights.entries())
      partOf(mask, place).set(magnitudeMask(partOf(params, place), counts[i] as number));
    return mask;
  }

  #kept(): number {
    return countOf(this.vectors.mask);
  }

  /** A bit for each number that may be pruned. */
  #maskBytes(): number {
    return Math.ceil(this.#plan.weights.reduce((sum, { size }) => sum + size, 0) / 8);
  }
}

function countOf(mask: Float32Array): number {
  return mask.reduce((sum, value) => sum + value, 0);
}

/**
 * Pruned federated training under a budget of parameters and FLOPs: Huang, Zhang, Sun, Fang, Yuan and Wu, Distributed Pruning Towards
 * Tiny Neural Networks in Federated Learning (FedTiny, 2022). First, clients choose one of several coarsely pruned models by its
 * loss with recalibrated statistics (algorithm 1), here after each was trained for a round, since a run begins with random
 * weights; then, every few rounds, some of one layer's weights are exchanged for those whose
 * gradients are largest at the clients (algorithm 2). The mask is the server's; clients train and send what it keeps.
 */
export const fedtiny: FederatedStrategy<typeof config> = {
  name: 'fedtiny',
  config,
  objective: () => ({ name: 'masked', config: {} }),
  unsuited: (settings, shape) => {
    const { weights, budget } = planOf(settings, shape);
    if (weights.length === 0)
      return 'it prunes weights of two or more dimensions, and this model has none (but for `keep`)';
    try {
      keptCounts(weights, uniformDensities(weights), budget);
      return null;
    } catch (error) {
      if (error instanceof RangeError) return error.message;
      throw error;
    }
  },
  server: (settings, shape) => new TinyServer(settings, shape),
};
