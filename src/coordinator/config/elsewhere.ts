const ROUNDS = "'train.steps' here: a step of a federated run is a round";

/** Keys of configs of Flower, DeepSpeed, Megatron, Hugging Face, Avalanche and Mammoth, and what they are here. */
const NAMES: readonly (readonly [keys: readonly string[], here: string])[] = [
  [['rounds', 'num_rounds', 'num_server_rounds', 'global_rounds'], ROUNDS],
  [['max_steps', 'total_steps', 'train_iters', 'max_iters', 'iterations'], "'train.steps' here"],
  [['num_clients', 'n_clients', 'num_supernodes'], "'scheduler.clients' here"],
  [['fraction_fit', 'fraction_train', 'clients_per_round'], "'scheduler.cohort' here, a number of clients"],
  [['num_local_epochs', 'client_epochs'], "'scheduler.local_epochs' here"],
  [['learning_rate'], "'optim.lr' here"],
  [['optimizer'], "'optim' here, for example optim: { name: adamw, lr: 0.001 }"],
  [['max_grad_norm', 'gradient_clipping', 'clip_grad', 'gradient_clip_val'], "'optim.clip_norm' here"],
  [['batch_size', 'train_mb_size'], "'batch.global' here, or 'scheduler.local_batch' for clients of a federated run"],
  [['global_batch_size', 'train_batch_size'], "'batch.global' here"],
  [['micro_batch_size', 'train_micro_batch_size_per_gpu', 'per_device_train_batch_size'], "'batch.micro' here"],
  [['gradient_accumulation_steps'], "what 'batch.global' and 'batch.micro' come to here"],
  [['data_parallel_size'], "'parallel.data' here"],
  [['pipeline_model_parallel_size', 'pipeline_parallel_size'], "'parallel.pipeline' here"],
  [['expert_model_parallel_size', 'expert_parallel_size'], "'parallel.expert' here"],
  [['zero_stage', 'zero_optimization'], "'parallel.zero' here"],
  [['activation_checkpointing', 'gradient_checkpointing', 'recompute_granularity'], "'remat' here"],
  [['save_interval', 'save_steps'], "'train.checkpoint_every' here"],
  [['mem_size', 'memory_size', 'buffer_size'], "'scheduler.strategy.buffer' here"],
  [['n_experiences', 'n_tasks', 'num_tasks'], "'scheduler.scenario.stream.tasks' here"],
];

const CENTRAL =
  "a strategy that needs sums alone, fedavg for example, with 'scheduler.privacy: { name: central-dp, noise_multiplier: 1";
const NOTHING = 'nothing here';

/** Flower's strategies (their class names) and papers' names of others, where it is more than how they are written, and what they are here. */
export const STRATEGIES: readonly (readonly [names: readonly string[], here: string])[] = [
  [['fedopt'], "'fedadam', 'fedyogi', 'fedadagrad' or 'fedavgm' here, by the optimizer of the server"],
  // Two things go by this name.
  [['dpsgd'], `'gossip' here if it is decentralised SGD; if it is private SGD, ${CENTRAL} }' for clients`],
  [['decentralizedsgd'], "'gossip' here"],
  [['diloco'], "'local-sgd' here, between workers"],
  [['qffl'], "'qfedavg' here"],
  [['faulttolerantfedavg', 'fedavgandroid'], "'fedavg' here: rounds go on without those that do not answer"],
  [['trimmedmean', 'fedtrimmedmean'], "'fedtrimmedavg' here"],
  [['median'], "'fedmedian' here"],
  [['geometricmedian', 'fedgeomed'], "'rfa' here"],
  [
    [
      ...['dpfedavgfixed', 'differentialprivacyserversidefixedclipping', 'differentialprivacyclientsidefixedclipping'],
      ...['dpstrategywrapperserversidefixedclipping', 'dpstrategywrapperclientsidefixedclipping'],
    ],
    `${CENTRAL} }'`,
  ],
  [
    [
      ...['dpfedavgadaptive', 'differentialprivacyserversideadaptiveclipping'],
      ...['differentialprivacyclientsideadaptiveclipping', 'dpstrategywrapperserversideadaptiveclipping'],
      'dpstrategywrapperclientsideadaptiveclipping',
    ],
    `${CENTRAL}, clipping: adaptive }'`,
  ],
  [
    ['localdp', 'localdpmod'],
    "a strategy that needs sums alone, fedavg for example, with 'scheduler.privacy: { name: local-dp, noise_multiplier: 1 }'",
  ],
  [
    ['secaggplus', 'secaggplusworkflow', 'secaggplusmod'],
    "a strategy that needs sums, fedavg for example, with 'scheduler.secure_aggregation: { name: secagg+ }'",
  ],
  [
    ['secagg', 'secaggworkflow', 'secaggmod'],
    "a strategy that needs sums, fedavg for example, with 'scheduler.secure_aggregation: { name: secagg }'",
  ],
  [['fedxgbbagging', 'fedxgbcyclic', 'fedxgbnnavg'], `${NOTHING}: trees are not trained by gradients`],
  [['fedrdf'], `${NOTHING}; of those that stand up to liars 'fedmedian', 'multikrum' and 'rfa' are the nearest`],
];

const STRATEGIES_HERE = new Map(STRATEGIES.flatMap(([names, here]) => names.map((name) => [name, here] as const)));

/** What a strategy of another framework is here; null for one that is of none of them. However it is written: `D-PSGD`, `dpsgd`. */
export function strategyHere(name: string): string | null {
  return STRATEGIES_HERE.get(name.toLowerCase().replaceAll(/[^a-z]/g, '')) ?? null;
}

const HERE = new Map(NAMES.flatMap(([keys, here]) => keys.map((key) => [key, here] as const)));

/** What a key that another framework's configs have is called here; null for one that is of none of them. */
export function calledHere(key: string): string | null {
  return HERE.get(key.toLowerCase().replaceAll('-', '_')) ?? null;
}
