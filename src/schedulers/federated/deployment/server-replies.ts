import { PLEXUS_VERSION } from '../../../worker/index.ts';
import { FEDERATED_PROTOCOL, type JobDescription, toServerSchema, type Welcome } from './messages.ts';
import type { Roster } from './roster.ts';

/** What a server knows when a client tells it something. */
export interface ReplyOptions {
  readonly session: string;
  /** With which clients fetch parameters. */
  readonly secret: string;
  readonly run: string;
  readonly description: JobDescription;
  readonly roster: Roster;
  readonly sizes: { readonly paramsSize: number; readonly stateSize: number };
  /** How often clients say that they are there, in milliseconds. */
  readonly beatMs: number;
  readonly warn: (message: string) => void;
}

/** Enters in the roster what a client tells, and replies. @throws Error, for the client, where that makes no sense */
export function replyTo(message: unknown, server: ReplyOptions): unknown {
  const parsed = toServerSchema.safeParse(message);
  if (!parsed.success) throw new Error(`the server does not understand this: ${parsed.error.issues[0]?.message}`);
  const told = parsed.data;
  const { session, secret, sizes, roster, run, description: job, beatMs, warn } = server;
  if (told.type === 'join') {
    if (told.protocol !== FEDERATED_PROTOCOL || told.version !== PLEXUS_VERSION)
      throw new Error(
        `the server is Plexus ${PLEXUS_VERSION} (messages ${FEDERATED_PROTOCOL}), the client ${told.version} (${told.protocol}): install the same`,
      );
    roster.join(told);
    return { session, run, job, secret, beatMs } satisfies Welcome;
  }
  if (told.session !== session) {
    if (told.type === 'beat') return { known: false };
    throw new Error('this session is over: join again');
  }
  switch (told.type) {
    case 'ready':
      if (told.params !== sizes.paramsSize || told.state !== sizes.stateSize)
        throw new Error(
          `its model has ${told.params} parameters and ${told.state} numbers of state, the server's ${sizes.paramsSize} and ${sizes.stateSize}`,
        );
      roster.arrive(told);
      return {};
    case 'refuse':
      roster.refuse(told);
      warn(`client ${told.name} takes no part: ${told.reason}`);
      return {};
    case 'beat':
      return { known: roster.beat(told) };
    case 'leave':
      roster.leave(told, told.reason);
      return {};
  }
}
