import type { DeviceTensor, Engine, PhasedFunction, Signature, SlotId } from '../../engine/index.ts';
import {
  type ExpertFunction,
  evaluationKey,
  type LayerFunction,
  type Model,
  modelFunctions,
  type TaskInfo,
} from '../../modules/index.ts';
import { float32, type HostTensor } from '../../tensor/index.ts';

/** Gives a parameter or state tensor by its path; `kind` tells which. */
export type WeightSource = (path: string, kind: 'param' | 'state') => Promise<HostTensor>;

interface PredictorLayer {
  readonly fn: LayerFunction;
  readonly phased: PhasedFunction;
  /** Parameters, state and key: what does not change from call to call. */
  readonly fixed: readonly DeviceTensor[];
  readonly experts: readonly PredictorExperts[];
}

interface PredictorExperts {
  readonly fn: ExpertFunction;
  /** Parameters of each expert. */
  readonly params: readonly (readonly DeviceTensor[])[];
}

/**
 * The forward pass of a whole model in this thread, without a loss: from a batch's inputs to the last layer's outputs,
 * for generation and inference. Experts run in place.
 */
export class Predictor {
  readonly #engine: Engine;
  readonly #layers: readonly PredictorLayer[];
  readonly #buckets = new Map<string, Promise<PhasedFunction>>();
  readonly #key: DeviceTensor;

  private constructor(engine: Engine, layers: readonly PredictorLayer[], key: DeviceTensor) {
    this.#engine = engine;
    this.#layers = layers;
    this.#key = key;
  }

  /** Compiles a model for batches of `batch` examples and loads its weights. */
  static async create(
    engine: Engine,
    model: Model,
    info: TaskInfo,
    batch: number,
    weights: WeightSource,
  ): Promise<Predictor> {
    const key = engine.upload(evaluationKey());
    const load = async (path: string, kind: 'param' | 'state') => engine.upload(await weights(path, kind));
    const layers: PredictorLayer[] = [];
    for (const fn of modelFunctions(model, info, batch, 'predict')) {
      const outputs = fn.layout.objective + 1 + fn.layout.metrics.length + fn.layout.contributions.length;
      const phased = await engine.vjp(fn.fn, fn.inputs, {
        name: fn.name,
        wrt: fn.inputs.map(() => false),
        differentiable: new Array<boolean>(outputs).fill(false),
      });
      const params = await Promise.all(fn.params.map(({ path }) => load(path, 'param')));
      const state = await Promise.all(fn.state.map(({ path }) => load(path, 'state')));
      const experts = await Promise.all(
        fn.expertCalls.map(async (call) => ({
          fn: call,
          params: await Promise.all(call.params.map((of) => Promise.all(of.map(({ path }) => load(path, 'param'))))),
        })),
      );
      layers.push({ fn, phased, fixed: [...params, ...state, key], experts });
    }
    return new Predictor(engine, layers, key);
  }

