import * as z from 'zod';
import type { Scheduler } from '../coordinator/index.ts';
import { trainSteps } from './steps.ts';

/**
 * `scheduler: {name: sync}`, the default: every step is one optimizer step over the whole global batch, on all ranks
 * together.
 */
export const sync: Scheduler<Record<string, never>> = {
  name: 'sync',
  config: z.strictObject({}),
  run: (session) => trainSteps(session),
};
