import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  chooseLinks,
  chooseMesh,
  chooseRestore,
  chooseSeats,
  type HeldSnapshot,
  type KnownWays,
  type LinkEnd,
  replicaPlan,
  type Seat,
  type TensorNeed,
} from '../../src/coordinator/index.ts';
import { checkMesh, worldSize } from '../../src/plan/index.ts';

// The same cases every time.
fc.configureGlobal({ seed: 1 });

const need = (name: string, elements = 4): TensorNeed => ({ name, shape: [elements], bytes: elements * 4 });
const fits = (mesh: Parameters<typeof checkMesh>[0]): boolean => mesh.data % mesh.expert === 0;

/** Ranks of a mesh of experts: dense tensors everywhere, an expert's with its member. */
function expertNeeds(data: number, expert: number): TensorNeed[][] {
  return Array.from({ length: data }, (_, rank) => [need('dense', 8), need(`expert.${rank % expert}`, 16)]);
}

const meshes = fc
  .record({
    expert: fc.integer({ min: 1, max: 4 }),
    groups: fc.integer({ min: 1, max: 4 }),
    pipeline: fc.integer({ min: 1, max: 4 }),
  })
  .map(({ expert, groups, pipeline }) => ({ data: expert * groups, pipeline, expert }));

describe('chooseMesh', () => {
  it('never needs more slots than there are, nor more of an axis than configured', () => {
    fc.assert(
      fc.property(meshes, fc.integer({ min: 0, max: 80 }), (wanted, slots) => {
        const mesh = chooseMesh(wanted, slots, fits);
        if (slots === 0) {
          expect(mesh).toBeNull();
          return;
        }
        if (!mesh) throw new Error('one slot is always enough');
        checkMesh(mesh);
        expect(worldSize(mesh)).toBeLessThanOrEqual(slots);
        for (const axis of ['data', 'pipeline', 'expert'] as const)
          expect(mesh[axis]).toBeLessThanOrEqual(wanted[axis]);
        // The pipeline is given up only where not one replica fits.
        if (slots >= wanted.pipeline) expect(mesh.pipeline).toBe(wanted.pipeline);
        if (slots >= worldSize(wanted)) expect(mesh).toEqual(wanted);
      }),
    );
  });

  it('never shrinks when a slot is added', () => {
    fc.assert(
      fc.property(meshes, fc.integer({ min: 1, max: 80 }), (wanted, slots) => {
        const [before, after] = [chooseMesh(wanted, slots, fits), chooseMesh(wanted, slots + 1, fits)];
        if (before && after && before.pipeline === after.pipeline)
          expect(worldSize(after)).toBeGreaterThanOrEqual(worldSize(before));
      }),
    );
  });

  it('takes the next smaller mesh where a model does not fit', () => {
    expect(chooseMesh({ data: 4, pipeline: 1, expert: 1 }, 3, ({ data }) => data !== 3)).toEqual({
      data: 2,
      pipeline: 1,
      expert: 1,
    });
    expect(chooseMesh({ data: 4, pipeline: 1, expert: 4 }, 3, fits)).toEqual({ data: 3, pipeline: 1, expert: 3 });
    expect(chooseMesh({ data: 2, pipeline: 4, expert: 1 }, 3, fits)).toEqual({ data: 1, pipeline: 3, expert: 1 });
    expect(chooseMesh({ data: 2, pipeline: 1, expert: 1 }, 1, () => false)).toBeNull();
  });
});

const agent = (id: string, slots: number, hostId = id, holds: string[] = []) => ({
  agent: id,
  hostId,
  slots,
  holds: new Set(holds),
});

