/** The config that `plexus init` writes. Every key that is not named here has a default; docs/config.md lists all. */
export const configTemplate = `# Trains the model of my-model.ts on Moby-Dick with two workers, in about half a minute on two cores.
#   plexus plan config.yaml      what each worker would do
#   plexus train config.yaml     train
name: my-run
seed: 1

model:
  file: my-model.ts        # exports model(args, info); paths are relative to this file
  args: { dim: 64, blocks: 2, experts: 4 }

data:
  name: moby-dick          # or: { name: text, path: my-text.txt }
  context: 64              # tokens of one example
  tokenizer: { kind: char }

batch:
  global: 32               # examples in one optimizer step, over all workers
  micro: 8                 # examples in one global microbatch, the unit of work on every mesh

optim:
  name: adamw
  lr: 0.004
  clip_norm: 1             # largest global gradient norm
  schedule: { name: cosine, warmup: 20 }

parallel:
  data: 2                  # workers that share the batch
  expert: 2                # of these, how many share one set of experts
  pipeline: 1              # workers that share the layers
  # None of the three changes a bit of the result: compare weights_sha256 in summary.json.

train:
  steps: 200
  eval_every: 100
  checkpoint_every: 100

generate:
  characters: 200          # text to sample at the end
`;

/** The module file that `plexus init` writes: a language model with a module of its own and a mixture of experts. */
export const moduleTemplate = `// A language model of your own. It may import plexus and @tensorflow/tfjs-core as they run in the worker, and any other
// file or package, which is bundled. Everything here runs once, to be traced and compiled; its gradient is derived.
import * as tf from '@tensorflow/tfjs-core';
import { init, type Model, type Module, nn, param, type TaskInfo } from 'plexus';

/**
 * A module is a plain object: parameters, and a pure \`forward\` in tfjs ops. This one lets each token see the few tokens
 * before it: a causal filter with one weight for each channel and tap. [batch, time, dim] → the same.
 */
function causalFilter(dim: number, taps: number): Module {
  return {
    kind: 'causal-filter',
    params: { weight: param([taps, dim], init.normal(0.3)) },
    forward({ weight }, [x], ctx) {
      const [, time] = x.shape as [number, number, number];
      const padded = tf.pad(x, [[0, 0], [taps - 1, 0], [0, 0]]);
      let y = tf.zerosLike(x);
      for (let tap = 0; tap < taps; tap++)
        y = tf.add(y, tf.mul(tf.slice(padded, [0, tap, 0], [-1, time, -1]), tf.slice(weight, [tap, 0], [1, -1])));
      // Whatever is reported here appears in metrics.jsonl as <path>.size.
      ctx.metric('size', tf.mean(tf.abs(y)));
      return y;
    },
  };
}

/** Modules compose: children are run by name, and their parameters are called by their path. */
function block(dim: number, experts: number): Module {
  const mixture = nn.moe({ dim, topK: 2, balanceLoss: 0.01, experts: Array.from({ length: experts }, () => nn.mlp(dim, 2 * dim)) });
  return nn.sequential({
    filter: nn.residual(nn.sequential([nn.rmsNorm(dim), causalFilter(dim, 8), nn.linear(dim, dim)])),
    moe: nn.residual(nn.sequential({ norm: nn.rmsNorm(dim), mixture })),
  });
}

/** Gets \`model.args\` of the config and what the dataset says of itself. A layer is what a pipeline can be cut between. */
export function model(args: { dim: number; blocks: number; experts: number }, info: TaskInfo): Model {
  const vocab = info.vocabSize as number;
  return {
    layers: [
      { name: 'embed', module: nn.embedding(vocab, args.dim) },
      ...Array.from({ length: args.blocks }, (_, i) => ({ name: \`blocks.\${i}\`, module: block(args.dim, args.experts) })),
      { name: 'head', module: nn.sequential({ norm: nn.rmsNorm(args.dim), proj: nn.linear(args.dim, vocab) }) },
    ],
    loss: nn.crossEntropy({ accuracy: 'evaluation' }),
  };
}
`;
