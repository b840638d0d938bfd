import type { SnapshotCommand, WorkerCommand } from '../../worker/index.ts';
import { AgentRefused, AgentSilent, type Agents } from './agents.ts';
import type { Seat } from './choose-seats.ts';
import type { Formed } from './generation.ts';

/** The ranks of one generation, ready to run. */
export interface Crew {
  readonly generation: number;
  readonly seats: readonly Seat[];
  /** Completed steps from which it goes on. */
  readonly fromStep: number;
  /** Sends a command to a rank, after those that were sent before. */
  send(rank: number, command: WorkerCommand | SnapshotCommand): void;
}

/** What may come of a command. */
export interface CrewHooks {
  readonly deadlineMs: number;
  /** Whether the generation still counts. */
  current(): boolean;
  readonly silent: (agent: string, message: string) => void;
  /** The agent follows another leader, or is in a later generation. */
  readonly stale: (message: string) => void;
}

/** The crew of a generation, commanded through its agents. */
export function crewOf({ generation, seats, fromStep }: Formed, agents: Agents, hooks: CrewHooks): Crew {
  return {
    generation,
    seats,
    fromStep,
    send: (rank, command) => {
      const agent = seats[rank]?.agent as string;
      const asked = agents.inOrder(agent, generation, { type: 'command', rank, command }, hooks.deadlineMs);
      asked.catch((error: Error) => {
        if (!hooks.current()) return;
        if (error instanceof AgentRefused && error.stale) hooks.stale(error.message);
        else if (error instanceof AgentSilent) hooks.silent(agent, error.message);
        // Another refusal: the rank is gone there, which its agent reports as well.
      });
    },
  };
}
