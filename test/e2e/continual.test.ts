import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { writeClasses } from '../schedulers/continual/table.ts';
import { plexus, project, runOf, summaryOf } from './plexus.ts';

const configOf = (strategy: string) => `name: tasks
model: { name: mlp, args: { hidden: [8] } }
data: { name: csv, path: classes.csv, label: label, validation: 0.2 }
batch: { global: 8, micro: 4 }
optim: { name: sgd, lr: 0.05, momentum: 0, clip_norm: null }
train: { checkpoint_every: 7 }
scheduler:
  name: continual
  epochs: 3
  scenario: { stream: { name: split, tasks: 4 } }
  strategy: ${strategy}
`;

function sequence(strategy: string): string {
  const folder = project({ 'config.yaml': configOf(strategy) });
  writeClasses(join(folder, 'classes.csv'), { rows: 400 });
  return folder;
}

/** What must not depend on interruptions. */
const resultOf = (folder: string) => {
  const { accuracy_matrix, forgetting, weights_sha256, losses_sha256, steps } = summaryOf(folder);
  return { accuracy_matrix, forgetting, weights_sha256, losses_sha256, steps };
};

/** State of the loss; and teachers, made examples and tensors that are kept on the host. */
const strategies = ['{ name: der++, buffer: 20 }', '{ name: icarl, buffer: 20 }'];

const title = '%s: kill -9 in the third task, resumed: the accuracy matrix of the undisturbed run';
it.each(strategies)(title, { timeout: 120_000 }, async (strategy) => {
  const undisturbed = sequence(strategy);
  const whole = await plexus(['train', 'config.yaml', '--json'], { cwd: undisturbed });
  expect(whole).toMatchObject({ code: 0, stderr: '' });
  const expected = resultOf(undisturbed);
  expect(expected.accuracy_matrix).toHaveLength(4);
  const folder = sequence(strategy);
  let learnt = 0;
  let [steps, sent] = [0, false];
  const killed = await plexus(['train', 'config.yaml', '--json'], {
    cwd: folder,
    onLine: (line, kill) => {
      const event = JSON.parse(line) as { type: string; task?: number };
      if (event.type === 'task') learnt = event.task as number;
      if (event.type === 'step' && learnt === 2) steps += 1;
      if (steps < 10 || sent) return;
      sent = true;
      kill('SIGKILL');
    },
  });
  expect(killed).toMatchObject({ signal: 'SIGKILL' });
  const resumed = await plexus(['train', 'config.yaml', '--json', '--resume', runOf(folder)], { cwd: folder });
  expect(resumed).toMatchObject({ code: 0, stderr: '' });
  expect(resultOf(folder)).toEqual(expected);
  const kept = JSON.parse(readFileSync(join(runOf(folder), 'accuracy.json'), 'utf8')) as { matrix: unknown };
  expect(kept.matrix).toEqual(expected.accuracy_matrix);
  const drift = (of: string): unknown => JSON.parse(readFileSync(join(runOf(of), 'drift.json'), 'utf8'));
  expect(drift(folder)).toEqual(drift(undisturbed));
  expect(readFileSync(join(runOf(folder), 'accuracy.svg'), 'utf8')).toContain('</svg>');
});
