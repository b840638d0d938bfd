import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ClusterNarrator, linkCounts } from '../../src/cli/cluster-view.ts';
import { findCulprit } from '../../src/cli/culprit.ts';
import { formatDebug } from '../../src/cli/debug.ts';
import { formatStatus } from '../../src/cli/ps.ts';
import { formatTable } from '../../src/cli/table.ts';
import type { ClusterEvent, ClusterStatus } from '../../src/coordinator/index.ts';

const links = [
  ['-', 'local', 'tcp'],
  ['local', '-', 'nats'],
  ['tcp', 'nats', '-'],
] as const;
const generation = {
  type: 'generation',
  generation: 1,
  mesh: { data: 3, pipeline: 1, expert: 1 },
  members: [
    { agent: 'a', slot: 0 },
    { agent: 'a', slot: 1 },
    { agent: 'b', slot: 0 },
  ],
  links,
  fromStep: 0,
  reason: 'start',
} as const;

describe('what is told of a membership', () => {
  it('waits once for each count, with the command that helps', () => {
    const narrator = new ClusterNarrator('plexus worker --nats nats://h:4222');
    expect(narrator.lines({ type: 'waiting', have: 0, need: 3 })).toEqual([
      'waiting for workers: 0 of 3; start more with: plexus worker --nats nats://h:4222',
    ]);
    expect(narrator.lines({ type: 'waiting', have: 0, need: 3 })).toEqual([]);
    expect(narrator.lines({ type: 'waiting', have: 2, need: 3 })).toEqual(['waiting for workers: 2 of 3']);
    expect(narrator.state).toBe('');
    expect(narrator.lines(generation)).toEqual([
      'generation 1: data 3 × pipeline 1, expert 1 on 2 processes, links 1 local, 1 tcp, 1 nats',
    ]);
    expect(narrator.state).toBe('3 workers gen 1');
  });

  it('is one line for a recovery: who, what then, how long', () => {
    const narrator = new ClusterNarrator('');
    narrator.lines(generation);
    const shrunk: ClusterEvent = {
      ...generation,
      generation: 2,
      mesh: { data: 2, pipeline: 1, expert: 1 },
      members: generation.members.slice(0, 2),
      links: [
        ['-', 'local'],
        ['local', '-'],
      ],
      fromStep: 41,
      reason: 'lost',
    };
    const phases = {
      wait: 0,
      prepare: 9,
      plan: 5,
      assign: 4,
      start: 2,
      compile: 90,
      restore: 80,
      ready: 10,
      step: 140,
    };
    expect([
      ...narrator.lines({ type: 'lost', agent: 'b', ranks: [2], reason: 'its lease ran out', detectedMs: 5012 }),
      ...narrator.lines({ type: 'waiting', have: 2, need: 2 }).slice(1),
      ...narrator.lines(shrunk),
      ...narrator.lines({ type: 'recovered', generation: 2, step: 41, detectionMs: 5012, recoveryMs: 340, phases }),
    ]).toEqual([
      '! worker b (rank 2) lost: its lease ran out; now data 2 × pipeline 1, expert 1 on 1 process, links 1 local, on from step 41 (noticed after 5.0 s, recovered in 0.34 s)',
    ]);
    expect(narrator.state).toBe('2 workers gen 2 1 recovery');
    expect(narrator.lines({ type: 'joined', agent: 'c', slots: 2 })).toEqual(['+ worker c joined with 2 slots']);
  });

  it('counts pairs once', () => expect(linkCounts(links)).toBe('1 local, 1 tcp, 1 nats'));
});

const state = (rank: number, from: readonly number[], more = {}) => ({
  agent: 'a',
  rank,
  generation: 3,
  step: 41,
  doing: from.length > 0 ? 'AllReduce dense' : 'Forward s0.1 m3',
  sinceMs: 12_000 + rank,
  waits: from.map((peer) => ({ from: peer, tag: 'ar/dense/3', sinceMs: 11_500 })),
  recent: [{ instruction: 'LoadBatch m0', step: 41, ms: 13_000 }],
  ...more,
});

