import type { onnx as Onnx } from 'onnx-proto';
import onnxProto from 'onnx-proto';
import { type Shape, sizeOf } from '../../tensor/index.ts';

// Measured: onnx-proto (protobufjs, static code) encodes a 2,000-node graph in 20 ms cold and 4 ms warm, initializers
// held as typed arrays. That is within budget, so there is no writer of our own.
const { onnx } = onnxProto;

/** Element types of values in an ONNX graph; int64 carries shapes and indices, float64 exact integer division. */
export type OnnxDType = 'float32' | 'int32' | 'bool' | 'int64' | 'uint32' | 'float64';

/** A value of the ONNX graph under construction. */
export interface Ref {
  readonly name: string;
  readonly dtype: OnnxDType;
  readonly shape: Shape;
}

/** Dtype and shape of a value to be made. */
export type RefSpec = Omit<Ref, 'name'>;

/** Attribute of an ONNX node. Whole numbers are integers; floats are wrapped with `float(x)`. */
export type OnnxAttr = number | string | readonly number[] | { readonly float: number };

/** A finished model. */
export interface FinishedModel {
  readonly bytes: Uint8Array;
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  /** Shapes that the outputs have in the model; the same elements in the same order as asked for. */
  readonly outputShapes: readonly Shape[];
  readonly nodes: number;
}

/** Marks an attribute as a float, whatever its value. */
export function float(value: number): OnnxAttr {
  return { float: value };
}

interface BuiltNode {
  readonly type: string;
  readonly domain: string;
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  readonly attrs: Readonly<Record<string, OnnxAttr>>;
  readonly label: string;
}

const CODES: Record<OnnxDType, number> = { float32: 1, int32: 6, int64: 7, bool: 9, float64: 11, uint32: 12 };

/** Operators that are ONNX Runtime's own rather than ONNX's. */
const CONTRIB = new Set(['FusedMatMul', 'FastGelu', 'BiasGelu', 'QuickGelu', 'FusedGemm']);

/**
 * Version of the standard operator set. 17 brought LayerNormalization, 18 reductions with axes as inputs and bitwise
 * operators, 20 Gelu.
 */
const OPSET = 20;

/** A dimension of an input that is known only when the session runs. */
export const ANY_SIZE = -1;

const IR_VERSION = 9;

/** Data of an initializer. */
export type ConstantData = Float32Array | Int32Array | Uint8Array | BigInt64Array | Uint32Array | Float64Array;

/**
 * Builds an ONNX graph. Identical nodes are made once, chains of transposes and of reshapes are merged, and nodes that
 * no output needs are dropped; none of these changes a bit of any result.
 */
export class OnnxBuilder {
  private readonly nodes: BuiltNode[] = [];
  private readonly known = new Map<string, readonly Ref[]>();
  private readonly initializers = new Map<string, { readonly ref: Ref; readonly data: ConstantData }>();
  private readonly constants = new Map<string, Ref>();
  private readonly inputs: Ref[] = [];
  /** For the result of a Transpose, what was transposed. */
  private readonly transposed = new Map<string, { readonly source: Ref; readonly perm: readonly number[] }>();
  private readonly reshaped = new Map<string, Ref>();
  private counter = 0;
  private label = '';

  /** Sets the name prefix of the nodes that follow: what profiles and ONNX Runtime's errors show. */
  at(label: string): void {
    this.label = label;
  }

  input(spec: RefSpec): Ref {
    const ref: Ref = { name: `i${this.inputs.length}`, ...spec };
    this.inputs.push(ref);
    return ref;
  }

  /** A constant. Small ones are made once per value. */
  constant(dtype: OnnxDType, shape: Shape, data: ConstantData): Ref {
    const key = data.length <= 16 ? constantKey(dtype, shape, data) : undefined;
    const same = key === undefined ? undefined : this.constants.get(key);
    if (same) return same;
    const ref: Ref = { name: `c${this.initializers.size}`, dtype, shape };
    this.initializers.set(ref.name, { ref, data });
    if (key !== undefined) this.constants.set(key, ref);
    return ref;
  }

  /** A float32 constant of shape `[]`, or of any other dtype. */
  scalar(value: number, dtype: OnnxDType = 'float32'): Ref {
    return this.constant(dtype, [], typedArray(dtype, [value]));
  }

