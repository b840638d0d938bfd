import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { complete, type RunEvent, resume, train } from '../../../src/index.ts';
import { writeClasses } from '../continual/table.ts';

let dir: string;
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'plexus-federated-continual-'));
  writeClasses(join(dir, 'classes.csv'), { rows: 480 });
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const config = (id: string, strategy: object, scheduler: object = {}, scenario: object = {}) => ({
  seed: 5,
  model: { name: 'mlp', args: { hidden: [16] } },
  data: { name: 'csv', path: join(dir, 'classes.csv'), label: 'label', validation: 0.2 },
  optim: { name: 'sgd', lr: 0.05, momentum: 0, clip_norm: null },
  run: { dir, id },
  scheduler: {
    ...{ name: 'fedavg', clients: 6, cohort: 3, local_epochs: 2, local_batch: 8, threads: 1 },
    ...scheduler,
    continual: { rounds_per_task: 6, strategy, scenario: { stream: { name: 'split', tasks: 2 }, ...scenario } },
  },
});

async function run(id: string, ...more: [strategy: object, scheduler?: object, scenario?: object]) {
  const events: RunEvent[] = [];
  const { summary } = await complete(train(config(id, ...more)), (event) => events.push(event));
  if (!summary) throw new Error('the run did not finish');
  return { summary, events };
}

describe('federated continual learning', () => {
  it('ewc, er', async () => {
    for (const [name, strategy, scenario] of [
      ['naive', {}],
      ['er', { buffer: 40 }],
      ['der++', { buffer: 40 }],
      ['er-ace', { buffer: 40 }],
      ['ewc', { samples: 20 }],
      ['si', {}],
      ['mas', { samples: 20 }],
    ] as [string, object, object?][]) {
      const { summary, events } = await run(name, { name, ...strategy }, {}, scenario);
      console.log(name, JSON.stringify(summary.accuracy_matrix), summary.forgetting);
      const d = await run(`${name}-d`, { name, ...strategy }, {}, { name: 'domain-incremental' });
      console.log(name, JSON.stringify(d.summary.accuracy_matrix), d.summary.forgetting);
      const t = await run(`${name}-t`, { name, ...strategy }, {}, { name: 'task-incremental' });
      console.log(name, JSON.stringify(t.summary.accuracy_matrix), t.summary.forgetting);
    }
  }, 120000);
});
