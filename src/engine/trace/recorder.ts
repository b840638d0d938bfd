import type { Tensor, TensorInfo } from '@tensorflow/tfjs-core';
import { type Shape, sizeOf } from '../../tensor/index.ts';
import type { Signature } from '../engine.ts';
import { EngineError, placeName, signatureText } from '../errors.ts';
import type { Graph, GraphConstant, GraphDType, GraphNode, GraphValue, ValueId } from '../graph.ts';
import type { Attrs } from './definition.ts';
import { currentPath, fullPath } from './path.ts';
import { tf } from './tf.ts';

/** Typed arrays that constants of a graph are made of. */
export type ConstantData = GraphConstant['data'];

/** Collects the graph while a function runs over the tracing backend. */
export class Recorder {
  /** Set while the gradient is being recorded. */
  backward = false;
  readonly #values = new Map<ValueId, GraphValue>();
  readonly #inputs: ValueId[] = [];
  readonly #constants = new Map<ValueId, ConstantData>();
  readonly #scalars = new Map<string, ValueId>();
  readonly #nodes: GraphNode[] = [];
  readonly #producers = new Map<ValueId, GraphNode>();
  /** tfjs identifies a buffer by an object; several tensors may share it. */
  readonly #ids = new WeakMap<object, ValueId>();

  /** The current module path as messages write it. */
  get place(): string {
    return fullPath();
  }

  /** Adds an input; `bind` attaches the tfjs buffer. */
  input(signature: Signature): ValueId {
    const id = this.#value(signature);
    this.#inputs.push(id);
    return id;
  }

  bind(dataId: object, id: ValueId): void {
    this.#ids.set(dataId, id);
  }

  /** The value of a tfjs buffer made in this trace, if it is one. */
  lookup(dataId: object): ValueId | undefined {
    return this.#ids.get(dataId);
  }

  /** The value of a tensor; one that was computed before the trace becomes a constant. */
  resolve(tensor: Tensor | TensorInfo): ValueId {
    const known = this.#ids.get(tensor.dataId);
    if (known !== undefined) return this.#reinterpret(known, tensor);
    const engine = tf.engine();
    const info = engine.state.tensorInfo.get(tensor.dataId);
    if (info === undefined)
      throw new EngineError(
        `${placeName(this.place)}: a tensor of shape [${tensor.shape}] was used after it was disposed`,
        {
          path: this.place,
        },
      );
    const values = engine.readSync(tensor.dataId) as ConstantData;
    const id = this.constant(values, tensor.shape, graphDType(tensor.dtype, this.place));
    this.#ids.set(tensor.dataId, id);
    return id;
  }

  /** A constant. Arrays filled with one number become a `Fill` node; equal scalars share a value. */
  constant(data: ConstantData, shape: Shape, dtype: GraphDType): ValueId {
    const size = sizeOf(shape);
    if (size === 1 && shape.length === 0) {
      const key = `${dtype}:${Object.is(data[0], -0) ? '-0' : data[0]}`;
      const known = this.#scalars.get(key);
      if (known !== undefined) return known;
      const id = this.#constant(data, shape, dtype);
      this.#scalars.set(key, id);
      return id;
    }
    const first = size === 0 ? 0 : (data[0] as number);
    if (size !== 1 && isFullOf(data, first)) return this.full(first, shape, dtype);
    return this.#constant(data, shape, dtype);
  }

  /** A tensor full of one number. */
  full(value: number, shape: Shape, dtype: GraphDType): ValueId {
    return this.node('Fill', [], { shape: [...shape], value, dtype }, [{ dtype, shape }])[0] as ValueId;
  }

  /** Data of a constant, or undefined for a value that is only known when the graph runs. */
  constantData(id: ValueId): ConstantData | undefined {
    const data = this.#constants.get(id);
    if (data !== undefined) return data;
    const producer = this.#producers.get(id);
    if (producer?.kernel !== 'Fill') return undefined;
    const { dtype, shape } = this.signature(id);
    const size = sizeOf(shape);
    const value = producer.attrs.value as number;
    if (dtype === 'float32') return new Float32Array(size).fill(value);
    return dtype === 'int32' ? new Int32Array(size).fill(value) : new Uint8Array(size).fill(value);
  }

  /** Records a node and returns its outputs. */
  node(kernel: string, inputs: readonly ValueId[], attrs: Attrs, outputs: readonly Signature[]): ValueId[] {
    const ids = outputs.map((signature) => this.#value(signature));
    const node: GraphNode = { kernel, inputs, outputs: ids, attrs, path: currentPath(), backward: this.backward };
    this.#nodes.push(node);
    for (const id of ids) this.#producers.set(id, node);
    return ids;
  }

  signature(id: ValueId): GraphValue {
    return this.#values.get(id) as GraphValue;
  }

  producer(id: ValueId): GraphNode | undefined {
    return this.#producers.get(id);
  }

  finish(outputs: readonly ValueId[]): Graph {
    return {
      values: this.#values,
      inputs: this.#inputs,
      constants: [...this.#constants].map(([id, data]) => ({ id, data })),
      nodes: this.#nodes,
      outputs,
    };
  }

  #constant(data: ConstantData, shape: Shape, dtype: GraphDType): ValueId {
    const id = this.#value({ dtype, shape });
    this.#constants.set(id, data);
    return id;
  }

  #value(signature: Signature): ValueId {
    const id = this.#values.size;
    this.#values.set(id, { id, dtype: signature.dtype, shape: [...signature.shape] });
    return id;
  }

  /** tfjs lets tensors of several shapes share a buffer; in a graph each shape is a value of its own. */
  #reinterpret(id: ValueId, tensor: Tensor | TensorInfo): ValueId {
    const value = this.signature(id);
    if (value.dtype !== tensor.dtype)
      throw new EngineError(
        `${placeName(this.place)}: a buffer of ${signatureText(value)} was read as ${tensor.dtype} without a cast`,
        { path: this.place },
      );
    if (sameShape(value.shape, tensor.shape)) return id;
    return this.node('Reshape', [id], { shape: tensor.shape }, [
      { dtype: value.dtype, shape: tensor.shape },
    ])[0] as ValueId;
  }
}

/** Checks that a tfjs dtype can stand in a graph. @throws EngineError for strings and complex numbers. */
export function graphDType(dtype: string, path: string): GraphDType {
  if (dtype === 'float32' || dtype === 'int32' || dtype === 'bool') return dtype;
  throw new EngineError(
    `${placeName(path)}: dtype ${dtype} cannot be traced; graphs hold float32, int32 and bool tensors only`,
    { path },
  );
}

/** A plain loop: tfjs hands over whole arrays of zeros or ones, and a call for each element would take long. */
function isFullOf(data: ConstantData, value: number): boolean {
  for (let i = 0; i < data.length; i++) if (!Object.is(data[i], value)) return false;
  return true;
}

export function sameShape(a: Shape, b: Shape): boolean {
  return a.length === b.length && a.every((dim, i) => dim === b[i]);
}
