import * as z from 'zod';
import { tf } from '../../../engine/index.ts';
import { init, type Model, type Module, nn, param, withoutGradient } from '../../../modules/index.ts';
import type { ParamInfo, ParamRule } from '../../../optim/index.ts';
import { createRng, float32 } from '../../../tensor/index.ts';
import type { Transition } from '../../../worker/index.ts';
import { changeModules, type Places, placesBetween } from '../change-modules.ts';
import { composeTasks } from '../compose.ts';
import { emptyOptimizer, refuseStatistics, requireKnownTask } from '../known-task.ts';
import { type Course, registerContinual, type TaskEnd } from '../strategy.ts';

type Tensor = tf.Tensor;

const NAME = 'hat';
/** Parameters of a gate: the task's embedding of its units, their part in the regulariser, the scale of the step. */
const [EMBEDDING, ROOM, SCALE] = ['attention', 'attentionRoom', 'attentionScale'] as const;
const [MOST_EMBEDDING, MOST_EXPONENT] = [6, 50];

const schema = z.object({
  s_max: z.number().gt(1).default(400).describe('scale of the attention at the end of each epoch and in evaluations'),
  sparsity: z
    .number()
    .min(0)
    .default(0.75)
    .describe("weight of the regulariser on a task's use of units, the paper's c"),
});
type Config = z.output<typeof schema>;

/** An activation whose units are gated by the attention of the task, sigmoid(s e); `total`: units of all gates. */
function gated(activation: Module, units: number, total: number, { s_max, sparsity }: Config): Module {
  return {
    ...activation,
    params: {
      ...activation.params,
      [EMBEDDING]: param([units], init.normal(1), { decay: false }),
      [ROOM]: param([units], init.constant(1 / total), { decay: false }),
      [SCALE]: param([1], init.constant(1 / s_max), { decay: false }),
    },
    forward(params, inputs, ctx) {
      const y = activation.forward(params, inputs, ctx) as Tensor;
      const scale = ctx.training ? withoutGradient(() => tf.mul(params[SCALE] as Tensor, 1)) : s_max;
      const attention = tf.sigmoid(tf.mul(params[EMBEDDING] as Tensor, scale));
      const room = withoutGradient(() => tf.mul(params[ROOM] as Tensor, sparsity));
      if (ctx.training) ctx.addLoss('sparsity', tf.sum(tf.mul(attention, room)));
      return tf.mul(y, attention);
    },
  };
}

/** Puts a gate after each activation. @throws Error where activations are not in plain sequences, or there is none */
function withGates(model: Model, config: Config): Model {
  const gates: number[] = [];
  const put = (total: number): Model => {
    let units: number | undefined;
    return changeModules(model, (module, path) => {
      if (module.children && module.kind !== 'sequential')
        throw new Error(`strategy hat gates the units of plain sequences of layers, but ${path} is a ${module.kind}`);
      units = module.params?.weight?.shape.at(-1) ?? units;
      const isGate = (nn.activationNames as readonly string[]).includes(module.kind) && module.kind !== 'identity';
      if (!isGate || units === undefined) return module;
      gates.push(units);
      return gated(module, units, total, config);
    });
  };
  put(1);
  if (gates.length === 0)
    throw new Error('strategy hat gates hidden activations, but the model has none: use mlp, say');
  return put(gates.reduce((sum, units) => sum + units, 0));
}

/** Paths of the gates, and between which of them each other parameter is. */
function gatesOf(model: Model) {
  return placesBetween(model, (module) => module.params?.[EMBEDDING] !== undefined);
}

/** Scale of a step: from 1 / s_max to s_max in each epoch (Serra et al., equation 3). */
export function scaleAt(step: number, { ends, epochs }: Course, s_max: number): number {
  const task = ends.findIndex((end) => step < end);
  if (task < 0) return 1 / s_max;
  const start = ends[task - 1] ?? 0;
  const epoch = Math.ceil(((ends[task] as number) - start) / epochs);
  return 1 / s_max + ((s_max - 1 / s_max) * ((step - start) % epoch)) / Math.max(1, epoch - 1);
}

function partOf({ path }: ParamInfo): string {
  const name = path.slice(path.lastIndexOf('.') + 1);
  return [EMBEDDING, ROOM, SCALE].find((own) => own === name) ?? 'weight';
}

/** cosh(x) + 1. */
function coshPlusOne(x: Tensor): Tensor {
  return tf.add(tf.div(tf.add(tf.exp(x), tf.exp(tf.neg(x))), 2), 1);
}

/**
 * A weight moves by 1 - min(a_out, a_in) of its update, a: attention of earlier tasks (equation 2, there for gradients; for updates it holds
 * with any optimizer). Gradients of embeddings are made what they would be at s = 1 (equation 6).
 */