describe('chooseSeats', () => {
  it('gives each rank a slot of its own, and keeps survivors where their tensors are', () => {
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: 1, max: 4 }), { minLength: 1, maxLength: 6 }),
        fc.nat(1000),
        (slots, seed) => {
          const agents = slots.map((count, i) => agent(`a${i}`, count, `h${i % 2}`));
          const total = slots.reduce((sum, count) => sum + count, 0);
          const ranks = (seed % total) + 1;
          const needs = Array.from({ length: ranks }, (_, rank) => [need(`own.${rank}`)]);
          const first = chooseSeats(needs, agents);
          const taken = first.map(({ agent: id, slot }) => `${id} ${slot}`);
          expect(new Set(taken).size).toBe(ranks);
          for (const seat of first) expect(seat.slot).toBeLessThan(slots[Number(seat.agent.slice(1))] as number);
          const holding = agents.map((one) => ({
            ...one,
            holds: new Set(first.flatMap((seat, rank) => (seat.agent === one.agent ? [`own.${rank}`] : []))),
          }));
          expect(chooseSeats(needs, holding, first)).toEqual(first);
        },
      ),
    );
  });

  it('lets a spare take the place of the lost, and moves nobody else', () => {
    const before: Seat[] = ['a', 'b', 'c'].map((id) => ({ agent: id, slot: 0 }));
    const needs = [0, 1, 2].map((rank) => [need('dense'), need(`stage.${rank}`)]);
    const holds = (rank: number) => ['dense', `stage.${rank}`];
    const there = [agent('a', 1, 'h', holds(0)), agent('c', 1, 'h', holds(2)), agent('d', 1, 'h')];
    expect(chooseSeats(needs, there, before).map((seat) => seat.agent)).toEqual(['a', 'd', 'c']);
  });

  it('refuses more ranks than slots', () => {
    expect(() => chooseSeats([[], []], [agent('a', 1)])).toThrow('2 ranks do not fit in 1 slots');
  });
});

describe('chooseRestore', () => {
  const snapshot = (owner: string, step: number, names: readonly string[], elements = 4): HeldSnapshot => ({
    owner,
    hostId: `host of ${owner}`,
    snapshot: {
      step,
      blob: `${owner}-${step}`,
      tensors: names.map((name, i) => ({ name, shape: [elements], offset: i * elements * 4 })),
    },
  });

  it('takes the newest step that is whole, and never one beyond the limit', () => {
    const names = ['a', 'b', 'c', 'd'];
    const held = fc.array(
      fc.record({
        owner: fc.integer({ min: 0, max: 3 }),
        step: fc.integer({ min: 0, max: 5 }),
        names: fc.subarray(names),
      }),
      { maxLength: 20 },
    );
    fc.assert(
      fc.property(held, fc.integer({ min: 0, max: 6 }), (all, limit) => {
        const snapshots = all.map(({ owner, step, names: own }) => snapshot(`o${owner}`, step, own));
        const needs = [names.slice(0, 2).map((name) => need(name)), names.map((name) => need(name))];
        const seats = [
          { agent: 'o0', slot: 0 },
          { agent: 'o1', slot: 0 },
        ];
        const hosts = new Map([0, 1, 2, 3].map((i) => [`o${i}`, `host of o${i}`]));
        const found = chooseRestore(needs, seats, hosts, snapshots, limit);
        const whole = (step: number): boolean =>
          names.every((name) => all.some((one) => one.step === step && one.names.includes(name)));
        const expected = [5, 4, 3, 2, 1, 0].find((step) => step <= limit && whole(step));
        expect(found?.step).toBe(expected);
        for (const [rank, sources] of found?.sources.entries() ?? [])
          for (const [i, source] of sources.entries()) {
            expect(source.name).toBe(needs[rank]?.[i]?.name);
            const from = snapshots.find(
              ({ owner, snapshot: { blob, tensors } }) =>
                owner === source.owner &&
                blob === source.blob &&
                tensors.some(({ name, offset }) => name === source.name && offset === source.offset),
            );
            expect(from?.snapshot.step).toBe(found?.step);
            // Never from elsewhere what lies in the rank's own process.
            const own = seats[rank]?.agent;
            const mine = all.some(
              (one) => `o${one.owner}` === own && one.step === found?.step && one.names.includes(source.name),
            );
            if (mine) expect(source.owner).toBe(own);
          }
      }),
    );
  });

  it('does not take a tensor of another shape', () => {
    const seats = [{ agent: 'o0', slot: 0 }];
    expect(chooseRestore([[need('a', 8)]], seats, new Map(), [snapshot('o0', 1, ['a'])], 5)).toBeNull();
  });

  it('spreads what has to be fetched over those who have it', () => {
    const needs = Array.from({ length: 4 }, () => [need('a'), need('b')]);
    const seats = [0, 1, 2, 3].map((i) => ({ agent: `n${i}`, slot: 0 }));
    const found = chooseRestore(
      needs,
      seats,
      new Map(),
      [snapshot('o0', 3, ['a', 'b']), snapshot('o1', 3, ['a', 'b'])],
      3,
    );
    const owners = found?.sources.flat().map(({ owner }) => owner) ?? [];
    expect(owners.filter((owner) => owner === 'o0')).toHaveLength(4);
  });
});

