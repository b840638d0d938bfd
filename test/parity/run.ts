import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll } from 'vitest';
import { finishMetrics } from '../../src/coordinator/metrics.ts';
import { saveCheckpoint } from '../../src/coordinator/run/index.ts';
import { createEngine, type Engine } from '../../src/engine/index.ts';
import { bytesOf, openSafetensors, pathsInOrder } from '../../src/tensor/index.ts';
import { type InProcessResult, type Rank, runInProcess, type ShardReport } from '../../src/worker/index.ts';
import { type JobOptions, makeJobs } from '../worker/jobs.ts';

/** Steps of a run whose bits are compared. */
export const STEPS = 30;

/** Microbatches of an evaluation: no multiple of what a round takes, so that some are only there to fill it. */
const EVALUATED = 5;

/** What a run computed, as one hash, and figures that say that it computed something. */
export interface Outcome {
  /**
   * Over the bits of all losses, gradient norms, learning rates, of every tensor of a checkpoint at the end, and of the
   * metrics of an evaluation if there was one.
   */
  readonly sha256: string;
  readonly losses: readonly number[];
  readonly gradNorms: readonly number[];
  readonly weightsSha256: string;
  /** What there is at the end: hashes of the checkpoint's tensors, and the metrics of the evaluation. */
  readonly ending: string;
  /** The checkpoint that was asked for, or null. */
  readonly checkpoint: string | null;
}

/** What to do with a run besides running it. */
export interface RunOptions {
  readonly steps?: number;
  /** Keep the checkpoint at the end in this folder. */
  readonly save?: string;
  /** Evaluate at the end. */
  readonly evaluate?: boolean;
}

// The engine of all runs of a test file: equal layers are compiled once.
let engine: Engine;
beforeAll(async () => {
  engine = await createEngine({ kind: 'onnx', device: 'cpu', threads: 1 });
});
afterAll(() => engine.dispose());

/** Runs a job with all its ranks in this thread. */
export async function run(
  options: JobOptions,
  { steps = STEPS, save, evaluate = false }: RunOptions = {},
): Promise<Outcome> {
  const { jobs, overrides, plan } = await makeJobs(options);
  const ending: string[] = [];
  let checkpoint: string | null = null;
  const last = async (ranks: readonly Rank[]): Promise<void> => {
    const folder = save ?? (await mkdtemp(join(tmpdir(), 'plexus-parity-')));
    const info = { seed: 7, batch: plan.batch, engine: 'test', mesh: plan.mesh, wall_s: 0, recoveries: 0 };
    let shards: ShardReport[] = [];
    const { path } = await saveCheckpoint(
      folder,
      { ...info, step: (ranks[0] as Rank).ready.step + steps },
      async (to) => {
        shards = (await Promise.all(ranks.map((rank) => rank.checkpoint(to)))).flat();
        return shards;
      },
    );
    ending.push(...(await hashesOf(path, shards)));
    if (evaluate) {
      const reports = await Promise.all(ranks.map((rank) => rank.evaluate('validation', EVALUATED)));
      const metrics = Object.entries(finishMetrics(reports, EVALUATED));
      ending.push(JSON.stringify(metrics.sort(([a], [b]) => (a < b ? -1 : 1))));
    }
    if (save === undefined) await rm(folder, { recursive: true });
    else checkpoint = path;
  };
  const result = await runInProcess(jobs, steps, { overrides: { ...overrides, engine }, finally: last });
  const { losses, gradNorms, weightsSha256 } = result;
  const text = ending.join('\n');
  return { sha256: hashOf(result, text), ending: text, losses, gradNorms, weightsSha256, checkpoint };
}

function hashOf({ reports, losses, gradNorms }: InProcessResult, ending: string): string {
  const rates = reports.map((step) => step[0]?.lr ?? Number.NaN);
  const hash = createHash('sha256');
  hash.update(bytesOf(Float32Array.from(losses)));
  hash.update(new Uint8Array(Float64Array.from([...gradNorms, ...rates]).buffer));
  return hash.update(ending).digest('hex');
}

/** `name sha256` of every tensor of a checkpoint: parameters, module state, optimizer state. */
async function hashesOf(path: string, shards: readonly ShardReport[]): Promise<string[]> {
  const found = new Map<string, string>();
  for (const { file } of shards) {
    const reader = await openSafetensors(join(path, file));
    for (const name of Object.keys(reader.specs)) {
      const { data } = await reader.read(name);
      found.set(name, createHash('sha256').update(bytesOf(data)).digest('hex'));
    }
    await reader.close();
  }
  return pathsInOrder(found.keys()).map((name) => `${name} ${found.get(name)}`);
}

const references = new Map<string, Promise<Outcome>>();

/** The serial run of a variant, made once. `name` identifies the variant within the file. */
export function serial(name: string, options: JobOptions, how: RunOptions = {}): Promise<Outcome> {
  const key = `${name} ${JSON.stringify(how)}`;
  const known = references.get(key) ?? run({ ...options, parallel: {} }, how);
  references.set(key, known);
  return known;
}

/** A mesh as `data,pipeline,expert`, a schedule and its settings, for test names. */
export function describeCell(parallel: NonNullable<JobOptions['parallel']>): string {
  const { data = 1, pipeline = 1, expert = 1, schedule, zero } = parallel;
  const options = `${typeof schedule === 'string' ? ` ${schedule}` : ''}${zero === 0 ? ' zero 0' : ''}`;
  return `${data},${pipeline},${expert}${options}`;
}

/** A folder for this test file, removed at its end. */
export function scratch(): string {
  const folder = mkdtempSync(join(tmpdir(), 'plexus-parity-'));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}
