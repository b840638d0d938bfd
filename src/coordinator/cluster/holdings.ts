import type { Seat } from './choose-seats.ts';
import type { MeshPlan } from './mesh-plans.ts';

/** Who sat where last, and which tensors lie in whose memory, as far as is known. */
export class Holdings {
  #seats: readonly Seat[] = [];
  /** Names of tensors, by agent. */
  readonly #held = new Map<string, Set<string>>();

  /** By rank of the generation before. */
  get seats(): readonly Seat[] {
    return this.#seats;
  }

  get held(): ReadonlyMap<string, ReadonlySet<string>> {
    return this.#held;
  }

  /** Ranks were seated: what they need is in their agents' memory from now on, and nothing else for long. */
  seated(seats: readonly Seat[], plan: Pick<MeshPlan, 'needs'>): void {
    this.#seats = seats;
    this.#held.clear();
    for (const [rank, { agent }] of seats.entries()) this.holds(agent, plan.needs[rank] ?? []);
  }

  holds(agent: string, tensors: readonly { readonly name: string }[]): void {
    const held = this.#held.get(agent) ?? new Set<string>();
    this.#held.set(agent, held);
    for (const { name } of tensors) held.add(name);
  }

  /** An agent is gone, with all that it had. */
  forget(agent: string): void {
    this.#held.delete(agent);
  }

  /** Ranks that an agent had. */
  ranksOf(agent: string): number[] {
    return [...this.#seats.keys()].filter((rank) => this.#seats[rank]?.agent === agent);
  }
}