describe('replicaPlan', () => {
  it('leaves no tensor in one process only, and copies nothing that two have', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 4 }),
        fc.integer({ min: 1, max: 4 }),
        fc.array(fc.integer({ min: 0, max: 4 }), { minLength: 16, maxLength: 16 }),
        (expert, groups, places) => {
          const needs = expertNeeds(expert * groups, expert);
          const seats = needs.map((_, rank) => ({ agent: `a${places[rank]}`, slot: rank }));
          const agents = [...new Set(seats.map((seat) => seat.agent))].map((id) => ({ agent: id, hostId: `h${id}` }));
          const plan = replicaPlan(needs, seats, agents);
          const names = new Set(needs.flat().map(({ name }) => name));
          for (const name of names) {
            const holders = new Set(
              seats.flatMap((seat, rank) => (needs[rank]?.some((one) => one.name === name) ? [seat.agent] : [])),
            );
            const copies = plan.filter((one) => one?.names.includes(name));
            expect(copies).toHaveLength(holders.size === 1 && agents.length > 1 ? 1 : 0);
            for (const copy of copies) expect(holders.has(copy?.to as string)).toBe(false);
          }
        },
      ),
    );
  });

  it('prefers another host', () => {
    const agents = [
      { agent: 'a', hostId: 'x' },
      { agent: 'b', hostId: 'x' },
      { agent: 'c', hostId: 'y' },
    ];
    const plan = replicaPlan([[need('only')]], [{ agent: 'a', slot: 0 }], agents);
    expect(plan).toEqual([{ to: 'c', names: ['only'] }]);
  });
});

describe('chooseLinks', () => {
  const end = (id: string, hostId: string, more: Partial<LinkEnd['address']> = {}): LinkEnd => ({
    agent: id,
    address: { slot: 0, hostId, tcp: { host: '10.0.0.1', port: 1 }, unix: '/s', host: true, ...more },
  });
  const ways = (reachable: boolean | undefined, failed: string[] = []): KnownWays => ({
    reachable: () => reachable,
    failed: () => new Set(failed as never[]),
  });

  it('takes the fastest that both ends have', () => {
    const ends = [end('a', 'x'), end('a', 'x'), end('b', 'x'), end('c', 'x', { host: false }), end('d', 'y')];
    expect(chooseLinks(ends, 'auto', ways(true))[0]).toEqual(['-', 'local', 'host', 'unix', 'tcp']);
    expect(chooseLinks(ends, 'auto', ways(false))[0]?.[4]).toBe('nats');
    expect(chooseLinks(ends, 'nats', ways(true))[0]).toEqual(['-', 'local', 'nats', 'nats', 'nats']);
  });

  it('does not take again what has failed, and is the same from both ends', () => {
    const ends = [end('a', 'x'), end('b', 'x'), end('c', 'y')];
    const links = chooseLinks(ends, 'auto', ways(true, ['host', 'tcp']));
    expect(links[0]).toEqual(['-', 'unix', 'nats']);
    for (const [i, row] of links.entries()) for (const [j, kind] of row.entries()) expect(links[j]?.[i]).toBe(kind);
  });

  it('names the pair for which the only kind that is allowed cannot be', () => {
    expect(() => chooseLinks([end('a', 'x'), end('b', 'y')], 'unix', ways(true))).toThrow(
      'comm.data is unix, but agents a and b can only be linked by tcp, nats',
    );
  });
});
