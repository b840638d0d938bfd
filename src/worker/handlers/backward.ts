import type { SegmentPart } from '../../plan/index.ts';
import { isExchanged } from '../../plan/index.ts';
import type { LayerPass } from '../layer-pass.ts';
import type { Handler, ProgramRun } from '../program-run.ts';
import type { StagePass } from '../stage-pass.ts';
import type { Cell } from '../tensor-space.ts';
import { exchangeOf } from './forward.ts';

/** Gradients of inputs and parameters of a segment. */
export const backward: Handler<'Backward'> = async (run, { stage, segment, microbatch }) => {
  const pass = run.pass(stage, microbatch);
  await backwardSegment(run, pass, segment, async (layerPass) => {
    await layerPass.backwardWeight();
    await layerPass.finish();
    run.reductions.gradientsOf(layerPass.group.layer);
  });
};

/** Gradients of the inputs only; those of the parameters are put off. */
export const backwardInput: Handler<'BackwardInput'> = async (run, { stage, segment, microbatch }) => {
  await backwardSegment(run, run.pass(stage, microbatch), segment, async () => undefined);
};

/** Gradients of the parameters of a stage. */
export const backwardWeight: Handler<'BackwardWeight'> = async (run, { stage, microbatch }) => {
  const pass = run.pass(stage, microbatch);
  for (const index of [...pass.stage.layers].reverse()) {
    const layerPass = pass.layer(index);
    await layerPass.backwardWeight();
    await layerPass.finish();
    run.reductions.gradientsOf(index);
  }
};

async function backwardSegment(
  run: ProgramRun,
  pass: StagePass,
  index: number,
  done: (pass: LayerPass) => Promise<void>,
): Promise<void> {
  const segment = pass.stage.segments[index];
  if (!segment) throw new RangeError(`stage ${pass.stage.index} has no segment ${index}`);
  for (const part of [...segment.parts].reverse()) {
    if (part.kind === 'experts') {
      if (isExchanged(segment)) await backwardExchanged(run, pass, part);
      else await backwardInPlace(run, pass, part);
      continue;
    }
    const layerPass = pass.layer(part.layer);
    if (part.phase === layerPass.layer.plan.forwards - 1)
      layerPass.setOutputCotangents(takeCotangents(run, pass, part.layer));
    const exchange = pass.exchanges.get(`${part.layer}/${part.phase}`);
    if (exchange?.returning) layerPass.giveCotangents(part.phase, await run.waitFor(exchange.putTogether()));
    await layerPass.backward(part.phase);
    if (part.phase === 0) await done(layerPass);
  }
}

async function backwardExchanged(
  run: ProgramRun,
  pass: StagePass,
  part: SegmentPart & { kind: 'experts' },
): Promise<void> {
  const exchange = exchangeOf(pass, part.layer, part.call);
  const { runtime } = exchange;
  const own = exchange.own();
  if (runtime.merges) await runtime.backward([own, ...(await run.waitFor(exchange.arrive()))]);
  else {
    await runtime.backward([own]);
    await runtime.backward(await run.waitFor(exchange.arrive()));
  }
  run.reductions.gradientsOf(part.layer);
}

async function backwardInPlace(
  run: ProgramRun,
  pass: StagePass,
  part: SegmentPart & { kind: 'experts' },
): Promise<void> {
  const exchange = exchangeOf(pass, part.layer, part.call);
  const layerPass = pass.layer(part.layer);
  const cotangents = layerPass.takeCotangents(part.call);
  const result = await exchange.local(cotangents, (source) => exchange.runtime.backward([source]));
  layerPass.giveCotangents(part.call, result);
  run.reductions.gradientsOf(part.layer);
}

/** Cotangents of a layer's outputs: from the layer after it, on this stage or on another. Empty for the last layer. */
function takeCotangents(run: ProgramRun, pass: StagePass, index: number): readonly (Cell | null)[] {
  if (index === run.parts.layerCount - 1) return [];
  const { stage, microbatch } = pass;
  const next = stage.layers[stage.layers.indexOf(index) + 1];
  if (next !== undefined) {
    const after = pass.layer(next);
    const cells = after.inputGradients;
    if (!cells) throw new Error(`layer ${index} needs the input gradients of layer ${next}, which are not there`);
    after.inputGradients = null;
    return cells;
  }
  const received = pass.cotangents ?? run.pass(stage.index + 1, microbatch).takeInputGradients();
  pass.cotangents = null;
  return received;
}
