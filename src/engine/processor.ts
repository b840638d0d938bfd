import { existsSync, readFileSync } from 'node:fs';
import { cpus } from 'node:os';

/** Vector instruction sets that matter to the CPU kernels; empty where the system does not tell. */
export function instructionSets(): string[] {
  if (!existsSync('/proc/cpuinfo')) return [];
  const flags = /^(?:flags|Features)\s*:(.*)$/m.exec(readFileSync('/proc/cpuinfo', 'utf8'))?.[1]?.split(' ') ?? [];
  return ['avx2', 'avx512f', 'avx512_vnni', 'amx_tile', 'asimd', 'sve'].filter((name) => flags.includes(name));
}

/** Those by which float32 kernels are chosen. */
const FLOAT32 = ['avx2', 'avx512f', 'asimd', 'sve'];

/**
 * System, architecture and what else decides which float32 kernels the CPU provider takes, such as `linux x64 with avx2`: machines of
 * which it is equal round alike. (Names of processors do not tell: clouds give those of different generations the same one.)
 */
export function processorKind(): string {
  const sets = instructionSets().filter((name) => FLOAT32.includes(name));
  const rest = sets.length > 0 ? `with ${sets.join(' ')}` : `(${cpus()[0]?.model.trim() ?? 'unknown processor'})`;
  return `${process.platform} ${process.arch} ${rest}`;
}
