import * as z from 'zod';
import type { Execution, RunEvent } from '../../coordinator/index.ts';
import { float32, type HostTensor } from '../../tensor/index.ts';
import { clientBehaviour } from './behaviour.ts';
import type { FederatedParts, FederatedTraining } from './federated-plan.ts';
import { runFederated } from './federated-run.ts';
import { Gossip, type GossipState } from './gossip.ts';
import { localBatch, roundShape, runShape } from './round-schema.ts';
import { doubles, readDoubles, type SavedTensors } from './saved-tensors.ts';
import { TOPOLOGIES, topology } from './topology.ts';

const { local_epochs, local_batch, behaviour, threads } = roundShape;

/** Schema of `scheduler` for gossip; a round, in which every node trains and mixes once, is one of `train.steps`. */
export const gossipConfig = z.strictObject({
  clients: z.int().min(2).default(16).describe('nodes of the graph, each with examples of its own'),
  topology: z
    .enum(TOPOLOGIES)
    .default('ring')
    .describe(
      'who mixes with whom: `torus` is the squarest grid, wrapped; `exponential` has hops of 1, 2, 4, ...; `random` a ring with random edges',
    ),
  degree: z.number().min(2).default(4).describe('mean number of neighbours in a random graph'),
  local_epochs: local_epochs.describe('passes of a node over its own examples before it mixes'),
  local_batch,
  ...runShape,
  behaviour,
  threads,
});

/** Settings of gossip. */
export type GossipConfig = z.output<typeof gossipConfig>;

/** Runs gossip: `train.steps` rounds. What is evaluated, and what the run ends with, is the mean of the nodes. */
export function runGossip(execution: Execution, settings: GossipConfig): AsyncGenerator<RunEvent, void> {
  return runFederated(execution, settings, () => ({
    width: settings.clients,
    objective: { name: 'none', config: {} },
    make: (parts) => gossipTraining(parts, settings),
  }));
}

const nodeName = (node: number) => `node/${node}`;
const CLOCKS = 'gossip/clocks';

async function gossipTraining(
  { pool, partition, seed, params, state, step, saved }: FederatedParts,
  settings: GossipConfig,
): Promise<FederatedTraining> {
  const gossip = new Gossip(
    {
      pool,
      partition,
      graph: topology(settings.topology, settings.clients, { seed, degree: settings.degree }),
      local: { epochs: settings.local_epochs, batch: localBatch(settings) },
      behaviour: clientBehaviour(settings.behaviour, seed),
    },
    params,
    state,
    saved ? await readState(saved, step, settings.clients) : undefined,
  );
  let time = Math.max(...gossip.snapshot().clocks);
  return {
    next: async () => {
      const began = performance.now();
      const { reports, dropped, loss, disagreement, bytes, time: now } = await gossip.next();
      const seconds = now - time;
      time = now;
      const good = reports.filter(({ problem }) => problem === null);
      return {
        loss,
        examples: settings.local_epochs * good.reduce((sum, { examples }) => sum + examples, 0),
        ms: performance.now() - began,
        seconds,
        bytes,
        metrics: { clients: good.length, dropped: dropped.length, disagreement, bytes_between: bytes },
        notes: { counted: true, dropped_clients: dropped },
      };
    },
    underway: () => gossip.underway,
    model: () => {
      const mean = gossip.mean();
      return { params: mean.subarray(0, params.length), state: mean.subarray(params.length) };
    },
    tensors: () => {
      const { nodes, clocks } = gossip.snapshot();
      const tensors: Record<string, HostTensor> = { [CLOCKS]: doubles(clocks) };
      for (const [i, node] of nodes.entries()) tensors[nodeName(i)] = float32(node, [node.length]);
      return tensors;
    },
  };
}

async function readState(saved: SavedTensors, round: number, count: number): Promise<GossipState> {
  const nodes: Float32Array[] = [];
  for (let node = 0; node < count; node++)
    nodes.push(Float32Array.from((await saved.read(nodeName(node))).data as Float32Array));
  return { round, clocks: await readDoubles(saved, CLOCKS), nodes };
}
