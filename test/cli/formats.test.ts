import { Writable } from 'node:stream';
import { stripVTControlCharacters } from 'node:util';
import fc from 'fast-check';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { expertShares } from '../../src/cli/balance.ts';
import { formatFailure } from '../../src/cli/failure.ts';
import { balanceBars, ProgressLine, progressBar } from '../../src/cli/progress.ts';
import { describeError } from '../../src/cli/report.ts';
import { matrixLines, percentCell } from '../../src/cli/task-matrix.ts';
import { formatBytes, formatCount, formatDuration, painter, truncate } from '../../src/cli/terminal.ts';
import { scaleMesh } from '../../src/cli/workers.ts';
import type { FailureReport } from '../../src/worker/index.ts';

const report = (rank: number, secondary: boolean, more: Partial<FailureReport> = {}): FailureReport => ({
  rank,
  path: null,
  instruction: null,
  microbatch: null,
  step: 12,
  name: 'Error',
  message: secondary ? `rank ${1 - rank} is gone` : 'weights are of bad cheer',
  stack: `Error: x\n    at forward (/home/me/my-module.ts:14:11)\n    at run (node:internal/x:1:1)\n    at step (/home/me/other.ts:1:1)`,
  secondary,
  ...more,
});

describe('cause block', () => {
  const cause = report(1, false, { path: 'blocks.1.mine', instruction: 'Forward s0.1 m5', microbatch: 5 });

  it('puts the cause first, whoever reported first, and folds the rest into one line', () => {
    const text = formatFailure([report(0, true), cause, report(2, true)]);
    expect(text.split('\n')).toEqual([
      '✗ worker 1 failed at step 12',
      '  Error: weights are of bad cheer',
      '  module       blocks.1.mine',
      '  instruction  Forward s0.1 m5',
      '  microbatch   5',
      '  at           forward (/home/me/my-module.ts:14:11)',
      '  (--verbose shows the whole stack and 2 more reports from other workers)',
    ]);
  });

  it('shows everything when asked', () => {
    const text = formatFailure([report(0, true), cause], { verbose: true });
    expect(text).toContain('at step (/home/me/other.ts:1:1)');
    expect(text).toContain('worker 0 (followed): Error: rank 1 is gone');
    expect(text).not.toContain('--verbose');
  });

  it('is what an error with reports becomes, with exit code 1', () => {
    const failure = Object.assign(new Error('x'), { name: 'RunFailure', reports: [cause] });
    const { text, code } = describeError(failure, { verbose: false, colour: false });
    expect(text.startsWith('✗ worker 1 failed at step 12\n')).toBe(true);
    expect(code).toBe(1);
  });
});

describe('errors of commands', () => {
  const describeNamed = (name: string, message = 'no') =>
    describeError(Object.assign(new Error(message), { name }), { verbose: false, colour: false });

  it.each([
    ['ConfigError', 2],
    ['UsageError', 2],
    ['PlanError', 2],
    ['DataError', 3],
    ['CheckpointError', 3],
    ['EngineError', 1],
    ['TypeError', 70],
  ])('%s ends with code %d', (name, code) => {
    expect(describeNamed(name).code).toBe(code);
  });

  it('shows a stack only where the message does not say it all', () => {
    expect(describeNamed('ConfigError', 'line 3').text).toBe('✗ line 3');
    expect(describeNamed('TypeError', 'x is undefined').text).toMatch(
      /^✗ TypeError: x is undefined\n\s+at .*\n.*--verbose/,
    );
  });
});

describe('--workers', () => {
  it('keeps the pipeline, scales the data axis, says what changed', () => {
    expect(scaleMesh({ data: 1, pipeline: 2, expert: 1 }, 8)).toMatchObject({
      data: 4,
      pipeline: 2,
      expert: 1,
      explanation: '--workers 8: data 4 (was 1) × pipeline 2 × expert 1',
    });
    expect(scaleMesh({ data: 2, pipeline: 1, expert: 2 }, 1)).toMatchObject({ data: 1, pipeline: 1, expert: 1 });
    expect(scaleMesh({ data: 2, pipeline: 2, expert: 2 }, 3)).toMatchObject({ data: 3, pipeline: 1, expert: 1 });
  });

  it('uses exactly that many workers on a mesh that is valid', () => {
    const size = fc.integer({ min: 1, max: 12 });
    fc.assert(
      fc.property(size, size, size, fc.integer({ min: 1, max: 64 }), (data, pipeline, expert, workers) => {
        const mesh = scaleMesh({ data, pipeline, expert }, workers);
        expect(mesh.data * mesh.pipeline).toBe(workers);
        expect(mesh.data % mesh.expert).toBe(0);
        expect(mesh.expert).toBeLessThanOrEqual(expert);
        expect(mesh.pipeline).toBeLessThanOrEqual(pipeline);
      }),
    );
  });
});

