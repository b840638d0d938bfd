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
      return `AllReduce ${i.what} s${i.stage} in ${i.group} [${i.tag}]`;
    case 'ReduceScatter':
      return `ReduceScatter s${i.stage} in ${i.group} [${i.tag}]`;
    case 'AllGather':
      return `AllGather ${i.what} in ${i.group} [${i.tag}]`;
    case 'Broadcast':
      return `Broadcast from rank ${i.root} in ${i.group} [${i.tag}]`;
    case 'Optimize':
      return `Optimize ${i.outer ? 'outer ' : ''}${i.stages.map((stage) => `s${stage}`).join(' ')}`;
    case 'Barrier':
      return `Barrier in ${i.group} [${i.tag}]`;
  }
}
