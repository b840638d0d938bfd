import * as z from 'zod';
import { sizeOf } from '../../tensor/index.ts';
import * as init from '../init.ts';
import type { Layer, Module, TaskInfo } from '../module.ts';
import { activation } from '../nn/activation.ts';
import { sequential } from '../nn/combinators.ts';
import { dropout } from '../nn/dropout.ts';
import { type LinearOptions, linear } from '../nn/linear.ts';
import { crossEntropy, meanSquaredError } from '../nn/loss.ts';
import { flatten } from '../nn/pool.ts';
import { valuesTask, zooEntry } from './entry.ts';
import { classifierHead, headSchema } from './head.ts';

const schema = z.strictObject({
  hidden: z.array(z.number().int().positive()).default([128]).describe('Width of each hidden layer'),
  activation: z
    .enum(['relu', 'gelu', 'gelu-tanh', 'silu', 'tanh'])
    .default('relu')
    .describe('Non-linearity after each'),
  dropout: z.number().min(0).lt(1).default(0).describe('Dropout after each hidden layer'),
  init: z
    .enum(['he', 'pytorch'])
    .default('he')
    .describe(
      "Initial weights: he is normal for relu; pytorch is nn.Linear's default, uniform within 1 / sqrt(inputs)",
    ),
  head: headSchema,
});

/** A multilayer perceptron: classes by cross-entropy where the task has them, else regression by squared error. */
export const mlpModel = zooEntry({
  name: 'mlp',
  summary: 'multilayer perceptron for classification or regression',
  schema,
  build(args, info) {
    let width = sizeOf(valuesTask('mlp', info));
    const { outputs, loss } = outputOf('mlp', info);
    const hidden = args.hidden.map((size, i): Layer => {
      const parts: Record<string, Module> = {
        ...(i === 0 ? { flatten: flatten() } : {}),
        linear: linear(width, size, args.init === 'he' ? { init: init.kaimingNormal() } : likePyTorch(width)),
        activation: activation(args.activation),
        ...(args.dropout > 0 ? { dropout: dropout(args.dropout) } : {}),
      };
      width = size;
      return { name: `hidden.${i}`, module: sequential(parts) };
    });
    const options = args.init === 'he' ? {} : likePyTorch(width);
    const last = classifierHead('mlp', args.head, { inputs: width, outputs }, info, options);
    const head = { [args.head.kind]: last };
    const layers = [
      ...hidden,
      { name: 'head', module: sequential(hidden.length === 0 ? { flatten: flatten(), ...head } : head) },
    ];
    return { model: { layers, loss }, warnings: [] };
  },
});

/** Weights and biases uniform within 1 / sqrt(inputs). */
function likePyTorch(inputs: number): LinearOptions {
  return { biasInit: init.uniform(1 / Math.sqrt(inputs)) };
}

/** How many outputs a task needs and by which loss. @throws Error if it has neither classes nor one vector of targets. */
export function outputOf(name: string, info: TaskInfo): { readonly outputs: number; readonly loss: Module } {
  const target = info.targets[0];
  if (info.classes !== undefined) return { outputs: info.classes, loss: crossEntropy() };
  if (info.targets.length === 1 && target?.dtype === 'float32' && target.shape.length === 1)
    return { outputs: target.shape[0] as number, loss: meanSquaredError() };
  throw new Error(
    `model ${name} needs a dataset with classes or one float32 target [size], not ` +
      `${info.targets.map((t) => `${t.dtype} [${t.shape}]`).join(', ') || 'none'}`,
  );
}
