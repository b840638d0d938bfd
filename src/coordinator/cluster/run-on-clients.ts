import type { RunEvent } from '../events.ts';
import { execute } from '../execute.ts';
import type { Execution } from '../execution.ts';
import type { Lead } from './lead.ts';
import { interleave, SideEvents } from './side-events.ts';

/** Runs a federated strategy with real clients of a job, which have data of their own (`plexus client`), in place of simulated ones. */
export async function* runOnClients(
  lead: Lead,
  execution: Execution,
  min: number | null,
): AsyncGenerator<RunEvent, void> {
  const side = new SideEvents();
  const ending = new AbortController();
  let lost: unknown = null;
  lead.lock.lost.catch((error: unknown) => {
    lost = error;
    ending.abort(error);
  });
  const run = execute({
    ...execution,
    nats: { connection: lead.records.connection, job: lead.job },
    clients: { min, emit: (event) => side.push(event) },
    signal: AbortSignal.any([...(execution.signal ? [execution.signal] : []), ending.signal]),
  });
  yield* interleave(run, side, async () => ending.abort(new Error('the run was ended')));
  if (lost) throw lost;
}
