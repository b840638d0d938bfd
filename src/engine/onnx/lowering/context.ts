import { type Shape, sizeOf } from '../../../tensor/index.ts';
import type { Signature } from '../../engine.ts';
import { EngineError, placeName } from '../../errors.ts';
import type { Attr } from '../../graph.ts';
import { type OnnxAttr, type OnnxBuilder, type OnnxDType, type Ref, type RefSpec, sameShape } from '../model.ts';

/** Where the lowered graph will run: some operators exist, or are deterministic, only in some places. */
export interface LoweringTarget {
  /** `cpu`, `cuda`, `webgpu`, ... without an index. */
  readonly provider: string;
  readonly threads: number;
}

/** Turns one node of a graph into ONNX nodes and returns what stands for its outputs. */
export type Lowering = (c: LoweringContext) => Ref | readonly Ref[];

/** Lowerings by tfjs kernel name. */
export type LoweringTable = Readonly<Record<string, Lowering>>;

/** The node being lowered: its inputs, attributes and expected outputs, and short forms of what lowerings need most. */
export class LoweringContext {
  readonly b: OnnxBuilder;
  readonly target: LoweringTarget;
  readonly kernel: string;
  readonly path: string;
  readonly inputs: readonly Ref[];
  readonly outputs: readonly Signature[];
  private readonly attrs: Readonly<Record<string, Attr>>;

  constructor(
    builder: OnnxBuilder,
    target: LoweringTarget,
    node: { readonly kernel: string; readonly path: string; readonly attrs: Readonly<Record<string, Attr>> },
    inputs: readonly Ref[],
    outputs: readonly Signature[],
  ) {
    this.b = builder;
    this.target = target;
    this.kernel = node.kernel;
    this.path = node.path;
    this.attrs = node.attrs;
    this.inputs = inputs;
    this.outputs = outputs;
  }

  /** The i-th input. */
  in(i: number): Ref {
    const ref = this.inputs[i];
    if (ref === undefined) this.fail(`takes at least ${i + 1} inputs, but has ${this.inputs.length}`);
    return ref;
  }

  /** The (first) expected output. */
  get out(): Signature {
    return this.outputs[0] as Signature;
  }

  get onCpu(): boolean {
    return this.target.provider === 'cpu';
  }

  has(name: string): boolean {
    const value = this.attrs[name];
    return value !== undefined && value !== null;
  }

  attr(name: string): Attr | undefined {
    return this.attrs[name];
  }

  number(name: string, otherwise?: number): number {
    const value = this.attrs[name] ?? otherwise;
    if (typeof value !== 'number') this.fail(`needs a number for attribute ${name}, got ${JSON.stringify(value)}`);
    return value;
  }

  flag(name: string): boolean {
    return this.attrs[name] === true || this.attrs[name] === 1;
  }

  text(name: string, otherwise?: string): string {
    const value = this.attrs[name] ?? otherwise;
    if (typeof value !== 'string') this.fail(`needs a string for attribute ${name}, got ${JSON.stringify(value)}`);
    return value;
  }

  numbers(name: string): readonly number[] {
    const value = this.attrs[name];
    if (typeof value === 'number') return [value];
    if (!Array.isArray(value) || !value.every((x) => typeof x === 'number'))
      this.fail(`needs a list of numbers for attribute ${name}, got ${JSON.stringify(value)}`);
    return value as readonly number[];
  }

  pairs(name: string): readonly (readonly [number, number])[] {
    const value = this.attrs[name];
    if (!Array.isArray(value)) this.fail(`needs a list of pairs for attribute ${name}, got ${JSON.stringify(value)}`);
    return value as readonly (readonly [number, number])[];
  }

  /** Axes given as a number, a list, or nothing (all axes); negative ones counted from the end. */
  axes(name: string, rank: number): readonly number[] {
    if (!this.has(name)) return Array.from({ length: rank }, (_, i) => i);
    return this.numbers(name).map((axis) => (axis < 0 ? axis + rank : axis));
  }

  /** One axis, negative counted from the end. */
  axis(name: string, rank: number): number {
    const axis = this.number(name, 0);
    return axis < 0 ? axis + rank : axis;
  }

  /** An element-wise node over operands that broadcast. */
  map(type: string, ...operands: readonly Ref[]): Ref {
    return this.apply(type, operands, {});
  }

