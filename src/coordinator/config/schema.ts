import * as z from 'zod';
import { dataSchema } from '../../data/index.ts';
import { engineSchema } from '../../engine/index.ts';
import { optimSchema } from '../../optim/index.ts';
import { parallelSchema } from '../../plan/index.ts';
import { schedulerSchema } from '../scheduler.ts';
import { modelSection } from './model-section.ts';
import {
  batchSchema,
  commSchema,
  generateSchema,
  numericsSchema,
  recoverySchema,
  rematSchema,
  runSchema,
  trainSchema,
} from './sections.ts';

/** The whole config: one section a room, the same keys for every scheduler. */
export function configSchema() {
  return z.strictObject({
    name: z.string().min(1).default('run').describe('name of the run, the beginning of its folder name'),
    seed: z.int().min(0).max(0xffffffff).default(0).describe('seed of initial weights, data order and dropout'),
    model: modelSection(),
    data: dataSchema,
    batch: batchSchema,
    optim: optimSchema,
    train: trainSchema,
    parallel: parallelSchema,
    engine: engineSchema,
    numerics: numericsSchema,
    remat: rematSchema,
    scheduler: schedulerSchema(),
    comm: commSchema,
    recovery: recoverySchema,
    run: runSchema,
    generate: generateSchema,
  });
}

/** A complete config: every key present. Keys are those of the YAML file. */
export type Config = z.output<ReturnType<typeof configSchema>>;
