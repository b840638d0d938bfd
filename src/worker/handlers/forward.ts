import type { SegmentPart } from '../../plan/index.ts';
import { isExchanged } from '../../plan/index.ts';
import { ExpertExchange } from '../exchange.ts';
import { LayerPass } from '../layer-pass.ts';
import type { Handler, ProgramRun } from '../program-run.ts';
import type { StagePass } from '../stage-pass.ts';
import type { Cell } from '../tensor-space.ts';

/** Runs the parts of a segment on one microbatch. */
export const forward: Handler<'Forward'> = async (run, { stage, segment, microbatch }) => {
  const pass = run.pass(stage, microbatch);
  const parts = pass.stage.segments[segment];
  if (!parts) throw new RangeError(`stage ${stage} has no segment ${segment}`);
  for (const part of parts.parts) {
    if (part.kind === 'layer') await forwardLayer(run, pass, part.layer, part.phase);
    else if (isExchanged(parts)) await forwardExchanged(run, pass, part);
    else await forwardInPlace(run, pass, part);
  }
};

async function forwardLayer(run: ProgramRun, pass: StagePass, index: number, phase: number): Promise<void> {
  if (phase === 0) {
    const { compiled } = run.mode(index);
    const targets = index === run.parts.layerCount - 1 ? pass.targets : [];
    const inputs = takeInputs(run, pass, index);
    if (run.training) pass.keepInputs(index, inputs);
    const layerPass = new LayerPass(compiled, run.layer(index).group, run.context(pass.microbatch), inputs, targets);
    if (targets.length > 0) pass.targets = [];
    pass.layers.set(index, layerPass);
  }
  const exchange = pass.exchanges.get(`${index}/${phase - 1}`);
  if (exchange?.returning)
    giveResult(run, pass, { layer: index, call: phase - 1 }, await run.waitFor(exchange.putTogether()));
  const layerPass = pass.layer(index);
  await layerPass.forward(phase);
  if (phase !== layerPass.layer.plan.forwards - 1) return;
  await recordMetrics(run, layerPass);
  if (index === run.parts.layerCount - 1 && !run.readsLate) pass.releaseKept();
}

/** Activations for a layer: the ones before it made them, on this stage or on another. */
function takeInputs(run: ProgramRun, pass: StagePass, index: number): readonly Cell[] {
  const { stage, microbatch } = pass;
  const position = stage.layers.indexOf(index);
  if (position > 0) {
    const before = pass.layer(stage.layers[position - 1] as number);
    const cells = before.outputs;
    if (!cells)
      throw new Error(`layer ${index} needs the outputs of layer ${stage.layers[position - 1]}, which are gone`);
    before.outputs = null;
    return cells;
  }
  const received = pass.inputs ?? run.pass(stage.index - 1, microbatch).takeOutputs();
  pass.inputs = null;
  return received;
}

async function recordMetrics(run: ProgramRun, pass: LayerPass): Promise<void> {
  for (const { name, cell } of pass.metrics())
    if (run.wanted && !run.wanted.has(name)) run.parts.space.release(cell);
    else if (run.readsLate) run.leaveMetric(name, pass.microbatch, cell);
    else await run.readMetric(name, pass.microbatch, cell);
}

async function forwardInPlace(
  run: ProgramRun,
  pass: StagePass,
  part: SegmentPart & { kind: 'experts' },
): Promise<void> {
  const { exchange, rows } = await openExchange(run, pass, part.layer, part.call);
  const result = await exchange.local(rows, (source) => exchange.runtime.forward([source], run.step));
  giveResult(run, pass, part, result);
}

/** Hands the results of an expert call to the layer that waits for them. */
export function giveResult(
  run: ProgramRun,
  pass: StagePass,
  call: { readonly layer: number; readonly call: number },
  result: Cell,
): void {
  if (run.training) pass.keepResult(call.layer, result);
  pass.layer(call.layer).giveResult(call.call, result);
}

async function forwardExchanged(
  run: ProgramRun,
  pass: StagePass,
  part: SegmentPart & { kind: 'experts' },
): Promise<void> {
  const exchange = exchangeOf(pass, part.layer, part.call);
  const { runtime } = exchange;
  // The own rows are there; while they are worked on, those of the others come.
  const own = exchange.own();
  if (runtime.merges) return runtime.forward([own, ...(await run.waitFor(exchange.arrive()))], run.step);
  await runtime.forward([own], run.step);
  await runtime.forward(await run.waitFor(exchange.arrive()), run.step);
}

/** Begins an expert call: takes the rows and counts that the layer sends. */
export async function openExchange(
  run: ProgramRun,
  pass: StagePass,
  layer: number,
  call: number,
): Promise<{ exchange: ExpertExchange; rows: Cell }> {
  const { space } = run.parts;
  const { rows, counts } = pass.layer(layer).takeCall(call);
  const counted = await space.read(counts.tensor);
  const [height, width] = rows.tensor.shape as [number, number];
  const runtime = run.mode(layer).experts[call];
  if (!runtime) throw new RangeError(`layer ${layer} has no expert call ${call}`);
  // The counts are kept for the backward, after their tensor's memory has been used for something else.
  const kept = Int32Array.from(counted.data as Int32Array);
  space.release(counts);
  const exchange = new ExpertExchange(space, runtime, pass.microbatch, kept, [height, width]);
  pass.exchanges.set(`${layer}/${call}`, exchange);
  return { exchange, rows };
}

/** The expert call that was begun in the forward. */
export function exchangeOf(pass: StagePass, layer: number, call: number): ExpertExchange {
  const exchange = pass.exchanges.get(`${layer}/${call}`);
  if (!exchange)
    throw new Error(`expert call ${call} of layer ${layer} has not been dispatched for microbatch ${pass.microbatch}`);
  return exchange;
}
