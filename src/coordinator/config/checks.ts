import { checkDevice, checkDeviceName, EngineError } from '../../engine/index.ts';
import { batchPlan, checkMesh, PlanError, worldSize } from '../../plan/index.ts';
import { schedulerNamed } from '../scheduler.ts';
import type { Finding } from './read.ts';
import type { ResolvedConfig } from './resolve.ts';
import type { Config } from './schema.ts';

/** Constraints between keys, which no single key's schema can state; those of planner and engine, at the place of the value. */
export function checkConfig(config: Config): Finding[] {
  const { batch, engine, parallel } = config;
  const { name, ...own } = config.scheduler;
  const dividing = batch.global % batch.micro === 0;
  return [
    ...findingOf(['parallel', 'expert'], () => checkMesh(parallel)),
    ...findingOf(['engine', 'device'], () => checkDeviceName(engine)),
    ...findingOf(dividing ? ['parallel', 'data'] : ['batch', 'micro'], () => batchPlan(batch, parallel)),
    ...(schedulerNamed(name).check?.(config, own) ?? []),
  ];
}

/** Checks that this machine has what a config asks for. @throws ConfigError naming what is missing */
export function checkMachine({ engine, parallel, origin }: ResolvedConfig): void {
  const path = ['engine', 'device'];
  const findings = findingOf(path, () => checkDevice(engine));
  const workers = worldSize(parallel);
  // The workers of a machine are threads. Two that use the provider's one context write to the same command encoder,
  // and the process dies of it.
  if (engine.kind === 'onnx' && engine.device === 'webgpu' && workers > 1)
    findings.push({
      path,
      message:
        `engine.device webgpu takes one worker, but parallel asks for ${workers} (data ${parallel.data} x pipeline ` +
        `${parallel.pipeline}): ONNX Runtime's WebGPU provider has one context a process, which threads cannot share. ` +
        'Set parallel.data and parallel.pipeline to 1 (parallel.expert too)',
    });
  if (findings.length > 0) throw origin.fail(findings);
}

function findingOf(path: readonly string[], check: () => unknown): Finding[] {
  try {
    check();
    return [];
  } catch (error) {
    if (error instanceof PlanError || error instanceof EngineError) return [{ path, message: error.message }];
    throw error;
  }
}

/**
 * Settings that were given but change nothing in this config: each is worth one warning. (The planner knows those of the
 * `parallel` section.)
 */
export function settingsWithoutEffect(config: ResolvedConfig): string[] {
  const given = (path: string): boolean => config.origin.given.has(path);
  const { train } = config;
  const warnings: string[] = [];
  const note = (path: string, because: string): void => {
    if (given(path)) warnings.push(`${path} has no effect: ${because}`);
  };
  if (train.eval_every === 0 || train.eval_every >= train.steps)
    note('train.eval_microbatches', 'it limits evaluations on the way, and there are none (train.eval_every)');
  if (train.checkpoint_every === 0 || train.checkpoint_every >= train.steps)
    note('train.keep_last', 'only the last step is checkpointed (train.checkpoint_every)');
  if (config.generate.characters === 0 && !['moby-dick', 'text', 'sotu'].includes(config.data.name))
    note('generate', `the data '${config.data.name}' is not text`);
  if (config.comm.control === 'local') {
    const because = 'the workers are threads of one process (comm.control local, without --nats)';
    for (const path of ['comm.nats', 'comm.lease_s', 'recovery']) note(path, because);
    if (config.comm.data !== 'auto' && config.comm.data !== 'local') note('comm.data', because);
  }
  return warnings;
}
