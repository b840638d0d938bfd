import type { GivenShares } from './secagg-server.ts';
import { sharesAgree } from './shamir.ts';

/** Clients above which only a single one that gives wrong shares is looked for. */
const PAIRS = 24;

/**
 * Who gave shares that do not fit those of the others. Shares of a secret lie on one polynomial, so where there are more than it takes to
 * put the secret together, they agree or they do not (Reed and Solomon's code, by which McEliece and Sarwate, On Sharing Secrets and
 * Reed-Solomon Codes, 1981, find out who lies). Looked for is the one client, or the two, without whose shares all others agree.
 * @param shares of each secret, by whoever gave them
 * @param threshold shares that a secret takes
 * @returns those clients; empty where all agree, and where it cannot be said who does not: too few others have shares of the same secret
 */
export function wrongShares(shares: Iterable<readonly GivenShares[]>, threshold: number): readonly number[] {
  const doubtful = [...shares].filter((given) => !agree(given, [], threshold));
  if (doubtful.length === 0) return [];
  const clients = [...new Set(doubtful.flatMap((given) => given.map(({ by }) => by)))].sort((a, b) => a - b);
  const ones = clients.map((client) => [client]);
  const twos =
    clients.length <= PAIRS ? clients.flatMap((a, i) => clients.slice(i + 1).map((b): number[] => [a, b])) : [];
  for (const suspects of [ones, twos]) {
    // More shares than it takes must be left of each, or they agree whatever they are.
    const found = suspects.filter((without) =>
      doubtful.every(
        (given) =>
          given.filter(({ by }) => !without.includes(by)).length > threshold && agree(given, without, threshold),
      ),
    );
    if (found.length === 1) return found[0] as readonly number[];
    if (found.length > 1) return [];
  }
  return [];
}

function agree(given: readonly GivenShares[], without: readonly number[], threshold: number): boolean {
  const shares = given.filter(({ by }) => !without.includes(by)).map(({ share }) => share);
  return sharesAgree(shares, threshold);
}
