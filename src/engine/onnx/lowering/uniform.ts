import { COLUMN_STEP, MIX_A, MIX_B, mix32, ROW_STEP, uniformMatrix } from '../../ops/index.ts';
import type { Ref } from '../model.ts';
import type { LoweringContext } from './context.ts';

/**
 * The hash of ops/uniform.ts on uint32, whose sums and products wrap: full mixing for each row and each column, the
 * short mixer for each element.
 */
export function uniform(c: LoweringContext): Ref {
  const { rows, width } = uniformMatrix(c.out.shape);
  const key = c.b.cast(c.in(0), 'uint32');
  const word = (value: number): Ref => c.b.scalar(value >>> 0, 'uint32');
  const xor = (x: Ref, y: Ref): Ref => c.map('BitwiseXor', x, y);
  const shifted = (x: Ref, by: number): Ref => c.apply('BitShift', [x, word(by)], { direction: 'RIGHT' });
  const halfMix = (x: Ref): Ref => {
    const once = c.map('Mul', xor(x, shifted(x, 16)), word(MIX_A));
    return c.map('Mul', xor(once, shifted(once, 15)), word(MIX_B));
  };
  const mix = (x: Ref): Ref => {
    const mixed = halfMix(x);
    return xor(mixed, shifted(mixed, 16));
  };
  const numbers = (shape: readonly number[], count: number, step: number): Ref =>
    c.b.constant(
      'uint32',
      shape,
      Uint32Array.from({ length: count }, (_, i) => Math.imul(i, step)),
    );
  const seed = word(mix32(c.number('stream')));
  const row = mix(c.map('Add', mix(xor(numbers([rows, 1], rows, ROW_STEP), c.slice(key, 0, 0, 1))), seed));
  const column = mix(xor(mix(xor(numbers([1, width], width, COLUMN_STEP), c.slice(key, 0, 1, 1))), seed));
  const bits = shifted(halfMix(c.map('Add', row, column)), 8);
  return c.b.reshape(c.map('Mul', c.b.cast(bits, 'float32'), c.k(2 ** -24)), c.out.shape);
}
