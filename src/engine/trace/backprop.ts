import type { NamedTensorMap, Tensor } from '@tensorflow/tfjs-core';
import { EngineError, placeName, signatureText } from '../errors.ts';
import { engineInternals, tensorOf } from './backend.ts';
import { fullPath, withPath } from './path.ts';
import { graphDType, type Recorder, sameShape } from './recorder.ts';
import { tf } from './tf.ts';

/** What tfjs keeps of an op for its gradient. */
export interface TapeNode {
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
  trace: Recorder,
  tape: readonly TapeNode[],
  wanted: Iterable<Tensor>,
  seeds: Iterable<readonly [Tensor, Tensor]>,
): Map<number, Tensor> {
  const needed = neededTensors(tape, wanted);
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
      ([, input]) => input != null && input.dtype === 'float32' && (needed.has(input.id) || isExpertCall(node)),
    );
    if (inputs.length === 0) continue;
    withPath(pathOf(trace, node), () => {
      const gradients = gradientsOf(node, withZeros(trace, node, dys));
      for (const [name, input] of inputs) accumulate(input, gradientBy(node, gradients, name, input));
    });
  }
  return cotangents;
}

/** Tensors through which a wanted gradient flows. Experts have parameters of their own, so their results always count. */
function neededTensors(tape: readonly TapeNode[], wanted: Iterable<Tensor>): Set<number> {
  const needed = new Set<number>();
  for (const tensor of wanted) needed.add(tensor.id);
  for (const node of tape)
    if (isExpertCall(node) || Object.values(node.inputs).some((input) => input != null && needed.has(input.id)))
      for (const output of node.outputs) if (output.dtype === 'float32') needed.add(output.id);
  return needed;
}

function isExpertCall(node: TapeNode): boolean {
  return node.kernelName === 'PlexusExperts';
}

/** Zeros for outputs without a cotangent. tfjs would make whole arrays of them, to be read to see that they are all zero. */
function withZeros(trace: Recorder, node: TapeNode, dys: readonly (Tensor | null)[]): (Tensor | null)[] {
  return dys.map((dy, i) => {
    const { dtype, shape, size } = node.outputs[i] as Tensor;
    return dy === null && size > 1 ? tensorOf(trace.full(0, shape, graphDType(dtype, trace.place))) : dy;
  });
}

type Gradients = Readonly<Record<string, () => Tensor>>;

function gradientsOf(node: TapeNode, dys: (Tensor | null)[]): Gradients {
  if (node.gradient === undefined)
    throw gradientError(node, 'is not known; wrap the op in tf.customGrad, or keep the gradient from reaching it');
  return node.gradient(dys);
}

function gradientBy(node: TapeNode, gradients: Gradients, name: string, input: Tensor): Tensor {
  const make = gradients[name];
  if (make === undefined) throw gradientError(node, `does not cover its input "${name}"`);
  const dx = make();
  if (!sameShape(dx.shape, input.shape) || dx.dtype !== 'float32')
    throw gradientError(node, `by "${name}" came out as ${signatureText(dx)} for an input of ${signatureText(input)}`);
  return dx;
}

function gradientError(node: TapeNode, why: string): EngineError {
  const inputs = Object.values(node.inputs).filter((input) => input != null);
  return new EngineError(
    `${placeName(fullPath())}: the gradient of ${node.kernelName}(${inputs.map(signatureText).join(', ')}) ${why}`,
    { path: fullPath() },
  );
}

/** Path of the module that recorded a forward op: that of the node that made its output. */
function pathOf(trace: Recorder, node: TapeNode): string {
  for (const output of node.outputs) {
    const id = trace.lookup(output.dataId);
    const producer = id === undefined ? undefined : trace.producer(id);
    if (producer) return producer.path;
  }
  return '';
}
