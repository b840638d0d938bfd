import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { formatSchedule, generateSchedule, PlanError, parseSchedule, SCHEDULE_NAMES } from '../../src/plan/index.ts';
import { model, plan } from './helpers.ts';

// The same cases every time.
fc.configureGlobal({ seed: 1 });

const row = (text: string) => text.split(' ');
const cells = (...args: Parameters<typeof generateSchedule>) =>
  formatSchedule(generateSchedule(...args))
    .trim()
    .split('\n')
    .map((line) => line.split(','));

describe('generated schedules', () => {
  it('gpipe', () => {
    expect(cells('gpipe', 2, 2)).toEqual([row('0F0 0F1 0B0 0B1'), row('1F0 1F1 1B0 1B1')]);
  });

  it('1f1b as published', () => {
    expect(cells('1f1b', 3, 4)).toEqual([
      row('0F0 0F1 0F2 0B0 0F3 0B1 0B2 0B3'),
      row('1F0 1F1 1B0 1F2 1B1 1F3 1B2 1B3'),
      row('2F0 2B0 2F1 2B1 2F2 2B2 2F3 2B3'),
    ]);
  });

  it('interleaved: chunks take turns in groups of pipeline microbatches', () => {
    expect(cells('interleaved-1f1b', 2, 2, 2)).toEqual([
      row('0F0 0F1 2F0 2F1 2B0 2B1 0B0 0B1'),
      row('1F0 1F1 3F0 3B0 3F1 3B1 1B0 1B1'),
    ]);
  });

  it('zero-bubble: rank r puts r parameter gradients off', () => {
    expect(cells('zero-bubble', 3, 4)).toEqual([
      row('0F0 0F1 0F2 0I0 0W0 0F3 0I1 0W1 0I2 0W2 0I3 0W3'),
      row('1F0 1F1 1I0 1F2 1I1 1W0 1F3 1I2 1W1 1I3 1W2 1W3'),
      row('2F0 2I0 2F1 2I1 2F2 2I2 2W0 2F3 2I3 2W1 2W2 2W3'),
    ]);
  });

  it('run every microbatch once on every stage, microbatches in order', () => {
    fc.assert(
      fc.property(
        fc.constantFrom(...SCHEDULE_NAMES),
        fc.integer({ min: 1, max: 8 }),
        fc.integer({ min: 1, max: 20 }),
        fc.integer({ min: 1, max: 4 }),
        (name, p, m, v) => {
          const chunks = name === 'interleaved-1f1b' ? v : 1;
          const schedule = generateSchedule(name, p, m, chunks);
          const expected = Array.from({ length: m }, (_, i) => i);
          for (let stage = 0; stage < p * chunks; stage++)
            for (const kind of name === 'zero-bubble' ? (['F', 'I', 'W'] as const) : (['F', 'B'] as const)) {
              const of = schedule.ranks.flatMap((actions) =>
                actions.filter((a) => a.stage === stage && a.kind === kind),
              );
              expect(of.map((a) => a.microbatch)).toEqual(expected);
            }
          expect(parseSchedule(formatSchedule(schedule), 'again', 'csv')).toEqual({ ...schedule, name: 'again' });
        },
      ),
    );
  });

  it('refuses chunks where there are none', () => {
    expect(() => generateSchedule('gpipe', 2, 2, 2)).toThrow(
      /gpipe has one chunk for each rank, got 2: use interleaved-1f1b/,
    );
    expect(() => generateSchedule('1f1b', 0, 2)).toThrow(/positive whole pipeline, got 0/);
  });
});

describe('schedule tables', () => {
  it('CSV and YAML, with comments and idle cells', () => {
    const csv = parseSchedule('# two ranks\n0F0, 0F1,, 0B0,0B1\n,1F0,1B0,1F1,1I1,1W1\n', 't.csv', 'csv');
    const yaml = parseSchedule('# two ranks\n- 0F0 0F1 0B0 0B1\n- [1F0, 1B0, 1F1, ~, 1I1, 1W1]\n', 't.csv', 'yaml');
    expect(csv).toEqual(yaml);
    expect(csv).toMatchObject({ microbatches: 2, stageRanks: [0, 1] });
  });

  it.each([
    ['', /is empty/],
    ['0F0,0X0', /row 1: "0X0" is no cell; write stage, F, B, I or W/],
    ['0F0,0B0\n0F1,0B1', /row 2, cell 0F1: stage 0 is already in row 1/],
    ['0B0,0F0', /cell 0B0: comes before its forward 0F0/],
    ['0F0,0B0,0B0', /cell 0B0: is there twice/],
    ['0F0,0W0', /cell 0W0: comes before 0I0/],
    ['0F0,0I0', /lacks the cell 0W0/],
    ['0F0,0B0,0F1', /lacks the cell 0B1/],
    ['0F0,0I0,0B0', /B already contains I and W/],
    ['0F0,0B0,2F0,2B0', /lacks the cell 1F0/],
  ])('refuses %j', (text, message) => {
    expect(() => parseSchedule(text, 't.csv', 'csv')).toThrow(PlanError);
    expect(() => parseSchedule(text, 't.csv', 'csv')).toThrow(message);
  });

  it('are read from a file and compiled; a V-shaped one hands over inside a rank', () => {
    const dir = mkdtempSync(join(tmpdir(), 'plexus-schedule-'));
    try {
      const file = join(dir, 'v.yaml');
      // Rank 0 has the first and the last stage, rank 1 the two in the middle.
      writeFileSync(file, '- 0F0 0F1 3F0 3B0 3F1 3B1 0B0 0B1\n- 1F0 2F0 1F1 2F1 2B0 1B0 2B1 1B1\n');
      const made = plan(model(4), { pipeline: 2, schedule: { file } }, 2);
      expect(made.stages.map(({ pipelineRank }) => pipelineRank)).toEqual([0, 1, 1, 0]);
      const rank1 = made.programs[1]?.instructions.filter((i) => i.op === 'Send' || i.op === 'Recv') ?? [];
      expect(
        rank1.every((i) => 'stage' in i && (i.op === 'Recv') === ((i.stage === 1) === (i.what === 'activation'))),
      ).toBe(true);
      expect(() => plan(model(4), { pipeline: 2, schedule: { file } }, 3)).toThrow(
        /is for 2 microbatches, but a data rank has 3/,
      );
      expect(() => plan(model(4), { pipeline: 3, schedule: { file } }, 2)).toThrow(
        /has 2 rows, but parallel\.pipeline is 3/,
      );
      expect(() => plan(model(3), { pipeline: 2, schedule: { file } }, 2)).toThrow(/4 stages/);
      expect(() => plan(model(3), { pipeline: 2, schedule: { file: join(dir, 'none.csv') } }, 2)).toThrow(
        /none\.csv" cannot be read/,
      );
      writeFileSync(file, '- 0F0 0B0 0F1 0B1\n- 1F1 1B1 1F0 1B0\n');
      expect(() => plan(model(2), { pipeline: 2, schedule: { file } }, 2)).toThrow(/deadlock/);
    } finally {
      rmSync(dir, { recursive: true });
    }
  });
});
