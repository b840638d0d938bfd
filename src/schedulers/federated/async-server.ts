import type { ClientFit } from './fit-task.ts';
import type { LocalWork } from './simulation.ts';

/** How a server takes updates that come at any time. */
export interface AsyncServer {
  /** Updates that make a new version of the parameters together: 1 for FedAsync, K for FedBuff. */
  readonly buffer: number;
  /**
   * What is mixed in. `update`: by how much a client changed what it began with. `model`: what it ended with, which also pulls the
   * parameters back towards the version that it began with.
   */
  readonly mixes: 'update' | 'model';
  /** Weight of an update that began `staleness` versions ago. */
  weight(staleness: number): number;
  /** Factor on the mean of the weighted updates. */
  readonly serverLr: number;
}

/** Polynomial decay of stale updates: (1 + staleness)^-a (Xie, Koyejo and Gupta, FedAsync, 2019, section 5.2). */
export function polynomialStaleness(exponent: number): (staleness: number) => number {
  return (staleness) => (1 + staleness) ** -exponent;
}

/**
 * Buffered asynchronous aggregation: Nguyen, Malik, Zhan, Yousefpour, Rabbat, Malek and Huba, Federated Learning with Buffered
 * Asynchronous Aggregation (FedBuff, 2022), algorithm 1, updates scaled by 1 / sqrt(1 + staleness) unless told otherwise.
 */
export function fedbuff({
  buffer,
  serverLr,
  exponent = 0.5,
}: {
  readonly buffer: number;
  readonly serverLr: number;
  readonly exponent?: number;
}): AsyncServer {
  return { buffer, serverLr, mixes: 'update', weight: polynomialStaleness(exponent) };
}

/**
 * Every client's parameters mixed in at once, w = (1 - a) w + a w_client with a = alpha (1 + staleness)^-exponent: Xie, Koyejo and
 * Gupta, Asynchronous Federated Optimization (FedAsync, 2019), algorithm 1.
 */
export function fedasync({ alpha, exponent }: { readonly alpha: number; readonly exponent: number }): AsyncServer {
  const decay = polynomialStaleness(exponent);
  return { buffer: 1, serverLr: 1, mixes: 'model', weight: (staleness) => alpha * decay(staleness) };
}

/** What a client is asked where there are no rounds. `number`: of the fit, in place of the round's; every update counts once. */
export function fitWithoutRounds(
  client: number,
  number: number,
  examples: Int32Array,
  { epochs }: LocalWork,
): ClientFit {
  const work = { client, round: number, examples, epochs, maxSteps: null, firstStep: 0 };
  return { ...work, weight: 1, clipNorm: null, kept: {} };
}
