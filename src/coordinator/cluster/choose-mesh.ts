import { type MeshShape, worldSize } from '../../plan/index.ts';

/**
 * The largest mesh that fits the slots there are. The configured one if there are enough; else fewer data ranks (and the
 * largest `expert` that still divides them); only where not even one data rank fits, fewer pipeline ranks. Never more of
 * an axis than configured, so that whoever is left over is a spare.
 * @param wanted the configured mesh
 * @param slots ranks that can run
 * @param fits whether model, batch and schedule allow a mesh
 * @returns null if nothing fits
 */
export function chooseMesh(wanted: MeshShape, slots: number, fits: (mesh: MeshShape) => boolean): MeshShape | null {
  for (const mesh of candidates(wanted, slots)) if (fits(mesh)) return mesh;
  return null;
}

function* candidates(wanted: MeshShape, slots: number): Generator<MeshShape> {
  if (worldSize(wanted) <= slots) yield wanted;
  for (let data = Math.min(wanted.data, Math.floor(slots / wanted.pipeline)); data >= 1; data--)
    yield* withExperts(wanted, data, wanted.pipeline);
  const smaller: { data: number; pipeline: number }[] = [];
  for (let pipeline = wanted.pipeline - 1; pipeline >= 1; pipeline--)
    for (let data = Math.min(wanted.data, Math.floor(slots / pipeline)); data >= 1; data--)
      smaller.push({ data, pipeline });
  // Most ranks first; among those, most of the pipeline that was asked for.
  smaller.sort((a, b) => b.data * b.pipeline - a.data * a.pipeline || b.pipeline - a.pipeline);
  for (const { data, pipeline } of smaller) yield* withExperts(wanted, data, pipeline);
}

function* withExperts(wanted: MeshShape, data: number, pipeline: number): Generator<MeshShape> {
  for (let expert = Math.min(wanted.expert, data); expert >= 1; expert--)
    if (data % expert === 0) yield { data, pipeline, expert };
}
