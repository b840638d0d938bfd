import type { Instruction } from './program.ts';

/** One line for an instruction, as `plexus plan` prints it and errors name it: `Forward s1.0 m3`. */
export function formatInstruction(i: Instruction): string {
  switch (i.op) {
    case 'LoadBatch':
      return `LoadBatch ${i.what} s${i.stage} m${i.microbatch}`;
    case 'Forward':
    case 'Backward':
    case 'BackwardInput':
      return `${i.op} s${i.stage}.${i.segment} m${i.microbatch}`;
    case 'BackwardWeight':
    case 'Free':
      return `${i.op} s${i.stage} m${i.microbatch}`;
    case 'Send':
      return `Send ${i.what} s${i.stage} m${i.microbatch} to rank ${i.to} [${i.tag}]`;
    case 'Recv':
      return `Recv ${i.what} s${i.stage} m${i.microbatch} from rank ${i.from} [${i.tag}]`;
    case 'AllToAll':
      return `AllToAll ${i.what} s${i.stage}.${i.segment} m${i.microbatch} in ${i.group} [${i.tag}]`;
    case 'AllReduce':
    case 'ReduceScatter':
      return `${i.op} ${i.what} s${i.stage} ${formatLayers(i.layers)} in ${i.group} [${i.tag}]`;
    case 'AllGather':
      return i.what === 'norms'
        ? `AllGather norms in ${i.group} [${i.tag}]`
        : `AllGather params ${i.of} s${i.stage} ${formatLayers(i.layers)} in ${i.group} [${i.tag}]`;
    case 'Optimize':
      return `Optimize ${i.outer ? 'outer ' : ''}${i.stages.map((stage) => `s${stage}`).join(' ')}`;
    case 'Barrier':
      return `Barrier in ${i.group} [${i.tag}]`;
  }
}

/** Layers by number, runs of them shortened: `layers 0..3 5`. */
function formatLayers(layers: readonly number[]): string {
  const runs: [first: number, last: number][] = [];
  for (const layer of layers) {
    const run = runs[runs.length - 1];
    if (run && run[1] + 1 === layer) run[1] = layer;
    else runs.push([layer, layer]);
  }
  const text = runs.map(([first, last]) => (first === last ? `${first}` : `${first}..${last}`)).join(' ');
  return `layer${layers.length === 1 ? '' : 's'} ${text}`;
}
