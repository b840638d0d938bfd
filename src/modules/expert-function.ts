import type { Tensor } from '@tensorflow/tfjs-core';
import { Trace } from './context.ts';
import { ModuleError } from './errors.ts';
import type { ExpertFunction } from './layer-function.ts';
import type { Module } from './module.ts';
import { expertPath, namedParams } from './structure.ts';

/**
 * The experts of the module at `path` as one function: inputs `[...parameters in path order, key, rows]`, output rows.
 * All experts are alike, so the first one's code serves all.
 * @throws ModuleError if the module has no experts.
 */
export function expertFunction(module: Module, path: string, options: { readonly training: boolean }): ExpertFunction {
  const experts = module.experts ?? [];
  const first = experts[0];
  if (!first) throw new ModuleError(module.kind, path, 'has no experts');
  const params = experts.map((expert, i) => namedParams(expert, expertPath(path, i)));
  const relative = namedParams(first, ROOT);
  return {
    path,
    params,
    fn: (...given) => {
      const rows = given[relative.length + 1] as Tensor;
      const trace = new Trace({
        root: ROOT,
        training: options.training,
        params: new Map(relative.map((named, i) => [named.path, given[i] as Tensor])),
        state: new Map(),
        key: given[relative.length] as Tensor,
      });
      const outputs = trace.run(first, ROOT, [rows]);
      const output = outputs[0];
      if (outputs.length !== 1 || String(output?.shape) !== String(rows.shape))
        throw new ModuleError(
          first.kind,
          `${path}.experts`,
          `returned ${outputs.map((o) => `[${o.shape}]`).join(', ')} for rows [${rows.shape}]; an expert returns rows of the same shape`,
        );
      if (trace.recording.losses.length > 0 || trace.recording.metrics.length > 0)
        throw new ModuleError(
          first.kind,
          `${path}.experts`,
          'an expert cannot add losses or metrics; do it in the calling module',
        );
      return output as Tensor;
    },
  };
}

/** Experts are traced under a name of their own, so that those of equal layers share one graph. */
const ROOT = 'expert';
