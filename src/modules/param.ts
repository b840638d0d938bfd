import type { HostTensor, Shape } from '../tensor/index.ts';
import { createRng, float32, pathsInOrder, sizeOf } from '../tensor/index.ts';
import type { Named } from './layer-function.ts';
import type { Initializer, ParamSpec, StateSpec } from './module.ts';

/**
 * Declares a trainable float32 parameter. Weight decay applies to it if `decay` says so; by default to tensors of two
 * or more dimensions, and not to biases and gains.
 * @throws RangeError on a shape with a dimension that is not a positive integer.
 */
export function param(shape: Shape, init: Initializer, options: { readonly decay?: boolean } = {}): ParamSpec {
  const bad = shape.find((dim) => !(Number.isInteger(dim) && dim > 0));
  if (bad !== undefined)
    throw new RangeError(
      `a parameter of shape [${shape}] has a dimension ${bad}; dimensions must be positive integers`,
    );
  return { shape, init, decay: options.decay ?? shape.length >= 2 };
}

/**
 * Draws the initial values of parameters. Each depends only on the seed and its path, so any rank draws any subset and
 * gets the same bits.
 * @throws RangeError if an initializer returns another number of values than the shape has.
 */
export function initParams(specs: readonly Named<ParamSpec>[], seed: number): Record<string, HostTensor> {
  const root = createRng(seed);
  const byPath = new Map(specs.map((named) => [named.path, named.spec]));
  const out: Record<string, HostTensor> = {};
  for (const path of pathsInOrder(byPath.keys())) {
    const spec = byPath.get(path) as ParamSpec;
    const data = spec.init(root.fork('param', path), spec.shape);
    if (data.length !== sizeOf(spec.shape))
      throw new RangeError(
        `the initializer of "${path}" returned ${data.length} values for shape [${spec.shape}], which has ${sizeOf(spec.shape)}`,
      );
    out[path] = float32(data, spec.shape);
  }
  return out;
}

/** Initial values of state tensors by path; what is drawn depends only on the seed and the path. */
export function initState(specs: readonly Named<StateSpec>[], seed: number): Record<string, HostTensor> {
  const root = createRng(seed);
  const first = ({ path, spec: { init, shape } }: Named<StateSpec>): Float32Array =>
    typeof init === 'number' ? new Float32Array(sizeOf(shape)).fill(init) : init(root.fork('state', path), shape);
  return Object.fromEntries(specs.map((named) => [named.path, float32(first(named), named.spec.shape)]));
}
