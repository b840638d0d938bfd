import { adam } from './adam.ts';
import { pathMatcher } from './glob.ts';
import { lion } from './lion.ts';
import { muon } from './muon.ts';
import type { GroupOf, Optimizer, OptimizerPlan } from './optimizer.ts';
import { scheduleFactor } from './schedule.ts';
import type { OptimConfig } from './schema.ts';
import { sgd } from './sgd.ts';

/** What a resolved `optim` section means, for a run of `totalSteps` optimizer steps. */
export function buildOptimizer(config: OptimConfig, { totalSteps }: { readonly totalSteps: number }): OptimizerPlan {
  return {
    optimizer: optimizerOf(config),
    lrAt: (step) => config.lr * scheduleFactor(config.schedule, totalSteps, step),
    clipNorm: config.clip_norm,
  };
}

function optimizerOf(config: OptimConfig): Optimizer {
  const groupOf = groupResolver(config);
  switch (config.name) {
    case 'sgd':
      return sgd(config, groupOf);
    case 'adam':
    case 'adamw':
      return adam(config, groupOf);
    case 'lion':
      return lion(config, groupOf);
    case 'muon':
      return muon(config, groupOf);
  }
}

/** Settings by parameter: the first group that matches, otherwise the section's own. */
function groupResolver(config: OptimConfig): GroupOf {
  const groups = config.groups.map((group) => ({ group, matches: matcherOf(group.match) }));
  return (param) => {
    const group = groups.find(({ matches }) => matches(param.path))?.group;
    return {
      lr: group?.lr ?? 1,
      weightDecay: group?.weight_decay ?? (param.decay ? config.weight_decay : 0),
    };
  };
}

function matcherOf(match: string | readonly string[]): (path: string) => boolean {
  const matchers = (typeof match === 'string' ? [match] : match).map(pathMatcher);
  return (path) => matchers.some((matches) => matches(path));
}

/** Groups of an `optim` section that decide nothing about parameters of these paths, as config keys to warn about. */
export function unusedGroups(config: OptimConfig, paths: Iterable<string>): string[] {
  const matchers = config.groups.map((group) => matcherOf(group.match));
  const used = new Set([...paths].map((path) => matchers.findIndex((matches) => matches(path))));
  return config.groups.flatMap((group, i) =>
    used.has(i) ? [] : [`optim.groups[${i}] (match: ${[group.match].flat().join(', ')})`],
  );
}

/** Factor that brings gradients of this global norm down to `clipNorm`, as PyTorch's clip_grad_norm_ has it; 1 for none. */
export function clipScale(norm: number, clipNorm: number | null): number {
  return clipNorm === null ? 1 : Math.min(1, clipNorm / (norm + 1e-6));
}