export function attentionRule({ s_max }: Pick<Config, 's_max'>, course: Course): ParamRule {
  return {
    name: NAME,
    variant: partOf,
    slots: (info) => (partOf(info) === 'weight' ? ['limit'] : []),
    numbers: { count: 2, of: (_, { step }) => [scaleAt(step, course, s_max), scaleAt(step + 1, course, s_max)] },
    gradient: ({ param: e, gradient, numbers: [scale], info }) => {
      if (partOf(info) !== EMBEDDING) return gradient;
      const exponent = tf.clipByValue(tf.mul(e, scale as Tensor), -MOST_EXPONENT, MOST_EXPONENT);
      const ratio = tf.div(tf.div(coshPlusOne(exponent), coshPlusOne(e)), scale as Tensor);
      return tf.mul(gradient, tf.mul(ratio, s_max));
    },
    settle: ({ param: before, updated, slots, numbers: [, next], info }) => {
      const part = partOf(info);
      if (part === EMBEDDING) return tf.clipByValue(updated, -MOST_EMBEDDING, MOST_EMBEDDING);
      if (part === ROOM) return before;
      if (part === SCALE) return tf.reshape(next as Tensor, [1]);
      return tf.add(before, tf.mul(tf.sub(updated, before), tf.sub(1, slots.limit as Tensor)));
    },
  };
}

/** Attention of earlier tasks by gate, and where parameters are between gates. */
type Limits = { readonly past: Readonly<Record<string, Float32Array>> } & Pick<Places, 'between'>;

/** How far weights are held from now on. What goes into the outputs is each task's own. */
const limit: Transition = (given, args) => {
  const { past, between } = args as Limits;
  const { path, shape } = given.info;
  emptyOptimizer(given, NAME);
  const place = between[path];
  const [to, from] = [past[place?.to ?? ''], past[place?.from ?? '']];
  const limits = given.slots[`${NAME}.limit`];
  if (!to || !limits) return;
  const width = to.length;
  for (let i = 0; i < limits.length; i++) {
    const out = to[i % width] as number;
    const into = from && shape.length > 1 ? (from[Math.floor(i / width) % from.length] as number) : 1;
    limits[i] = Math.min(out, into);
  }
};

const keptAs = (task: number, gate: string): string => `${EMBEDDING}/${task}/${gate}`;

/** The largest attention of tasks up to one, by gate. */
function attentionUpTo({ kept }: TaskEnd, task: number, gates: readonly string[], s_max: number) {
  const largest = (gate: string): Float32Array => {
    const tasks = Array.from({ length: task + 1 }, (_, t) => kept(keptAs(t, gate))?.data as Float32Array);
    const units = tasks[0] as Float32Array;
    return units.map((_, i) => Math.max(...tasks.map((e) => 1 / (1 + Math.exp(-s_max * (e[i] as number))))));
  };
  return Object.fromEntries(gates.map((gate) => [gate, largest(gate)]));
}

/** Hard attention to the task (Serra et al., Overcoming catastrophic forgetting with hard attention to the task, 2018). */
registerContinual({
  name: NAME,
  config: schema,
  model: (model, config) => withGates(refuseStatistics(NAME, model), config),
  rule: (config, _shape, course) => attentionRule(config, course),
  transitions: () => ({ limit }),
  compose: (given) => {
    requireKnownTask(NAME, given.scenario.shape);
    composeTasks(given, { fresh: given.global });
  },
  beforeTask: async (start, { s_max }) => {
    const { task, model, scenario, setParameters } = start;
    if (task === 0) return;
    const { found: gates } = gatesOf(model);
    const past = attentionUpTo(start, task - 1, gates, s_max);
    const free = gates.map((gate) => (past[gate] as Float32Array).map((attention) => 1 - attention));
    const total = free.reduce((sum, units) => sum + units.reduce((a, b) => a + b, 0), 0);
    const values = gates.flatMap((gate, i): [string, Float32Array][] => {
      const units = free[i] as Float32Array;
      const rng = createRng(scenario.shape.seed).fork(NAME, task, gate);
      const room = units.map((share) => share / Math.max(total, 1e-6));
      return [
        [`${gate}.${EMBEDDING}`, rng.fillNormal(new Float32Array(units.length), 0, 1)],
        [`${gate}.${ROOM}`, room],
      ];
    });
    await setParameters(Object.fromEntries(values));
  },
  afterTask: async (end, { s_max }) => {
    const { found: gates, between } = gatesOf(end.model);
    const values = await end.parameters();
    for (const gate of gates) {
      const embedding = values[`${gate}.${EMBEDDING}`] as Float32Array;
      end.keep(keptAs(end.task, gate), float32(embedding.slice(), [embedding.length]));
    }
    const past = attentionUpTo(end, end.task, gates, s_max);
    await end.transition('limit', { past, between } satisfies Limits);
  },
  showTask: async ({ model, scenario, kept, setParameters }, shown) => {
    const { found: gates } = gatesOf(model);
    const learnt = scenario.tasks.filter(({ index }) => kept(keptAs(index, gates[0] as string))).length;
    const task = Math.min(shown ?? learnt, learnt - 1);
    const values = gates.map((gate) => [`${gate}.${EMBEDDING}`, kept(keptAs(task, gate))?.data as Float32Array]);
    await setParameters(Object.fromEntries(values) as Record<string, Float32Array>);
  },
});
