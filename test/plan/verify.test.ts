import { describe, expect, it } from 'vitest';
import { SCHEDULE_NAMES } from '../../src/plan/index.ts';
import { model, plan } from './helpers.ts';

describe('every schedule is free of deadlock', () => {
  for (const name of SCHEDULE_NAMES)
    for (const chunks of name === 'interleaved-1f1b' ? [1, 2, 3] : [1])
      it(`${name}, ${chunks} chunks, p <= 6, m <= 12`, () => {
        for (let p = 1; p <= 6; p++)
          for (let m = 1; m <= 12; m++) {
            const made = plan(model(p * chunks), { pipeline: p, schedule: name, chunks }, m);
            expect({ p, m, ...made.verified.train }).toMatchObject({ credit: 1 });
            expect({ p, m, ...made.verified.evaluate }).toMatchObject({ credit: 1 });
          }
      });
});
