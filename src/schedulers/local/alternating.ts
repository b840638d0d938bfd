import * as z from 'zod';
import { pathMatcher } from '../../optim/index.ts';
import type { LocalObjective } from './objective.ts';
import { registerObjective } from './registry.ts';

/**
 * Parameters of these paths (`*` for any characters) stay with the client and are trained first, for `epochs` passes over its
 * examples, while the others stand still; then the others, while these do (Collins, Hassani, Mokhtari and Shakkottai, FedRep,
 * 2021, algorithm 1).
 */
export function alternating(paths: readonly string[], epochs: number): LocalObjective {
  const matchers = paths.map(pathMatcher);
  const personal = ({ path }: { readonly path: string }) => matchers.some((matches) => matches(path));
  return {
    name: 'alternating',
    personal,
    passes: [
      { name: 'personal', epochs, trains: personal },
      { name: '', trains: (info) => !personal(info) },
    ],
  };
}

registerObjective({
  name: 'alternating',
  config: z.object({ paths: z.array(z.string()), epochs: z.int().min(1) }),
  make: ({ paths, epochs }) => alternating(paths, epochs),
});
