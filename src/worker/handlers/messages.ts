import type { HostTensor } from '../../tensor/index.ts';
import { isFiniteArray, NonFinite } from '../non-finite.ts';
import type { Handler, ProgramRun } from '../program-run.ts';
import type { Cell } from '../tensor-space.ts';

/** Stands for a gradient that does not exist (of an integer activation, say). */
const NOTHING: HostTensor = { dtype: 'uint8', shape: [0], data: new Uint8Array(0) };

/** Sends a stage's outputs on, or the gradients of its inputs back. Memory that nobody else needs is given away. */
export const send: Handler<'Send'> = async (run, { what, stage, microbatch, to, tag }) => {
  const pass = run.pass(stage, microbatch);
  const cells: readonly (Cell | null)[] = what === 'activation' ? pass.takeOutputs() : pass.takeInputGradients();
  const tensors: HostTensor[] = [];
  for (const cell of cells) tensors.push(cell ? await takeHost(run, cell) : { ...NOTHING, data: new Uint8Array(0) });
  // Scanned here so that the stage whose output it is says so, not one further on.
  if (what === 'activation' && run.training)
    for (const { dtype, data } of tensors)
      if (dtype === 'float32' && !isFiniteArray(data as Float32Array))
        throw new NonFinite({ kind: 'activation', stage, microbatch, step: run.step });
  if (what === 'activation') pass.releaseKept();
  await run.parts.transport.send(to, tag, tensors, { transfer: true });
};

/** The cell's value in memory that may be given away; the reference is used up. */
async function takeHost(run: ProgramRun, cell: Cell): Promise<HostTensor> {
  const { space } = run.parts;
  const tensor = await space.read(cell.tensor);
  if (space.engine.host(cell.tensor) === null) {
    // Read back from a device: the copy is ours, the original can be recycled.
    space.release(cell);
    return tensor;
  }
  if (cell.owned && cell.refs === 1) return tensor;
  const copy = { ...tensor, data: tensor.data.slice() };
  space.release(cell);
  return copy;
}

/** Takes in a stage's inputs, or the gradients of its outputs. */
export const recv: Handler<'Recv'> = async (run, { what, stage, microbatch, from, tag }) => {
  const { transport, space } = run.parts;
  const tensors = await transport.recv(from, tag);
  const pass = run.pass(stage, microbatch);
  if (what === 'activation') pass.inputs = tensors.map((tensor) => space.upload(tensor));
  else
    pass.cotangents = tensors.map((tensor) =>
      tensor.dtype === 'uint8' && tensor.data.length === 0 ? null : space.upload(tensor),
    );
};