  /** The same with attributes, or with a dtype other than the first operand's. */
  apply(type: string, operands: readonly Ref[], attrs: Readonly<Record<string, OnnxAttr>>, dtype?: OnnxDType): Ref {
    return this.b.op(type, operands, attrs, {
      dtype: dtype ?? (operands[0] as Ref).dtype,
      shape: broadcastShapes(operands.map((ref) => ref.shape)),
    });
  }

  /** A comparison: an element-wise node with a bool result. */
  compare(type: string, a: Ref, b: Ref): Ref {
    return this.apply(type, [a, b], {}, 'bool');
  }

  where(condition: Ref, yes: Ref, no: Ref): Ref {
    return this.apply('Where', [condition, yes, no], {}, yes.dtype);
  }

  /** A constant scalar of `like`'s dtype. */
  k(value: number, like?: Ref): Ref {
    return this.b.scalar(value, like?.dtype ?? 'float32');
  }

  reduce(type: string, x: Ref, axes: readonly number[], keepDims: boolean): Ref {
    if (axes.length === 0) return x;
    const shape = reducedShape(x.shape, axes, keepDims);
    return this.b.op(type, [x, this.b.ints(axes)], { keepdims: keepDims ? 1 : 0 }, { dtype: x.dtype, shape });
  }

  /** Rows `begin .. begin + size` along one axis. */
  slice(x: Ref, axis: number, begin: number, size: number, step = 1): Ref {
    const shape = x.shape.map((dim, i) => (i === axis ? size : dim));
    if (step === 1 && begin === 0 && size === x.shape[axis]) return x;
    const end = size === 0 ? begin : begin + (size - 1) * step + Math.sign(step);
    const ends = this.b.ints([end < 0 ? -(2 ** 31) : end]);
    return this.b.op(
      'Slice',
      [x, this.b.ints([begin]), ends, this.b.ints([axis]), this.b.ints([step])],
      {},
      {
        dtype: x.dtype,
        shape,
      },
    );
  }

  concat(parts: readonly Ref[], axis: number): Ref {
    const present = parts.filter((part) => sizeOf(part.shape) > 0);
    const first = (present[0] ?? parts[0]) as Ref;
    if (present.length <= 1) return first;
    const length = present.reduce((sum, part) => sum + (part.shape[axis] as number), 0);
    return this.b.op(
      'Concat',
      present,
      { axis },
      {
        dtype: first.dtype,
        shape: first.shape.map((dim, i) => (i === axis ? length : dim)),
      },
    );
  }

  /** Rows of `x` along `axis`; `indices` are int32 or int64. */
  gather(x: Ref, indices: Ref, axis: number): Ref {
    const shape = [...x.shape.slice(0, axis), ...indices.shape, ...x.shape.slice(axis + 1)];
    return this.b.op('Gather', [x, indices], { axis }, { dtype: x.dtype, shape });
  }

  /** The matrix product of the last two dimensions; leading ones broadcast. */
  matmul(a: Ref, b: Ref): Ref {
    const batch = broadcastShapes([a.shape.slice(0, -2), b.shape.slice(0, -2)]);
    const shape = [...batch, a.shape.at(-2) as number, b.shape.at(-1) as number];
    return this.b.op('MatMul', [a, b], {}, { dtype: a.dtype, shape });
  }

  /** Computes in float32 whatever the operand is, and casts back to the expected dtype. */
  inFloat(x: Ref, fn: (x: Ref) => Ref): Ref {
    return this.b.cast(fn(this.b.cast(x, 'float32')), this.out.dtype);
  }

  /** The expected output filled with one value. */
  full(value: number, spec: RefSpec = this.out): Ref {
    return this.b.full(spec, value);
  }

  fail(problem: string): never {
    const shapes = this.inputs.map((ref) => `${ref.dtype}[${ref.shape}]`).join(', ');
    throw new EngineError(`${placeName(this.path)}: kernel ${this.kernel}(${shapes}) ${problem}`, { path: this.path });
  }
}

/** The shape that operands broadcast to. */
export function broadcastShapes(shapes: readonly Shape[]): number[] {
  const rank = Math.max(0, ...shapes.map((shape) => shape.length));
  return Array.from({ length: rank }, (_, i) => {
    const dims = shapes.map((shape) => shape[shape.length - rank + i] ?? 1);
    return dims.find((dim) => dim !== 1) ?? 1;
  });
}

/** What is left of a shape after a reduction. */
export function reducedShape(shape: Shape, axes: readonly number[], keepDims: boolean): number[] {
  const gone = new Set(axes);
  if (keepDims) return shape.map((dim, i) => (gone.has(i) ? 1 : dim));
  return shape.filter((_, i) => !gone.has(i));
}

export { sameShape };
