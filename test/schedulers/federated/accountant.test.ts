import { describe, expect, it } from 'vitest';
import { epsilonOf, logErfc, noiseFor, renyiOfRound } from '../../../src/schedulers/federated/privacy/index.ts';

describe('the accountant', () => {
  // Published figures, all made with the classic conversion of Renyi divergences.
  it.each([
    // Abadi et al., Deep Learning with Differential Privacy (2016), section 3.2.
    { noiseMultiplier: 4, sampling: 0.01, rounds: 10_000, delta: 1e-5, epsilon: 1.26 },
    // TensorFlow Privacy, tutorials/README.md: MNIST in batches of 256, 60, 30 and 10 epochs.
    { noiseMultiplier: 1.12, sampling: 256 / 60_000, rounds: 60 * 234, delta: 1e-5, epsilon: 2.92 },
    { noiseMultiplier: 0.6, sampling: 256 / 60_000, rounds: 30 * 234, delta: 1e-5, epsilon: 9.74 },
    { noiseMultiplier: 1.2, sampling: 256 / 60_000, rounds: 10 * 234, delta: 1e-5, epsilon: 1.2 },
    // Bu, Dong, Long and Su, Deep Learning with Gaussian Differential Privacy (2020), figure 4: 20 and 70 epochs.
    { noiseMultiplier: 1.3, sampling: 256 / 60_000, rounds: 20 * 234, delta: 1e-5, epsilon: 1.34 },
    { noiseMultiplier: 0.7, sampling: 256 / 60_000, rounds: 70 * 234, delta: 1e-5, epsilon: 8.68 },
  ])('agrees with published budgets: %o', ({ epsilon, delta, ...mechanism }) => {
    expect(Math.abs(epsilonOf(mechanism, delta, 'classic') / epsilon - 1)).toBeLessThan(0.01);
  });

  // The conversion that runs report. `renyi`: RdpAccountant of dp-accounting 0.6.0, `opacus`: RDPAccountant of Opacus 1.6.0, both
  // with their own orders, both for Poisson samples and neighbours with one client more or less, as here. `exact`: PLDAccountant of
  // dp-accounting, whose privacy loss distributions lose nothing to Renyi divergences: epsilon must not be below it.
  it.each([
    { noiseMultiplier: 1, sampling: 0.01, rounds: 1000, delta: 1e-5, renyi: 2.101367, opacus: 2.101365, exact: 1.8289 },
    { noiseMultiplier: 0.7, sampling: 0.02, rounds: 300, delta: 1e-4, renyi: 5.332674, opacus: 5.331974, exact: 4.414 },
    {
      ...{ noiseMultiplier: 1.1, sampling: 256 / 60_000, rounds: 60 * 234, delta: 1e-5 },
      ...{ renyi: 2.594363, opacus: 2.594363, exact: 2.3885 },
    },
    { noiseMultiplier: 4, sampling: 0.1, rounds: 2000, delta: 1e-6, renyi: 6.100696, opacus: 6.100694, exact: 5.7065 },
    { noiseMultiplier: 0.8, sampling: 0.05, rounds: 50, delta: 1e-3, renyi: 3.392763, opacus: 3.391323, exact: 2.6199 },
    { noiseMultiplier: 5, sampling: 1, rounds: 100, delta: 1e-5, renyi: 10.72551, opacus: 10.72551, exact: 9.9973 },
    {
      noiseMultiplier: 0.5,
      sampling: 1e-3,
      rounds: 5000,
      delta: 1e-5,
      renyi: 5.536062,
      opacus: 5.535898,
      exact: 4.3886,
    },
    { noiseMultiplier: 2, sampling: 0.5, rounds: 10, delta: 1e-6, renyi: 4.906438, opacus: 4.906254, exact: 4.5072 },
  ])('agrees with other accountants: %o', ({ renyi, opacus, exact, delta, ...mechanism }) => {
    const epsilon = epsilonOf(mechanism, delta);
    expect(Math.abs(epsilon / renyi - 1)).toBeLessThan(1e-3);
    expect(Math.abs(epsilon / opacus - 1)).toBeLessThan(1e-5);
    expect(epsilon).toBeGreaterThan(exact);
  });

  // mpmath 1.3.0, 40 digits: quadrature of the integral that the divergence is, at a fractional order.
  it.each([
    { sampling: 1e-4, noiseMultiplier: 0.5, order: 5.7, renyi: 0.2922244688 },
    { sampling: 1e-3, noiseMultiplier: 3, order: 1.5, renyi: 8.813392101e-8 },
    { sampling: 0.01, noiseMultiplier: 1, order: 9.9, renyi: 0.02603367217 },
    // (Here the series ends late: at order 1.1 dp-accounting gives up.)
    { sampling: 0.5, noiseMultiplier: 1, order: 1.1, renyi: 0.1561304757 },
    { sampling: 0.9, noiseMultiplier: 10, order: 2.3, renyi: 0.009326335407 },
  ])('has divergences that agree with quadrature: %o', ({ renyi, order, ...mechanism }) => {
    expect(Math.abs(renyiOfRound({ ...mechanism, rounds: 1 }, order) / renyi - 1)).toBeLessThan(1e-7);
  });

  it('is exact for a Gaussian without sampling', () => {
    // Renyi divergence of N(0, s^2) and N(1, s^2): order / (2 s^2); minimised by hand over all orders.
    const [sigma, delta, rounds] = [3, 1e-6, 7];
    const a = rounds / (2 * sigma * sigma);
    const exact = a + 2 * Math.sqrt(a * Math.log(1 / delta));
    expect(epsilonOf({ noiseMultiplier: sigma, sampling: 1, rounds }, delta, 'classic') / exact).toBeCloseTo(1, 2);
  });

  it('has fractional orders between the integer ones', () => {
    for (const sampling of [0.001, 0.02, 0.3])
      for (const noiseMultiplier of [0.7, 1.3, 5]) {
        const at = (order: number) => renyiOfRound({ noiseMultiplier, sampling, rounds: 1 }, order);
        for (const order of [2, 3, 7, 20]) {
          expect(at(order + 0.5)).toBeGreaterThan(at(order));
          expect(at(order + 0.5)).toBeLessThan(at(order + 1));
          expect(at(order + 1e-7) / at(order)).toBeCloseTo(1, 4);
        }
      }
  });

  it('agrees with the integral that the divergence is', () => {
    const [q, sigma, order] = [0.1, 1.1, 3.7];
    // E over N(0, s^2) of (1 - q + q exp((2 x - 1) / (2 s^2)))^order, by the trapezoid rule.
    let sum = 0;
    const step = 1e-3;
    for (let x = -30; x < 40; x += step) {
      const density = Math.exp((-x * x) / (2 * sigma * sigma)) / (sigma * Math.sqrt(2 * Math.PI));
      sum += step * density * (1 - q + q * Math.exp((2 * x - 1) / (2 * sigma * sigma))) ** order;
    }
    const found = renyiOfRound({ noiseMultiplier: sigma, sampling: q, rounds: 1 }, order);
    expect(found / (Math.log(sum) / (order - 1))).toBeCloseTo(1, 6);
  });

  it('asks less of a tighter conversion, more of more rounds, and finds the noise for a budget', () => {
    const mechanism = { noiseMultiplier: 1.1, sampling: 0.01, rounds: 500 };
    expect(epsilonOf(mechanism, 1e-5)).toBeLessThan(epsilonOf(mechanism, 1e-5, 'classic'));
    expect(epsilonOf({ ...mechanism, rounds: 600 }, 1e-5)).toBeGreaterThan(epsilonOf(mechanism, 1e-5));
    expect(epsilonOf({ ...mechanism, rounds: 0 }, 1e-5)).toBe(0);
    expect(epsilonOf({ ...mechanism, noiseMultiplier: 0 }, 1e-5)).toBe(Number.POSITIVE_INFINITY);
    const noise = noiseFor({ epsilon: 2, delta: 1e-5 }, mechanism);
    expect(epsilonOf({ ...mechanism, noiseMultiplier: noise }, 1e-5)).toBeLessThanOrEqual(2);
    expect(epsilonOf({ ...mechanism, noiseMultiplier: noise - 0.01 }, 1e-5)).toBeGreaterThan(2);
    expect(() => epsilonOf(mechanism, 0)).toThrow(/delta/);
    expect(() => epsilonOf({ ...mechanism, sampling: 2 }, 0.1)).toThrow(/sampling/);
  });

  it('knows erfc', () => {
    // Abramowitz and Stegun, tables 7.1 and 7.3.
    for (const [x, erfc] of [
      [0, 1],
      [0.5, 0.4795001222],
      [1, 0.1572992071],
      [2, 0.004677734981],
      [2.5, 0.000406952],
      [-1, 1.8427007929],
    ] as const)
      expect(Math.exp(logErfc(x)) / erfc).toBeCloseTo(1, 4);
    expect(logErfc(30)).toBeCloseTo(-900 - Math.log(30 * Math.sqrt(Math.PI)), 2);
  });
});
