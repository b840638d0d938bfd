import { sizeOf } from '../../../tensor/index.ts';
import type { Ref } from '../model.ts';
import type { Lowering, LoweringContext, LoweringTable } from './context.ts';

const TO_NCHW = [0, 3, 1, 2];
const TO_NHWC = [0, 2, 3, 1];
/** From NHWC. */
const CHANNELS_FIRST = [3, 0, 1, 2];
/** Below it the gradient by a filter is a convolution. */
const FEW_CHANNELS = 16;
/** Places of a window that are compared one after another at most. */
const MOST_COMPARED = 9;

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
    const operands = [x, filter, ...c.inputs.slice(2)];
    return fromNchw(c, c.b.op('Conv', operands, { ...convAttrs(g), group }, { dtype: 'float32', shape }), g);
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

/**
 * What each tap of a filter meets of a padded image, tap by tap along rows; the image's rows and columns are its axes `axis` and
 * `axis + 1`, and become those of the output. Columns are cut first: only that takes the image apart into short runs.
 */
function taps(
  c: LoweringContext,
  padded: Ref,
  axis: number,
  [height, width]: readonly [number, number],
  { g, out }: Pick<TapOperands, 'g' | 'out'>,
): Ref[] {
  const cut = (x: Ref, side: 0 | 1, tap: number) =>
    c.slice(x, axis + side, tap * g.dilations[side], out[side], g.strides[side]);
  const columns = Array.from({ length: width }, (_, column) => cut(padded, 1, column));
  return Array.from({ length: height }, (_, row) => columns.map((pixels) => cut(pixels, 0, row))).flat();
}

/**
 * Gradient by the filter, for which ONNX has no operator: for each tap, (pixels it meets)^T dy, channels first, so that what a tap
 * meets lies one pixel behind the other. Few channels make thin products, which ONNX Runtime's CPU kernels are slow at.
 */
function convFilterGrad(c: LoweringContext): Ref {
  const operands = tapOperands(c);
  const [height, width, channels, filters] = c.out.shape as [number, number, number, number];
  if (sizeOf(operands.padded.shape) === 0 || sizeOf(operands.dy.shape) === 0) return c.full(0);
  const image = c.b.transpose(operands.padded, CHANNELS_FIRST);
  if (c.onCpu && channels < FEW_CHANNELS) return exchangedConv(c, image, operands);
  const rows = sizeOf(operands.dy.shape) / filters;
  const cotangent = c.b.reshape(operands.dy, [rows, filters]);
  const parts = taps(c, image, 2, [height, width], operands).map((pixels) =>
    c.matmul(c.b.reshape(pixels, [channels, rows]), cotangent),
  );
  return c.b.reshape(c.concat(parts, 0), c.out.shape);
}

/** The gradient by the filter as a convolution of the image with the cotangent, batch and channels exchanged in both. */
function exchangedConv(c: LoweringContext, image: Ref, { dy, g }: TapOperands): Ref {
  const filter = c.b.transpose(dy, CHANNELS_FIRST);
  const size = [0, 1].map((side) => {
    const reach = ((filter.shape[2 + side] as number) - 1) * (g.strides[side] as number) + 1;
    return Math.floor(((image.shape[2 + side] as number) - reach) / (g.dilations[side] as number)) + 1;
  });
  const shape = [image.shape[0] as number, filter.shape[0] as number, ...size];
  const attrs = { strides: [...g.dilations], dilations: [...g.strides] };
  const all = c.b.op('Conv', [image, filter], attrs, { dtype: 'float32', shape });
  // Strides leave out rows at the end, which make taps that the filter does not have.
  const [height, width] = c.out.shape as [number, number];
  return c.b.transpose(c.slice(c.slice(all, 2, 0, height), 3, 0, width), [2, 3, 0, 1]);
}

