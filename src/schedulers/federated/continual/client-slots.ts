import type { DeviceTensor, Engine } from '../../../engine/index.ts';
import { type Model, modelParams } from '../../../modules/index.ts';
import { type Optimizer, type OptimizerPlan, type ParamInfo, type ParamRule, withRule } from '../../../optim/index.ts';
import { float32, type HostTensor } from '../../../tensor/index.ts';
import { type LocalState, paramInfos, partOf, type VectorLayout, vectorLayout } from '../../local/index.ts';
import type { KeptVectors } from '../client-store.ts';

/** Prefix of a rule's slots among what a client keeps. */
const RULE = 'rule/';

/** The slots of a continual strategy's rule, which a client keeps from fit to fit; those of the optimizer begin anew. */
export class ClientSlots {
  /** Of training steps, and of steps that only look at gradients. */
  readonly training: OptimizerPlan;
  readonly looking: OptimizerPlan;
  readonly infos: readonly ParamInfo[];
  readonly layout: VectorLayout;
  readonly #engine: Engine;
  readonly #rule: ParamRule | null;

  constructor(engine: Engine, model: Model, plan: OptimizerPlan, rule: ParamRule | null) {
    this.#engine = engine;
    this.#rule = rule;
    this.infos = paramInfos({ params: modelParams(model) });
    this.layout = vectorLayout(modelParams(model));
    this.training = rule ? withRule(plan, rule) : plan;
    this.looking = rule ? withRule(plan, rule, [{ steps: Number.MAX_SAFE_INTEGER, cycle: ['observe'] }]) : plan;
  }

  /** Puts what a client keeps where the engine computes. */
  with(state: LocalState, kept: KeptVectors): LocalState {
    if (!this.#rule) return state;
    let at = 0;
    const slots = this.#each((name, i) => {
      const zeros = state.slots[at++] as DeviceTensor;
      const place = this.layout.places[i] as VectorLayout['places'][number];
      const values = name === null ? undefined : kept[RULE + name];
      return values ? this.#engine.upload(float32(partOf(values, place).slice(), place.shape)) : zeros;
    });
    return { ...state, slots };
  }

  /** Reads the rule's slots back, to be kept. */
  async read({ slots }: LocalState): Promise<KeptVectors> {
    const kept: Record<string, Float32Array> = {};
    let at = 0;
    const reading = this.#each(async (name, i) => {
      const slot = slots[at++] as DeviceTensor;
      if (name === null) return;
      kept[RULE + name] ??= new Float32Array(this.layout.size);
      const { data }: HostTensor = await this.#engine.download(slot);
      partOf(kept[RULE + name] as Float32Array, this.layout.places[i] as VectorLayout['places'][number]).set(
        data as Float32Array,
      );
    });
    await Promise.all(reading);
    return kept;
  }

  /** Slots of a parameter as transitions see them; those of the rule are parts of `kept`, which is filled up with zeros. */
  ofParam(index: number, kept: Record<string, Float32Array>): Record<string, Float32Array> {
    const info = this.infos[index] as ParamInfo;
    const place = this.layout.places[index] as VectorLayout['places'][number];
    return Object.fromEntries(
      this.#optimizer.slots(info).map((full) => {
        const name = this.#ruleSlot(info, full);
        if (name === null) return [full, new Float32Array(place.size)];
        kept[RULE + name] ??= new Float32Array(this.layout.size);
        return [full, partOf(kept[RULE + name] as Float32Array, place)];
      }),
    );
  }

  get #optimizer(): Optimizer {
    return this.training.optimizer;
  }

  /** All slots in order, each with its name if it is one of the rule's. */
  #each<T>(of: (name: string | null, param: number) => T): T[] {
    return this.infos.flatMap((info, i) =>
      this.#optimizer.slots(info).map((full) => of(this.#ruleSlot(info, full), i)),
    );
  }

  #ruleSlot(info: ParamInfo, full: string): string | null {
    const own = this.#rule?.slots?.(info) ?? [];
    return own.find((slot) => full === `${this.#rule?.name}.${slot}`) ?? null;
  }
}
