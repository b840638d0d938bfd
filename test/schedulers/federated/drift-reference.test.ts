import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { PreparedData } from '../../../src/data/index.ts';
import { average, close, sumOf, type Vector } from './plain-vectors.ts';
import { gradient, LR, smallFederation, smallTable } from './small-federation.ts';

// Strategies against client drift beside their papers' algorithms, written down with plain numbers and gradients by central differences.
// Four rounds, in which each client takes part at least twice: what it has kept of its last one counts.

let dir: string;
let data: PreparedData;
beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'plexus-drift-'));
  data = await smallTable(dir);
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const COHORTS = [
  [0, 1],
  [1, 2],
  [0, 2],
  [0, 1],
];
const CLIENTS = 3;

/** How far parameters are from each other. */
const distance = (a: Vector, b: Vector) => Math.hypot(...sumOf([1, a], [-1, b]));

describe('strategies against drift', () => {
  it('fedprox holds clients near to where they began', async () => {
    const mu = 0.9;
    const { reference, examples, run } = await smallFederation(data, 'fedprox', { mu });
    const { loss, batches } = reference;
    const trained = (strength: number) => {
      let w = reference.initial;
      for (const [round, cohort] of COHORTS.entries()) {
        const ends = cohort.map((k) => {
          let local = w;
          for (const batch of batches(round, k)) {
            const slope = gradient((at) => loss(at, batch), local);
            // h(w) = F(w) + mu / 2 |w - w_t|^2 (equation 2).
            local = sumOf([1, local], [-LR, slope], [-LR * strength, sumOf([1, local], [-1, w])]);
          }
          return local;
        });
        w = average(
          ends,
          cohort.map((k) => examples[k]?.length as number),
        );
      }
      return w;
    };
    const expected = trained(mu);
    expect(distance(expected, trained(0))).toBeGreaterThan(0.01);
    close((await run(COHORTS)).params, expected);
  });

  it('scaffold takes the difference of control variates off each step', async () => {
    const rate = 0.7;
    const { reference, run } = await smallFederation(data, 'scaffold', { server_lr: rate });
    const { loss, batches } = reference;
    const zeros = reference.initial.map(() => 0);
    let x = reference.initial;
    let c: Vector = zeros;
    const own = new Map<number, Vector>();
    for (const [round, cohort] of COHORTS.entries()) {
      const moved: Vector[] = [];
      const changed: Vector[] = [];
      for (const k of cohort) {
        const before = own.get(k) ?? zeros;
        const steps = batches(round, k);
        let y = x;
        for (const batch of steps) {
          const slope = gradient((at) => loss(at, batch), y);
          y = sumOf([1, y], [-LR, slope], [LR, before], [-LR, c]);
        }
        // Option II of algorithm 1.
        const after = sumOf([1, before], [-1, c], [1 / (steps.length * LR), sumOf([1, x], [-1, y])]);
        moved.push(sumOf([1, y], [-1, x]));
        changed.push(sumOf([1, after], [-1, before]));
        own.set(k, after);
      }
      x = sumOf([1, x], [rate, average(moved)]);
      c = sumOf([1, c], [cohort.length / CLIENTS, average(changed)]);
    }
    expect(distance(c, zeros)).toBeGreaterThan(0.05);
    const found = await run(COHORTS);
    close(found.params, x);
    close(found.vectors.variate as Float32Array, c);
  });

  it('feddyn moves the minimum of each client towards that of all', async () => {
    const alpha = 0.6;
    const { reference, run } = await smallFederation(data, 'feddyn', { alpha });
    const { loss, batches } = reference;
    const zeros = reference.initial.map(() => 0);
    let w = reference.initial;
    let h: Vector = zeros;
    const slopes = new Map<number, Vector>();
    for (const [round, cohort] of COHORTS.entries()) {
      const ends = cohort.map((k) => {
        const before = slopes.get(k) ?? zeros;
        let local = w;
        for (const batch of batches(round, k)) {
          const slope = gradient((at) => loss(at, batch), local);
          // Of L(theta) - <g, theta> + alpha / 2 |theta - w|^2 (equation 1).
          local = sumOf([1, local], [-LR, slope], [LR, before], [-LR * alpha, sumOf([1, local], [-1, w])]);
        }
        slopes.set(k, sumOf([1, before], [-alpha, sumOf([1, local], [-1, w])]));
        return local;
      });
      const start = w;
      h = sumOf([1, h], ...ends.map((end) => [-alpha / CLIENTS, sumOf([1, end], [-1, start])] as const));
      w = sumOf([1, average(ends)], [-1 / alpha, h]);
    }
    const found = await run(COHORTS);
    close(found.params, w);
    close(found.vectors.h as Float32Array, h);
  });
});