  /** Runs the model on a batch of inputs and returns the last layer's outputs. */
  async run(inputs: readonly HostTensor[]): Promise<HostTensor[]> {
    let activations: readonly DeviceTensor[] = inputs.map((input) => this.#engine.upload(input));
    for (const layer of this.#layers) activations = await this.#layer(layer, activations);
    const outputs = await Promise.all(activations.map((value) => this.#engine.download(value)));
    // The engine may use the memory again; what is handed out is the caller's.
    const own = outputs.map((output) => ({ ...output, data: output.data.slice() }));
    for (const value of activations) this.#engine.release(value);
    return own;
  }

  async #layer(
    { fn, phased, fixed, experts }: PredictorLayer,
    activations: readonly DeviceTensor[],
  ): Promise<DeviceTensor[]> {
    const values = new Map<SlotId, DeviceTensor>();
    const made = new Set<SlotId>();
    [...fixed, ...activations].forEach((value, i) => {
      values.set(phased.inputs[i] as SlotId, value);
    });
    const put = (slot: SlotId, value: DeviceTensor): void => {
      values.set(slot, value);
      made.add(slot);
    };
    const get = (slot: SlotId): DeviceTensor => {
      const value = values.get(slot);
      if (!value)
        throw new Error(`layer ${fn.name}: slot ${slot} is read before it is written; this is a defect of the engine`);
      return value;
    };
    for (const phase of phased.phases) {
      const outputs = await phase.executable.run(phase.reads.map(get));
      phase.writes.forEach((slot, i) => {
        put(slot, outputs[i] as DeviceTensor);
      });
      if (phase.call) {
        const { path, rows, counts, result } = phase.call;
        const call = experts.find(({ fn: { path: absolute } }) => absolute === path || absolute.endsWith(`.${path}`));
        if (!call) throw new Error(`layer ${fn.name}: there are no experts for the call of "${path}"`);
        put(result, await this.#experts(call, get(rows), get(counts)));
      }
    }
    const results = phased.outputs.slice(0, fn.layout.objective);
    const kept = new Set([...results.map(get), ...fixed]);
    for (const slot of made) if (!kept.has(get(slot))) this.#engine.release(get(slot));
    for (const value of activations) if (!kept.has(value)) this.#engine.release(value);
    return results.map(get);
  }

  /** Runs each expert on its rows; rows past the sum of counts stay zero. */
  async #experts({ fn, params }: PredictorExperts, rows: DeviceTensor, counts: DeviceTensor): Promise<DeviceTensor> {
    const input = await this.#engine.download(rows);
    const numbers = (await this.#engine.download(counts)).data as Int32Array;
    const [, width = 0] = input.shape;
    const source = input.data as Float32Array;
    const result = new Float32Array(source.length);
    let start = 0;
    for (const [expert, own] of params.entries()) {
      const count = numbers[expert] as number;
      if (count === 0) continue;
      // Powers of two, so that few sizes are compiled; at least two rows, as in training.
      const bucket = 2 ** Math.ceil(Math.log2(Math.max(2, count)));
      const padded = new Float32Array(bucket * width);
      padded.set(source.subarray(start * width, (start + count) * width));
      const phased = await this.#bucket(fn, bucket, width);
      const given = [...own, this.#key, this.#engine.upload(float32(padded, [bucket, width]))];
      const byslot = new Map(phased.inputs.map((slot, i) => [slot, given[i] as DeviceTensor]));
      const [phase] = phased.phases;
      if (!phase) throw new Error(`the experts of "${fn.path}" have nothing to run; this is a defect of the engine`);
      const outputs = await phase.executable.run(phase.reads.map((slot) => byslot.get(slot) as DeviceTensor));
      const at = phase.writes.indexOf(phased.outputs[0] as SlotId);
      const output = await this.#engine.download(outputs[at] as DeviceTensor);
      result.set((output.data as Float32Array).subarray(0, count * width), start * width);
      for (const value of outputs) this.#engine.release(value);
      this.#engine.release(given[given.length - 1] as DeviceTensor);
      start += count;
    }
    return this.#engine.upload(float32(result, input.shape));
  }

  #bucket(fn: ExpertFunction, bucket: number, width: number): Promise<PhasedFunction> {
    const id = `${fn.path} ${bucket}`;
    let compiled = this.#buckets.get(id);
    if (!compiled) {
      const params = (fn.params[0] ?? []).map(({ spec }): Signature => ({ dtype: 'float32', shape: spec.shape }));
      const signature: Signature[] = [
        ...params,
        { dtype: 'int32', shape: [2] },
        { dtype: 'float32', shape: [bucket, width] },
      ];
      compiled = this.#engine.vjp(fn.fn, signature, {
        name: `${fn.path}.experts`,
        wrt: signature.map(() => false),
        differentiable: [false],
      });
      this.#buckets.set(id, compiled);
    }
    return compiled;
  }
}
