import type { MemberRecord } from '../../worker/index.ts';

/**
 * Says so where those who run ranks have processors of different kinds, though the run is to have the same bits wherever its ranks are;
 * null where they are alike.
 */
export function differentProcessors(members: readonly MemberRecord[]): string | null {
  const kinds = new Map<string, string[]>();
  for (const { processor, id } of members) kinds.set(processor, [...(kinds.get(processor) ?? []), id]);
  if (kinds.size < 2) return null;
  const parts = [...kinds].map(([kind, ids]) => `${kind}: ${ids.join(', ')}`).sort();
  return (
    `the workers' processors are of different kinds (${parts.join('; ')}), which do not round alike: a step that is done again elsewhere ` +
    'after a recovery would have other bits, and end the run; use machines of one kind, or numerics: fast'
  );
}
