import type { StepReport } from '../worker/index.ts';

/** Tensors that are named. */
const NAMED = 3;

const advice =
  'Replicas have the same bits where all machines have processors of one kind and the same engine version: if these have, one of them ' +
  'computes or remembers wrongly';

/**
 * Says which ranks hold other bits than the first rank that holds the same tensor, which is the one whose copy goes into checkpoints;
 * null if none does.
 * @param ranks by rank, digests of what it holds by name; null where nobody else holds any of it
 */
export function differingReplicas(
  step: number,
  ranks: readonly (Readonly<Record<string, string>> | null)[],
): string | null {
  const first = new Map<string, { readonly rank: number; readonly digest: string }>();
  /** By pair of ranks. */
  const differing = new Map<string, string[]>();
  for (const [rank, digests] of ranks.entries())
    for (const [name, digest] of Object.entries(digests ?? {})) {
      const known = first.get(name);
      if (!known) first.set(name, { rank, digest });
      else if (known.digest !== digest) {
        const pair = `rank ${rank} holds other bits than rank ${known.rank}`;
        differing.set(pair, [...(differing.get(pair) ?? []), name]);
      }
    }
  if (differing.size === 0) return null;
  const parts = [...differing].map(([pair, names]) => {
    const rest = names.length > NAMED ? ` and ${names.length - NAMED} more` : '';
    return `${pair} in ${names.slice(0, NAMED).join(', ')}${rest}`;
  });
  return `after step ${step} ${parts.join('; ')}. ${advice}`;
}

/** Says which ranks came to another gradient norm than rank 0, of a step in which all have the same gradient; null if none did. */
export function differingNorms(reports: readonly StepReport[]): string | null {
  const [{ step, gradNorm } = { step: 0, gradNorm: 0 }] = reports;
  const others = reports.flatMap((report, rank) =>
    Object.is(report.gradNorm, gradNorm) ? [] : [`rank ${rank} has ${report.gradNorm}`],
  );
  if (others.length === 0) return null;
  return `in step ${step + 1} the gradient's norm is ${gradNorm} on rank 0, but ${others.join(', ')}. ${advice}`;
}
