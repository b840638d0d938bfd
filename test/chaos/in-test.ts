import { afterEach, expect } from 'vitest';
import { Cluster, type ClusterOptions, differing, type Outcome } from './cluster.ts';
import type { ProjectOptions } from './project.ts';

const open: Cluster[] = [];
// Also after a test that failed or ran out of time.
afterEach(async () => {
  for (const cluster of open.splice(0)) await cluster.close();
});

/** A cluster that ends with the test. */
export async function cluster(options: ClusterOptions = {}): Promise<Cluster> {
  const started = await Cluster.start(options);
  open.push(started);
  return started;
}

const references = new Map<string, Promise<Outcome>>();

/** The undisturbed run on one worker, made once in a file for each set of options (the mesh does not matter). */
export function reference(options: ProjectOptions = {}): Promise<Outcome> {
  const key = JSON.stringify({ ...options, parallel: {} });
  const known = references.get(key) ?? makeReference(options);
  references.set(key, known);
  return known;
}

async function makeReference(options: ProjectOptions): Promise<Outcome> {
  const alone = await Cluster.start({ nats: null });
  try {
    // Sections of the cluster's say nothing to a run without one.
    return await alone.serial(alone.config({ ...options, parallel: {}, sections: {} }));
  } finally {
    await alone.close();
  }
}

/** Checks that a disturbed run lost nothing, and nothing happened twice. */
export function expectUndisturbed(outcome: Outcome, expected: Outcome): void {
  expect({ ...outcome, tensors: differing(outcome, expected) }).toEqual({ ...expected, tensors: [] });
  expect(outcome.steps).toEqual(outcome.steps.map((_, index) => index + 1));
}
