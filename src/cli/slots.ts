import { execFileSync } from 'node:child_process';
import { UsageError } from './exit.ts';

/** The ranks that one worker process can run, and the device of each. */
export interface SlotPlan {
  readonly slots: number;
  /** By slot; null leaves the choice to the config of the job. */
  readonly devices: readonly (string | null)[];
}

/** Devices as configs name them. */
const DEVICE = /^(cpu|webgpu|dml|coreml|wasm|node|node-gpu|cuda|tensorrt|(cuda|tensorrt|dml):\d+)$/;

/** Numbers of the GPUs that programs started here see, as CUDA counts them: from 0, whatever the driver calls them. */
export function visibleGpus(env: Readonly<Record<string, string | undefined>>, listGpus: () => number): number[] {
  const visible = env.CUDA_VISIBLE_DEVICES;
  // (CUDA itself ignores everything from the first entry that it does not understand, `-1` above all.)
  const count =
    visible === undefined
      ? listGpus()
      : takeWhile(
          visible.split(',').map((part) => part.trim()),
          (part) => /^(\d+|GPU-.+|MIG-.+)$/.test(part),
        ).length;
  return Array.from({ length: count }, (_, n) => n);
}

/**
 * How many ranks a worker runs, and on what: `--slots auto` is one for each visible GPU with `--device cuda`, otherwise
 * one; without `--slots` it is one. With `--device cuda` slot k has GPU k; several slots never share one unless a GPU is named.
 * @throws UsageError on a device that there is not, and where more slots are asked for than GPUs are visible
 */
export function planSlots(
  wanted: number | 'auto' | undefined,
  device: string | undefined,
  env: Readonly<Record<string, string | undefined>> = process.env,
  listGpus: () => number = countGpus,
): SlotPlan {
  if (device !== undefined && !DEVICE.test(device))
    throw new UsageError(
      `--device '${device}' is no device: cpu, cuda (one GPU a slot), cuda:N, tensorrt:N, webgpu, dml or coreml was expected`,
    );
  if (device !== 'cuda' && device !== 'tensorrt') {
    const slots = wanted === 'auto' || wanted === undefined ? 1 : wanted;
    return { slots, devices: Array.from({ length: slots }, () => device ?? null) };
  }
  const gpus = visibleGpus(env, listGpus);
  if (gpus.length === 0)
    throw new UsageError(
      env.CUDA_VISIBLE_DEVICES === undefined
        ? `--device ${device}: this machine shows no NVIDIA GPU (nvidia-smi -L lists none); use --device cpu`
        : `--device ${device}: CUDA_VISIBLE_DEVICES='${env.CUDA_VISIBLE_DEVICES}' leaves no GPU; unset it or name some, e.g. 0,1`,
    );
  const slots = wanted === 'auto' ? gpus.length : (wanted ?? 1);
  if (slots > gpus.length)
    throw new UsageError(
      `--slots ${slots} with --device ${device}: each slot gets a GPU of its own, and ${gpus.length} ${gpus.length === 1 ? 'is' : 'are'} visible; use --slots auto, or name one (${device}:0) for all slots`,
    );
  return { slots, devices: gpus.slice(0, slots).map((gpu) => `${device}:${gpu}`) };
}

/**
 * The environments of one worker process per GPU, as `plexus launch` starts them: process k sees only the k-th of the GPUs
 * that are visible, and calls it `cuda:0`.
 */
export function gpuEnvironments(visible: string | undefined, count: number): { CUDA_VISIBLE_DEVICES: string }[] {
  const names = visible === undefined ? null : visible.split(',').map((part) => part.trim());
  if (names && names.length < count)
    throw new UsageError(
      `CUDA_VISIBLE_DEVICES='${visible}' names ${names.length} GPUs, but ${count} workers are to have one each`,
    );
  return Array.from({ length: count }, (_, n) => ({ CUDA_VISIBLE_DEVICES: names ? (names[n] as string) : String(n) }));
}

/** GPUs that the driver lists; 0 where there is no driver. */
function countGpus(): number {
  try {
    const listed = execFileSync('nvidia-smi', ['-L'], {
      encoding: 'utf8',
      timeout: 10_000,
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    return listed.split('\n').filter((line) => /^GPU \d+:/.test(line)).length;
  } catch {
    // No driver, no GPU: the caller says so in the words of the flag that asked for one.
    return 0;
  }
}

function takeWhile<T>(items: readonly T[], accept: (item: T) => boolean): T[] {
  const end = items.findIndex((item) => !accept(item));
  return items.slice(0, end < 0 ? items.length : end);
}
