import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { stretchAt } from '../../../src/coordinator/index.ts';
import type { StepPhase } from '../../../src/optim/index.ts';
import { phaseRuns } from '../../../src/schedulers/continual/phase-runs.ts';
import { stretchesOf } from '../../../src/schedulers/continual/stretches.ts';
import { smallRuns } from './run.ts';

const run = smallRuns();

describe('stretches of a stream', () => {
  it('are told with each step, and in metrics.jsonl', async () => {
    const { steps, dir } = await run({
      epochs: 2,
      scenario: { name: 'domain-incremental', stream: { name: 'split', tasks: 2 } },
      strategy: { name: 'ewc', samples: 40 },
    });
    const told = steps.map(({ stretch }) => `${stretch?.text}${stretch?.observes ? ', observes' : ''}`);
    expect([...new Set(told)]).toEqual(['task 1/2', 'task 1/2, observes', 'task 2/2']);
    const lines = readFileSync(join(dir, 'metrics.jsonl'), 'utf8').trim().split('\n');
    const records = lines.map((line) => JSON.parse(line) as { loss?: number; step: number; phase?: string });
    const observing = records.filter(({ phase }) => phase === 'observe').map(({ step }) => step);
    expect(observing).toEqual(steps.filter(({ stretch }) => stretch?.observes).map(({ step }) => step));
  });

  it('say of every step which task it is of, and whether it only observes', () => {
    // Tasks that train for some steps (two at least, as one by itself is taken for a turn) and observe for some, or not at all.
    const task = fc.record({ train: fc.integer({ min: 2, max: 6 }), observe: fc.constantFrom(0, 2, 3, 7) });
    fc.assert(
      fc.property(fc.array(task, { minLength: 1, maxLength: 5 }), (tasks) => {
        const phases: StepPhase[] = [];
        const ofStep: number[] = [];
        const ends = tasks.map(({ train, observe }, index) => {
          phases.push(...Array<StepPhase>(train).fill('train'), ...Array<StepPhase>(observe).fill('observe'));
          ofStep.push(...Array<number>(train + observe).fill(index));
          return phases.length;
        });
        const stretches = stretchesOf(ends, phaseRuns(phases, new Set()));
        phases.forEach((phase, at) => {
          const found = stretchAt(stretches, at + 1);
          expect(found?.text).toBe(`task ${(ofStep[at] as number) + 1}/${tasks.length}`);
          expect(found?.observes ?? false).toBe(phase === 'observe');
        });
        expect(stretches.at(-1)?.until).toBe(phases.length);
      }),
    );
  });

  it('call steps of both kinds in turns training', () => {
    const phases: StepPhase[] = Array.from({ length: 12 }, (_, i) => (i % 2 ? 'train' : 'observe'));
    expect(stretchesOf([6, 12], phaseRuns(phases, new Set()))).toEqual([
      { until: 6, text: 'task 1/2' },
      { until: 12, text: 'task 2/2' },
    ]);
  });
});
