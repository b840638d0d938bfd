import type { Extent, FederatedOutline } from '../schedulers/index.ts';
import { formatBytes } from './terminal.ts';

/** What `plexus plan` says of a run with clients in place of workers. */
export function formatOutline(outline: FederatedOutline): string {
  const { scheduler, steps, unit, clients, width, epochs, batch, threads, compression, bytes_note: note } = outline;
  const number = (value: number) => value.toLocaleString('en');
  const [to, from] = [outline.bytes_to_client, outline.bytes_from_client];
  const together = unit === 'rounds' ? `a round ${formatBytes(to * width)} and ${formatBytes(from * width)}` : null;
  const rows: [string, string][] = [
    [
      'clients',
      `${number(clients)}, of which ${number(width)} train ${unit === 'rounds' ? 'in a round' : 'at a time'}`,
    ],
    ['examples', `${spanOf(outline.examples)} each (${outline.partition})`],
    [
      'local work',
      `${epochs} pass${epochs > 1 ? 'es' : ''}${batch === null ? ', all examples in one step' : ` in batches of ${batch}`}: ${spanOf(outline.local_steps)} step${outline.local_steps.most === 1 ? '' : 's'}`,
    ],
    ['model', `${number(outline.parameters)} parameters`],
    [
      'sent',
      `${formatBytes(to)} to a client, ${formatBytes(from)} from it${compression ? ` (${compression})` : ''}${together ? `; ${together}` : ''}${note ? `; ${note}` : ''}`,
    ],
    ['simulated', `on ${threads} thread${threads > 1 ? 's' : ''}; workers and the parallel section are not used`],
  ];
  const wide = Math.max(...rows.map(([label]) => label.length));
  return [
    `${scheduler}, ${number(steps)} ${unit}`,
    ...rows.map(([label, text]) => `  ${label.padEnd(wide)}  ${text}`),
  ].join('\n');
}

function spanOf({ least, median, most }: Extent): string {
  const number = (value: number) => value.toLocaleString('en');
  return least === most ? number(least) : `${number(least)} to ${number(most)} (half have ${number(median)} or more)`;
}
