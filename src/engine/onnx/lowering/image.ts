import { sizeOf } from '../../../tensor/index.ts';
import type { Ref } from '../model.ts';
import type { Lowering, LoweringContext, LoweringTable } from './context.ts';

const TO_NCHW = [0, 3, 1, 2];
const TO_NHWC = [0, 2, 3, 1];

/** Sizes that the lowerings of convolutions and pools share, whatever the data format. */
interface Geometry {
  readonly nhwc: boolean;
  readonly strides: readonly [number, number];
  readonly dilations: readonly [number, number];
  /** Rows above, columns to the left, rows below, columns to the right: the order of ONNX's `pads`. */
  readonly pads: readonly [number, number, number, number];
}

function geometry(c: LoweringContext): Geometry {
  const nhwc = c.text('dataFormat', 'NHWC') === 'NHWC';
  const pair = (name: string): [number, number] => {
    if (!c.has(name)) return [1, 1];
    const values = c.numbers(name);
    return [values[0] as number, (values[1] ?? values[0]) as number];
  };
  const pad = c.pairs('pad');
  const [rows, columns] = (nhwc ? [pad[1], pad[2]] : [pad[2], pad[3]]) as [[number, number], [number, number]];
  return {
    nhwc,
    strides: pair('strides'),
    dilations: pair('dilations'),
    pads: [rows[0], columns[0], rows[1], columns[1]],
  };
}

function toNchw(c: LoweringContext, x: Ref, g: Geometry): Ref {
  return g.nhwc ? c.b.transpose(x, TO_NCHW) : x;
}

function fromNchw(c: LoweringContext, x: Ref, g: Geometry): Ref {
  return g.nhwc ? c.b.transpose(x, TO_NHWC) : x;
}

function nchwShape(shape: readonly number[], g: Geometry): number[] {
  return g.nhwc ? TO_NCHW.map((axis) => shape[axis] as number) : [...shape];
}

function convAttrs(g: Geometry): { strides: number[]; dilations: number[]; pads: number[] } {
  return { strides: [...g.strides], dilations: [...g.dilations], pads: [...g.pads] };
}

/** tfjs's `[height, width, in, out]` as ONNX's `[out, in, height, width]`; depthwise as `[in * multiplier, 1, ...]`. */
function filterOihw(c: LoweringContext, filter: Ref, depthwise: boolean): Ref {
  if (!depthwise) return c.b.transpose(filter, [3, 2, 0, 1]);
  const [height, width, channels, multiplier] = filter.shape as [number, number, number, number];
  return c.b.reshape(c.b.transpose(filter, [2, 3, 0, 1]), [channels * multiplier, 1, height, width]);
}

function conv(depthwise: boolean): Lowering {
  return (c) => {
    const g = geometry(c);
    const x = toNchw(c, c.in(0), g);
    if (sizeOf(x.shape) === 0 || sizeOf(c.in(1).shape) === 0) return c.full(0);
    const group = depthwise ? (x.shape[1] as number) : 1;
    const filter = filterOihw(c, c.in(1), depthwise);
    const shape = nchwShape(c.out.shape, g);
    return fromNchw(c, c.b.op('Conv', [x, filter], { ...convAttrs(g), group }, { dtype: 'float32', shape }), g);
  };
}

/** A transposed convolution that gives exactly `shape` (NCHW); rows that the forward never read get zeros. */
function convTranspose(c: LoweringContext, g: Geometry, dy: Ref, filter: Ref, group: number, shape: number[]): Ref {
  const missing = [0, 1].map((i) => {
    const reach = ((dy.shape[2 + i] as number) - 1) * (g.strides[i] as number);
    const kernel = ((filter.shape[2 + i] as number) - 1) * (g.dilations[i] as number) + 1;
    return (shape[2 + i] as number) - (reach + kernel - (g.pads[i] as number) - (g.pads[2 + i] as number));
  });
  // ONNX wants output_padding below the stride; more than that is padded afterwards.
  const inside = missing.map((rows, i) => Math.min(rows, (g.strides[i] as number) - 1));
  const after = missing.map((rows, i) => rows - (inside[i] as number));
  const made = shape.map((dim, i) => (i < 2 ? dim : dim - (after[i - 2] as number)));
  const attrs = { ...convAttrs(g), group, output_padding: inside };
  const dx = c.b.op('ConvTranspose', [dy, filter], attrs, { dtype: 'float32', shape: made });
  if (after.every((rows) => rows === 0)) return dx;
  const pads = c.b.ints([0, 0, 0, 0, 0, 0, ...after]);
  return c.b.op('Pad', [dx, pads, c.k(0)], {}, { dtype: 'float32', shape });
}