  /** A rank-1 int64 constant, as shapes, axes and pads are given to ONNX operators. */
  ints(values: readonly number[]): Ref {
    return this.constant('int64', [values.length], BigInt64Array.from(values, BigInt));
  }

  /** A tensor filled with one value; big ones are made at run time rather than stored in the model. */
  full(spec: RefSpec, value: number): Ref {
    const size = sizeOf(spec.shape);
    if (size <= 256)
      return this.constant(spec.dtype, spec.shape, typedArray(spec.dtype, new Array<number>(size).fill(value)));
    return this.op('Expand', [this.scalar(value, spec.dtype), this.ints(spec.shape)], {}, spec);
  }

  /** A node with one output. */
  op(type: string, inputs: readonly (Ref | null)[], attrs: Readonly<Record<string, OnnxAttr>>, out: RefSpec): Ref {
    return this.ops(type, inputs, attrs, [out])[0] as Ref;
  }

  /** A node with several outputs. A null input is one left out. */
  ops(
    type: string,
    inputs: readonly (Ref | null)[],
    attrs: Readonly<Record<string, OnnxAttr>>,
    outs: readonly RefSpec[],
  ): readonly Ref[] {
    const names = inputs.map((ref) => ref?.name ?? '');
    const key = `${type}(${names})${JSON.stringify(attrs)}>${outs.length}`;
    const same = this.known.get(key);
    if (same) return same;
    const refs = outs.map((spec) => ({
      name: `v${this.counter++}`,
      dtype: spec.dtype,
      shape: spec.shape,
    }));
    this.nodes.push({
      type,
      domain: CONTRIB.has(type) ? 'com.microsoft' : '',
      inputs: names,
      outputs: refs.map((ref) => ref.name),
      attrs,
      label: `${this.label}/${this.nodes.length}`,
    });
    this.known.set(key, refs);
    return refs;
  }

  /** `Transpose`, merged with a transpose that made `x`; nothing at all when the order ends up unchanged. */
  transpose(x: Ref, perm: readonly number[]): Ref {
    const before = this.transposed.get(x.name);
    if (before)
      return this.transpose(
        before.source,
        perm.map((axis) => before.perm[axis] as number),
      );
    const shape = perm.map((axis) => x.shape[axis] as number);
    if (perm.every((axis, i) => axis === i)) return x;
    // Moving only dimensions of size 1 does not move data: a reshape is free where a transpose copies.
    const moved = perm.filter((axis) => x.shape[axis] !== 1);
    if (moved.every((axis, i) => i === 0 || axis > (moved[i - 1] as number))) return this.reshape(x, shape);
    const out = this.op('Transpose', [x], { perm: [...perm] }, { dtype: x.dtype, shape });
    this.transposed.set(out.name, { source: x, perm });
    return out;
  }

  /** `Reshape`, merged with a reshape that made `x`; `x` itself when the shape is the same. */
  reshape(x: Ref, shape: Shape): Ref {
    if (sameShape(x.shape, shape)) return x;
    const source = this.reshaped.get(x.name) ?? x;
    if (sameShape(source.shape, shape)) return source;
    const out = this.op('Reshape', [source, this.ints(shape)], sizeOf(shape) === 0 ? { allowzero: 1 } : {}, {
      dtype: x.dtype,
      shape,
    });
    this.reshaped.set(out.name, source);
    return out;
  }

  /** `Cast`, or `x` itself. */
  cast(x: Ref, dtype: OnnxDType): Ref {
    return x.dtype === dtype ? x : this.op('Cast', [x], { to: CODES[dtype] }, { dtype, shape: x.shape });
  }

