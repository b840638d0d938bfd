import { positionOf } from '../../plan/index.ts';
import type { RemoteJob } from '../../worker/index.ts';
import type { Agents } from './agents.ts';
import type { Formed } from './generation.ts';
import type { MeshPlan } from './mesh-plans.ts';
import type { Roster } from './roster.ts';

/** How long an agent may take to accept. What is to be compiled it compiles later. */
const ACCEPT_MS = 5000;

/** Keeps agents with free slots ready to take over any rank: data prepared, model built, layers compiled. */
export class SpareWarmer {
  readonly #agents: Agents;
  readonly #roster: Roster;
  /** Plans that an agent's present life has been told of, by agent. */
  readonly #told = new Map<string, { readonly life: string; readonly plans: Set<MeshPlan> }>();

  constructor(agents: Agents, roster: Roster) {
    this.#agents = agents;
    this.#roster = roster;
  }

  /** Tells those who do not know yet. To be called when the ranks are at work: what spares do must not hold them up. */
  warm({ plan, seats, generation }: Formed): void {
    for (const { id, life, slots } of this.#roster.seatable()) {
      const taken = seats.filter(({ agent }) => agent === id).length;
      if (taken >= slots) continue;
      let known = this.#told.get(id);
      if (known?.life !== life) {
        known = { life, plans: new Set() };
        this.#told.set(id, known);
      }
      const { plans } = known;
      if (plans.has(plan)) continue;
      plans.add(plan);
      this.#agents.ask(id, generation, { type: 'warm', jobs: oneOfEachStage(plan) }, ACCEPT_MS).catch(() => {
        // It is gone, or has been given a rank meanwhile: another time.
        plans.delete(plan);
      });
    }
    const here = new Set(this.#roster.usable().map(({ id }) => id));
    for (const id of [...this.#told.keys()]) if (!here.has(id)) this.#told.delete(id);
  }
}

/** Ranks of one stage compile the same. */
function oneOfEachStage({ mesh, jobs }: MeshPlan): RemoteJob[] {
  const first = new Map<number, RemoteJob>();
  for (const [rank, job] of jobs.entries()) {
    const { pipeline } = positionOf(mesh, rank);
    if (!first.has(pipeline)) first.set(pipeline, job);
  }
  return [...first.values()];
}
