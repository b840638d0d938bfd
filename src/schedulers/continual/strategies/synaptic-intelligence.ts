import * as z from 'zod';
import { tf } from '../../../engine/index.ts';
import type { ParamRule } from '../../../optim/index.ts';
import type { Transition } from '../../../worker/index.ts';
import { registerContinual } from '../strategy.ts';

type Tensor = tf.Tensor;

const NAME = 'si';
const SLOTS = ['importance', 'anchor', 'path'] as const;

/**
 * Each weight's share in the fall of the loss is added up along the way, as minus gradient times change; the penalty
 * strength * importance * (w - anchor)^2 keeps those that had much of it (Zenke, Poole and Ganguli, Continual learning through synaptic
 * intelligence, 2017, equations 3 to 5).
 */
export function pathIntegral(strength: number): ParamRule {
  return {
    name: NAME,
    slots: () => SLOTS,
    gradient: ({ gradient, param, slots }) => {
      const away = tf.sub(param, slots.anchor as Tensor);
      return tf.add(gradient, tf.mul(tf.mul(slots.importance as Tensor, away), 2 * strength));
    },
    // The gradient is that of the loss alone.
    renew: ({ gradient, param, updated, slots }) => ({
      path: tf.sub(slots.path as Tensor, tf.mul(gradient, tf.sub(updated, param))),
    }),
  };
}

/** The task's importance: what a weight did for the loss over the square of how far it went; and a new anchor. */
const consolidate: Transition = ({ value, slots }, args) => {
  const { damping } = args as { readonly damping: number };
  const [importance, anchor, path] = SLOTS.map((slot) => slots[`${NAME}.${slot}`] as Float32Array) as [
    Float32Array,
    Float32Array,
    Float32Array,
  ];
  for (let i = 0; i < value.length; i++) {
    const moved = (value[i] as number) - (anchor[i] as number);
    importance[i] = (importance[i] as number) + Math.max(0, (path[i] as number) / (moved * moved + damping));
    anchor[i] = value[i] as number;
    path[i] = 0;
  }
};

/** Anchors of the first task are the parameters that it begins with. */
const begin: Transition = ({ value, slots }) => {
  (slots[`${NAME}.anchor`] as Float32Array).set(value);
};

registerContinual({
  name: NAME,
  languageModels: true,
  config: z.object({
    strength: z.number().min(0).default(0.1).describe("weight of the penalty, the paper's c"),
    damping: z
      .number()
      .positive()
      .default(0.1)
      .describe("what keeps importance finite where a weight has hardly moved, the paper's xi"),
  }),
  rule: ({ strength }) => pathIntegral(strength),
  transitions: () => ({ begin, consolidate }),
  beforeTask: async ({ task, transition }) => {
    if (task === 0) await transition('begin', {});
  },
  afterTask: ({ transition }, { damping }) => transition('consolidate', { damping }),
});
