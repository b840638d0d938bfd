import type { NatsConnection } from '@nats-io/transport-node';
import type { BlobServer } from '../../../comm/index.ts';
import { type AllowList, checkFit, checkTask, checkWanted } from './allow-list.ts';
import type { ClientCompute, ClientWork, StartVectors } from './client-compute.ts';
import type { ClientState } from './client-state.ts';
import { ClientRefusal } from './errors.ts';
import {
  clientOwner,
  type FitAnswer,
  type FitRequest,
  type JobDescription,
  type ToClient,
  type VectorList,
  type Welcome,
} from './messages.ts';
import { bytesOf, joinVectors, type Offered, offer, packed, splitVectors, take, unpacked } from './payload.ts';

/** How long fetching the parameters may take, in milliseconds. */
const FETCH_MS = 600_000;

/** What a client is made of. */
export interface FederatedClientOptions {
  readonly nats: NatsConnection;
  readonly job: string;
  readonly name: string;
  readonly state: ClientState;
  readonly allow: AllowList;
  /** The part of the job's own data that it has; null for data of its own. */
  readonly part: { readonly index: number; readonly of: number } | null;
  /** Makes what computes for a run. @throws ClientRefusal, DataError */
  readonly compute: (job: JobDescription) => Promise<ClientCompute>;
  /** Ends with the first run that it has taken part in, or refused. */
  readonly once: boolean;
  readonly log: (line: string) => void;
  readonly signal: AbortSignal;
  /** How long the server may take to answer before it is asked again, in milliseconds. Default 5000. */
  readonly answerMs?: number;
}

/** How a session with a server ended. */
export interface Ending {
  readonly reason: string;
  /** The run is over, or not for this client. */
  readonly over: boolean;
}

/** A server's process, as long as it and this client know each other. */
export interface ClientSession {
  readonly welcome: Welcome;
  readonly compute: ClientCompute;
  /** Names the answers that the server may fetch. */
  readonly blobs: BlobServer;
  readonly end: (ending: Ending) => void;
  start: { readonly version: number; readonly vectors: Promise<StartVectors> } | null;
  answer: Offered | null;
  queued: number;
  /** What is being computed, and waits to be. */
  last: Promise<unknown>;
}

type Request = Exclude<ToClient, { type: 'end' }>;

/**
 * Does what a server asks a client for in a session, and returns the answer.
 * @throws ClientRefusal if it is not allowed to, or what was sent does not fit
 */
export async function answerRequest(
  options: FederatedClientOptions,
  session: ClientSession,
  request: Request,
): Promise<unknown> {
  const { allow } = options;
  const { client, round } = request;
  if (request.type === 'fit') {
    checkFit(allow, request);
    checkWanted(session.welcome.job.objective.name, request.wanted);
  }
  if (request.type === 'ask') checkTask(allow, request.task);
  const start = await startOf(options, session, request);
  if (request.type === 'fit') return answerFit(options, session, request, start);
  if (request.type === 'loss') return session.compute.loss(start, client);
  return packed(await session.compute.ask(start, { client, round }, request.task, unpacked(request.config)));
}

/** The vectors that a request is about; fetched once for each version. */
function startOf(
  options: FederatedClientOptions,
  session: ClientSession,
  { version, start, vectors }: Request,
): Promise<StartVectors> {
  if (session.start?.version === version) return session.start.vectors;
  const fetched = fetchStart(options, session, start, vectors);
  session.start = { version, vectors: fetched };
  fetched.catch(() => {
    if (session.start?.vectors === fetched) session.start = null;
  });
  return fetched;
}

async function fetchStart(
  { nats, job, signal }: FederatedClientOptions,
  { welcome, compute }: ClientSession,
  parcel: Request['start'],
  list: VectorList,
): Promise<StartVectors> {
  const expected = { params: compute.paramsSize, state: compute.stateSize };
  for (const [i, name] of (['params', 'state'] as const).entries())
    if (list[i]?.name !== name || list[i]?.length !== expected[name])
      throw new ClientRefusal(
        `the server sends ${list[i]?.length ?? 'no'} numbers of ${name}, ${expected[name]} were expected`,
      );
  const most = 64 * (expected.params + expected.state) + 2 ** 20;
  if (bytesOf(list) > 4 * most) throw new ClientRefusal(`the server sends ${bytesOf(list)} bytes, which is too much`);
  const owner = `fed-${welcome.session}`;
  const bytes = await take(parcel, {
    ...{ nats, job, owner, secret: welcome.secret, length: bytesOf(list), deadlineMs: FETCH_MS, signal },
  });
  const vectors = splitVectors(bytes, list);
  const { params, state, ...round } = Object.fromEntries(vectors);
  return { params: params as Float32Array, state: state as Float32Array, round };
}

async function answerFit(
  { state, log }: FederatedClientOptions,
  session: ClientSession,
  request: FitRequest,
  start: StartVectors,
): Promise<FitAnswer> {
  const { run } = session.welcome;
  const { round, client, epochs, maxSteps, firstStep, clipNorm, version } = request;
  const kept = request.kept === null ? {} : await state.read(run, request.kept);
  const more = unpacked(request.more) as Partial<ClientWork>;
  const work: ClientWork = { ...more, client, round, epochs, maxSteps, firstStep, clipNorm, kept };
  const { update, report } = await session.compute.fit(start, work);
  log(
    report.problem === null
      ? `round ${round}: ${report.steps} steps in ${Math.round(report.ms)} ms, loss ${report.loss.toPrecision(4)}`
      : `round ${round}: ${report.problem}`,
  );
  const { steps, loss, lr, ms, problem } = report;
  const told = {
    session: request.session,
    round,
    version,
    steps,
    loss,
    ms,
    problem,
    keeps: Object.keys(report.kept).length > 0,
    ...(lr === undefined ? {} : { lr }),
  };
  if (problem !== null) return { ...told, update: null };
  // On the disk before the server can count on it.
  await state.write(run, round, report.kept, [request.kept, request.durable]);
  const vectors: [string, Float32Array][] = [['update', update]];
  for (const [name, values] of Object.entries(report.sent ?? {})) vectors.push([`sent/${name}`, values]);
  for (const name of request.wanted) {
    const values = report.kept[name];
    if (values) vectors.push([`kept/${name}`, values]);
  }
  const { bytes, list } = joinVectors(vectors);
  // The server has asked for something else, so it does not want the last one any more.
  session.answer?.withdraw();
  const owner = clientOwner(state.identity.id);
  session.answer = offer(session.blobs, owner, `update ${request.session} ${version}`, bytes);
  return { ...told, update: { parcel: session.answer.parcel, vectors: list } };
}
