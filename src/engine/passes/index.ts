export { assemblePhased, traceFunction, tracePhases } from './assemble.ts';
export { shareCommon } from './common.ts';
export { foldConstants } from './fold.ts';
export { fuse } from './fuse.ts';
export { optimize } from './optimize.ts';
export { optimizeVjp, partition } from './partition.ts';
export type { PhasedGraphs, PhaseGraph } from './phase-graphs.ts';
export { deadCode } from './rewrite.ts';
export { simplify, unbroadcastOperands } from './simplify.ts';