describe('progress', () => {
  afterEach(() => void vi.unstubAllEnvs());

  const sink = (tty: boolean, columns = 60) => {
    let text = '';
    const stream = Object.assign(
      new Writable({
        write(chunk, _encoding, done) {
          text += chunk;
          done();
        },
      }),
      tty ? { isTTY: true, columns } : {},
    );
    return { stream, text: () => text };
  };
  const step = (done: number) => ({ done, steps: 10, loss: 2.5, rate: 15_000, stepMs: 100, balance: [1, 0, 2, 1] });

  it('draws bars', () => {
    expect(balanceBars([1, 0, 2, 1, 9, Number.NaN])).toBe('▄▁█▄█▁');
    expect(progressBar(0.5, 4)).toBe('━━··');
    expect(progressBar(0.625, 4)).toBe('━━╸·');
    fc.assert(fc.property(fc.double({ min: -1, max: 2, noNaN: true }), (f) => progressBar(f, 7).length === 7));
  });

  it('prints plain lines where nobody watches: the first, then every few seconds, and the last', () => {
    const { stream, text } = sink(false);
    const line = new ProgressLine(stream, 'tok');
    for (let done = 1; done <= 10; done++) line.step(step(done));
    line.end();
    const lines = text().trimEnd().split('\n');
    expect(lines).toHaveLength(2);
    expect(lines[0]).toBe('step  1/10  loss 2.5000  15.0k tok/s  ETA 0:01  experts ▄▁█▄');
    expect(lines[1]).toMatch(/^step 10\/10 .* ETA 0:00/);
    expect(text()).not.toContain('\x1b');
  });

  it('counts rounds and clients where clients are trained, and the time that they would have taken', () => {
    const { stream, text } = sink(false);
    const line = new ProgressLine(stream, { step: 'round', unit: 'clients' });
    line.step({ ...step(1), rate: 50, stepMs: 200, balance: [], simulated: 75 });
    line.evaluated(0.4, 0.9125);
    line.step({ ...step(10), rate: 50, stepMs: 200, balance: [], simulated: 750 });
    line.end();
    const lines = text().trimEnd().split('\n');
    expect(lines[0]).toBe('round  1/10  loss 2.5000  50.0 clients/s  5.00 rounds/s  ETA 0:02  simulated 1:15');
    expect(lines[1]).toBe(
      'round 10/10  loss 2.5000  accuracy 91.25 %  50.0 clients/s  5.00 rounds/s  ETA 0:00  simulated 12:30',
    );
  });

  it('says which task of a sequence a step is of, and has no loss of steps that only look at gradients', () => {
    const { stream, text } = sink(false);
    const line = new ProgressLine(stream, 'ex');
    const stretch = { until: 9, text: 'task 1/2' };
    line.step({ ...step(1), balance: [], stretch });
    line.step({ ...step(10), balance: [], stretch: { ...stretch, until: 10, observes: true } });
    line.end();
    expect(text().trimEnd().split('\n')).toEqual([
      'step  1/10  task 1/2  loss 2.5000  15.0k ex/s  ETA 0:01',
      'step 10/10  task 1/2  looking at gradients  15.0k ex/s  ETA 0:00',
    ]);
  });

  it('says how far a long round is, the first one too', () => {
    vi.stubEnv('CI', '');
    vi.stubEnv('TERM', 'xterm');
    const { stream, text } = sink(true, 100);
    const line = new ProgressLine(stream, { step: 'round', unit: 'clients' });
    const drawn = () => stripVTControlCharacters(text()).split('\r').at(-1);
    line.underway({ step: 0, steps: 10, done: 3, of: 8 });
    expect(drawn()).toBe('round  0/10  next: 3 of 8 clients');
    vi.useFakeTimers({ toFake: ['performance'] });
    try {
      vi.advanceTimersByTime(60_000);
      line.step({ ...step(1), balance: [] });
      expect(drawn()).toMatch(/^round {2}1\/10 [^n]* loss 2\.5000 /);
      vi.advanceTimersByTime(60_000);
      line.underway({ step: 1, steps: 10, done: 5, of: 8 });
      expect(drawn()).toMatch(/^round {2}1\/10 .* next: 5 of 8 clients {2}loss 2\.5000/);
    } finally {
      vi.useRealTimers();
    }
  });

  it('shows whole figures in a narrow window, the bars only where there is room', () => {
    // A terminal in CI, or one that says it is dumb, gets plain lines.
    vi.stubEnv('CI', '');
    vi.stubEnv('TERM', 'xterm');
    const shown = (columns: number): string => {
      const { stream, text } = sink(true);
      Object.assign(stream, { columns });
      new ProgressLine(stream, 'tok').step(step(5));
      return stripVTControlCharacters(text());
    };
    expect(shown(100)).toMatch(/━·* {2}loss 2\.5000 .* ETA 0:01 {2}experts/);
    expect(shown(70)).toBe('step  5/10  loss 2.5000  15.0k tok/s  ETA 0:01  experts ▄▁█▄');
    expect(shown(50)).toBe('step  5/10  loss 2.5000  15.0k tok/s  ETA 0:01');
    expect(shown(26)).toBe('step  5/10  loss 2.5000');
    expect(shown(12)).toBe('step  5/10…');
  });

  it('says nothing when quiet', () => {
    const { stream, text } = sink(false);
    const line = new ProgressLine(stream, 'tok', true);
    line.step(step(10));
    line.evaluated(1);
    line.message('hello');
    line.end();
    expect(text()).toBe('');
  });

  it('shows the experts of the least even mixture', () => {
    const metrics = { loss: 1, 'a.moe.load': [0.5, 0.5], 'b.moe.load': [0.25, 0.75], 'b.moe.balance': 1 };
    expect(expertShares(metrics)).toEqual([0.5, 1.5]);
    expect(expertShares({ loss: 1 })).toEqual([]);
  });
});

