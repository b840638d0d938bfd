import { tf } from '../../engine/index.ts';
import { type Layer, type Model, type Module, walk } from '../../modules/index.ts';
import type { TaskEnd } from './strategy.ts';

type Tensor = tf.Tensor;

/** Children: a layer once more for the new features, and the classifiers of these: what they add, and one of their own. */
const [GROWN, BOOSTING, AUXILIARY] = ['grown', 'boosting', 'auxiliary'] as const;

/** Each layer with a second branch; the last one also says what the second branch adds, and what it says alone. */
export function twoBranches(model: Model, strategy: string): Model {
  const layers = model.layers.map(({ name, module }, i): Layer => {
    const kept = walk(module, name, { experts: false }).find((each) => each.module.state);
    if (kept)
      throw new Error(
        `strategy ${strategy} freezes a model, but ${kept.path} (${kept.module.kind}) keeps statistics: use mlp`,
      );
    const last = i === model.layers.length - 1;
    const branches: Record<string, Module> = last ? { [BOOSTING]: module, [AUXILIARY]: module } : { [GROWN]: module };
    const twin: Module = {
      ...module,
      kind: `${module.kind} in two branches`,
      children: { ...module.children, ...branches },
      forward(params, inputs, ctx) {
        const [own, other = own] = inputs as readonly [Tensor, Tensor?];
        if (inputs.length > (i === 0 ? 1 : 2))
          throw new Error(`strategy ${strategy} needs layers with one input and output each, unlike ${name}`);
        const main = [module.forward(params, [own], ctx)].flat()[0] as Tensor;
        const added = Object.keys(branches).map((branch) => ctx.run(branch, other));
        return [main, added.length > 1 ? tf.concat(added, 1) : (added[0] as Tensor)];
      },
    };
    return { name, module: twin };
  });
  return { ...model, layers };
}

/** Whether a parameter is of the second branch. */
export const isGrown = (path: string): boolean =>
  [GROWN, BOOSTING, AUXILIARY].some((name) => path.split('.').includes(name));

/** The new branch begins as a copy of the old one, and adds nothing to what that one says. */
export async function grow({ model, parameters, setParameters }: TaskEnd): Promise<void> {
  const values = await parameters();
  const grown: Record<string, Float32Array> = {};
  for (const [path, value] of Object.entries(values)) {
    const layer = model.layers.find(({ name }) => path.startsWith(`${name}.`))?.name as string;
    const under = (child: string): string => `${layer}.${child}.${path.slice(layer.length + 1)}`;
    if (isGrown(path)) continue;
    if (under(GROWN) in values) grown[under(GROWN)] = value;
    else {
      grown[under(BOOSTING)] = new Float32Array(value.length);
      grown[under(AUXILIARY)] = value;
    }
  }
  await setParameters(grown);
}
