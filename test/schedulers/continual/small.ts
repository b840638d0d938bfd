/** What a config of the tests has besides: the strategy's own settings, another scenario, other sections (model, optim). */
export interface SmallSettings {
  readonly strategy?: object;
  readonly scenario?: object;
  readonly [section: string]: object | undefined;
}

/** Settings with which a strategy is quick on a small table, where its defaults are not. */
export const small: Readonly<Record<string, SmallSettings>> = {
  ewc: { strategy: { samples: 10 } },
  'online-ewc': { strategy: { samples: 10 } },
  fpf: { strategy: { base: { name: 'ewc', samples: 10 }, buffer: 20, tuning_epochs: 2 } },
  'k-fpf': { strategy: { buffer: 20, times: 3, tuning_epochs: 1, skip: 0.3 } },
  'continual-moe': { model: { name: 'moe-mlp', args: { dim: 8, hidden: 8, experts: 4 } } },
  mas: { strategy: { samples: 10 } },
  hat: { scenario: { name: 'task-incremental' } },
  pnn: { scenario: { name: 'task-incremental' } },
  packnet: { scenario: { name: 'task-incremental' } },
  picle: { scenario: { name: 'task-incremental' }, strategy: { samples: 20 } },
  gdumb: { strategy: { buffer: 20, epochs: 3 } },
  gem: { strategy: { buffer: 20 } },
  icarl: { strategy: { buffer: 20 } },
  'generative-replay': { strategy: { samples: 20, hidden: 8, latent: 2 } },
  bic: { strategy: { buffer: 40 } },
};
