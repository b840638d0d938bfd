/** A capacity that no cut crosses. */
export const UNCUTTABLE = Number.MAX_SAFE_INTEGER;

interface Edge {
  readonly to: number;
  capacity: number;
  readonly back: number;
}

/**
 * Minimum cut of a directed network by Dinic's maximum-flow algorithm (1970). Node 0 is the source, node 1 the sink.
 */
export class FlowNetwork {
  readonly #edges: Edge[][] = [[], []];

  /** A new node. */
  node(): number {
    this.#edges.push([]);
    return this.#edges.length - 1;
  }

  edge(from: number, to: number, capacity: number): void {
    const forward = this.#edges[from] as Edge[];
    const backward = this.#edges[to] as Edge[];
    forward.push({ to, capacity, back: backward.length });
    backward.push({ to: from, capacity: 0, back: forward.length - 1 });
  }

  /** Nodes on the sink's side of the minimum cut that lies nearest to the sink. */
  sinkSide(): Set<number> {
    for (let levels = this.#levels(); levels[1] !== -1; levels = this.#levels()) this.#saturate(levels);
    const side = new Set([1]);
    const stack = [1];
    for (let at = stack.pop(); at !== undefined; at = stack.pop())
      for (const { to, back } of this.#edges[at] as Edge[]) {
        // `to` can still send flow here if the edge from it has room.
        if (side.has(to) || ((this.#edges[to] as Edge[])[back] as Edge).capacity <= 0) continue;
        side.add(to);
        stack.push(to);
      }
    return side;
  }

  #levels(): Int32Array {
    const levels = new Int32Array(this.#edges.length).fill(-1);
    levels[0] = 0;
    const queue = [0];
    for (const at of queue)
      for (const { to, capacity } of this.#edges[at] as Edge[])
        if (capacity > 0 && levels[to] === -1) {
          levels[to] = (levels[at] as number) + 1;
          queue.push(to);
        }
    return levels;
  }

  /** Sends flow along shortest paths until none is left; iterative, since paths are as long as graphs are deep. */
  #saturate(levels: Int32Array): void {
    const next = new Int32Array(this.#edges.length);
    const path: Edge[] = [];
    let at = 0;
    while (true) {
      if (at === 1) {
        const flow = Math.min(...path.map((edge) => edge.capacity));
        for (const edge of path) {
          edge.capacity -= flow;
          ((this.#edges[edge.to] as Edge[])[edge.back] as Edge).capacity += flow;
        }
        path.length = 0;
        at = 0;
        continue;
      }
      const edges = this.#edges[at] as Edge[];
      const edge = edges[next[at] as number];
      if (edge === undefined) {
        const last = path.pop();
        if (last === undefined) return;
        at = ((this.#edges[last.to] as Edge[])[last.back] as Edge).to;
        next[at] = (next[at] as number) + 1;
      } else if (edge.capacity > 0 && levels[edge.to] === (levels[at] as number) + 1) {
        path.push(edge);
        at = edge.to;
      } else next[at] = (next[at] as number) + 1;
    }
  }
}
