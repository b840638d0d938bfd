import * as z from 'zod';
import * as init from '../init.ts';
import type { Layer, Module } from '../module.ts';
import { attention } from '../nn/attention.ts';
import { sequential } from '../nn/combinators.ts';
import { dropout } from '../nn/dropout.ts';
import { embedding, learnedPositions } from '../nn/embedding.ts';
import { EXPERT_CHOICE_WARNING, expertChoice } from '../nn/expert-choice.ts';
import { linear } from '../nn/linear.ts';
import { crossEntropy } from '../nn/loss.ts';
import { mlp, swiglu } from '../nn/mlp.ts';
import { moe } from '../nn/moe.ts';
import { normOf } from '../nn/norm.ts';
import { transformerBlock } from '../nn/transformer-block.ts';
import { textTask, zooEntry } from './entry.ts';

const count = () => z.number().int().positive();

const moeSchema = z.strictObject({
  experts: count().default(4).describe('Number of experts of each mixture'),
  top_k: count().default(2).describe('Experts of each token'),
  every: count()
    .default(2)
    .describe('Every n-th block is a mixture: with 2 blocks 1, 3, 5, ...; ignored if `layers` is given'),
  layers: z
    .array(z.number().int().nonnegative())
    .nullable()
    .default(null)
    .describe('Numbers of the blocks that are mixtures'),
  hidden: count().nullable().default(null).describe('Hidden width of an expert; null: as ffn.hidden'),
  shared: count().nullable().default(null).describe('Hidden width of an expert that every token takes; null: none'),
  routing: z
    .enum(['token', 'expert'])
    .default('token')
    .describe('Who chooses: tokens their experts, or experts their tokens'),
  scores: z.enum(['softmax', 'sigmoid']).default('softmax').describe('How router logits become scores'),
  normalise: z.boolean().nullable().default(null).describe("Divide a token's gates by their sum; null: if top_k > 1"),
  route_scale: z.number().positive().default(1).describe('Factor of the gates'),
  balance_loss: z.number().nonnegative().default(0.01).describe('Coefficient of the load-balancing loss; 0: none'),
  z_loss: z.number().nonnegative().default(0.001).describe('Coefficient of the router z-loss; 0: none'),
  bias_rate: z
    .number()
    .nonnegative()
    .default(0)
    .describe('Step of the bias that evens the load without a loss; 0: none'),
  capacity_factor: z
    .number()
    .positive()
    .nullable()
    .default(null)
    .describe('Rows of an expert at most, in even shares; null: dropless'),
  drop_policy: z
    .enum(['position', 'probs'])
    .default('position')
    .describe('What a full expert drops: later tokens, or lower scores'),
  count: z.boolean().default(false).describe('Count the rows of each expert, as scheduler fedmoe needs it'),
});

const schema = z.strictObject({
  layers: count().default(4).describe('Number of transformer blocks'),
  dim: count().default(128).describe('Width of the residual stream'),
  heads: count().default(4).describe('Attention heads'),
  kv_heads: count().nullable().default(null).describe('Heads of keys and values (grouped queries); null: as heads'),
  ffn: z
    .strictObject({
      kind: z.enum(['mlp', 'swiglu']).default('mlp').describe('Feed-forward part of a block'),
      hidden: count().nullable().default(null).describe('Its hidden width; null: 4 dim for mlp, 8/3 dim for swiglu'),
      activation: z.enum(['gelu', 'gelu-tanh', 'relu', 'silu']).default('gelu').describe('Non-linearity of mlp'),
    })
    .prefault({}),
  moe: moeSchema.nullable().default(null).describe('Mixtures of experts in place of feed-forward parts; null: none'),
  positions: z.enum(['rotary', 'learned', 'none']).default('rotary').describe('How the model knows positions'),
  rotary_base: z.number().positive().default(10_000).describe('Base of the rotary periods'),
  norm: z.enum(['layer', 'rms']).default('layer').describe('Normalisation before each part'),
  bias: z.boolean().default(false).describe('Biases in linear maps'),
  dropout: z.number().min(0).lt(1).default(0).describe('Dropout of embeddings and of what each part adds'),
});

type Args = z.output<typeof schema>;

