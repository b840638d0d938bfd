import type { Underway } from '../../coordinator/index.ts';
import type { Partition } from '../../data/index.ts';
import type { ClientBehaviour } from './behaviour.ts';
import type { FitPool } from './fit-pool.ts';
import type { ClientReport } from './fit-task.ts';
import type { Dropped, LocalWork } from './simulation.ts';
import { metropolisWeights, type Topology, withoutNodes } from './topology.ts';
import { countTrained } from './while-underway.ts';

/** What decentralised training is made of. */
export interface GossipOptions {
  readonly pool: FitPool;
  /** One client a node. */
  readonly partition: Partition;
  readonly graph: Topology;
  readonly local: LocalWork;
  /** How nodes behave; absent: all are there, and take no time. */
  readonly behaviour?: ClientBehaviour;
}

/** What a round of gossip came to. */
export interface GossipReport {
  readonly round: number;
  readonly reports: readonly ClientReport[];
  readonly dropped: readonly Dropped[];
  readonly loss: number;
  /** Root of the mean squared distance of the nodes' parameters to their mean: how far from agreement they are. */
  readonly disagreement: number;
  /** Bytes that went over the edges. */
  readonly bytes: number;
  /** Simulated time at which the last node was done with the round, in seconds. */
  readonly time: number;
}

/** Where decentralised training is, between two rounds. */
export interface GossipState {
  readonly round: number;
  /** Simulated time of each node, in seconds. */
  readonly clocks: readonly number[];
  /** Parameters, then module state, of each node. */
  readonly nodes: readonly Float32Array[];
}

/**
 * Training without a server: every node trains on its own data, then mixes its parameters with its neighbours' (D-PSGD: Lian, Zhang,
 * Zhang, Hsieh, Zhang and Liu, Can Decentralized Algorithms Outperform Centralized Algorithms, 2017, algorithm 1, with local
 * epochs in place of one step). A node waits for its neighbours only. One that is away keeps what it has, and the others mix
 * without it.
 */
export class Gossip {
  /** Parameters, then module state, of each node. */
  readonly nodes: Float32Array[];
  readonly #options: GossipOptions;
  readonly #clocks: number[];
  #round: number;
  /** How far the round under way is. */
  #underway: (() => Underway) | null = null;

  constructor(options: GossipOptions, params: Float32Array, state: Float32Array, from?: GossipState) {
    const { graph, partition } = options;
    if (graph.length !== partition.clients)
      throw new RangeError(
        `a graph of ${graph.length} nodes needs as many clients, but there are ${partition.clients}`,
      );
    this.#options = options;
    const first = new Float32Array(params.length + state.length);
    first.set(params);
    first.set(state, params.length);
    this.#round = from?.round ?? 0;
    this.#clocks = graph.map((_, i) => from?.clocks[i] ?? 0);
    this.nodes = graph.map((_, i) => (from?.nodes[i] ?? first).slice());
  }

  /** How far the round under way is; null between rounds. */
  get underway(): Underway | null {
    return this.#underway?.() ?? null;
  }

