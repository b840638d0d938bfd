import type { Graph } from '../graph.ts';
import { sharePass } from './common.ts';
import { foldPass } from './fold.ts';
import { fusePasses } from './fuse.ts';
import { type Pass, Rewrite } from './rewrite.ts';
import { simplifyPass, unbroadcastPass } from './simplify.ts';

const round: readonly Pass[] = [foldPass, simplifyPass, sharePass, unbroadcastPass, ...fusePasses];

// What one pass leaves, another can use: a second round finds the rest (a third one finds next to nothing).
const passes: readonly Pass[] = [...round, ...round, simplifyPass, sharePass];

/**
 * All passes, in order. They run on the whole graph, forward and backward together, before anything is cut out of it:
 * so where a layer is cut cannot change what its nodes compute.
 */
export function optimize(graph: Graph): Graph {
  const rewrite = new Rewrite(graph);
  /** How much had changed when a pass last found nothing to do: until more has, it would find nothing again. */
  const idle = new Map<Pass, number>();
  for (const pass of passes) {
    const before = rewrite.changes;
    if (idle.get(pass) === before) continue;
    pass(rewrite);
    rewrite.settle();
    if (rewrite.changes === before) idle.set(pass, before);
  }
  return rewrite.finish();
}
