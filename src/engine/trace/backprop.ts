import type { NamedTensorMap, Tensor } from '@tensorflow/tfjs-core';
import { EngineError, placeName, signatureText } from '../errors.ts';
import { activeRecorder, engineInternals } from './backend.ts';
import { sameShape } from './recorder.ts';
import { tf } from './tf.ts';

interface TapeNode {
  readonly kernelName: string;
  readonly outputs: readonly Tensor[];
  readonly inputs: NamedTensorMap;
  readonly gradient?: (dys: (Tensor | null)[]) => Readonly<Record<string, () => Tensor>>;
  readonly saved: readonly Tensor[];
}

interface TapeState {
  activeTape: TapeNode[] | null;
  gradientDepth: number;
}

const tapeState = (): TapeState => tf.engine().state as unknown as TapeState;

/** Runs `fn` with tfjs's tape on and hands the tape to `use`; clears it afterwards. */
export function withTape<A, B>(fn: () => A, use: (result: A, tape: readonly TapeNode[]) => B): B {
  const engine = engineInternals();
  if (tapeState().gradientDepth !== 0)
    throw new EngineError('a gradient was traced inside of tf.grad; call the traced function outside of it');
  let result: A;
  engine.startTape();
  try {
    result = fn();
  } catch (error) {
    tapeState().activeTape = null;
    throw error;
  } finally {
    engine.endTape();
  }
  const tape = tapeState().activeTape ?? [];
  try {
    return use(result, tape);
  } finally {
    for (const node of tape) for (const tensor of node.saved) tensor.dispose();
    tapeState().activeTape = null;
  }
}

/**
 * Reverse-mode differentiation over a tape. Unlike tfjs's own, it takes cotangents of several outputs, stops at integer
 * and bool tensors, skips what no cotangent reaches, and records each gradient under its forward op's module path.
 * @returns cotangents by tensor id.
 */
export function backpropagate(
  tape: readonly TapeNode[],
  wanted: Iterable<Tensor>,
  seeds: Iterable<readonly [Tensor, Tensor]>,
): Map<number, Tensor> {
  const trace = activeRecorder();
  const needed = new Set<number>();
  for (const tensor of wanted) needed.add(tensor.id);
  for (const node of tape)
    if (Object.values(node.inputs).some((input) => input != null && needed.has(input.id)))
      for (const output of node.outputs) if (output.dtype === 'float32') needed.add(output.id);

  const cotangents = new Map<number, Tensor>();
  const accumulate = (tensor: Tensor, dy: Tensor) => {
    const sum = cotangents.get(tensor.id);
    cotangents.set(tensor.id, sum === undefined ? dy : tf.add(sum, dy));
  };
  for (const [output, dy] of seeds) accumulate(output, dy);

  for (const node of [...tape].reverse()) {
    const dys = node.outputs.map((output) => cotangents.get(output.id) ?? null);
    if (dys.every((dy) => dy === null)) continue;
    const inputs = Object.entries(node.inputs).filter(
      ([, input]) => input != null && needed.has(input.id) && input.dtype === 'float32',
    );
    if (inputs.length === 0) continue;
    const path = pathOf(node);
    if (trace) trace.backwardPath = path;
    const fail = (why: string): never => {
      const shapes = Object.values(node.inputs).filter(Boolean).map(signatureText).join(', ');
      throw new EngineError(`${placeName(path)}: the gradient of ${node.kernelName}(${shapes}) ${why}`, { path });
    };
    if (node.gradient === undefined) {
      fail('is not known to tfjs; wrap the op in tf.customGrad, or keep the gradient from reaching it');
      continue;
    }
    const gradients = node.gradient(dys);
    for (const [name, input] of inputs) {
      const make = gradients[name];
      if (make === undefined) {
        fail(`does not cover its input "${name}"`);
        continue;
      }
      const dx = make();
      if (!sameShape(dx.shape, input.shape) || dx.dtype !== 'float32')
        fail(`by "${name}" came out as ${signatureText(dx)} for an input of ${signatureText(input)}`);
      accumulate(input, dx);
    }
  }
  return cotangents;
}

/** Path of the module that recorded a forward op: that of the node that made its output. */
function pathOf(node: TapeNode): string {
  const trace = activeRecorder();
  for (const output of node.outputs) {
    const id = trace?.lookup(output.dataId);
    const producer = id === undefined ? undefined : trace?.producer(id);
    if (producer) return producer.path;
  }
  return '';
}
