import * as tf from '@tensorflow/tfjs-core';
import * as z from 'zod';
import type { Layer, Module } from '../module.ts';
import { activation } from '../nn/activation.ts';
import { batchNorm } from '../nn/batch-norm.ts';
import { sequential } from '../nn/combinators.ts';
import { conv2d } from '../nn/conv.ts';
import { dropout } from '../nn/dropout.ts';
import { linear } from '../nn/linear.ts';
import { flatten, globalAvgPool, maxPool2d } from '../nn/pool.ts';
import { valuesTask, zooEntry } from './entry.ts';
import { classifierHead, headSchema } from './head.ts';
import { outputOf } from './mlp.ts';

const schema = z.strictObject({
  channels: z
    .array(z.number().int().positive())
    .min(1)
    .default([32, 64])
    .describe('Channels of each convolution block'),
  kernel: z.number().int().positive().default(3).describe('Taps of the convolutions along each axis'),
  norm: z.enum(['batch', 'none']).default('none').describe('Normalisation after each convolution'),
  pool: z.enum(['flatten', 'average']).default('flatten').describe('How the last map becomes a vector'),
  hidden: z
    .number()
    .int()
    .positive()
    .nullable()
    .default(128)
    .describe('Width of the layer before the output; null: none'),
  dropout: z.number().min(0).lt(1).default(0).describe('Dropout before the output'),
  head: headSchema,
});

/** A small convolutional network: blocks of convolution, relu and 2×2 max pooling, then one or two linear layers. */
export const cnn = zooEntry({
  name: 'cnn',
  summary: 'small convolutional network for images',
  schema,
  build(args, info) {
    const shape = valuesTask('cnn', info);
    if (shape.length !== 2 && shape.length !== 3)
      throw new Error(`model cnn needs images [height, width] or [height, width, channels], not [${shape}]`);
    let [height, width, channels] = [shape[0] as number, shape[1] as number, shape[2] ?? 1];
    const { outputs, loss } = outputOf('cnn', info);
    const blocks = args.channels.map((size, i): Layer => {
      if (Math.min(height, width) < 2)
        throw new Error(
          `model cnn: ${args.channels.length} blocks halve images of ${shape[0]}×${shape[1]} to nothing; use fewer`,
        );
      const parts: Record<string, Module> = {
        ...(i === 0 && shape.length === 2 ? { channel: addChannel() } : {}),
        conv: conv2d(channels, size, { kernel: args.kernel, bias: args.norm === 'none' }),
        ...(args.norm === 'batch' ? { norm: batchNorm(size) } : {}),
        relu: activation('relu'),
        pool: maxPool2d(),
      };
      [height, width, channels] = [Math.floor(height / 2), Math.floor(width / 2), size];
      return { name: `blocks.${i}`, module: sequential(parts) };
    });
    const features = args.pool === 'flatten' ? height * width * channels : channels;
    const head: Record<string, Module> = {
      pool: args.pool === 'flatten' ? flatten() : globalAvgPool(),
      ...(args.hidden === null ? {} : { hidden: linear(features, args.hidden), relu: activation('relu') }),
      ...(args.dropout > 0 ? { dropout: dropout(args.dropout) } : {}),
      [args.head.kind]: classifierHead('cnn', args.head, { inputs: args.hidden ?? features, outputs }, info),
    };
    return { model: { layers: [...blocks, { name: 'head', module: sequential(head) }], loss }, warnings: [] };
  },
});

function addChannel(): Module {
  return { kind: 'addChannel', forward: (_params, [x]) => tf.expandDims(x, -1) };
}
