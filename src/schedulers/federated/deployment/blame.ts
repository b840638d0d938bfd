import type { BadUpdate } from './check-update.ts';
import type { Roster } from './roster.ts';

/** Times in a run that an update above the norm bound is left at that; then its client is quarantined. */
const LARGE_UPDATES = 3;

/** Which clients have sent what cannot be used, and how often. */
export class Blame {
  readonly #roster: Pick<Roster, 'quarantine'>;
  readonly #large = new Map<number, number>();

  constructor(roster: Pick<Roster, 'quarantine'>) {
    this.#roster = roster;
  }

  /** A client whose update cannot be used: at once, or if it is only too large the third time, it is quarantined. */
  add(client: number, { malicious, message }: BadUpdate): void {
    const times = (this.#large.get(client) ?? 0) + 1;
    this.#large.set(client, times);
    if (malicious) this.#roster.quarantine(client, message);
    else if (times >= LARGE_UPDATES) this.#roster.quarantine(client, `${message}, ${times} times`);
  }
}

/** Why a client's answer could not be had, as reports say it. `time`: what it had for it, as in "the 60 s of a round". */
export function problemOf({ name, message }: Error, time: string): string {
  if (name === 'ControlTimeout' || name === 'BlobTimeout') return `no answer within ${time}`;
  // (Which subject it was asked on says nothing to a reader.)
  return name === 'ControlError' ? message.replace(/^plexus\.\S+: /, '') : message;
}
