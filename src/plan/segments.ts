import type { Segment, SegmentPart, Stage } from './program.ts';
import type { ModelSummary } from './summary.ts';

/** Makes stages of runs of layers: `stageRanks[i]` is the pipeline rank of stage i. */
export function makeStages(
  summary: ModelSummary,
  layers: readonly (readonly number[])[],
  stageRanks: readonly number[],
  sharded: boolean,
): Stage[] {
  return layers.map((run, index) => ({
    index,
    pipelineRank: stageRanks[index] as number,
    layers: run,
    segments: segmentsOf(summary, index, run, sharded),
  }));
}

/**
 * Cuts a stage into segments. With sharded experts it is cut at every expert call, so that odd segments are the experts;
 * otherwise it is one segment, in which the experts run in place.
 */
export function segmentsOf(
  summary: ModelSummary,
  stage: number,
  layers: readonly number[],
  sharded: boolean,
): Segment[] {
  const runs: SegmentPart[][] = [[]];
  for (const layer of layers) {
    const calls = summary.layers[layer]?.expertCalls.length ?? 0;
    for (let phase = 0; phase <= calls; phase++) {
      runs[runs.length - 1]?.push({ kind: 'layer', layer, phase });
      if (phase === calls) break;
      const part: SegmentPart = { kind: 'experts', layer, call: phase };
      if (sharded) runs.push([part], []);
      else runs[runs.length - 1]?.push(part);
    }
  }
  return runs.map((parts, index) => ({ stage, index, parts }));
}

/** Whether a segment is one of experts that are sharded over ranks, with exchanges before and after it. */
export function isExchanged(segment: Segment): boolean {
  return segment.index % 2 === 1;
}
