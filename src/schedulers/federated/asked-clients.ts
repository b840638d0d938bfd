import type { ClientBehaviour } from './behaviour.ts';
import type { DrawnClient } from './cohort-draws.ts';
import type { ClientFit } from './fit-task.ts';
import type { Dropped, LocalWork } from './simulation.ts';

/** How the clients of a round are asked. */
export interface Asking {
  readonly behaviour: ClientBehaviour;
  readonly local: LocalWork;
  readonly round: number;
  /** Simulated seconds at which the round begins. */
  readonly time: number;
  /** Simulated seconds after which it ends without those that have not answered; null waits for all that will. */
  readonly deadline: number | null;
  /** Bytes that a client receives and sends. */
  readonly bytes: number;
  /** How much a client's update counts. */
  readonly weigh: (work: { readonly examples: number; readonly steps: number }) => number;
  /** What a client is told besides. */
  readonly tell: (client: number) => Pick<ClientFit, 'clipNorm' | 'noise' | 'kept' | 'tasks'>;
}

/** A client that was asked and will not answer. */
export type Left = Pick<ClientFit, 'client' | 'weight'>;

/** Who of a cohort answers in time. */
export interface AskedClients {
  readonly fits: ClientFit[];
  readonly dropped: Dropped[];
  /** Those of the dropped ones who had begun. */
  readonly left: Left[];
  /** Simulated seconds that the round takes. */
  readonly seconds: number;
}

/** Finds out who of a cohort can be reached, and will answer in time. */
export function askClients(cohort: readonly DrawnClient[], asking: Asking): AskedClients {
  const { behaviour, local, round, time, deadline, weigh, tell } = asking;
  const fits: ClientFit[] = [];
  const dropped: Dropped[] = [];
  const left: Left[] = [];
  let seconds = 0;
  for (const { client, examples } of cohort) {
    const drop = (reason: string) => dropped.push({ client, reason });
    if (!behaviour.available(client, round, time)) {
      drop('it could not be reached');
      continue;
    }
    if (examples.length === 0) {
      drop('it has no examples');
      continue;
    }
    const { takes, steps, all } = workOf(client, examples.length, asking);
    const late = deadline !== null && takes > deadline;
    const weight = weigh({ examples: examples.length, steps });
    const end = late ? deadline : takes;
    // Nobody knows that a client has left until the deadline, or until all others are done.
    seconds = Math.max(seconds, end);
    if (behaviour.leaves(client, round) || time + end > (behaviour.until?.(client, time) ?? Number.POSITIVE_INFINITY)) {
      drop('it left in the middle of the round');
      left.push({ client, weight });
      continue;
    }
    if (late && steps === all) {
      drop(`it would have taken ${takes.toPrecision(3)} s, the deadline is ${deadline} s`);
      left.push({ client, weight });
      continue;
    }
    fits.push({
      client,
      round,
      examples,
      epochs: local.epochs,
      maxSteps: steps === all ? null : steps,
      firstStep: 0,
      weight,
      attack: behaviour.attack?.(client, round) ?? null,
      ...tell(client),
    });
  }
  if (fits.length + left.length === 0 && behaviour.next) {
    // Nobody is there: time passes until the deadline, or until somebody is.
    const clients = cohort.map(({ client }) => client);
    seconds = deadline ?? Math.max(0, behaviour.next(clients, time) - time);
  }
  return { fits, dropped, left, seconds };
}

/** How long a client takes for its work, and how many of its steps it makes: fewer where it is late and sends what it has. */
function workOf(client: number, size: number, { behaviour, local, deadline, bytes }: Asking) {
  const all = local.epochs * Math.ceil(size / local.batch);
  const takes = behaviour.seconds(client, { examples: size * local.epochs, bytes });
  if (!behaviour.sendsWhatItHas || deadline === null || takes <= deadline) return { takes, steps: all, all };
  const travelling = behaviour.seconds(client, { examples: 0, bytes });
  const ofStep = (takes - travelling) / all;
  const steps = Math.floor((deadline - travelling) / ofStep);
  return { takes, steps: steps >= 1 && all > 1 ? Math.min(steps, all - 1) : all, all };
}
