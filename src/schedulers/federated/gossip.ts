import type { Partition } from '../../data/index.ts';
import type { FitPool } from './fit-pool.ts';
import type { ClientReport } from './fit-task.ts';
import type { Dropped, LocalWork } from './simulation.ts';
import { metropolisWeights, type Topology } from './topology.ts';

/** What decentralised training is made of. */
export interface GossipOptions {
  readonly pool: FitPool;
  /** One client a node. */
  readonly partition: Partition;
  readonly graph: Topology;
  readonly local: LocalWork;
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
}

/**
 * Training without a server: every node trains on its own data, then mixes its parameters with its neighbours' (D-PSGD: Lian, Zhang,
 * Zhang, Hsieh, Zhang and Liu, Can Decentralized Algorithms Outperform Centralized Algorithms, 2017, algorithm 1, with local
 * epochs in place of one step).
 */
export class Gossip {
  /** Parameters, then module state, of each node. */
  readonly nodes: Float32Array[];
  readonly #options: GossipOptions;
  #round = 0;

  constructor(options: GossipOptions, params: Float32Array, state: Float32Array) {
    const { graph, partition } = options;
    if (graph.length !== partition.clients)
      throw new RangeError(
        `a graph of ${graph.length} nodes needs as many clients, but there are ${partition.clients}`,
      );
    this.#options = options;
    const first = new Float32Array(params.length + state.length);
    first.set(params);
    first.set(state, params.length);
    this.nodes = graph.map(() => first.slice());
  }

  /** Trains all nodes, then lets them mix. A node whose training diverges keeps what it had. */
  async next(): Promise<GossipReport> {
    const { pool, partition, graph, local } = this.#options;
    const round = this.#round++;
    const results = await Promise.all(
      this.nodes.map(async (node, client) => {
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
        };
        const [only] = await pool.each(start, [fit]);
        return only as { update: Float32Array; report: ClientReport };
      }),
    );
    const trained = this.nodes.map((node, i) => {
      const { update } = results[i] as (typeof results)[number];
      return node.map((value, k) => value + (update[k] as number));
    });
    for (const [i, neighbours] of graph.entries()) {
      const weights = metropolisWeights(graph, i);
      const mixed = new Float64Array(trained[i]?.length ?? 0);
      for (const [n, other] of [...neighbours, i].entries()) {
        const [weight, theirs] = [weights[n] as number, trained[other] as Float32Array];
        for (let k = 0; k < mixed.length; k++) mixed[k] = (mixed[k] as number) + weight * (theirs[k] as number);
      }
      this.nodes[i]?.set(mixed);
    }
    const reports = results.map(({ report }) => report);
    const good = reports.filter(({ problem }) => problem === null);
    const examples = good.reduce((sum, report) => sum + report.examples, 0);
    return {
      round,
      reports,
      dropped: reports.flatMap(({ client, problem }) => (problem === null ? [] : [{ client, reason: problem }])),
      loss: good.reduce((sum, report) => sum + report.loss * report.examples, 0) / examples,
      disagreement: this.#disagreement(),
      bytes: graph.reduce((sum, { length }) => sum + length, 0) * (this.nodes[0]?.byteLength ?? 0),
    };
  }

  /** The mean of all nodes: what is usually looked at. */
  mean(): Float32Array {
    const sum = new Float64Array(this.nodes[0]?.length ?? 0);
    for (const node of this.nodes)
      for (let k = 0; k < sum.length; k++) sum[k] = (sum[k] as number) + (node[k] as number);
    return Float32Array.from(sum, (value) => value / this.nodes.length);
  }

  #disagreement(): number {
    const mean = this.mean();
    let squares = 0;
    for (const node of this.nodes)
      for (let k = 0; k < mean.length; k++) squares += ((node[k] as number) - (mean[k] as number)) ** 2;
    return Math.sqrt(squares / this.nodes.length);
  }
}
