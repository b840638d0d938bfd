import type { Batch } from '../../data/index.ts';
import type { DeviceTensor, Engine } from '../../engine/index.ts';
import type { OptimizerPlan } from '../../optim/index.ts';
import { float32, type HostTensor, int32 } from '../../tensor/index.ts';
import type { Chunk } from './chunks.ts';
import type { ModelFunction } from './model-function.ts';
import type { LocalSteps } from './trainer.ts';

/** What the steps of one run read, in memory that the next run of as many steps of that size writes over. */
interface Memory {
  readonly examples: Int32Array;
  readonly places: Int32Array;
  readonly keys: Int32Array;
  readonly scalars: Float32Array;
  /** Examples as they were read last. */
  batch: Batch | null;
}

/**
 * What runs of several steps read besides the model: keys, the optimizer's numbers, examples. Each kind of run has memory of its own
 * for it: 150 KB of images a client, allocated afresh, kept V8 looking for garbage on all cores.
 */
export class StepInputs {
  readonly #engine: Engine;
  readonly #optimizer: OptimizerPlan;
  readonly #memory = new Map<string, Memory>();

  constructor(engine: Engine, optimizer: OptimizerPlan) {
    this.#engine = engine;
    this.#optimizer = optimizer;
  }

  /**
   * The inputs of a run behind the model's and the objective's tensors, as `StepsFunction` has them; valid until they are asked for
   * again. `places`: whether the run is to know the examples' places among the public ones.
   */
  of({ size, start, steps }: Chunk, given: LocalSteps, model: ModelFunction, places: boolean): DeviceTensor[] {
    const { split, batches, first, key, positions } = given;
    const plan = this.#optimizer;
    const memory = this.#take(size, steps);
    const width = memory.scalars.length / steps;
    for (let i = 0; i < steps; i++) {
      const step = first + start + i;
      memory.examples.set(batches[start + i] as Int32Array, i * size);
      if (positions) memory.places.set(positions[start + i] as Int32Array, i * size);
      memory.keys.set(key(step).data as Int32Array, i * 2);
      const lr = plan.lrAt(step);
      memory.scalars.set(plan.optimizer.scalars(lr, step + 1), i * width);
      memory.scalars[(i + 1) * width - 1] = lr;
    }
    memory.batch = split.batch(memory.examples, memory.batch ?? undefined);
    const { inputs, targets } = memory.batch;
    const shapes = [...model.inputs, ...model.targets].map(({ shape }) => shape);
    const upload = (tensor: HostTensor) => this.#engine.upload(tensor);
    return [
      upload(int32(memory.keys, [steps, 2])),
      upload(float32(memory.scalars, [steps, width])),
      ...(places ? [upload(int32(memory.places, [steps, size]))] : []),
      ...[...inputs, ...targets].map((tensor, i) =>
        upload({ ...tensor, shape: [steps, ...(shapes[i] ?? tensor.shape)] }),
      ),
    ];
  }

  #take(size: number, steps: number): Memory {
    const name = `${steps} of ${size}`;
    const known = this.#memory.get(name);
    if (known) return known;
    const made: Memory = {
      examples: new Int32Array(steps * size),
      places: new Int32Array(steps * size),
      keys: new Int32Array(steps * 2),
      scalars: new Float32Array(steps * (this.#optimizer.optimizer.scalars(0, 1).length + 1)),
      batch: null,
    };
    this.#memory.set(name, made);
    return made;
  }
}
