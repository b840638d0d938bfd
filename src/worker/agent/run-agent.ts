import { Agent } from './agent.ts';
import { type AgentOptions, resolveOptions } from './options.ts';

/**
 * What a `plexus worker` process does: joins a job and runs ranks of it, one generation after another, until it is told
 * to stop, the signal is raised or (`once`) the first job that it has taken part in is over. When this resolves nothing
 * is left: no thread, connection, socket or timer.
 * @throws RangeError on options that cannot be; NatsConnectError or AgentRefusal if the job cannot be joined
 */
export async function runAgent(options: AgentOptions): Promise<void> {
  const resolved = resolveOptions(options);
  const { signal } = resolved;
  if (signal?.aborted) return;
  const agent = await Agent.join(resolved);
  let interrupted: () => void = () => undefined;
  const leaving = new Promise<string>((resolve) => {
    interrupted = () => resolve(reasonOf(signal));
    signal?.addEventListener('abort', interrupted, { once: true });
    if (signal?.aborted) interrupted();
  });
  let reason = 'it failed';
  try {
    reason = await Promise.race([agent.ended, leaving]);
    if (signal?.aborted) await agent.leave(reason);
  } finally {
    signal?.removeEventListener('abort', interrupted);
    await agent.close(reason);
  }
}

function reasonOf(signal: AbortSignal | undefined): string {
  const reason: unknown = signal?.reason;
  if (reason instanceof Error && reason.name !== 'AbortError') return reason.message;
  return typeof reason === 'string' ? reason : 'it was interrupted';
}
