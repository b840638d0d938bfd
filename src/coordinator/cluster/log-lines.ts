import type { RunEvent } from '../events.ts';

const plural = (n: number, what: string): string => `${n} ${what}${n === 1 ? '' : 's'}`;
const percent = (share: number): string => `${(100 * share).toFixed(1)} %`;

/** What a job's log has of an event of its run; null where it is not worth a line, as of a step. */
export function logLineOf(event: RunEvent): string | null {
  switch (event.type) {
    case 'warning':
      return `warning: ${event.message}`;
    case 'waiting':
      return `waiting for ${event.what ?? 'workers'}: ${event.have} of ${event.need}`;
    case 'client':
      return `client ${event.client} ${event.what}: ${event.reason}`;
    case 'joined':
      return `worker ${event.agent} joined with ${plural(event.slots, 'slot')}`;
    case 'lost': {
      const ranks = event.ranks.length > 0 ? ` with rank ${event.ranks.join(', ')}` : '';
      return `worker ${event.agent} lost${ranks}, noticed after ${event.detectedMs.toFixed(0)} ms: ${event.reason}`;
    }
    case 'generation':
      return `generation ${event.generation} of ${plural(event.members.length, 'rank')} from step ${event.fromStep}: ${event.reason}`;
    case 'recovered':
      return `recovered with step ${event.step} in generation ${event.generation}, ${event.recoveryMs.toFixed(0)} ms after the decision`;
    case 'started':
      return `run ${event.runId} starts after step ${event.step} of ${event.steps}, in ${event.dir}`;
    case 'evaluated':
      return `step ${event.step}: ${event.split} loss ${event.loss.toFixed(4)}`;
    case 'task':
      return `step ${event.step}: task ${event.task} of ${event.tasks} learnt, average accuracy ${percent(event.average)}`;
    case 'checkpointed':
      return `step ${event.step}: checkpoint ${event.path}`;
    case 'finished': {
      const left = event.status === 'interrupted' && event.checkpoint ? `; checkpoint ${event.checkpoint}` : '';
      return `run ${event.runId} ${event.status} after step ${event.step}${left}`;
    }
    case 'failed':
      return `the run failed: ${event.failure.message}`;
    case 'preparing':
    case 'step':
    case 'underway':
    case 'sampled':
      return null;
  }
}
