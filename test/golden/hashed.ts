import type { Named, ParamSpec } from '../../src/modules/index.ts';
import type { HostTensor } from '../../src/tensor/index.ts';
import { float32, int32, sizeOf } from '../../src/tensor/index.ts';

// Weights and data of the golden transformer from an integer hash; make_golden.py has the same in Python.

/** The finaliser of MurmurHash3, on uint32. */
export function mix(value: number): number {
  let x = value >>> 0;
  x = Math.imul(x ^ (x >>> 16), 0x85ebca6b);
  x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35);
  return (x ^ (x >>> 16)) >>> 0;
}

/** Weights in ±0.2, gains around 1, biases around 0 within 0.05; a parameter is known by its number in path order. */
export function hashedParams(specs: readonly Named<ParamSpec>[]): Record<string, HostTensor> {
  return Object.fromEntries(
    specs.map(({ path, spec }, index) => {
      const bound = path.endsWith('weight') ? 0.2 : 0.05;
      const center = path.endsWith('gain') ? 1 : 0;
      const data = Float32Array.from({ length: sizeOf(spec.shape) }, (_, i) => {
        const u = mix(i + 1_000_003 * (index + 1)) / 2 ** 32;
        return Math.fround((2 * u - 1) * bound) + center;
      });
      return [path, float32(data, spec.shape)];
    }),
  );
}

/** A batch of sequences x' = 5 x + 3 + (a random bit) modulo the vocabulary: inputs and targets `[batch, time]`. */
export function hashedTokens(step: number, batch: number, time: number, vocab: number): [HostTensor, HostTensor] {
  const inputs: number[] = [];
  const targets: number[] = [];
  for (let b = 0; b < batch; b++) {
    let x = mix(step * 7919 + b + 1) % vocab;
    for (let t = 0; t < time; t++) {
      inputs.push(x);
      x = (5 * x + 3 + (mix(step * 104_729 + b * 1009 + t + 12_345) & 1)) % vocab;
      targets.push(x);
    }
  }
  return [int32(inputs, [batch, time]), int32(targets, [batch, time])];
}
