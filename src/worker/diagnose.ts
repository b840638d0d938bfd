import { layerKey, type Model, type TaskInfo } from '../modules/index.ts';
import type { HostTensor } from '../tensor/index.ts';
import { isFiniteArray, NonFinite } from './non-finite.ts';
import { probeLayer } from './probe.ts';
import type { ProgramRun } from './program-run.ts';
import type { StagePass } from './stage-pass.ts';
import type { Cell } from './tensor-space.ts';

/**
 * Finds the first module whose output was not finite: the layers of the stage are run again on the microbatch, one after
 * another, each with a probe on every module. Returns the error with the module's path; if that cannot be found, the
 * message says why.
 */
export async function explainNonFinite(
  error: NonFinite,
  run: ProgramRun,
  model: Model,
  info: TaskInfo,
): Promise<NonFinite> {
  const { where } = error;
  if (where.kind === 'gradient') return error;
  const stage = where.kind === 'activation' ? where.stage : run.program.totalStages - 1;
  const pass = run.pass(stage, where.microbatch);
  try {
    for (const layer of pass.stage.layers) {
      const found = await probe(run, pass, layer, model, info);
      if (found) return new NonFinite(where, found);
    }
    return new NonFinite(where, {
      path: run.layer(pass.stage.layers[0] as number).name,
      note: 'run again, every module of this stage gave finite outputs',
    });
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    const name = run.layer(pass.stage.layers[pass.stage.layers.length - 1] as number).name;
    const explained = new NonFinite(where, { path: name, note: `the module could not be told: ${reason}` });
    explained.cause = cause;
    return explained;
  }
}

async function probe(run: ProgramRun, pass: StagePass, index: number, model: Model, info: TaskInfo) {
  const { space, job } = run.parts;
  const kept = pass.kept(index);
  const layer = model.layers[index];
  if (!kept || !layer) return null;
  const { name, group } = run.layer(index);
  for (const cell of kept.inputs)
    if (!(await isFiniteCell(run, cell))) return { path: name, note: `what goes into ${name} is not finite already` };
  const last = index === run.parts.layerCount - 1;
  const targets = last ? run.batches.split.batch(run.batches.indices(pass.microbatch)).targets : [];
  const made = probeLayer(
    layer,
    kept.inputs.map((cell) => cell.tensor),
    kept.results.map((cell) => cell.tensor),
    last
      ? {
          module: model.loss,
          targets: info.targets.map(({ dtype, shape }) => ({
            dtype,
            shape: [run.batches.micro ?? job.batch.micro, ...shape],
          })),
        }
      : null,
  );
  const executable = await space.engine.compile(made.fn, made.signature, { name: `${name} (looking for NaN)` });
  const upload = (tensor: HostTensor) => space.engine.upload(tensor);
  const [sums] = await executable.run([
    ...group.params.map(({ tensor }) => tensor),
    ...group.state.map(({ tensor }) => tensor),
    upload(layerKey(job.seed, run.step, pass.microbatch, name)),
    ...kept.inputs.map((cell) => cell.tensor),
    ...targets.map(upload),
    ...kept.results.map((cell) => cell.tensor),
  ]);
  if (!sums) return null;
  const { data } = await space.read(sums);
  const first = made.paths.findIndex((_, i) => !Number.isFinite(Number(data[i])));
  if (first < 0) return null;
  const path = made.paths[first] as string;
  if (path.endsWith('.experts')) return expertOf(run, pass, index, path, kept.results);
  for (const param of group.params)
    if (param.path.startsWith(`${path}.`) && !(await isFiniteCell(run, space.borrow(param.tensor))))
      return {
        path,
        note: `the first module whose output is not finite is ${path}: its parameter ${param.path} is not finite`,
      };
  return { path, note: `the first module whose output is not finite is ${path}` };
}

/** Which expert gave rows that are not finite. */
async function expertOf(run: ProgramRun, pass: StagePass, layer: number, path: string, results: readonly Cell[]) {
  for (const [call, result] of results.entries()) {
    const { data, shape } = await run.parts.space.read(result.tensor);
    const bad = (data as Float32Array).findIndex((value) => !Number.isFinite(value));
    if (bad < 0) continue;
    const expert = pass.exchanges.get(`${layer}/${call}`)?.expertOfRow(Math.floor(bad / (shape[1] as number)));
    if (expert === null || expert === undefined) continue;
    return { path: `${path}.${expert}`, note: `the first module whose output is not finite is ${path}.${expert}` };
  }
  return { path, note: `an expert of ${path} returned a value that is not finite` };
}

async function isFiniteCell(run: ProgramRun, cell: Cell): Promise<boolean> {
  const { dtype, data } = await run.parts.space.read(cell.tensor);
  return dtype !== 'float32' || isFiniteArray(data as Float32Array);
}
