import type { Split } from '../../data/index.ts';
import type { DeviceTensor } from '../../engine/index.ts';
import { layerKey } from '../../modules/index.ts';
import { type LocalObjective, type LocalState, type LocalTrainer, plainPass } from '../local/index.ts';
import { clientBatches } from './client-batches.ts';
import type { ClientFit } from './fit-task.ts';

/** What the passes of a client's fit work with. */
export interface PassesOptions {
  readonly trainer: LocalTrainer;
  readonly objective: LocalObjective;
  readonly client: ClientFit;
  readonly seed: number;
  /** Examples of a local step. */
  readonly batch: number;
  /** The client's own examples, as it reads them, and all of the training split as everybody does. */
  readonly own: Split;
  readonly all: Split;
  /** Examples that all clients may see; null where none were set aside. */
  readonly shared: Int32Array | null;
  /** Where it is settled which examples the client's own pass sees: a split of its own, and positions in it, step by step. */
  readonly settled?: { readonly split: Split; readonly batches: readonly Int32Array[] } | null;
  /** What the fit begins with; its optimizer slots are zeros. */
  readonly first: LocalState;
  /** The objective's tensors. */
  readonly tensors: ReadonlyMap<string, readonly DeviceTensor[]>;
  /** Whether a `round` tensor was given. */
  given(name: string): boolean;
}

/** What the passes gave. */
export interface PassesResult {
  /** The parameters, after the passes that train them. */
  readonly state: LocalState;
  readonly tensors: ReadonlyMap<string, readonly DeviceTensor[]>;
  /** Losses of the steps that trained the parameters on the client's own examples. */
  readonly losses: readonly number[];
  /** Whether the losses of all steps are finite. */
  readonly finite: boolean;
  /** Tensors of the client that steps or passes have changed, and module state that goes with models of its own. */
  readonly kept: Readonly<Record<string, Float32Array>>;
}

/** Name of the module state that goes with a model of the client's own, among what it keeps. */
export function stateNameOf(tensor: string): string {
  return `${tensor}.state`;
}

/** Makes the passes of one client's fit. @throws Error if one is over public examples and there are none */
export async function runPasses(options: PassesOptions): Promise<PassesResult> {
  const { trainer, objective, client, seed, batch, shared, first } = options;
  const tensors = new Map(options.tensors);
  const losses: number[] = [];
  const changed = new Set<string>();
  const states: Record<string, Float32Array> = {};
  let finite = true;
  let current = first;
  let left = client.maxSteps ?? Number.POSITIVE_INFINITY;
  for (const pass of objective.passes ?? [plainPass]) {
    const { when, into } = pass;
    if (when === 'first' && Object.keys(client.kept).length > 0) continue;
    if (typeof when === 'object' && !options.given(when.given)) continue;
    const over = pass.over === 'public' ? shared : client.examples;
    if (over === null)
      throw new Error(
        `the pass "${pass.name}" of "${objective.name}" needs public examples, and none were set aside (FitJob.shared)`,
      );
    const settled = pass.over === 'public' ? null : (options.settled ?? null);
    // Positions among the examples; the empty name has the order of a fit without passes.
    const order =
      settled?.batches.slice(0, left) ??
      clientBatches({
        seed,
        batch,
        round: client.round,
        client: client.client,
        examples: Int32Array.from(over, (_, i) => i),
        epochs: pass.epochs ?? client.epochs,
        maxSteps: Number.isFinite(left) ? left : null,
        pass: pass.name,
      });
    left -= order.length;
    const from = into === undefined ? current : await ownModel(options, tensors, into);
    const result = await trainer.train(
      { ...from, slots: first.slots },
      {
        split: settled?.split ?? (pass.over === 'public' ? options.all : options.own),
        batches: settled ? order : order.map((places) => places.map((place) => over[place] as number)),
        first: client.firstStep,
        key: (step) =>
          layerKey(seed, step, client.client, `round ${client.round}${pass.name === '' ? '' : ` ${pass.name}`}`),
        ...(pass.over === 'public' ? { positions: order } : {}),
      },
      tensors,
      pass,
    );
    for (const [name, values] of result.moved) {
      tensors.set(name, values);
      changed.add(name);
    }
    finite &&= result.losses.every((loss) => Number.isFinite(loss));
    if (into === undefined) {
      current = result.state;
      if (pass.over !== 'public') for (const loss of result.losses) losses.push(loss);
    } else {
      tensors.set(into, result.state.params);
      changed.add(into);
      if (trainer.stateLayout.size > 0)
        states[stateNameOf(into)] = await trainer.vector(result.state.state, trainer.stateLayout);
    }
  }
  const kept: Record<string, Float32Array> = states;
  for (const tensor of trainer.tensorsOf)
    if (tensor.scope === 'client' && changed.has(tensor.name))
      kept[tensor.name] = await trainer.values(tensor, tensors.get(tensor.name) as readonly DeviceTensor[]);
  return { state: current, tensors, losses, finite, kept };
}

/** A model of the client's own with the module state that goes with it. */
async function ownModel(
  { trainer, client, first }: PassesOptions,
  tensors: ReadonlyMap<string, readonly DeviceTensor[]>,
  name: string,
): Promise<LocalState> {
  const params = tensors.get(name);
  if (!params) throw new Error(`a pass trains into "${name}", which the objective does not declare`);
  const state = client.kept[stateNameOf(name)];
  return { params, slots: first.slots, state: state ? trainer.tensors(state, trainer.stateLayout) : first.state };
}