describe('who holds up a job', () => {
  it('is the rank that others wait for and that waits for nobody', () => {
    const ranks = [state(0, [1]), state(1, [2]), state(2, []), state(3, [])];
    expect(findCulprit(ranks)).toMatchObject({ kind: 'rank', rank: 2, waiting: [0, 1], answered: true });
    expect(formatDebug({ ranks, silent: [] }, findCulprit(ranks), { last: 1, colour: false }).split('\n')).toEqual([
      'rank 0  step 41  AllReduce dense for 12 s  (a, generation 3)',
      '  waits for rank 1, ar/dense/3, since 12 s',
      '    13 s ago  step 41  LoadBatch m0',
      expect.stringContaining('rank 1'),
      expect.anything(),
      expect.anything(),
      'rank 2  step 41  Forward s0.1 m3 for 12 s  (a, generation 3)',
      expect.anything(),
      expect.stringContaining('rank 3'),
      expect.anything(),
      '',
      'likely culprit: rank 2 (Forward s0.1 m3 for 12 s): ranks 0, 1 wait for it, and it waits for nobody',
    ]);
  });

  it('is one that did not answer', () => {
    const ranks = [state(0, [1]), state(2, [0])];
    expect(findCulprit(ranks)).toMatchObject({ rank: 1, waiting: [0, 2], answered: false, doing: null });
    expect(
      formatDebug({ ranks, silent: [{ agent: 'b', reason: 'no answer within 2 s' }] }, findCulprit(ranks), {
        last: 0,
        colour: false,
      }),
    ).toMatch(
      /✗ worker b did not answer: no answer within 2 s\n\nlikely culprit: rank 1: ranks 0, 2 wait for it, and it did not answer$/,
    );
  });

  it('is nobody where nobody waits, and a circle where all do', () => {
    expect(findCulprit([state(0, []), state(1, [])])).toEqual({ kind: 'none' });
    expect(findCulprit([])).toEqual({ kind: 'none' });
    expect(findCulprit([state(3, [0]), state(0, [1]), state(1, [0])])).toEqual({ kind: 'circle', ranks: [0, 1] });
  });

  it('is found in any graph of waits', () => {
    const graph = fc.array(fc.uniqueArray(fc.nat(7), { maxLength: 3 }), { minLength: 1, maxLength: 8 });
    fc.assert(
      fc.property(graph, (waits) => {
        const culprit = findCulprit(
          waits.map((from, rank) =>
            state(
              rank,
              from.filter((peer) => peer !== rank),
            ),
          ),
        );
        const of = (rank: number) => (waits[rank] ?? []).filter((peer) => peer !== rank);
        if (culprit.kind === 'rank') {
          expect(of(culprit.rank)).toEqual([]);
          expect(culprit.waiting.length).toBeGreaterThan(0);
        }
        if (culprit.kind === 'none') expect(waits.every((_, rank) => of(rank).length === 0)).toBe(true);
        if (culprit.kind === 'circle')
          culprit.ranks.forEach((rank, index) => {
            expect(of(rank)).toContain(culprit.ranks[(index + 1) % culprit.ranks.length]);
          });
      }),
    );
  });
});

describe('ps', () => {
  const status: ClusterStatus = {
    job: 'night',
    leader: { id: 'l', term: 2, host: 'n0', pid: 4711, leaseMs: 5000, since: '', ageMs: 100 },
    record: {
      job: 'night',
      runId: 'moe-1',
      runDir: '/runs/moe-1',
      version: '0.1.0',
      config: '',
      status: 'running',
      minWorkers: 1,
      maxWorkers: 3,
      firstGeneration: 1,
    },
    generation: { ...generation, links: links.map((row) => [...row]) },
    position: { step: 120, steps: 2000, loss: 3.45678, checkpoint: 100, generation: 1, wall_s: 60, recoveries: 0 },
    members: ['a', 'b'].map((id, index) => ({
      id,
      life: 'x',
      version: '0.1.0',
      protocol: 1,
      host: `n${index}`,
      hostId: id,
      pid: 100 + index,
      runtime: 'node 20',
      processor: 'linux x64 with avx2',
      device: 'cpu',
      slots: 2,
      leaseMs: 5000,
      generation: 1,
      ranks: index === 0 ? [0, 1] : [],
      beat: 1,
      ageMs: index === 0 ? 400 : 7400,
    })),
  };

  it('shows leader, run, step, generation, mesh, members and links', () => {
    expect(formatStatus(status, false).split('\n')).toEqual([
      'job night  running',
      '  run         moe-1  /runs/moe-1',
      '  step        120 of 2000, loss 3.4568, checkpoint of step 100',
      '  leader      n0 pid 4711 (term 2)',
      '  generation  1, from step 0: start',
      '  mesh        data 3 × pipeline 1, expert 1; links 1 local, 1 tcp, 1 nats',
      '',
      'WORKER  HOST  PID  DEVICE  SLOTS  RANKS  LEASE',
      'a       n0    100  cpu         2  0 1    0.40 s of 5.0 s',
      'b       n1    101  cpu         2  spare  expired 2.4 s ago',
      '',
      'LINKS   to 0   to 1   to 2',
      'from 0  -      local  tcp',
      'from 1  local  -      nats',
      'from 2  tcp    nats   -',
    ]);
  });

  it('says what to do where there is nothing', () => {
    const empty = { job: 'default', leader: null, record: null, generation: null, position: null, members: [] };
    expect(formatStatus(empty, false)).toBe(
      'job default  no run yet\n  leader      nobody leads this job now\n\nno workers; start some with `plexus worker`',
    );
  });

  it('tables have columns as wide as their content', () => {
    expect(
      formatTable(
        ['A', 'N'],
        [
          ['x', '1'],
          ['long', '100'],
        ],
      ),
    ).toEqual(['A       N', 'x       1', 'long  100']);
  });
});