/** A decoder-only, pre-norm transformer over tokens (GPT-2 2019, with the options of its successors), dense or with experts. */
export const transformerLm = zooEntry({
  name: 'transformer-lm',
  summary: 'decoder-only transformer language model, dense or mixture of experts',
  schema,
  build(args, info) {
    const { length, vocab } = textTask('transformer-lm', info);
    const mixtures = mixtureBlocks(args);
    const embed = [
      ['tokens', embedding(vocab, args.dim)],
      ...(args.positions === 'learned' ? [['positions', learnedPositions(length, args.dim)] as const] : []),
      ...(args.dropout > 0 ? [['dropout', dropout(args.dropout)] as const] : []),
    ] as const;
    const layers: Layer[] = [
      { name: 'embed', module: sequential(Object.fromEntries(embed)) },
      ...Array.from({ length: args.layers }, (_, i) => ({ name: `blocks.${i}`, module: block(args, mixtures.has(i)) })),
      {
        name: 'head',
        module: sequential({
          norm: normOf(args.norm, args.dim),
          proj: linear(args.dim, vocab, { bias: args.bias, init: init.normal(0.02) }),
        }),
      },
    ];
    const warnings =
      args.moe?.routing === 'expert' && mixtures.size > 0 ? [`model transformer-lm: ${EXPERT_CHOICE_WARNING}`] : [];
    return { model: { layers, loss: crossEntropy({ accuracy: 'evaluation' }) }, warnings };
  },
});

function mixtureBlocks(args: Args): Set<number> {
  if (!args.moe) return new Set();
  const { layers, every } = args.moe;
  const wrong = layers?.find((i) => i >= args.layers);
  if (wrong !== undefined)
    throw new Error(`model transformer-lm: moe.layers names block ${wrong}, but blocks are 0 to ${args.layers - 1}`);
  const numbers = layers ?? Array.from({ length: args.layers }, (_, i) => i).filter((i) => (i + 1) % every === 0);
  if (numbers.length === 0)
    throw new Error(
      `model transformer-lm: moe.every ${every} with ${args.layers} blocks makes no mixture; lower it or set moe.layers`,
    );
  return new Set(numbers);
}

function block(args: Args, mixture: boolean): Module {
  // GPT-2's scheme: what adds to the residual stream starts smaller the deeper the model is.
  const scaled = { init: init.normal(0.02), outInit: init.normal(0.02 / Math.sqrt(2 * args.layers)), bias: args.bias };
  const hidden = args.ffn.hidden ?? (args.ffn.kind === 'mlp' ? 4 * args.dim : 16 * Math.ceil(args.dim / 6));
  const feedForward = (width: number) =>
    args.ffn.kind === 'swiglu'
      ? swiglu(args.dim, width, scaled)
      : mlp(args.dim, width, { ...scaled, activation: args.ffn.activation });
  return transformerBlock({
    attention: attention({
      ...scaled,
      dim: args.dim,
      heads: args.heads,
      kvHeads: args.kv_heads ?? args.heads,
      rotary: args.positions === 'rotary' && { base: args.rotary_base },
    }),
    feedForward: mixture ? mixtureOf(args, hidden, feedForward) : feedForward(hidden),
    norm: () => normOf(args.norm, args.dim),
    dropout: args.dropout,
  });
}

function mixtureOf(args: Args, hidden: number, feedForward: (width: number) => Module): Module {
  const options = args.moe as NonNullable<Args['moe']>;
  const experts = Array.from({ length: options.experts }, () => feedForward(options.hidden ?? hidden));
  const shared = options.shared === null ? {} : { shared: feedForward(options.shared) };
  if (options.routing === 'expert')
    return expertChoice({
      dim: args.dim,
      experts,
      capacityFactor: options.capacity_factor ?? options.top_k,
      ...shared,
    });
  return moe({
    dim: args.dim,
    experts,
    topK: options.top_k,
    scores: options.scores,
    normalise: options.normalise ?? options.top_k > 1,
    routeScale: options.route_scale,
    balanceLoss: options.balance_loss,
    zLoss: options.z_loss,
    biasRate: options.bias_rate,
    capacityFactor: options.capacity_factor,
    dropPolicy: options.drop_policy,
    count: options.count,
    ...shared,
  });
}
