import type { Graph } from '../graph.ts';
import { shareCommon } from './common.ts';
import { foldConstants } from './fold.ts';
import { fuse } from './fuse.ts';
import { deadCode } from './rewrite.ts';
import { simplify, unbroadcastOperands } from './simplify.ts';

/**
 * All passes, in order. They run on the whole graph, forward and backward together, before anything is cut out of it:
 * so where a layer is cut cannot change what its nodes compute.
 */
export function optimize(graph: Graph): Graph {
  let result = deadCode(graph);
  // What one pass leaves, another can use: a second round finds the rest (a third one finds next to nothing).
  for (let round = 0; round < 2; round++)
    for (const pass of [foldConstants, simplify, shareCommon, unbroadcastOperands, fuse]) result = pass(result);
  return deadCode(shareCommon(simplify(result)));
}
