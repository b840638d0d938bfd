import type { Tensor } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { expertCall, uniform, withPath } from '../engine/index.ts';
import type { Shape } from '../tensor/index.ts';
import { joinPath } from '../tensor/index.ts';
import { describeNames, describeTensors, ModuleError } from './errors.ts';
import { streamOf } from './key.ts';
import { runExpertsHere } from './local-experts.ts';
import type { Context, Module, Tensors } from './module.ts';

/** What one forward of a layer left besides its outputs, in the order of the calls. */
export interface Recording {
  /** Metric names are absolute paths. */
  readonly metrics: { readonly name: string; readonly value: Tensor }[];
  /** Scalars that are added to the objective. */
  readonly losses: Tensor[];
  /** By absolute state path. */
  readonly contributions: Map<string, Tensor>;
  /** Absolute paths of modules that called their experts. */
  readonly expertCalls: string[];
}

/** One forward of a layer: the tensors it reads by absolute path, and what it leaves. */
export class Trace {
  readonly recording: Recording = { metrics: [], losses: [], contributions: new Map(), expertCalls: [] };
  readonly training: boolean;
  /** Experts run inside the function, all of them on all rows, instead of being called from outside. */
  readonly expertsHere: boolean;
  readonly key: Tensor;
  /** Prefix that paths are cut of before they go into the graph, so that equal layers give equal graphs. */
  private readonly root: string;
  private readonly params: ReadonlyMap<string, Tensor>;
  private readonly state: ReadonlyMap<string, Tensor>;
  private readonly draws = new Map<string, number>();

  constructor(options: {
    readonly root: string;
    readonly training: boolean;
    readonly expertsHere?: boolean;
    readonly key: Tensor;
    readonly params: ReadonlyMap<string, Tensor>;
    readonly state: ReadonlyMap<string, Tensor>;
  }) {
    this.root = options.root;
    this.training = options.training;
    this.expertsHere = options.expertsHere ?? false;
    this.key = options.key;
    this.params = options.params;
    this.state = options.state;
  }

  /** Runs a module placed at `path`. @throws ModuleError naming the innermost module that failed. */
  run(module: Module, path: string, inputs: readonly Tensor[]): readonly Tensor[] {
    const params = this.owned('parameter', module, path, Object.keys(module.params ?? {}), this.params);
    const state = this.owned('state', module, path, Object.keys(module.state ?? {}), this.state);
    const context = new ModuleContext(this, module, path, state);
    return withPath(this.relative(path), () => {
      let result: unknown;
      try {
        result = module.forward(params, inputs, context);
      } catch (error) {
        if (error instanceof ModuleError) throw error;
        const reason = error instanceof Error ? error.message : String(error);
        throw new ModuleError(module.kind, path, `failed on ${describeTensors(inputs)}: ${reason}`, error);
      }
      return checkOutputs(result, module, path);
    });
  }

  /** Path within the layer. The loss keeps its own name, beside the layer's. */
  relative(path: string): string {
    if (path === this.root) return '';
    return path.startsWith(`${this.root}.`) ? path.slice(this.root.length + 1) : path;
  }

  /** Number of this draw among those of the module at `relativePath`. */
  nextDraw(relativePath: string): number {
    const call = this.draws.get(relativePath) ?? 0;
    this.draws.set(relativePath, call + 1);
    return call;
  }

  /** A module's own tensors by name, which says so when it is asked for one that the module did not declare. */
  private owned(
    what: string,
    module: Module,
    path: string,
    names: readonly string[],
    all: ReadonlyMap<string, Tensor>,
  ): Tensors {
    const own: Record<string, Tensor> = {};
    for (const name of names) {
      const tensor = all.get(joinPath(path, name));
      if (!tensor) throw new ModuleError(module.kind, path, `its ${what} "${name}" was not given to the function`);
      own[name] = tensor;
    }
    return new Proxy(own, {
      get(target, name) {
        if (typeof name === 'symbol' || name in target) return target[name as string];
        throw new ModuleError(module.kind, path, `has no ${what} "${name}"; ${describeNames(name, names)}`);
      },
    });
  }
}