describe('the matrix of a task sequence', () => {
  const matrix = [
    [1, 0.5, 0.25],
    [0.75, 0.9, 0.25],
    [0.5, 0.7, 0.8],
  ];
  const options = { title: 'accuracy, in percent', cell: percentCell, columns: 80 };

  it('has a line for each task learnt and the mean of those learnt', () => {
    expect(matrixLines(matrix, { ...options, paint: painter(false) })).toEqual([
      '  accuracy, in percent',
      '  task looked at     1    2    3   mean',
      '  after task 1     100 50.0 25.0    100',
      '  after task 2    75.0 90.0 25.0   82.5',
      '  after task 3    50.0 70.0 80.0   66.7',
    ]);
  });

  it('dims what is to come on a terminal, and goes on below where tasks do not fit', () => {
    vi.stubEnv('NO_COLOR', '');
    const [, , first] = matrixLines(matrix, { ...options, paint: painter(true) });
    expect(first).toContain(`100${painter(true)('dim', ' 50.0')}`);
    const wide = [Array.from({ length: 20 }, () => 0.5)];
    const lines = matrixLines(wide, { ...options, paint: painter(false) });
    expect(lines.every(({ length }) => length <= 80)).toBe(true);
    expect(lines.join('').match(/50\.0/g)).toHaveLength(21);
  });
});

describe('figures', () => {
  it('read well', () => {
    expect([0, 999, 1500, 12_345_678, 3e9].map(formatBytes)).toEqual(['0 B', '999 B', '1.5 kB', '12 MB', '3.0 GB']);
    expect([2.5, 912, 48_200, 1_300_000, Number.NaN].map(formatCount)).toEqual(['2.50', '912', '48.2k', '1.3M', '–']);
    expect([0, 42, 725, 10_810, Number.POSITIVE_INFINITY].map(formatDuration)).toEqual([
      '0:00',
      '0:42',
      '12:05',
      '3:00:10',
      '–',
    ]);
    expect(truncate('abcdef', 4)).toBe('abc…');
    expect(truncate('\x1b[31mabc\x1b[39m', 3)).toBe('\x1b[31mabc\x1b[39m');
  });
});