  /** Where it is. Between calls of `next` only. */
  snapshot(): GossipState {
    return { round: this.#round, clocks: [...this.#clocks], nodes: this.nodes };
  }

  /** Trains all nodes, then lets them mix. A node whose training diverges keeps what it had, and still mixes. */
  async next(): Promise<GossipReport> {
    const { graph } = this.#options;
    const round = this.#round++;
    const time = this.#now();
    const dropped = this.#away(round, time);
    const away = new Set(dropped.map(({ client }) => client));
    const present = graph.flatMap((_, i) => (away.has(i) ? [] : [i]));
    this.#underway = countTrained(this.#options.pool, present.length);
    const results = await Promise.all(present.map((node) => this.#train(node, round))).finally(() => {
      this.#underway = null;
    });
    const trained = new Map<number, Float32Array>();
    for (const [n, node] of present.entries()) {
      const { update } = results[n] as (typeof results)[number];
      trained.set(
        node,
        (this.nodes[node] as Float32Array).map((value, k) => value + (update[k] as number)),
      );
    }
    const edges = withoutNodes(graph, away);
    for (const node of present) this.#mix(node, edges, trained);
    this.#tick(present, edges);
    const reports = results.map(({ report }) => report);
    for (const { client, problem } of reports) if (problem !== null) dropped.push({ client, reason: problem });
    const good = reports.filter(({ problem }) => problem === null);
    const examples = good.reduce((sum, report) => sum + report.examples, 0);
    return {
      round,
      reports,
      dropped: dropped.sort((a, b) => a.client - b.client),
      loss: good.reduce((sum, report) => sum + report.loss * report.examples, 0) / examples,
      disagreement: this.#disagreement(),
      bytes: edges.reduce((sum, { length }) => sum + length, 0) * (this.nodes[0]?.byteLength ?? 0),
      time: Math.max(...this.#clocks),
    };
  }

  /** The mean of all nodes: what is usually looked at. */
  mean(): Float32Array {
    const sum = new Float64Array(this.nodes[0]?.length ?? 0);
    for (const node of this.nodes)
      for (let k = 0; k < sum.length; k++) sum[k] = (sum[k] as number) + (node[k] as number);
    return Float32Array.from(sum, (value) => value / this.nodes.length);
  }

  /** Simulated time at which a round begins, in seconds, for those that wait for somebody to be there. */
  #now(): number {
    const { behaviour, graph } = this.#options;
    const time = Math.max(...this.#clocks);
    if (!behaviour?.next) return time;
    const now = behaviour.next(graph.keys(), time);
    // (Who could not be reached does nothing before.)
    for (const node of graph.keys()) if (now > time || behaviour.until?.(node, now) === now) this.#clocks[node] = now;
    return now;
  }

  /** Nodes that take no part in a round. */
  #away(round: number, time: number): Dropped[] {
    const { behaviour, graph } = this.#options;
    return graph.flatMap((_, client) => {
      if (behaviour && !behaviour.available(client, round, time))
        return [{ client, reason: 'it could not be reached' }];
      if (behaviour?.leaves(client, round)) return [{ client, reason: 'it left in the middle of the round' }];
      return [];
    });
  }

  async #train(client: number, round: number): Promise<{ update: Float32Array; report: ClientReport }> {
    const { pool, partition, local, behaviour } = this.#options;
    const node = this.nodes[client] as Float32Array;
    const examples = partition.examples(client).slice();
    const start = pool.publish(node.subarray(0, pool.paramsSize), node.subarray(pool.paramsSize));
    const fit = {
      client,
      round,
      examples,
      epochs: local.epochs,
      maxSteps: null,
      firstStep: 0,
      weight: examples.length,
      clipNorm: null,
      kept: {},
      attack: behaviour?.attack?.(client, round) ?? null,
    };
    const [only] = await pool.each(start, [fit]);
    return only as { update: Float32Array; report: ClientReport };
  }

  #mix(node: number, edges: Topology, trained: ReadonlyMap<number, Float32Array>): void {
    const weights = metropolisWeights(edges, node);
    const own = this.nodes[node] as Float32Array;
    const mixed = new Float64Array(own.length);
    for (const [n, other] of [...(edges[node] as readonly number[]), node].entries()) {
      const [weight, theirs] = [weights[n] as number, trained.get(other) as Float32Array];
      for (let k = 0; k < mixed.length; k++) mixed[k] = (mixed[k] as number) + weight * (theirs[k] as number);
    }
    own.set(mixed);
  }

  /** Every node is done when it has trained and heard from its neighbours. */
  #tick(present: readonly number[], edges: Topology): void {
    const { behaviour, partition, local, pool } = this.#options;
    if (!behaviour) return;
    const done = [...this.#clocks];
    for (const node of present) {
      const examples = partition.size(node) * local.epochs;
      const bytes = 4 * (pool.paramsSize + pool.stateSize) * (edges[node] as readonly number[]).length;
      done[node] = (this.#clocks[node] as number) + behaviour.seconds(node, { examples, bytes });
    }
    for (const node of present)
      this.#clocks[node] = Math.max(...[node, ...(edges[node] as readonly number[])].map((i) => done[i] as number));
  }

  #disagreement(): number {
    const mean = this.mean();
    let squares = 0;
    for (const node of this.nodes)
      for (let k = 0; k < mean.length; k++) squares += ((node[k] as number) - (mean[k] as number)) ** 2;
    return Math.sqrt(squares / this.nodes.length);
  }
}
