import type { LinkKind } from '../../comm/index.ts';
import type { Agents } from './agents.ts';
import type { KnownWays, LinkEnd } from './choose-links.ts';

/** How long two ends may take to find out whether they reach each other, in milliseconds. */
const PROBE_MS = 3000;

/** What was found out about the ways between agents: once for each pair, so that a recovery has nothing to try. */
export class Reachability implements KnownWays {
  readonly #reachable = new Map<string, boolean>();
  readonly #failed = new Map<string, Set<LinkKind>>();

  reachable(from: string, to: string): boolean | undefined {
    return this.#reachable.get(`${from} ${to}`);
  }

  failed(a: string, b: string): ReadonlySet<LinkKind> {
    return this.#failed.get(pairOf(a, b)) ?? new Set();
  }

  /** A link of this kind broke although both ends live. */
  noteFailed(a: string, b: string, kind: LinkKind): void {
    const known = this.#failed.get(pairOf(a, b)) ?? new Set<LinkKind>();
    this.#failed.set(pairOf(a, b), known.add(kind));
  }

  /** Something is wrong between the two: whether they reach each other is to be found out anew. */
  doubt(a: string, b: string): void {
    this.#reachable.delete(`${a} ${b}`);
    this.#reachable.delete(`${b} ${a}`);
  }

  /** An agent was started anew, perhaps elsewhere. */
  forget(agent: string): void {
    for (const map of [this.#reachable, this.#failed])
      for (const key of [...map.keys()]) if (key.split(' ').includes(agent)) map.delete(key);
  }

  /** Lets both ends of each pair dial the other. An agent that does not answer is not reachable now; nothing is noted of it. */
  async probe(agents: Agents, generation: number, pairs: readonly (readonly [LinkEnd, LinkEnd])[]): Promise<void> {
    const wanted = new Map<string, LinkEnd[]>();
    for (const [a, b] of pairs)
      for (const [from, to] of [
        [a, b],
        [b, a],
      ] as const) {
        const targets = wanted.get(from.agent) ?? [];
        wanted.set(from.agent, targets);
        targets.push(to);
      }
    await Promise.all(
      [...wanted].map(async ([from, targets]) => {
        const addresses = targets.map(({ address }) => address.tcp as { host: string; port: number });
        const answer = await agents.ask(from, generation, { type: 'probe', addresses }, PROBE_MS).catch(() => null);
        if (answer?.type !== 'probed') return;
        for (const [i, { agent }] of targets.entries())
          this.#reachable.set(`${from} ${agent}`, answer.reachable[i] === true);
      }),
    );
  }
}

function pairOf(a: string, b: string): string {
  return a < b ? `${a} ${b}` : `${b} ${a}`;
}
