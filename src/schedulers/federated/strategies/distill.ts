import * as z from 'zod';
import { classesOf } from '../../local/index.ts';
import { addMean, type FederatedStrategy, type ServerShape } from '../strategy.ts';

const distillConfig = z.object({
  gamma: z.number().min(0).default(0.1).describe("weight of learning from the other clients' outputs"),
  share_model: z
    .boolean()
    .default(false)
    .describe('whether parameters are averaged too; if not, every client has a model of its own'),
});

/**
 * Clients exchange the mean of their outputs for each class: Jeong, Oh, Kim, Park, Bennis and Kim, Communication-Efficient On-Device
 * Machine Learning: Federated Distillation and Augmentation under Non-IID Private Data (2018), algorithm 1. Of clients that are not
 * asked in a round, the means of their last one count. With `share_model` it is what Zhu, Hong and Zhou (2021) call FedDistill+.
 */
export const feddistill: FederatedStrategy<typeof distillConfig> = {
  name: 'feddistill',
  config: distillConfig,
  objective: ({ gamma, share_model }) => ({ name: 'label-means', config: { gamma, share: share_model } }),
  server: ({ share_model }, shape) => {
    const classes = classesIn(shape, 'feddistill');
    const sums = new Float32Array(classes * classes);
    const counts = new Float32Array(classes);
    return {
      needs: 'sum',
      vectors: { sums, counts },
      round: () => ({ sums, counts }),
      apply: (outcome, params, state) => {
        if (share_model) addMean(outcome, params, state);
        // A client's new means take the place of its old ones, in the order of the cohort.
        for (const { client, kept } of outcome.reports)
          for (const [total, name] of [
            [sums, 'means'],
            [counts, 'seen'],
          ] as const) {
            const before = outcome.kept(client, name);
            const now = kept[name] as Float32Array | undefined;
            if (now)
              for (let i = 0; i < total.length; i++)
                total[i] = (total[i] as number) + ((now[i] as number) - (before?.[i] ?? 0));
          }
      },
    };
  },
};

const mdConfig = z.object({
  public: z
    .int()
    .min(1)
    .default(500)
    .describe('training examples that are set aside for all clients to see; the partition shares out the rest'),
  transfer_epochs: z
    .int()
    .min(0)
    .default(1)
    .describe('passes over the public examples, with their labels, before the first training of a client'),
  digest_epochs: z
    .int()
    .min(1)
    .default(1)
    .describe('passes over the public examples in a round, with the mean outputs of the clients'),
});

/**
 * Clients with models of their own exchange outputs for public examples: Li and Wang, FedMD: Heterogenous Federated Learning via
 * Model Distillation (2019), algorithm 1. What clients of a round send is the consensus of the next.
 */
export const fedmd: FederatedStrategy<typeof mdConfig> = {
  name: 'fedmd',
  config: mdConfig,
  objective: ({ public: examples, transfer_epochs, digest_epochs }) => ({
    name: 'consensus',
    config: { examples, transferEpochs: transfer_epochs, digestEpochs: digest_epochs },
  }),
  sharedExamples: ({ public: examples }) => examples,
  server: ({ public: examples }, shape) => {
    const consensus = new Float32Array(examples * classesIn(shape, 'fedmd'));
    // Whether anybody has sent anything.
    const known = new Float32Array(1);
    return {
      needs: 'sum',
      vectors: { consensus, known },
      round: (): Readonly<Record<string, Float32Array>> => (known[0] === 0 ? {} : { consensus }),
      apply: ({ reports }) => {
        const sent = reports.flatMap((report) => report.sent?.outputs ?? []);
        if (sent.length === 0) return;
        for (let i = 0; i < consensus.length; i++)
          consensus[i] = sent.reduce((sum, outputs) => sum + (outputs[i] as number), 0) / sent.length;
        known[0] = 1;
      },
    };
  },
};

/** @throws Error if the task is not known or has no classes */
function classesIn({ model }: ServerShape, strategy: string): number {
  if (!model)
    throw new Error(`the strategy "${strategy}" needs to know the task (ServerShape.model), which was not given`);
  return classesOf(model.info);
}
