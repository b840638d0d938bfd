import { tf } from '../../engine/index.ts';
import { type Layer, type Model, modelParams } from '../../modules/index.ts';
import { createRng, float32 } from '../../tensor/index.ts';
import { headParams } from './known-task.ts';
import type { TaskEnd } from './strategy.ts';

/** For each layer that has parameters: the task whose module is there. */
export type Composition = readonly number[];

/** Values of parameters by path. */
export type Values = Readonly<Record<string, Float32Array>>;

/** Metric of a layer: all that goes into it. */
const INPUT = 'moduleInput';

/** A model that shows what goes into each layer, in evaluations. Nothing else changes. */
export function withLayerInputs(model: Model): Model {
  const layers = model.layers.map(({ name, module }): Layer => {
    const forward: typeof module.forward = (params, inputs, ctx) => {
      const [x] = inputs;
      if (!ctx.training && x) ctx.metric(INPUT, tf.cast(tf.reshape(x, [x.shape[0] as number, -1]), 'float32'));
      return module.forward(params, inputs, ctx);
    };
    return { name, module: { ...module, forward } };
  });
  return { ...model, layers };
}

/**
 * Modules of all tasks, as tensors that a run keeps: the model itself has room for one composition of them. Of the last layer a task's
 * module is what its own outputs need, so it can stand for the outputs of another task with as many.
 */
export class ModuleLibrary {
  readonly #at: TaskEnd;
  /** Names of the layers that have parameters, in order: the places of a composition. */
  readonly layers: readonly string[];
  readonly #heads: ReadonlySet<string>;

  constructor(at: TaskEnd) {
    this.#at = at;
    const params = modelParams(at.model);
    this.layers = at.model.layers
      .map(({ name }) => name)
      .filter((name) => params.some(({ path }) => path.startsWith(`${name}.`)));
    this.#heads = new Set(headParams(at.model, at.scenario.shape));
  }

  /** Whether the last module of a task can be that of another. */
  sameOutputs(a: number, b: number): boolean {
    const { outputsOf } = this.#at.scenario.shape;
    return outputsOf[a]?.length === outputsOf[b]?.length;
  }

  /** Paths and shapes of the parameters of a layer's module. */
  #paramsOf(layer: number) {
    return modelParams(this.#at.model).filter(({ path }) => path.startsWith(`${this.layers[layer]}.`));
  }

  /** Paths of the parameters in places whose module is the task's own. */
  own(composition: Composition, task: number): string[] {
    return composition.flatMap((of, layer) => (of === task ? this.#paramsOf(layer).map(({ path }) => path) : []));
  }

  /** The others. */
  borrowed(composition: Composition, task: number): string[] {
    return composition.flatMap((of, layer) => (of === task ? [] : this.#paramsOf(layer).map(({ path }) => path)));
  }

  /** Keeps the modules of a composition that are a task's own. */
  keep(composition: Composition, task: number, values: Values): void {
    for (const [layer, of] of composition.entries())
      for (const { path, spec } of of === task ? this.#paramsOf(layer) : []) {
        const own = this.#heads.has(path)
          ? columns(values[path] as Float32Array, spec.shape.at(-1) as number, this.#outputs(task))
          : (values[path] as Float32Array);
        this.#at.keep(`module/${task}/${path}`, float32(own, [own.length]));
      }
  }

  /** Puts a composition in place, for the outputs of a task. Modules that are not there yet begin anew, each attempt from other numbers. */
  async put(composition: Composition, task: number, attempt = 0): Promise<void> {
    const { kept, scenario } = this.#at;
    const values: Record<string, Float32Array> = {};
    for (const [layer, of] of composition.entries())
      for (const { path, spec } of this.#paramsOf(layer)) {
        const module = kept(`module/${of}/${path}`)?.data as Float32Array | undefined;
        const rng = createRng(scenario.shape.seed).fork('module', of, attempt, path);
        if (!module) values[path] = spec.init(rng, spec.shape);
        else if (!this.#heads.has(path)) values[path] = module;
        else values[path] = this.sameOutputs(of, task) ? this.#spread(module, spec.shape, task) : zeros(spec.shape);
      }
    await this.#at.setParameters(values);
  }

  /** What goes into a layer for examples at positions of the training stream, as the model is. */
  async inputs(layer: number, positions: Int32Array): Promise<{ readonly rows: Float32Array; readonly width: number }> {
    const name = `${this.layers[layer]}.${INPUT}`;
    const rows = (await this.#at.predict(positions, [name]))[name] as Float32Array;
    return { rows, width: rows.length / positions.length };
  }

  #outputs(task: number): readonly number[] {
    return this.#at.scenario.shape.outputsOf[task] as readonly number[];
  }

  /** Columns of a module in the places of a task's outputs. */
  #spread(module: Float32Array, shape: readonly number[], task: number): Float32Array {
    const [out, width] = [zeros(shape), shape.at(-1) as number];
    const outputs = this.#outputs(task);
    for (const [i, value] of module.entries())
      out[Math.floor(i / outputs.length) * width + (outputs[i % outputs.length] as number)] = value;
    return out;
  }
}

const zeros = (shape: readonly number[]): Float32Array => new Float32Array(shape.reduce((a, b) => a * b, 1));

/** Some columns of rows of `width` numbers. */
export function columns(values: Float32Array, width: number, wanted: readonly number[]): Float32Array {
  return Float32Array.from(
    { length: (values.length / width) * wanted.length },
    (_, i) => values[Math.floor(i / wanted.length) * width + (wanted[i % wanted.length] as number)] as number,
  );
}
