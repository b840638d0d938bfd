import { buildOptimizer, type Optimizer } from '../optim/index.ts';
import { tensorName, trainingObjective } from '../worker/index.ts';
import type { PreparedRun } from './prepare.ts';

/** A parameter as optimizers know it. */
export interface NamedParam {
  readonly path: string;
  readonly shape: readonly number[];
  readonly decay: boolean;
}

/** What decides what a rank holds from step to step besides parameters and module state. */
export interface HeldOptions {
  readonly optimizer: Optimizer;
  /** The optimizer of averaged changes, with local steps. */
  readonly outer: Optimizer | null;
  /** Whether top-k compression keeps residuals. */
  readonly residuals: boolean;
}

/** The options of a prepared run. */
export function heldOptions({
  config,
  local,
  plan,
  scheduling,
}: Pick<PreparedRun, 'config' | 'local' | 'plan' | 'scheduling'>): HeldOptions {
  const totals = { totalSteps: config.train.steps };
  const plain = buildOptimizer(config.optim, totals);
  const changes = scheduling?.objective ? trainingObjective(scheduling.objective) : null;
  return {
    optimizer: (changes?.optimizer?.(plain) ?? plain).optimizer,
    outer: local && buildOptimizer(local.optim, totals).optimizer,
    residuals: config.comm.compression.gradients === 'topk' && plan.mesh.data > 1,
  };
}

/** A tensor that a rank holds. */
export interface HeldName {
  /** As in checkpoints. */
  readonly name: string;
  readonly shape: readonly number[];
  /** It begins with zeros where it is not to be found. */
  readonly optional?: boolean;
}

/** Names of all that a rank of data index `data` holds of these parameters and this state (the worker's `heldTensors`). */
export function heldNames(
  params: readonly NamedParam[],
  state: readonly { readonly path: string; readonly shape: readonly number[] }[],
  data: number,
  { optimizer, outer, residuals }: HeldOptions,
): HeldName[] {
  const own = (name: string): string => (outer ? tensorName.replica(data, name) : name);
  const ofParams = params.flatMap((param): HeldName[] => {
    const { path, shape } = param;
    const names = [
      own(tensorName.param(path)),
      ...optimizer.slots(param).map((slot) => own(tensorName.slot(slot, path))),
    ];
    if (outer)
      names.push(tensorName.param(path), ...outer.slots(param).map((slot) => tensorName.slot(`outer.${slot}`, path)));
    const residual = { name: tensorName.replica(data, tensorName.residual(path)), shape, optional: true };
    return [...names.map((name) => ({ name, shape })), ...(residuals ? [residual] : [])];
  });
  const ofState = state.flatMap(({ path, shape }) =>
    [own(tensorName.state(path)), ...(outer ? [tensorName.state(path)] : [])].map((name) => ({ name, shape })),
  );
  return [...ofParams, ...ofState];
}
