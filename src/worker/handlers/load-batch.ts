import type { Handler } from '../program-run.ts';

/** Gathers a microbatch's inputs or targets from the dataset. */
export const loadBatch: Handler<'LoadBatch'> = (run, { stage, microbatch, what }) => {
  const batch = run.batch(microbatch, what);
  const cells = batch[what].map((tensor) => run.parts.space.upload(tensor));
  const pass = run.pass(stage, microbatch);
  if (what === 'inputs') pass.inputs = cells;
  else pass.targets = cells;
};
