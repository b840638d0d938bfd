import { rmSync } from 'node:fs';
import { afterAll, expect, it } from 'vitest';
import { findWebGpu } from '../engine/webgpu-driver.ts';
import { runCli } from './run-cli.ts';
import { tinyProject } from './tiny-run.ts';

const webgpu = findWebGpu();
const folder = tinyProject();
afterAll(() => rmSync(folder, { recursive: true }));

const serial = [
  '--set',
  'parallel.data=1',
  '--set',
  'parallel.expert=1',
  '--set',
  'train.steps=2',
  '--set',
  'batch.micro=4',
];

/** The figures that a run or an evaluation printed, one JSON object a line. */
function printed(stdout: string): Record<string, unknown>[] {
  return stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, unknown>);
}

const lossesOf = (events: readonly Record<string, unknown>[]): number[] =>
  events.filter(({ type }) => type === 'step' || type === 'evaluated').map(({ loss }) => loss as number);

it.skipIf(webgpu.skip)(
  'trains, evaluates and samples on WebGPU as on the CPU',
  async () => {
    expect(webgpu.missing, webgpu.toInstall).toEqual([]);
    const train = (device: string) =>
      runCli(['train', 'config.yaml', '--json', ...serial, '--set', `engine.device=${device}`], { cwd: folder });
    const cpu = lossesOf(printed((await train('cpu')).stdout));
    const { code, stdout, stderr } = await train('webgpu');
    expect(code, stderr).toBe(0);
    const events = printed(stdout);
    const losses = lossesOf(events);
    expect(losses).toHaveLength(cpu.length);
    losses.forEach((loss, i) => {
      expect(loss).toBeCloseTo(cpu[i] as number, 4);
    });
    expect(events.find(({ type }) => type === 'sampled')?.text).toHaveLength(20);
  },
  60_000,
);

it.skipIf(webgpu.skip)('refuses several workers on WebGPU, which would take the process down', async () => {
  expect(webgpu.missing, webgpu.toInstall).toEqual([]);
  const { code, stderr } = await runCli(['train', 'config.yaml', '--set', 'engine.device=webgpu'], { cwd: folder });
  expect(code).toBe(2);
  expect(stderr).toContain('engine.device webgpu takes one worker, but parallel asks for 2 (data 2 x pipeline 1)');
  expect(stderr).toContain('Set parallel.data and parallel.pipeline to 1');
});
