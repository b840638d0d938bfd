import type { LeafRange } from '../comm/index.ts';
import type { Engine } from '../engine/index.ts';
import {
  type ExpertFunction,
  expertPath,
  type LayerFunction,
  type Model,
  modelFunctions,
  type TaskInfo,
} from '../modules/index.ts';
import { buildOptimizer, type OptimConfig, type Optimizer, type OptimizerPlan } from '../optim/index.ts';
import {
  averagedMicrobatches,
  expertMember,
  expertPosition,
  type MicrobatchRange,
  type Program,
  positionOf,
  shareOf,
} from '../plan/index.ts';
import { CompileCache } from './compile-cache.ts';
import { CompiledUpdates, paramInfo } from './compiled.ts';
import { type CompiledLayer, compileLayer } from './compiled-layer.ts';
import { ExpertRuntime, type ExpertRuntimeOptions } from './expert-runtime.ts';
import { GradientSum } from './gradient-sum.ts';
import type { GroupShards, HeldParam, ParamGroup } from './param-group.ts';
import { throwIfAborted } from './position.ts';
import type { WorkerJob } from './protocol.ts';
import { type GroupContent, shardGroups } from './shards.ts';
import type { TensorSpace } from './tensor-space.ts';

/** A layer of this rank: its functions for training and evaluation, its parameters, its experts. */
export interface RankLayer {
  readonly index: number;
  readonly name: string;
  readonly group: ParamGroup;
  readonly train: RankLayerMode;
  /** The same for microbatches of so many examples (default: `batch.micro`); compiled when the first step of that size comes. */
  training(micro?: number): Promise<RankLayerMode>;
  /** For microbatches of so many examples (default: `batch.micro`); compiled when the first evaluation comes. */
  evaluate(micro?: number): Promise<RankLayerMode>;
}

/** A layer compiled for one mode. */
export interface RankLayerMode {
  readonly compiled: CompiledLayer;
  /** One for each expert call. */
  readonly experts: readonly ExpertRuntime[];
}

/** Everything of the model that this rank holds. */
export interface RankModel {
  readonly layers: ReadonlyMap<number, RankLayer>;
  /** Groups of parameters in a fixed order: layer by layer, experts after their layer. */
  readonly groups: readonly ParamGroup[];
  readonly updates: CompiledUpdates;
  /** With local steps: the optimizer of averaged changes. */
  readonly outer?: { readonly plan: OptimizerPlan; readonly updates: CompiledUpdates };
}

/** What building needs. */
export interface RankModelOptions {
  readonly job: WorkerJob;
  readonly model: Model;
  readonly info: TaskInfo;
  readonly optimizer: Optimizer;
  readonly engine: Engine;
  readonly space: TensorSpace;
  /** What was compiled before of this model and optimizer on this engine. */
  readonly compiled?: CompileCache | undefined;
}

/** Builds and compiles the layers that the job's program gives to this rank; parameters have no values yet. */
export async function buildRankModel(options: RankModelOptions): Promise<RankModel> {
  const { job, model, info, engine, optimizer, compiled: cache = new CompileCache() } = options;
  const program = job.train;
  const { micro } = job.batch;
  const trainingFunctions = (size: number) =>
    cache.once(`train ${size}`, () => modelFunctions(model, info, size, 'train'));
  const functions = trainingFunctions(micro);
  // In evaluations dropout is off and running statistics are used.
  const evaluationFunctions = (size: number) =>
    cache.once(`evaluate ${size}`, () => modelFunctions(model, info, size, 'evaluate'));
  const averaged = averagedMicrobatches(program);
  const updates = cache.once(`updates ${averaged}`, () => new CompiledUpdates(engine, optimizer, averaged));
  const plan = job.outerOptim
    ? buildOptimizer(job.outerOptim as OptimConfig, { totalSteps: job.totalSteps })
    : undefined;
  const held = program.stages.flatMap((stage) => stage.layers);
  const splitWeight = program.instructions.some((instruction) => instruction.op === 'BackwardWeight');
  const layers = new Map<number, RankLayer>();
  const groups: ParamGroup[] = [];
  const expertsOf = (fn: LayerFunction) =>
    fn.expertCalls.map((call) =>
      ownExperts(program, call.params.length).map((expert) => ({
        name: expertPath(call.path, expert),
        params: call.params[expert] ?? [],
        state: [],
        place: { path: call.path, index: expert },
      })),
    );
  const own = held.flatMap((index) => functions[index] ?? []);
  const shards = {
    dense: shardGroups(program, 'dense', own),
    experts: shardGroups(
      program,
      'experts',
      own.flatMap((fn) => expertsOf(fn).flat()),
    ),
  };
  for (const index of held) {
    throwIfAborted(job.progress);
    const fn = functions[index];
    if (!fn) throw new RangeError(`the program has layer ${index}, but the model has ${functions.length} layers`);
    const makeGroup = groupMaker(options, updates, index, plan?.optimizer);
    const group = makeGroup(fn, null, shards.dense.get(fn.name) ?? null);
    groups.push(group);
    const expertGroups = expertsOf(fn).map((experts) =>
      experts.map((expert) => makeGroup(expert, expert.place, shards.experts.get(expert.name) ?? null)),
    );
    groups.push(...expertGroups.flat());
    const compile = async (of: LayerFunction, training: boolean, size: number): Promise<RankLayerMode> => {
      const what = `layer ${index} ${training} ${size} ${splitWeight} ${JSON.stringify(job.remat)}`;
      const compiled = await cache.once(what, () =>
        compileLayer(engine, of, index === 0 ? info.inputs.length : activationsInto(functions, index), {
          training,
          first: index === 0,
          last: index === functions.length - 1,
          remat: job.remat,
          splitWeight,
        }),
      );
      const experts = of.expertCalls.map((call, c) =>
        expertRuntime(options, call, compiled, c, expertGroups[c] ?? [], training, (bucket, make) =>
          cache.once(`${what} experts ${c} ${bucket}`, make),
        ),
      );
      for (const runtime of experts) await runtime.prepare();
      return { compiled, experts };
    };
    const train = await compile(fn, true, micro);
    const { slots } = train.compiled;
    group.gradientOf = slots.paramGradients.flatMap((slot, i) => (slot === null ? [] : [i]));
    group.contributionOf = fn.layout.contributions.map((path) => fn.state.findIndex((state) => state.path === path));
    const trained = new Map([[micro, Promise.resolve(train)]]);
    const evaluated = new Map<number, Promise<RankLayerMode>>();
    layers.set(index, {
      index,
      name: fn.name,
      group,
      train,
      training: (size = micro) => {
        const made = trained.get(size) ?? compile(trainingFunctions(size)[index] as LayerFunction, true, size);
        trained.set(size, made);
        return made;
      },
      evaluate: (size = micro) => {
        const made = evaluated.get(size) ?? compile(evaluationFunctions(size)[index] as LayerFunction, false, size);
        evaluated.set(size, made);
        return made;
      },
    });
  }
  const outer = plan && {
    plan,
    updates: cache.once(
      `outer ${JSON.stringify(job.outerOptim)}`,
      () => new CompiledUpdates(engine, plan.optimizer, 1),
    ),
  };
  return { layers, groups, updates, ...(outer ? { outer } : {}) };
}

