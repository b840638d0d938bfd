import { describe, expect, it } from 'vitest';
import { CommTimeout } from '../../src/comm/index.ts';
import { Reachability } from '../../src/coordinator/cluster/reachability.ts';
import { waitedFor } from '../../src/coordinator/cluster/troubles.ts';
import { chooseLinks, type LinkEnd, pairsToProbe } from '../../src/coordinator/index.ts';
import type { FailureReport } from '../../src/worker/index.ts';

const ends = ['a', 'b', 'c'].map(
  (agent): LinkEnd => ({
    agent,
    address: { slot: 0, hostId: agent, tcp: { host: agent, port: 1 }, unix: null, host: false },
  }),
);

/** Agents that answer probes by what can be reached at the moment. */
const agents = (cut: ReadonlySet<string>) =>
  ({
    ask: async (from: string, _generation: number, { addresses }: { addresses: { host: string }[] }) => ({
      ok: true,
      type: 'probed',
      reachable: addresses.map(({ host }) => !cut.has(`${from} ${host}`)),
    }),
  }) as unknown as Parameters<Reachability['probe']>[0];

describe('what is known of the ways between agents', () => {
  it('is found out once, and anew between two of which one has waited for the other in vain', async () => {
    const ways = new Reachability();
    await ways.probe(agents(new Set()), 1, pairsToProbe(ends, 'auto', ways));
    expect(chooseLinks(ends, 'auto', ways)[0]).toEqual(['-', 'tcp', 'tcp']);
    expect(pairsToProbe(ends, 'auto', ways)).toEqual([]);

    ways.doubt('b', 'a');
    const pairs = pairsToProbe(ends, 'auto', ways);
    expect(pairs.map((pair) => pair.map(({ agent }) => agent))).toEqual([['a', 'b']]);
    await ways.probe(agents(new Set(['b a'])), 2, pairs);
    expect(chooseLinks(ends, 'auto', ways)[0]).toEqual(['-', 'nats', 'tcp']);
  });

  it('is doubted where a rank names the one that it waited for', () => {
    const report = (error: Error) => ({ name: error.name, message: error.message }) as FailureReport;
    for (const kind of ['message', 'credit'] as const)
      expect(waitedFor(report(new CommTimeout(3, 12, 'act/s1/m0', 5000, kind, 'a note')))).toEqual({
        rank: 3,
        peer: 12,
      });
    expect(waitedFor(report(new Error('rank 3 waited 5 ms for message "x" from rank 1')))).toBeNull();
  });
});
