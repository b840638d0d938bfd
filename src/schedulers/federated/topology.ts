import { createRng } from '../../tensor/index.ts';

/** Who talks to whom, without oneself: `neighbours[i]` in rising order, and j is among i's if i is among j's. */
export type Topology = readonly (readonly number[])[];

/** Kinds of graphs for decentralised training. */
export const TOPOLOGIES = ['ring', 'torus', 'exponential', 'random', 'complete'] as const;
export type TopologyKind = (typeof TOPOLOGIES)[number];

/**
 * Builds a graph over `nodes` nodes. `torus`: the squarest grid, wrapped. `exponential`: hops of 1, 2, 4, ... both ways.
 * `random`: a ring, so that all are connected, and random edges up to a mean of `degree`.
 * @throws RangeError for fewer than two nodes
 */
export function topology(kind: TopologyKind, nodes: number, { seed = 0, degree = 4 } = {}): Topology {
  if (!Number.isInteger(nodes) || nodes < 2) throw new RangeError(`a graph needs at least two nodes, not ${nodes}`);
  const sets = Array.from({ length: nodes }, () => new Set<number>());
  const join = (a: number, b: number) => {
    if (a === b) return;
    sets[a]?.add(b);
    sets[b]?.add(a);
  };
  const each = (use: (node: number) => void) => {
    for (let node = 0; node < nodes; node++) use(node);
  };
  switch (kind) {
    case 'ring':
      each((i) => join(i, (i + 1) % nodes));
      break;
    case 'torus': {
      let width = Math.floor(Math.sqrt(nodes));
      while (nodes % width !== 0) width -= 1;
      const height = nodes / width;
      each((i) => {
        const [row, column] = [Math.floor(i / width), i % width];
        join(i, row * width + ((column + 1) % width));
        join(i, ((row + 1) % height) * width + column);
      });
      break;
    }
    case 'exponential':
      each((i) => {
        for (let hop = 1; hop < nodes; hop *= 2) join(i, (i + hop) % nodes);
      });
      break;
    case 'random': {
      each((i) => join(i, (i + 1) % nodes));
      const rng = createRng(seed).fork('topology');
      const wanted = Math.min((nodes * (nodes - 1)) / 2, Math.round((nodes * degree) / 2));
      const edges = () => sets.reduce((sum, set) => sum + set.size, 0) / 2;
      while (edges() < wanted) join(rng.integer(nodes), rng.integer(nodes));
      break;
    }
    case 'complete':
      each((i) => each((j) => join(i, j)));
  }
  return sets.map((set) => [...set].sort((a, b) => a - b));
}

/**
 * Weights with which a node mixes its neighbours' parameters, and last its own: symmetric and with rows that sum to one, so that the
 * mean over all nodes stays what it is (Metropolis weights: Xiao, Boyd and Kim, Distributed Average Consensus, 2007).
 */
export function metropolisWeights(graph: Topology, node: number): number[] {
  const own = graph[node] as readonly number[];
  const weights = own.map((other) => 1 / (1 + Math.max(own.length, graph[other]?.length ?? 0)));
  return [...weights, 1 - weights.reduce((sum, weight) => sum + weight, 0)];
}

/** A graph without the edges of some nodes, which stay in it alone. */
export function withoutNodes(graph: Topology, away: ReadonlySet<number>): Topology {
  if (away.size === 0) return graph;
  return graph.map((others, node) => (away.has(node) ? [] : others.filter((other) => !away.has(other))));
}