function convInputGrad(depthwise: boolean): Lowering {
  return (c) => {
    const g = geometry(c);
    const dy = toNchw(c, c.in(0), g);
    if (sizeOf(dy.shape) === 0 || sizeOf(c.in(1).shape) === 0) return c.full(0);
    const shape = nchwShape(c.out.shape, g);
    const filter = filterOihw(c, c.in(1), depthwise);
    return fromNchw(c, convTranspose(c, g, dy, filter, depthwise ? (shape[1] as number) : 1, shape), g);
  };
}

/** The pixels of a padded NHWC image that one tap of the filter meets: `[batch, outHeight, outWidth, channels]`. */
function tap(
  c: LoweringContext,
  padded: Ref,
  g: Geometry,
  out: readonly [number, number],
  row: number,
  column: number,
): Ref {
  const [top, left] = [row * g.dilations[0], column * g.dilations[1]];
  const shape = [padded.shape[0] as number, out[0], out[1], padded.shape[3] as number];
  const ends = [top + (out[0] - 1) * g.strides[0] + 1, left + (out[1] - 1) * g.strides[1] + 1];
  const operands = [padded, c.b.ints([top, left]), c.b.ints(ends), c.b.ints([1, 2]), c.b.ints(g.strides)];
  return c.b.op('Slice', operands, {}, { dtype: 'float32', shape });
}

/**
 * Gradient by the filter: for each tap, (pixels it meets)^T dy. ONNX has no operator for it, and a Conv with batch and
 * channels exchanged would multiply matrices that are only as wide as the filter has taps.
 */
function convFilterGrad(c: LoweringContext): Ref {
  const { padded, dy, g, out } = tapOperands(c);
  const [height, width, channels, filters] = c.out.shape as [number, number, number, number];
  if (sizeOf(padded.shape) === 0 || sizeOf(dy.shape) === 0) return c.full(0);
  const rows = sizeOf(dy.shape) / filters;
  const cotangent = c.b.reshape(dy, [rows, filters]);
  const taps: Ref[] = [];
  for (let row = 0; row < height; row++)
    for (let column = 0; column < width; column++)
      taps.push(c.b.reshape(tap(c, padded, g, out, row, column), [rows, channels]));
  // Few channels make thin products: put the taps side by side then.
  const groups = channels >= 16 ? taps : [c.concat(taps, 1)];
  const parts = groups.map((pixels) => transposedProduct(c, pixels, cotangent));
  return c.b.reshape(c.concat(parts, 0), c.out.shape);
}

/** a^T b. */
function transposedProduct(c: LoweringContext, a: Ref, b: Ref): Ref {
  if (!c.onCpu) return c.matmul(c.b.transpose(a, [1, 0]), b);
  const shape = [a.shape[1] as number, b.shape[1] as number];
  return c.b.op('FusedMatMul', [a, b], { transA: 1 }, { dtype: 'float32', shape });
}

/** The padded input and the cotangent in NHWC, and the size of the cotangent's image. */
function tapOperands(c: LoweringContext): { padded: Ref; dy: Ref; g: Geometry; out: [number, number] } {
  const g = geometry(c);
  const nhwc = (x: Ref) => (g.nhwc ? x : c.b.transpose(x, TO_NHWC));
  const [x, dy] = [nhwc(c.in(0)), nhwc(c.in(1))];
  const [top, left, bottom, right] = g.pads;
  const [batch, height, width, channels] = x.shape as [number, number, number, number];
  const shape = [batch, height + top + bottom, width + left + right, channels];
  const padded =
    g.pads.every((pad) => pad === 0) || sizeOf(x.shape) === 0
      ? x
      : c.b.op('Pad', [x, c.b.ints([0, top, left, 0, 0, bottom, right, 0]), c.k(0)], {}, { dtype: 'float32', shape });
  return { padded, dy, g, out: [dy.shape[1] as number, dy.shape[2] as number] };
}

