import * as z from 'zod';
import type { LocalObjective } from './objective.ts';
import { registerObjective } from './registry.ts';

/** Plain training, after which the client also sends the mean loss that it had on its examples at the start: as `start_loss`. */
export function startLoss(): LocalObjective {
  return { name: 'start-loss', readings: [{ name: 'start_loss', at: 'start', what: 'loss' }] };
}

registerObjective({ name: 'start-loss', config: z.object({}), make: startLoss });
