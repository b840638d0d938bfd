import { describe, expect, test } from 'vitest';
import { drawn } from '../../../src/data/index.ts';
import { CohortDraws } from '../../../src/schedulers/federated/cohort-draws.ts';

const partition = drawn({ examples: 500, labels: null }, { clients: 40, size: 7, seed: 3 });
const draws = () => new CohortDraws({ partition, seed: 9, cohort: 5 });

describe('who is asked in a round', () => {
  test('depends on the round alone, whether it was drawn ahead or not, or another one was', () => {
    const ahead = draws();
    const rounds = [0, 1, 2, 1].map((round) => {
      ahead.prepare(round + 1);
      ahead.prepare(round);
      return ahead.of(round);
    });
    const plain = [0, 1, 2, 1].map((round) => draws().of(round));
    expect(rounds).toEqual(plain);
    const late = draws();
    late.prepare(7);
    expect(late.of(2)).toEqual(plain[2]);
    expect(new Set(plain.map((clients) => clients.map(({ client }) => client).join())).size).toBe(3);
  });

  test('clients come in rising order with examples of their own; those that are given are asked as they are', () => {
    const [cohort, given] = [draws().of(4), draws().of(4, [30, 2])];
    expect(cohort.map(({ client }) => client)).toEqual([...cohort.map(({ client }) => client)].sort((a, b) => a - b));
    expect(cohort.length).toBe(5);
    for (const { client, examples } of [...cohort, ...given]) expect(examples).toEqual(partition.examples(client));
    expect(given.map(({ client }) => client)).toEqual([2, 30]);
  });
});
