import { connectNats } from '../../../comm/index.ts';
import { type AllowList, defaultAllowList } from './allow-list.ts';
import { startCompute } from './client-compute.ts';
import { ClientState } from './client-state.ts';
import { FederatedClient } from './federated-client.ts';
import { isDatasetName } from './local-data.ts';
import { CLIENT_INBOX } from './messages.ts';

/** What a `plexus client` process is told. */
export interface RunClientOptions {
  /** Where the NATS server is and how to log in. */
  readonly nats: Parameters<typeof connectNats>[0];
  /** Default `default`. */
  readonly job?: string;
  /** How it is called in the server's messages: letters, digits, `-` and `_`. */
  readonly name: string;
  /** A file or folder, or the name of the built-in dataset that the job is about. */
  readonly data: string;
  /** The part of the job's own data of one client of so many (`index` from 0); null or absent for all of `data`. */
  readonly part?: { readonly index: number; readonly of: number } | null;
  /** Folder of its identity and of what it keeps. */
  readonly state: string;
  readonly allow?: AllowList;
  /** Where it computes. Default cpu. */
  readonly device?: string;
  /** Ends with the first run that it has taken part in. */
  readonly once?: boolean;
  readonly log?: (line: string) => void;
  readonly signal?: AbortSignal;
}

/**
 * What a `plexus client` process does: has data of its own, and trains on them what a server asks for, run after run, until the
 * signal is raised or (`once`) a run is over. When this resolves nothing is left: no thread, connection or timer.
 * @throws NatsConnectError; ClientRefusal or DataError where its data, its state folder or the job do not fit
 */
export async function runFederatedClient(options: RunClientOptions): Promise<void> {
  const {
    job = 'default',
    name,
    data,
    part = null,
    allow = defaultAllowList(),
    device,
    log = () => undefined,
  } = options;
  for (const [what, text] of [
    ['job', job],
    ['name', name],
  ] as const)
    if (!/^[\w-]{1,64}$/.test(text))
      throw new RangeError(
        `the ${what} "${text}" cannot be part of a NATS subject: 1 to 64 letters, digits, - and _ were expected`,
      );
  const signal = options.signal ?? new AbortController().signal;
  if (signal.aborted) return;
  // What is not there need not wait for a server.
  isDatasetName(data);
  const state = await ClientState.open(options.state);
  try {
    const nats = await connectNats({ name: `plexus client ${name}`, inboxPrefix: CLIENT_INBOX, ...options.nats });
    try {
      const source = { data, part };
      await new FederatedClient({
        ...{ nats, job, name, state, allow, part, log, signal },
        once: options.once ?? false,
        compute: (description) =>
          startCompute(description, { source, allow, ...(device === undefined ? {} : { device }) }),
      }).run();
    } finally {
      await nats.close();
    }
  } finally {
    await state.close();
  }
}