  /**
   * Ends the graph and encodes it. An output that is an input, a constant or another output gets an Identity; all others
   * are written by the node that computes them. With `anyShape`, an output that is a reshaped value is that value, in its
   * own shape: ONNX Runtime would copy it for the sake of the shape.
   */
  finish(name: string, outputs: readonly Ref[], anyShape = false): FinishedModel {
    const finals = this.separate(anyShape ? outputs.map((ref) => this.reshaped.get(ref.name) ?? ref) : outputs);
    const live = this.liveNodes(finals);
    const used = new Set(live.flatMap((node) => [...node.inputs]));
    const model: Onnx.IModelProto = {
      irVersion: IR_VERSION,
      producerName: 'plexus',
      opsetImport: [
        { domain: '', version: OPSET },
        { domain: 'com.microsoft', version: 1 },
      ],
      graph: {
        name,
        node: live.map(encodeNode),
        input: this.inputs.map(encodeValue),
        output: finals.map(encodeValue),
        initializer: [...this.initializers.values()].filter(({ ref }) => used.has(ref.name)).map(encodeConstant),
      },
    };
    return {
      bytes: onnx.ModelProto.encode(model).finish(),
      inputs: this.inputs.map((ref) => ref.name),
      outputs: finals.map((ref) => ref.name),
      outputShapes: finals.map((ref) => ref.shape),
      nodes: live.length,
    };
  }

  /** Gives outputs that are no node's own, or another output's, a copy. */
  private separate(outputs: readonly Ref[]): Ref[] {
    const taken = new Set<string>([...this.inputs.map((ref) => ref.name), ...this.initializers.keys()]);
    return outputs.map((ref) => {
      if (!taken.has(ref.name)) {
        taken.add(ref.name);
        return ref;
      }
      const copy = { ...ref, name: `v${this.counter++}` };
      this.nodes.push({
        type: 'Identity',
        domain: '',
        inputs: [ref.name],
        outputs: [copy.name],
        attrs: {},
        label: `copy/${copy.name}`,
      });
      return copy;
    });
  }

  private liveNodes(outputs: readonly Ref[]): BuiltNode[] {
    const needed = new Set(outputs.map((ref) => ref.name));
    const live: BuiltNode[] = [];
    for (let i = this.nodes.length - 1; i >= 0; i--) {
      const node = this.nodes[i] as BuiltNode;
      if (!node.outputs.some((output) => needed.has(output))) continue;
      live.push(node);
      for (const input of node.inputs) needed.add(input);
    }
    return live.reverse();
  }
}

/** Typed array of the given ONNX dtype. */
export function typedArray(dtype: OnnxDType, values: readonly number[]): ConstantData {
  switch (dtype) {
    case 'float32':
      return Float32Array.from(values);
    case 'int32':
      return Int32Array.from(values);
    case 'bool':
      return Uint8Array.from(values);
    case 'uint32':
      return Uint32Array.from(values);
    case 'float64':
      return Float64Array.from(values);
    default:
      return BigInt64Array.from(values, (value) => BigInt(value));
  }
}

/** Whether two shapes are equal. */
export function sameShape(a: Shape, b: Shape): boolean {
  return a.length === b.length && a.every((dim, i) => dim === b[i]);
}

function encodeNode(node: BuiltNode): Onnx.INodeProto {
  return {
    opType: node.type,
    domain: node.domain,
    name: node.label,
    input: node.inputs as string[],
    output: node.outputs as string[],
    attribute: encodeAttributes(node.attrs),
  };
}

function encodeAttributes(attrs: Readonly<Record<string, OnnxAttr>>): Onnx.IAttributeProto[] {
  return Object.entries(attrs).map(([name, value]): Onnx.IAttributeProto => {
    if (typeof value === 'number') return { name, type: 2, i: value };
    if (typeof value === 'string') return { name, type: 3, s: new TextEncoder().encode(value) };
    if ('float' in value) return { name, type: 1, f: value.float };
    return { name, type: 7, ints: value as number[] };
  });
}

function encodeValue(ref: Ref): Onnx.IValueInfoProto {
  const dim = ref.shape.map((size, i) => (size === ANY_SIZE ? { dimParam: `n${i}` } : { dimValue: size }));
  return { name: ref.name, type: { tensorType: { elemType: CODES[ref.dtype], shape: { dim } } } };
}

function encodeConstant({ ref, data }: { readonly ref: Ref; readonly data: ConstantData }): Onnx.ITensorProto {
  const rawData = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  return { name: ref.name, dataType: CODES[ref.dtype], dims: [...ref.shape], rawData };
}

/** Tells constants apart by value; -0 and 0 are different. */
function constantKey(dtype: OnnxDType, shape: Shape, data: ConstantData): string {
  let key = `${dtype}[${shape}]:`;
  for (let i = 0; i < data.length; i++) key += Object.is(data[i], -0) ? '-0,' : `${data[i]},`;
  return key;
}