function depthwiseFilterGrad(c: LoweringContext): Ref {
  const { padded, dy, g, out } = tapOperands(c);
  const [height, width, channels, multiplier] = c.out.shape as [number, number, number, number];
  if (sizeOf(padded.shape) === 0 || sizeOf(dy.shape) === 0) return c.full(0);
  const rows = sizeOf(dy.shape) / (channels * multiplier);
  const cotangent = c.b.reshape(dy, [rows, channels, multiplier]);
  const parts: Ref[] = [];
  for (let row = 0; row < height; row++)
    for (let column = 0; column < width; column++) {
      const pixels = c.b.reshape(tap(c, padded, g, out, row, column), [rows, channels, 1]);
      parts.push(c.reduce('ReduceSum', c.map('Mul', pixels, cotangent), [0], true));
    }
  return c.b.reshape(c.concat(parts, 0), c.out.shape);
}

function poolAttrs(c: LoweringContext, g: Geometry): { kernel_shape: number[]; strides: number[]; pads: number[] } {
  return { kernel_shape: [...c.numbers('filterSize')], strides: [...g.strides], pads: [...g.pads] };
}

function pool(type: 'MaxPool' | 'AveragePool'): Lowering {
  return (c) => {
    const g = geometry(c);
    const shape = nchwShape(c.out.shape, g);
    return fromNchw(c, c.b.op(type, [toNchw(c, c.in(0), g)], poolAttrs(c, g), { dtype: 'float32', shape }), g);
  };
}

/** Each cotangent goes to the first maximum of its window; windows may overlap. */
function maxPoolGrad(c: LoweringContext): Ref {
  const g = geometry(c);
  const [dy, x] = [toNchw(c, c.in(0), g), toNchw(c, c.in(1), g)];
  if (sizeOf(dy.shape) === 0) return c.full(0);
  const [, places] = c.b.ops('MaxPool', [x], poolAttrs(c, g), [
    { dtype: 'float32', shape: dy.shape },
    { dtype: 'int64', shape: dy.shape },
  ]) as [Ref, Ref];
  const n = sizeOf(dy.shape);
  const spec = { dtype: 'float32' as const, shape: [sizeOf(x.shape)] };
  const operands = [c.full(0, spec), c.b.reshape(places, [n]), c.b.reshape(dy, [n])];
  const dx = c.b.op('ScatterElements', operands, { axis: 0, reduction: 'add' }, spec);
  return fromNchw(c, c.b.reshape(dx, x.shape), g);
}

/**
 * Each cotangent is shared by all places of its window, as in tfjs. (Where padding was not counted, the trace has scaled
 * the cotangent up.)
 */
function avgPoolGrad(c: LoweringContext): Ref {
  const g = geometry(c);
  const dy = toNchw(c, c.in(0), g);
  if (sizeOf(dy.shape) === 0) return c.full(0);
  const shape = nchwShape(c.out.shape, g);
  const channels = shape[1] as number;
  const [height, width] = c.numbers('filterSize') as [number, number];
  const weights = c.full(1 / (height * width), { dtype: 'float32', shape: [channels, 1, height, width] });
  return fromNchw(c, convTranspose(c, g, dy, weights, channels, shape), g);
}

/** Convolutions and pools: NHWC in tfjs, NCHW in ONNX. */
export const images: LoweringTable = {
  Conv2D: conv(false),
  DepthwiseConv2dNative: conv(true),
  Conv2DBackpropInput: convInputGrad(false),
  DepthwiseConv2dNativeBackpropInput: convInputGrad(true),
  Conv2DBackpropFilter: convFilterGrad,
  DepthwiseConv2dNativeBackpropFilter: depthwiseFilterGrad,
  MaxPool: pool('MaxPool'),
  AvgPool: pool('AveragePool'),
  MaxPoolGrad: maxPoolGrad,
  AvgPoolGrad: avgPoolGrad,
};
