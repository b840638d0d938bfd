import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { type Action, type ActionKind, formatSchedule } from '../../src/plan/index.ts';
import type { JobOptions } from '../worker/jobs.ts';
import { run, scratch, serial } from './run.ts';

const folder = scratch();

const options: JobOptions = {
  model: { layers: 2, dim: 8, heads: 2, dropout: 0.1, moe: { experts: 4, top_k: 2, every: 1, hidden: 8 } },
  optim: { clip_norm: 0.5 },
};

type Order = readonly (readonly Action[])[];

const act = (kind: ActionKind, stage: number, microbatch: number): Action => ({ kind, stage, microbatch });
const count = (microbatches: number) => Array.from({ length: microbatches }, (_, microbatch) => microbatch);

/** `first` and `last` on the first rank, the stages between them on the second, which are neighbours there. */
const vShape = (microbatches: number): Order => {
  const all = count(microbatches);
  return [
    [
      ...all.map((m) => act('F', 0, m)),
      ...all.flatMap((m) => [act('F', 3, m), act('B', 3, m)]),
      ...all.map((m) => act('B', 0, m)),
    ],
    [...all.flatMap((m) => [act('F', 1, m), act('F', 2, m)]), ...all.flatMap((m) => [act('B', 2, m), act('B', 1, m)])],
  ];
};

/** Two neighbouring stages on each rank, all forwards of one before those of the next: outputs wait to be taken. */
const neighbours = (microbatches: number): Order => {
  const all = count(microbatches);
  const rank = (low: number): Action[] => [
    ...all.map((m) => act('F', low, m)),
    ...all.map((m) => act('F', low + 1, m)),
    ...all.map((m) => act('B', low + 1, m)),
    ...all.map((m) => act('B', low, m)),
  ];
  return [rank(0), rank(2)];
};

/** Odd microbatches go back whole, even ones in two parts, and some long after the others. */
const mixed = (order: Order): Order =>
  order.map((actions) => {
    const put = actions.flatMap((action) =>
      action.kind === 'B' && action.microbatch % 2 === 0 ? [act('I', action.stage, action.microbatch)] : [action],
    );
    const later = put.filter(({ kind }) => kind === 'I').map(({ stage, microbatch }) => act('W', stage, microbatch));
    return [...put, ...later.reverse()];
  });

/** Two stages; the backwards come in the reverse order of the forwards. */
const lastFirst = (microbatches: number): Order => {
  const all = count(microbatches);
  return [0, 1].map((stage) => [
    ...all.map((m) => act('F', stage, m)),
    ...all.toReversed().map((m) => act('B', stage, m)),
  ]);
};

const tables: Readonly<Record<string, (microbatches: number) => Order>> = {
  'backwards in reverse order': lastFirst,
  'in the shape of a V': vShape,
  'neighbouring stages on a rank': neighbours,
  'whole and split backwards in turn': (microbatches) => mixed(lastFirst(microbatches)),
  'in the shape of a V, whole and split backwards in turn': (microbatches) => mixed(vShape(microbatches)),
};

function tableFile(name: string, order: Order): string {
  const file = join(folder, `${name.replaceAll(/\W+/g, '-')}.csv`);
  const stageRanks: number[] = [];
  writeFileSync(file, formatSchedule({ name, microbatches: 0, stageRanks, ranks: order }));
  return file;
}

describe.each(Object.entries(tables))('a schedule table, %s: the bits of one worker', (name, table) => {
  it.each([
    ['1,2,1', { pipeline: 2 }, 8],
    ['2,2,1', { data: 2, pipeline: 2 }, 4],
    ['2,2,2', { data: 2, pipeline: 2, expert: 2 }, 4],
  ] as const)('%s', async (mesh, shape, microbatches) => {
    const file = tableFile(`${name} ${mesh}`, table(microbatches));
    const { sha256 } = await run({ ...options, parallel: { ...shape, schedule: { file } } }, { evaluate: true });
    expect(sha256).toBe((await serial('experts', options, { evaluate: true })).sha256);
  });
});

describe('interleaved stages', () => {
  it('that are neighbours on no rank evaluate to the same bits too', async () => {
    const parallel = { data: 2, pipeline: 2, expert: 2, schedule: 'interleaved-1f1b' };
    const { sha256 } = await run({ ...options, parallel }, { evaluate: true });
    expect(sha256).toBe((await serial('experts', options, { evaluate: true })).sha256);
  });
});
