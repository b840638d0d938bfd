import type { Tensor } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import type { Module } from '../module.ts';

/** Modules by name, or in a list, where the position is the name. */
export type Children = readonly Module[] | Readonly<Record<string, Module>>;

/** Runs modules one after another; each takes all outputs of the one before. */
export function sequential(children: Children): Module {
  const named = byName(children);
  return {
    kind: 'sequential',
    children: named,
    forward: (_params, inputs, ctx) =>
      Object.keys(named).reduce<readonly Tensor[]>((values, name) => ctx.runAll(name, values), inputs),
  };
}

/** `x + module(x)`, the module at child `body`. */
export function residual(body: Module): Module {
  return {
    kind: 'residual',
    children: { body },
    forward(_params, [x], ctx) {
      const y = ctx.run('body', x);
      if (String(y.shape) !== String(x?.shape))
        throw new Error(`the body maps [${x?.shape}] to [${y.shape}], but a residual needs equal shapes`);
      return tf.add(x, y);
    },
  };
}

/** Gives every module the same inputs and adds their outputs, or joins them along the last axis. */
export function parallel(children: Children, combine: 'sum' | 'concat'): Module {
  const named = byName(children);
  return {
    kind: 'parallel',
    children: named,
    forward(_params, inputs, ctx) {
      const outputs = Object.keys(named).map((name) => ctx.run(name, ...inputs));
      const first = outputs[0];
      if (!first) throw new Error('parallel needs at least one child');
      return combine === 'sum' ? outputs.reduce((sum, y) => tf.add(sum, y)) : tf.concat(outputs, first.rank - 1);
    },
  };
}

/** `times` modules made by `make`, one after another, named by their number. */
export function repeat(times: number, make: (index: number) => Module): Module {
  return sequential(Array.from({ length: times }, (_, i) => make(i)));
}

function byName(children: Children): Record<string, Module> {
  return Array.isArray(children)
    ? Object.fromEntries((children as readonly Module[]).map((module, i) => [String(i), module]))
    : { ...(children as Readonly<Record<string, Module>>) };
}
