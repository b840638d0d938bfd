import { layerNorm as layerNormOp, rmsNorm as rmsNormOp } from '../../engine/index.ts';
import * as init from '../init.ts';
import type { Module } from '../module.ts';
import { param } from '../param.ts';
import { lastAxis } from './linear.ts';

/** Layer normalisation over the last axis (Ba et al. 2016): `[..., dim]` → the same. */
export function layerNorm(dim: number, options: { readonly eps?: number } = {}): Module {
  const { eps = 1e-5 } = options;
  return {
    kind: 'layerNorm',
    params: { gain: param([dim], init.ones), bias: param([dim], init.zeros) },
    forward: ({ gain, bias }, [x]) => layerNormOp(lastAxis(x, dim), gain, bias, eps),
  };
}

/** Root-mean-square normalisation over the last axis (Zhang and Sennrich 2019): `[..., dim]` → the same. */
export function rmsNorm(dim: number, options: { readonly eps?: number } = {}): Module {
  const { eps = 1e-6 } = options;
  return {
    kind: 'rmsNorm',
    params: { gain: param([dim], init.ones) },
    forward: ({ gain }, [x]) => rmsNormOp(lastAxis(x, dim), gain, eps),
  };
}

/** The norm called `layer` or `rms`. */
export function normOf(name: 'layer' | 'rms', dim: number): Module {
  return name === 'layer' ? layerNorm(dim) : rmsNorm(dim);
}