function activationsInto(functions: readonly LayerFunction[], index: number): number {
  return functions[index - 1]?.layout.activations.length ?? 0;
}

function expertRuntime(
  { job, engine, space }: RankModelOptions,
  fn: ExpertFunction,
  compiled: CompiledLayer,
  call: number,
  groups: readonly ParamGroup[],
  training: boolean,
  once: ExpertRuntimeOptions['once'],
): ExpertRuntime {
  const rows = compiled.calls[call]?.rows;
  const width = rows === undefined ? undefined : compiled.plan.phased.slots.get(rows)?.shape[1];
  if (width === undefined) throw new Error(`expert call ${call} of layer ${compiled.name} has no rows slot`);
  return new ExpertRuntime({
    engine,
    space,
    fn,
    width,
    groups,
    training,
    seed: job.seed,
    remat: job.remat,
    merge: job.numerics === 'fast',
    once,
  });
}

/** Indices of the experts that this rank holds, of so many. */
export function ownExperts(program: Program, experts: number): number[] {
  const { member } = expertPosition(program.mesh, positionOf(program.mesh, program.rank).data);
  return Array.from({ length: experts }, (_, expert) => expert).filter(
    (expert) => expertMember(expert, experts, program.mesh.expert) === member,
  );
}

/**
 * Leaves that a rank computes: its share, and for experts the shares of its whole expert group, whose tokens it gets.
 * `rank` defaults to the program's own.
 */
export function leavesOf(program: Program, what: 'dense' | 'experts', rank = program.rank): LeafRange {
  const { mesh, microbatches } = program;
  const { data } = positionOf(mesh, rank);
  const share = (index: number): MicrobatchRange => shareOf(microbatches, mesh.data, index);
  if (what === 'dense') return share(data);
  const first = data - (data % mesh.expert);
  return { start: share(first).start, end: share(first + mesh.expert - 1).end };
}

function groupMaker(
  { job, optimizer, space }: RankModelOptions,
  updates: CompiledUpdates,
  layer: number,
  outer: Optimizer | undefined,
) {
  const { share, local } = job.train;
  const leaves = averagedMicrobatches(job.train);
  const exact = job.numerics === 'exact';
  const residuals = job.compression?.gradients === 'topk' && job.train.mesh.data > 1;
  return (
    { name, params, state }: GroupContent,
    expert: ParamGroup['expert'],
    shards: GroupShards | null,
  ): ParamGroup => {
    const range = leavesOf(job.train, expert ? 'experts' : 'dense');
    return {
      name,
      layer,
      expert,
      params: params.map((named, i): HeldParam => {
        const slotNames = optimizer.slots(paramInfo(named));
        return {
          ...named,
          slotNames,
          slots: [],
          tensor: UNSET,
          ...(shards ? { keepsSlots: shards.params[i] === shards.member } : {}),
          ...(residuals ? { residual: UNSET } : {}),
          ...(outer ? { outer: { anchor: UNSET, slotNames: outer.slots(paramInfo(named)), slots: [] } } : {}),
        };
      }),
      state: state.map((named) => ({
        ...named,
        tensor: UNSET,
        ...(outer ? { outer: { anchor: UNSET } } : {}),
      })),
      shards,
      leaves: range,
      gradientOf: [],
      contributionOf: [],
      gradients: new GradientSum(space, updates, leaves, range, exact, local ? share.start : 0),
      reduced: null,
    };
  };
}

/** Stands for a value until it is initialised or read from a checkpoint. */
const UNSET = { dtype: 'float32', shape: [], byteLength: 0, location: 'host' } as const;
