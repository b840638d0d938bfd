// From the start of the process to the end of the first step, as a user sees it: `plexus train` on a small model.
//   npm run bench -- scaling/start [--runs=5]
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import type { RunEvent } from '../../src/index.ts';
import { timing, timingText } from '../engine/stats.ts';
import { flag, printHeading } from './table.ts';

// This file runs from dist/bench/scaling/.
const root = fileURLToPath(new URL('../../../', import.meta.url));
const config = join(root, 'configs', 'quickstart.yaml');

/** Milliseconds from the start of the process to each event. */
interface Start {
  readonly ready: number;
  readonly step: number;
}

async function start(settings: readonly string[]): Promise<Start> {
  const dir = mkdtempSync(join(tmpdir(), 'plexus-bench-'));
  const began = performance.now();
  const set = [`run.dir=${dir}`, ...settings].flatMap((setting) => ['--set', setting]);
  const child = spawn(process.execPath, [join(root, 'dist', 'cli', 'main.js'), 'train', config, '--json', ...set], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const exited = new Promise<void>((resolve) => {
    child.once('exit', () => resolve());
  });
  try {
    let ready = Number.NaN;
    for await (const line of createInterface({ input: child.stdout })) {
      const event = JSON.parse(line) as RunEvent;
      if (event.type === 'started') ready = performance.now() - began;
      if (event.type === 'step') return { ready, step: performance.now() - began };
    }
    throw new Error('the run ended before its first step');
  } finally {
    child.kill('SIGKILL');
    await exited;
    rmSync(dir, { recursive: true, force: true });
  }
}

const cases = {
  'one worker, dense': ['parallel.data=1', 'parallel.expert=1', 'model.args.moe=null'],
  'two workers, dense': ['parallel.data=2', 'parallel.expert=1', 'model.args.moe=null'],
  'two workers, experts (quickstart)': [],
};
printHeading('start: configs/quickstart.yaml (2 blocks, d = 128), process start to the end of the first step');
await start([]);
for (const [name, settings] of Object.entries(cases)) {
  const starts: Start[] = [];
  for (let i = 0; i < flag('runs', 5); i++) starts.push(await start(settings));
  const step = timing(starts.map((each) => each.step));
  const ready = timing(starts.map((each) => each.ready));
  const verdict = step.median <= 1500 ? 'met' : 'NOT met';
  console.log(
    `${name.padEnd(34)} ${timingText(step)}, workers ready after ${ready.median.toFixed(0)} ms  target <= 1500 ms: ${verdict}`,
  );
}
