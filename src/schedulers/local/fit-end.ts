import { type DeviceTensor, type Engine, type Executable, type Signature, tf } from '../../engine/index.ts';
import type { ParamInfo } from '../../optim/index.ts';
import { float32 } from '../../tensor/index.ts';
import type { LocalObjective, ObjectiveTensors } from './objective.ts';
import { ofParam, type ShapedTensor } from './step-function.ts';
import type { LocalState, TensorLists } from './trainer.ts';

/** What a `FitEnd` is made of. */
export interface FitEndOptions {
  readonly engine: Engine;
  readonly objective: LocalObjective;
  /** The model's parameters, and the objective's tensors, shapes known. */
  readonly infos: readonly ParamInfo[];
  readonly tensors: readonly ShapedTensor[];
}

/** What an objective makes of a client's tensors once its steps are over, and of the client's own model: an executable each. */
export class FitEnd {
  readonly #options: FitEndOptions;
  #after: Promise<Executable> | null = null;
  #own: Promise<Executable> | null = null;

  constructor(options: FitEndOptions) {
    this.#options = options;
  }

  /**
   * What `after` and `finish` make of the tensors that they may change; null where the objective has neither.
   * @param length `Optimizer.pathLength` of the steps that were made; NaN where there is none
   */
  async after(
    start: LocalState,
    end: LocalState,
    tensors: TensorLists,
    length: number,
    lr: number,
  ): Promise<{ readonly tensor: ShapedTensor; readonly values: DeviceTensor[] }[] | null> {
    const { engine, objective } = this.#options;
    if (!objective.after && !objective.finish) return null;
    this.#after ??= this.#compileAfter();
    const executable = await this.#after;
    const scalar = (value: number) => engine.upload(float32([value], []));
    const outputs = await executable.run([
      ...start.params,
      ...end.params,
      ...this.#options.tensors.flatMap(({ name }) => tensors.get(name) ?? []),
      scalar(length),
      scalar(lr),
    ]);
    return this.#changed.map((tensor) => ({ tensor, values: outputs.splice(0, this.#signature(tensor).length) }));
  }

  /** Parameters of the client's own model, by the objective's `own`. @throws Error if a `client` tensor is missing */
  async own(server: LocalState, tensors: TensorLists): Promise<readonly DeviceTensor[]> {
    const { engine, objective, infos } = this.#options;
    if (!objective.own) return server.params;
    const kept = this.#options.tensors.filter(({ scope }) => scope === 'client');
    this.#own ??= engine.compile(
      (...given) => {
        const params = given.splice(0, infos.length);
        const lists = kept.map((tensor) => this.#taken(tensor, given));
        return infos.map((info, i) => objective.own?.(params[i] as tf.Tensor, ofParam(lists, i), info) as tf.Tensor);
      },
      [...infos.map(({ shape }) => like(shape)), ...kept.flatMap((tensor) => this.#signature(tensor))],
      { name: `own model of ${objective.name}` },
    );
    const given = kept.flatMap(({ name }) => {
      const values = tensors.get(name);
      if (!values)
        throw new Error(`the own model of "${objective.name}" needs its tensor "${name}", which was not given`);
      return values;
    });
    return (await this.#own).run([...server.params, ...given]);
  }

  /** Tensors that `after` and `finish` may change: those that steps move are known already. */
  get #changed(): ShapedTensor[] {
    const { after, finish, passes = [] } = this.#options.objective;
    return this.#options.tensors.filter(
      ({ name, scope, shape, moves }) =>
        scope === 'client' &&
        !moves &&
        !passes.some(({ into }) => into === name) &&
        (shape === 'param' ? after : finish),
    );
  }

  /** One of the objective's tensors, whose values are the next ones of `given`. */
  #taken(tensor: ShapedTensor, given: tf.Tensor[]): ShapedTensor & { readonly values: readonly tf.Tensor[] } {
    return { ...tensor, values: given.splice(0, this.#signature(tensor).length) };
  }

  #signature({ shape }: ShapedTensor): Signature[] {
    return shape === 'param' ? this.#options.infos.map((info) => like(info.shape)) : [like(shape)];
  }

  #compileAfter(): Promise<Executable> {
    const { engine, objective, infos, tensors } = this.#options;
    const shapes = infos.map(({ shape }) => shape);
    return engine.compile(
      (...given) => {
        const params = given.splice(0, infos.length);
        const ends = given.splice(0, infos.length);
        const values = tensors.map((tensor) => this.#taken(tensor, given));
        const [length, lr] = given as [tf.Tensor, tf.Tensor];
        const results = infos.map((info, i) => {
          const own = ofParam(values, i);
          const [start, param] = [params[i] as tf.Tensor, ends[i] as tf.Tensor];
          return { own, made: objective.after?.({ start, param, tensors: own, length, lr }, info) ?? {} };
        });
        const whole: ObjectiveTensors = Object.fromEntries(
          values.flatMap(({ name, shape, values: [value] }) =>
            shape === 'param' ? [] : [[name, value as tf.Tensor] as const],
          ),
        );
        const finished = objective.finish?.(whole) ?? {};
        return this.#changed.flatMap(({ name, shape }) =>
          shape === 'param'
            ? results.map(({ own, made }) => tf.add(made[name] ?? (own[name] as tf.Tensor), 0))
            : [tf.add(finished[name] ?? (whole[name] as tf.Tensor), 0)],
        );
      },
      [
        ...shapes.map(like),
        ...shapes.map(like),
        ...tensors.flatMap((tensor) => this.#signature(tensor)),
        like([]),
        like([]),
      ],
      { name: `after ${objective.name}` },
    );
  }
}

function like(shape: readonly number[]): Signature {
  return { dtype: 'float32', shape };
}
