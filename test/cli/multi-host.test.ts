import { chmodSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { afterEach, expect, it } from 'vitest';
import { Network } from '../chaos/namespaces.ts';
import { type Proc, Processes, root } from '../chaos/processes.ts';
import { cliPath } from './run-cli.ts';
import { tinyProject } from './tiny-run.ts';

const closing: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
});

/** The commands of the page's first section, in order: the box that each is typed on, and what is typed. */
function commandsOfThePage(): { readonly box: number; readonly command: string }[] {
  const page = readFileSync(join(root, 'docs', 'multi-host.md'), 'utf8');
  const [, section = ''] = /^## From one box to three$([\s\S]*?)^## /m.exec(page) ?? [];
  return [...section.matchAll(/^```sh box(\d)\n([\s\S]*?)^```$/gm)].flatMap(([, box, text]) =>
    (text as string)
      .trim()
      .split('\n')
      .map((command) => ({ box: Number(box), command })),
  );
}

/** Losses of metrics.jsonl, by step. */
function losses(project: string): number[] {
  const [run = ''] = readdirSync(join(project, 'runs'));
  const lines = readFileSync(join(project, 'runs', run, 'metrics.jsonl'), 'utf8')
    .trim()
    .split('\n');
  return lines
    .map((line) => JSON.parse(line) as { loss: number; lr?: number })
    .flatMap(({ loss, lr }) => (lr === undefined ? [] : [loss]));
}

it('three boxes, with the commands of docs/multi-host.md as they are written', async () => {
  const commands = commandsOfThePage();
  expect(commands.length).toBeGreaterThan(5);
  expect(commands.length).toBeLessThan(10);

  const network = await Network.create(3);
  closing.push(() => network.close());
  const processes = new Processes();
  closing.push(() => processes.close());
  const bin = mkdtempSync(join(tmpdir(), 'plexus-npx-'));
  closing.push(() => rmSync(bin, { recursive: true, force: true }));
  writeFileSync(
    join(bin, 'npx'),
    `#!/bin/sh\n[ "$1" = plexus ] || exit 9\nshift\nexec ${process.execPath} ${cliPath} "$@"\n`,
  );
  chmodSync(join(bin, 'npx'), 0o755);

  // Each box has its own disk, with a small run in the place of the quickstart.
  const boxes = network.hosts.map((host) => {
    const project = tinyProject();
    closing.push(() => rmSync(project, { recursive: true, force: true }));
    mkdirSync(join(project, 'configs'));
    const config = readFileSync(join(project, 'config.yaml'), 'utf8').replace('corpus.txt', '../corpus.txt');
    writeFileSync(
      join(project, 'configs', 'quickstart.yaml'),
      config.replace('steps: 6, eval_every: 3', 'steps: 100000, eval_every: 0'),
    );
    return { host, project };
  });
  let joinUrl = '';
  const type = (box: number, command: string): Proc => {
    const { host, project } = boxes[box - 1] as (typeof boxes)[number];
    const line = command.replace(/&$/, '').replace('nats://TOKEN@10.0.0.1:4222', joinUrl);
    const env = { PATH: `${bin}${delimiter}${process.env.PATH}`, XDG_STATE_HOME: join(project, 'state') };
    return processes.start(`box ${box}: ${command}`, ['bash', '-c', `exec ${line}`], {
      cwd: project,
      env,
      prefix: host.prefix,
    });
  };
  const says = (proc: Proc, text: RegExp, deadlineMs = 40_000) =>
    processes.until(`${text} of ${proc.name}`, deadlineMs, () => {
      const found = proc.lines.map((line) => text.exec(line)).find((match) => match !== null);
      if (!found && !proc.running) throw new Error('it has ended');
      return found ?? undefined;
    });

  let training: Proc | null = null;
  for (const { box, command } of commands) {
    const proc = type(box, command);
    const [, name] = command.split('plexus ');
    switch (name?.split(' ')[0]) {
      case 'up':
        joinUrl = (await says(proc, /plexus worker --nats (nats:\/\/\S+@10\.77\.0\.1:4222)$/))[1] as string;
        break;
      case 'worker':
        await says(proc, /is a worker of job 'default'/);
        break;
      case 'train':
        training = proc;
        await says(proc, /step +\d+\/100000/);
        break;
      case 'ps':
        expect(await processes.exitOf(proc, 30_000)).toMatchObject({ code: 0 });
        expect(proc.lines.join('\n')).toMatch(/mesh +data 3 × pipeline 1, expert 1; links 3 tcp/);
        break;
      case 'stop':
        expect(await processes.exitOf(proc, 60_000)).toMatchObject({ code: 0 });
        expect(proc.lines.join('\n')).toMatch(/run \S+ has stopped; its workers are spare/);
        break;
      default:
        throw new Error(`the test does not know what '${command}' does`);
    }
  }
  const { code } = await processes.exitOf(training as Proc, 30_000);
  expect(code).toBe(143);

  // One machine, one worker: the same steps.
  const three = losses((boxes[0] as (typeof boxes)[number]).project);
  expect(three.length).toBeGreaterThan(0);
  const alone = (boxes[1] as (typeof boxes)[number]).project;
  const serial = processes.start(
    'alone',
    [
      process.execPath,
      cliPath,
      'train',
      'configs/quickstart.yaml',
      '--workers',
      '1',
      '--set',
      `train.steps=${three.length}`,
    ],
    { cwd: alone },
  );
  expect(await processes.exitOf(serial, 60_000)).toMatchObject({ code: 0 });
  expect(three).toEqual(losses(alone));
}, 180_000);