/** What the gradients by a filter are made of. */
interface TapOperands {
  /** The padded input in NHWC. */
  readonly padded: Ref;
  /** The cotangent in NHWC, and the size of its image. */
  readonly dy: Ref;
  readonly out: readonly [number, number];
  readonly g: Geometry;
}

function tapOperands(c: LoweringContext): TapOperands {
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
  const operands = tapOperands(c);
  const [height, width, channels, multiplier] = c.out.shape as [number, number, number, number];
  if (sizeOf(operands.padded.shape) === 0 || sizeOf(operands.dy.shape) === 0) return c.full(0);
  const rows = sizeOf(operands.dy.shape) / (channels * multiplier);
  const cotangent = c.b.reshape(operands.dy, [rows, channels, multiplier]);
  const parts = taps(c, operands.padded, 1, [height, width], operands).map((each) => {
    const products = c.map('Mul', c.b.reshape(each, [rows, channels, 1]), cotangent);
    return c.reduce('ReduceSum', products, [0], true);
  });
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

/** Each cotangent goes to the first maximum of its window. */
function maxPoolGrad(c: LoweringContext): Ref {
  const g = geometry(c);
  if (sizeOf(c.in(0).shape) === 0) return c.full(0);
  const [height, width] = c.numbers('filterSize') as [number, number];
  const tiled = g.strides[0] === height && g.strides[1] === width && g.pads.every((pad) => pad === 0);
  if (tiled && height * width <= MOST_COMPARED) return comparedMaxima(c, [height, width]);
  const [dy, x] = [toNchw(c, c.in(0), g), toNchw(c, c.in(1), g)];
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
 * The gradient of windows that lie side by side: place by place of the window, what equals the maximum takes the cotangent, and
 * leaves nothing for those after it. Places of maxima cost ONNX Runtime's MaxPool ten times its maxima, and scattering as much again.
 */
function comparedMaxima(c: LoweringContext, [height, width]: readonly [number, number]): Ref {
  const [dy, x, y] = [c.in(0), c.in(1), c.in(2)];
  const [batch, rows, columns, channels] = dy.shape as [number, number, number, number];
  const places: Ref[] = [];
  let left = dy;
  for (let row = 0; row < height; row++) {
    const pixels = c.slice(x, 1, row, rows, height);
    for (let column = 0; column < width; column++) {
      const last = places.length === height * width - 1;
      const equal = () => c.compare('Equal', c.slice(pixels, 2, column, columns, width), y);
      const taken = last ? left : c.where(equal(), left, c.k(0));
      if (!last) left = c.map('Sub', left, taken);
      places.push(taken);
    }
  }
  const lines = Array.from({ length: height }, (_, row) =>
    c.b.reshape(c.concat(places.slice(row * width, (row + 1) * width), 3), [
      batch,
      rows,
      1,
      columns * width * channels,
    ]),
  );
  const tiles = c.b.reshape(c.concat(lines, 2), [batch, rows * height, columns * width, channels]);
  const outside = [1, 2].map((axis) => (x.shape[axis] as number) - (tiles.shape[axis] as number));
  if (outside.every((size) => size === 0)) return tiles;
  const pads = c.b.ints([0, 0, 0, 0, 0, ...outside, 0]);
  return c.b.op('Pad', [tiles, pads, c.k(0)], {}, { dtype: 'float32', shape: x.shape });
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
  PlexusConv2D: conv(false),
  DepthwiseConv2dNative: conv(true),
  PlexusDepthwiseConv2D: conv(true),
  Conv2DBackpropInput: convInputGrad(false),
  DepthwiseConv2dNativeBackpropInput: convInputGrad(true),
  Conv2DBackpropFilter: convFilterGrad,
  DepthwiseConv2dNativeBackpropFilter: depthwiseFilterGrad,
  MaxPool: pool('MaxPool'),
  AvgPool: pool('AveragePool'),
  MaxPoolGrad: maxPoolGrad,
  AvgPoolGrad: avgPoolGrad,
};
