import { describe, expect, it } from 'vitest';
import { described } from '../../../src/schedulers/federated/share-out.ts';

describe('a partition in a few words', () => {
  it('has its settings, and the first of many lists', () => {
    expect(described({ name: 'dirichlet', alpha: 0.5, min_size: 1 })).toBe('dirichlet, alpha 0.5');
    const classes = [[0, 7], [1], [2, 4]];
    expect(described({ name: 'pathological', classes })).toBe('pathological, classes [0,7] [1] [2,4]');
    expect(described({ name: 'pathological', classes: [...classes, [3, 5]] })).toBe(
      'pathological, classes [0,7] [1] [2,4] …',
    );
  });
});
