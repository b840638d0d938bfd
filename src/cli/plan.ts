import { prepareQuietly, resolveConfig } from '../coordinator/index.ts';
import { formatInstruction, formatPlan } from '../plan/index.ts';
import { outlineOf } from '../schedulers/index.ts';
import { type ExitCode, exitCodes } from './exit.ts';
import { formatOutline } from './federated-plan.ts';
import { isInteractive, painter, type Streams } from './terminal.ts';
import { scaleMesh } from './workers.ts';

/** Options of `plexus plan`. */
export interface PlanOptions {
  readonly set: readonly string[];
  readonly workers?: number;
  readonly programs?: boolean;
  readonly json?: boolean;
}

/** `plexus plan CONFIG`: what each rank would hold and do. Reads the data and traces the model, but starts no worker. */
export async function plan(file: string, options: PlanOptions, streams: Streams): Promise<ExitCode> {
  const paint = painter(isInteractive(streams.err));
  let config = resolveConfig(file, options.set);
  if (options.workers !== undefined) {
    const { overrides, explanation } = scaleMesh(config.parallel, options.workers);
    config = resolveConfig(file, [...options.set, ...overrides]);
    streams.err.write(`${explanation}\n`);
  }
  const prepared = await prepareQuietly(config);
  const { plan: made, warnings } = prepared;
  for (const warning of warnings) streams.err.write(`${paint('yellow', '!')} ${warning}\n`);
  const outline = await outlineOf(prepared);
  if (outline) {
    streams.out.write(`${options.json ? JSON.stringify({ federated: outline, warnings }) : formatOutline(outline)}\n`);
    return exitCodes.ok;
  }
  if (options.json) {
    const { mesh, batch, stages, schedule, programs } = made;
    streams.out.write(`${JSON.stringify({ mesh, batch, stages, schedule, warnings, programs })}\n`);
    return exitCodes.ok;
  }
  streams.out.write(`${formatPlan(made)}\n`);
  if (options.programs)
    for (const { rank, instructions } of made.programs) {
      streams.out.write(`\n${paint('bold', `rank ${rank}`)}, ${instructions.length} instructions a step\n`);
      for (const instruction of instructions) streams.out.write(`  ${formatInstruction(instruction)}\n`);
    }
  return exitCodes.ok;
}
