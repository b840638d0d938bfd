import * as z from 'zod';
import { sizeOf } from '../../tensor/index.ts';
import * as init from '../init.ts';
import type { Layer } from '../module.ts';
import { activation } from '../nn/activation.ts';
import { residual, sequential } from '../nn/combinators.ts';
import { linear } from '../nn/linear.ts';
import { mlp } from '../nn/mlp.ts';
import { moe } from '../nn/moe.ts';
import { layerNorm } from '../nn/norm.ts';
import { flatten } from '../nn/pool.ts';
import { valuesTask, zooEntry } from './entry.ts';
import { outputOf } from './mlp.ts';

const count = () => z.number().int().positive();

const schema = z.strictObject({
  dim: count().default(64).describe('Width between the mixtures'),
  mixtures: count().default(1).describe('Number of mixtures, one after another'),
  experts: count().default(8).describe('Experts of each mixture'),
  top_k: count().default(1).describe('Experts of each example'),
  hidden: count().default(64).describe('Hidden width of an expert'),
  balance_loss: z.number().nonnegative().default(0.01).describe('Coefficient of the load-balancing loss; 0: none'),
  z_loss: z.number().nonnegative().default(0).describe('Coefficient of the router z-loss; 0: none'),
  count: z.boolean().default(true).describe('Count the rows of each expert, as scheduler fedmoe needs it'),
});

/** A perceptron with mixtures of experts in the middle: `x + moe(norm(x))` each. */
export const moeMlp = zooEntry({
  name: 'moe-mlp',
  summary: 'multilayer perceptron with mixtures of experts, for classification or regression',
  schema,
  build(args, info) {
    const width = sizeOf(valuesTask('moe-mlp', info));
    const { outputs, loss } = outputOf('moe-mlp', info);
    if (args.top_k > args.experts)
      throw new Error(`model moe-mlp: top_k is ${args.top_k}, but there are ${args.experts} experts; lower it`);
    const embed = sequential({
      flatten: flatten(),
      linear: linear(width, args.dim, { init: init.kaimingNormal() }),
      activation: activation('relu'),
    });
    const mixture = () =>
      moe({
        dim: args.dim,
        experts: Array.from({ length: args.experts }, () => mlp(args.dim, args.hidden, { activation: 'relu' })),
        topK: args.top_k,
        balanceLoss: args.balance_loss,
        zLoss: args.z_loss,
        count: args.count,
      });
    const layers: Layer[] = [
      { name: 'embed', module: embed },
      ...Array.from({ length: args.mixtures }, (_, i) => ({
        name: `blocks.${i}`,
        module: residual(sequential({ norm: layerNorm(args.dim), moe: mixture() })),
      })),
      { name: 'head', module: sequential({ linear: linear(args.dim, outputs) }) },
    ];
    return { model: { layers, loss }, warnings: [] };
  },
});
