import * as z from 'zod';
import { tf } from '../../../engine/index.ts';
import { init, type Layer, type Model, type Module, nn, param, walk, withoutGradient } from '../../../modules/index.ts';
import type { ParamInfo, ParamRule } from '../../../optim/index.ts';
import { float32 } from '../../../tensor/index.ts';
import { composeTasks } from '../compose.ts';
import { refuseStatistics, requireKnownTask } from '../known-task.ts';
import { type Course, registerContinual, type TaskEnd } from '../strategy.ts';

type Tensor = tf.Tensor;

const NAME = 'pnn';
/** Children of a layer: its module once more for a later task, and what goes into that one from earlier columns. */
const column = (task: number): string => `taskColumn${task}`;
const adapter = (task: number): string => `taskAdapter${task}`;
/** Parameter of the last layer: 1 at the column whose outputs are the model's, else 0. */
const SELECTED = 'selectedColumn';

/**
 * Lateral connections: from what earlier columns have at a layer, each scaled by a learnt number, to what is added to the column's
 * own input (equation 2; its U comes before the layer's weights here, which is the same family of functions). Not for gradients.
 */
function lateral(columns: number, width: number, hidden: number): Module {
  return {
    kind: 'lateralAdapter',
    params: { scale: param([columns], init.constant(0.1), { decay: false }) },
    children: { down: nn.linear(columns * width, hidden), up: nn.linear(hidden, width, { bias: false }) },
    forward({ scale }, inputs, ctx) {
      const scales = tf.split(scale as Tensor, columns);
      const scaled = inputs.map((x, i) =>
        tf.mul(
          withoutGradient(() => tf.mul(x, 1)),
          scales[i] as Tensor,
        ),
      );
      return ctx.run('up', tf.relu(ctx.run('down', tf.concat(scaled, (inputs[0] as Tensor).rank - 1))));
    },
  };
}

/** A layer with a column for each task: from the input, or from the outputs of each column, to the outputs of each, or of one. */
function withColumns(
  { name, module }: Layer,
  tasks: number,
  { width, hidden, last }: { readonly width: number | null; readonly hidden: number; readonly last: boolean },
): Layer {
  const others = Array.from({ length: tasks - 1 }, (_, i) => i + 1);
  const laterals = width === null ? [] : others.map((t) => [adapter(t), lateral(t, width, hidden)] as const);
  const selected = param([tasks], (_rng, [size]) => new Float32Array(size as number).fill(1, 0, 1), { decay: false });
  const grown: Module = {
    ...module,
    kind: `${module.kind} in columns`,
    params: { ...module.params, ...(last ? { [SELECTED]: selected } : {}) },
    children: {
      ...module.children,
      ...Object.fromEntries(others.map((t) => [column(t), module])),
      ...Object.fromEntries(laterals),
    },
    forward(params, inputs, ctx) {
      if (width !== null && inputs.length !== tasks)
        throw new Error(`strategy pnn needs layers with one input and one output each; ${name} has another number`);
      const outputs = [[module.forward(params, inputs.slice(0, 1), ctx)].flat(2)[0] as Tensor];
      for (const t of others) {
        const own = inputs[width === null ? 0 : t] as Tensor;
        const given = width === null ? own : tf.add(own, ctx.run(adapter(t), ...inputs.slice(0, t)));
        outputs.push(ctx.run(column(t), given));
      }
      if (!last) return outputs;
      const shares = tf.split(
        withoutGradient(() => tf.mul(params[SELECTED] as Tensor, 1)),
        tasks,
      );
      return outputs.map((y, t) => tf.mul(y, shares[t] as Tensor)).reduce((sum, y) => tf.add(sum, y));
    },
  };
  return { name, module: grown };
}

function progressive(model: Model, tasks: number, hidden: number | undefined): Model {
  if (tasks === 1) return model;
  let width: number | null = null;
  const layers = model.layers.map((layer, i) => {
    const modules = walk(layer.module, layer.name, { experts: false });
    const before: number | null = width;
    width = modules.reduce<number | null>((units, { module }) => module.params?.weight?.shape.at(-1) ?? units, width);
    const last = i === model.layers.length - 1;
    return withColumns(layer, tasks, { width: i === 0 ? null : before, hidden: hidden ?? before ?? 1, last });
  });
  return { ...model, layers };
}

/** The task whose column a parameter belongs to; -1 for the choice of a column. */
function taskOf({ path }: ParamInfo): number {
  if (path.endsWith(`.${SELECTED}`)) return -1;
  const [, task] = /\.task(?:Column|Adapter)(\d+)\./.exec(path) ?? [];
  return Number(task ?? 0);
}

/** Only the column of the step's task is trained; the others stay as they are, to the bit. */
export function oneColumn({ ends }: Course): ParamRule {
  return {
    name: NAME,
    variant: (info) => String(taskOf(info)),
    numbers: { count: 1, of: (_, { step }) => [ends.findIndex((end) => step < end)] },
    settle: ({ param: before, updated, numbers: [task], info }) =>
      taskOf(info) < 0 ? before : tf.where(tf.equal(task as Tensor, taskOf(info)), updated, before),
  };
}

const LEARNT = 'learnt';

/** Makes a column's outputs those of the model. */
async function select({ model, scenario, setParameters }: TaskEnd, task: number): Promise<void> {
  const { tasks } = scenario.shape;
  if (tasks === 1) return;
  const path = `${model.layers.at(-1)?.name}.${SELECTED}`;
  await setParameters({ [path]: new Float32Array(tasks).fill(1, task, task + 1) });
}

/** Progressive networks (Rusu et al., Progressive neural networks, 2016). All columns are computed in every step. */
registerContinual({
  name: NAME,
  config: z.object({
    adapter: z
      .int()
      .min(1)
      .optional()
      .describe('hidden width of lateral connections; default: as wide as the layer that they come from'),
  }),
  model: (model, config, { tasks }) => progressive(refuseStatistics(NAME, model), tasks, config.adapter),
  rule: (_config, _shape, course) => oneColumn(course),
  compose: (given) => {
    requireKnownTask(NAME, given.scenario.shape);
    composeTasks(given, { fresh: given.global });
  },
  beforeTask: async (start) => {
    start.keep(LEARNT, float32(Float32Array.of(start.task), [1]));
    await select(start, start.task);
  },
  // A task that has not come yet is shown what there is: the newest column.
  showTask: (shown, task) => {
    const newest = Number(shown.kept(LEARNT)?.data[0] ?? 0);
    return select(shown, Math.min(task ?? newest, newest));
  },
});