function checkOutputs(result: unknown, module: Module, path: string): readonly Tensor[] {
  const outputs: readonly unknown[] = Array.isArray(result) ? result : [result];
  for (const output of outputs) {
    if (output instanceof tf.Tensor) continue;
    const what =
      output instanceof Promise ? 'a promise (forward must not be async)' : output === null ? 'null' : typeof output;
    throw new ModuleError(module.kind, path, `forward returned ${what}; expected a tensor or an array of tensors`);
  }
  return outputs as readonly Tensor[];
}

class ModuleContext implements Context {
  readonly path: string;
  readonly state: Tensors;
  private readonly trace: Trace;
  private readonly module: Module;

  constructor(trace: Trace, module: Module, path: string, state: Tensors) {
    this.trace = trace;
    this.module = module;
    this.path = path;
    this.state = state;
  }

  get training(): boolean {
    return this.trace.training;
  }

  run(child: string, ...inputs: Tensor[]): Tensor {
    const outputs = this.runAll(child, inputs);
    if (outputs.length !== 1)
      this.fail(
        `child "${child}" returned ${outputs.length} tensors where one was expected; use ctx.runAll for several`,
      );
    return outputs[0] as Tensor;
  }

  runAll(child: string, inputs: readonly Tensor[]): readonly Tensor[] {
    const children = this.module.children ?? {};
    const module = Object.hasOwn(children, child) ? children[child] : undefined;
    if (!module) return this.fail(`has no child "${child}"; ${describeNames(child, Object.keys(children))}`);
    return this.trace.run(module, joinPath(this.path, child), inputs);
  }

  uniform(shape: Shape): Tensor {
    const relative = this.trace.relative(this.path);
    return uniform(this.trace.key, shape, streamOf(relative, this.trace.nextDraw(relative)));
  }

  contribute(name: string, value: Tensor): void {
    const spec = this.module.state?.[name];
    if (!spec) this.fail(`has no state "${name}"; ${describeNames(name, Object.keys(this.module.state ?? {}))}`);
    if (!this.training) return;
    if (String(value.shape) !== String(spec.shape) || value.dtype !== 'float32')
      this.fail(`contributed ${value.dtype} [${value.shape}] to state "${name}", which is float32 [${spec.shape}]`);
    const path = joinPath(this.path, name);
    if (this.trace.recording.contributions.has(path)) this.fail(`contributed to state "${name}" twice in one forward`);
    this.trace.recording.contributions.set(path, value);
  }

  addLoss(name: string, value: Tensor): void {
    if (value.rank !== 0 || value.dtype !== 'float32')
      this.fail(`addLoss("${name}") takes a float32 scalar, not ${value.dtype} [${value.shape}]`);
    this.trace.recording.losses.push(value);
    this.metric(name, value);
  }

  metric(name: string, value: Tensor): void {
    const base = joinPath(this.path, name);
    const taken = this.trace.recording.metrics.filter((m) => m.name === base || m.name.startsWith(`${base}#`)).length;
    // A module that runs twice in one forward reports twice; the second is `name#2`.
    const unique = taken === 0 ? base : `${base}#${taken + 1}`;
    this.trace.recording.metrics.push({
      name: unique,
      value: value.dtype === 'float32' ? value : tf.cast(value, 'float32'),
    });
  }

  experts(rows: Tensor, counts: Tensor): Tensor {
    const experts = this.module.experts?.length ?? 0;
    if (experts === 0) this.fail('called ctx.experts but declares no `experts`');
    if (rows.rank !== 2 || rows.dtype !== 'float32')
      this.fail(`ctx.experts takes rows as float32 [rows, width], not ${rows.dtype} [${rows.shape}]`);
    if (counts.dtype !== 'int32' || String(counts.shape) !== String([experts]))
      this.fail(
        `ctx.experts takes counts as int32 [${experts}], one per expert, not ${counts.dtype} [${counts.shape}]`,
      );
    if (this.trace.recording.expertCalls.includes(this.path)) this.fail('called ctx.experts twice in one forward');
    this.trace.recording.expertCalls.push(this.path);
    if (this.trace.expertsHere) return runExpertsHere(this.trace, this.module, this.path, rows, counts);
    return expertCall(rows, counts, { path: this.trace.relative(this.path), experts });
  }

  private fail(message: string): never {
    throw new ModuleError(this.module.kind, this.path, message);
  }
}
