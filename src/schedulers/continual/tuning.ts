import { tf } from '../../engine/index.ts';
import type { ParamRule } from '../../optim/index.ts';
import { createRng, permutation } from '../../tensor/index.ts';
import type { Transition } from '../../worker/index.ts';
import type { ExampleBuffer } from './buffer.ts';
import type { Remembered } from './built-stream.ts';
import { filled, type Seen } from './compose.ts';
import type { ComposeGiven, ContinualStrategy, StepBuilder } from './strategy.ts';

type Tensor = tf.Tensor;

/** Slot that says what becomes of a parameter: what the base wants, plain fine-tuning, nothing. */
const MODE = 'tuning-mode';
const Mode = { base: 0, tuned: 1, frozen: 2 } as const;
/** Pauses before and after fine-tuning. */
const TUNE = 'fpf: tune';
export const GO_ON = 'fpf: go on';

/** The base's rule, and what becomes of a parameter while modules are fine-tuned. */
function tuningRule(base: ParamRule | undefined, rate: number): ParamRule {
  const when = (slots: Readonly<Record<string, Tensor>>, mode: number): Tensor =>
    tf.less(tf.abs(tf.sub(slots[MODE] as Tensor, mode)), 0.5);
  return {
    ...base,
    // Slots have the name of their rule, by which the base's own transitions find them.
    name: base?.name ?? 'fpf',
    slots: (info) => [...(base?.slots?.(info) ?? []), MODE],
    gradient: (given) => {
      const usual = base?.gradient?.(given) ?? given.gradient;
      const tuned = tf.where(when(given.slots, Mode.tuned), tf.mul(given.gradient, rate), tf.zerosLike(given.gradient));
      return tf.where(when(given.slots, Mode.base), usual, tuned);
    },
    settle: (given) => {
      const usual = base?.settle?.(given) ?? given.updated;
      const tuned = tf.where(when(given.slots, Mode.tuned), given.updated, given.param);
      return tf.where(when(given.slots, Mode.base), usual, tuned);
    },
    renew: (given) => {
      const usual = Object.entries(base?.renew?.(given) ?? {});
      return Object.fromEntries(
        usual.map(([name, value]) => [
          name,
          tf.where(when(given.slots, Mode.base), value, given.slots[name] as Tensor),
        ]),
      );
    },
  };
}

/** Gives each parameter its mode: those of the named modules are tuned, others stay; null: what the base wants. */
const setMode: Transition = ({ info, slots }, tuned) => {
  const module = info.path.slice(0, Math.max(0, info.path.lastIndexOf('.')));
  const own = (tuned as readonly string[] | null)?.includes(module);
  // The slot is called after the base's rule.
  const slot = Object.keys(slots).find((name) => name.endsWith(`.${MODE}`)) as string;
  (slots[slot] as Float32Array).fill(own === undefined ? Mode.base : own ? Mode.tuned : Mode.frozen);
};

/** Adds the steps of a fine-tuning on what a buffer holds, each pass in a new order. */
export function tune({ builder, global, seed }: ComposeGiven, buffer: Remembered, epochs: number): void {
  if (buffer.held.length === 0) return;
  const at = builder.steps;
  builder.pause(TUNE);
  for (let epoch = 0; epoch < epochs; epoch++) {
    const order = permutation(buffer.held.length, createRng(seed).fork('continual tuning', at, epoch));
    const entries = Array.from(order, (place) => {
      const { example, task } = buffer.held[place] as Seen;
      return { example, task, weight: 1 };
    });
    for (let i = 0; i < entries.length; i += global) builder.step(filled(entries.slice(i, i + global), global));
  }
}

/** The base's steps as they are, each example offered to a buffer once; `before` can hold a step back, `after` add others. */
export function watched(
  { builder, dataset }: ComposeGiven,
  buffer: ExampleBuffer,
  hooks: {
    readonly holdsBack?: () => boolean;
    readonly stepped?: (task: number) => void;
    readonly ends?: () => void;
    readonly remembers?: (buffer: Remembered) => void;
  },
): StepBuilder {
  const real = dataset.split('train').examples;
  const offered = new Set<string>();
  return {
    get steps() {
      return builder.steps;
    },
    reserve: (count) => builder.reserve(count),
    restart: () => builder.restart(),
    pause: (name) => builder.pause(name),
    remember(made) {
      hooks.remembers?.(made);
      builder.remember(made);
    },
    step(entries, phase) {
      if (!hooks.holdsBack?.()) builder.step(entries, phase);
      for (const { example, task, weight } of entries) {
        const key = `${task} ${example}`;
        if (weight === 0 || phase === 'observe' || example >= real || offered.has(key)) continue;
        offered.add(key);
        buffer.offer({ example, task });
      }
      hooks.stepped?.(entries[0]?.task as number);
    },
    endTask() {
      hooks.ends?.();
      builder.endTask();
    },
  };
}

/** A base whose chosen modules are fine-tuned wherever its steps pause for that. */
export function withTuning(
  base: ContinualStrategy,
  name: string,
  { share, rate }: { readonly share: number; readonly rate: number },
): ContinualStrategy {
  // Fine-tuning has whole batches.
  const { trained: _, ...others } = base;
  return {
    ...others,
    name,
    rule: (config, shape, course) => tuningRule(base.rule?.(config, shape, course), rate),
    transitions: (config, shape) => ({
      ...base.transitions?.(config, shape),
      [TUNE]: setMode,
    }),
    beforeTask: async (start, config) => {
      // Refuses a run that does not look at drift before it has been trained in vain.
      start.drift();
      await base.beforeTask?.(start, config);
    },
    atPause: async (at, pause, config) => {
      if (pause !== TUNE && pause !== GO_ON) {
        await base.atPause?.(at, pause, config);
        return;
      }
      const modules = at.drift();
      const count = Math.max(1, Math.round(share * modules.length));
      await at.transition(TUNE, pause === GO_ON ? null : modules.slice(0, count).map(({ module }) => module));
    },
  };
}
