import * as z from 'zod';
import { sizeOf } from '../../tensor/index.ts';
import type { Layer, Module } from '../module.ts';
import { sequential } from '../nn/combinators.ts';
import { linear } from '../nn/linear.ts';
import { flatten } from '../nn/pool.ts';
import { constantCurrent, firingRate, leakyIntegrateAndFire } from '../nn/spiking.ts';
import { valuesTask, zooEntry } from './entry.ts';
import { outputOf } from './mlp.ts';

const schema = z.strictObject({
  hidden: z.array(z.number().int().positive()).min(1).default([128]).describe('Neurons of each hidden layer'),
  steps: z.number().int().positive().default(4).describe('Time steps; the input is the same current at each'),
  decay: z.number().min(0).lt(1).default(0.5).describe("What is left of a membrane's potential after a time step"),
  threshold: z.number().positive().default(1).describe('Potential from which on a neuron fires'),
  steepness: z.number().positive().default(4).describe('Of the sigmoid whose slope stands for that of a spike'),
});

/** Layers of leaky integrate-and-fire neurons, and a linear layer that reads the last one's firing rates. */
export const spikingMlp = zooEntry({
  name: 'spiking-mlp',
  summary: 'spiking multilayer perceptron for classification or regression',
  schema,
  build({ hidden, steps, ...neurons }, info) {
    let width = sizeOf(valuesTask('spiking-mlp', info));
    const { outputs, loss } = outputOf('spiking-mlp', info);
    const layers = hidden.map((size, i): Layer => {
      const parts: Record<string, Module> = {
        ...(i === 0 ? { flatten: flatten(), current: constantCurrent(steps) } : {}),
        neurons: leakyIntegrateAndFire(width, size, neurons),
      };
      width = size;
      return { name: `hidden.${i}`, module: sequential(parts) };
    });
    const head = sequential({ rate: firingRate(), linear: linear(width, outputs) });
    return { model: { layers: [...layers, { name: 'head', module: head }], loss }, warnings: [] };
  },
});
