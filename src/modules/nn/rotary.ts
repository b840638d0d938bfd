import type { Tensor } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { cosTurns, sinTurns } from '../../tensor/index.ts';

/** Cosines and sines of rotary positions, each `[time, dim / 2]`, multiplied by `scale`. */
export interface RotaryTables {
  readonly cos: Tensor;
  readonly sin: Tensor;
}

/**
 * Tables of rotary position embeddings (Su et al. 2021): position t turns pair i by t * base^(-2i/dim). Computed on the
 * host with arithmetic that every runtime rounds alike, so that Node and Deno train to the same bits.
 */
export function rotaryTables(time: number, dim: number, base: number, scale: number): RotaryTables {
  const half = dim / 2;
  const { cos, sin } = remembered(`${time} ${dim} ${base} ${scale}`, () => tablesOf(time, half, base, scale));
  return { cos: tf.tensor2d(cos, [time, half]), sin: tf.tensor2d(sin, [time, half]) };
}

interface HostTables {
  readonly cos: Float32Array;
  readonly sin: Float32Array;
}

/** The last few tables: every block of a model asks for the same ones. */
const recent = new Map<string, HostTables>();

function remembered(key: string, make: () => HostTables): HostTables {
  const known = recent.get(key) ?? make();
  recent.delete(key);
  recent.set(key, known);
  if (recent.size > 8) recent.delete(recent.keys().next().value as string);
  return known;
}

function tablesOf(time: number, half: number, base: number, scale: number): HostTables {
  const ratio = inverseRoot(base, half);
  const cos = new Float32Array(time * half);
  const sin = new Float32Array(time * half);
  for (let t = 0; t < time; t++) {
    let frequency = 1;
    for (let i = 0; i < half; i++) {
      const turns = (t * frequency) / (2 * Math.PI);
      cos[t * half + i] = scale * cosTurns(turns);
      sin[t * half + i] = scale * sinTurns(turns);
      frequency *= ratio;
    }
  }
  return { cos, sin };
}

/** Turns `x` `[..., time, dim]` by its positions; a pair is (i, i + dim/2), as in GPT-NeoX and Llama. */
export function rotate(x: Tensor, tables: RotaryTables): Tensor {
  const axis = x.rank - 1;
  const half = (x.shape[axis] as number) / 2;
  const [first, second] = tf.split(x, [half, half], axis) as [Tensor, Tensor];
  const { cos, sin } = tables;
  return tf.concat(
    [tf.sub(tf.mul(first, cos), tf.mul(second, sin)), tf.add(tf.mul(second, cos), tf.mul(first, sin))],
    axis,
  );
}

/** base^(-1/n) by Newton's method, since `Math.pow` may differ between runtimes in the last bit. */
function inverseRoot(base: number, n: number): number {
  let r = 1;
  for (let iteration = 0; iteration < 200; iteration++) {
    let power = 1;
    for (let i = 0; i < n - 1; i++) power *= r;
    // Root of f(r) = r^n - 1/base, approached from above where f is convex.
    const next = r - (power * r - 1 / base) / (n * power);
    if (next >= r) break;
    r = next;
  }
  return r;
}
