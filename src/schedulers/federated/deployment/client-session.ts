import { randomBytes } from 'node:crypto';
import type { NatsConnection } from '@nats-io/transport-node';
import type { BlobServer } from '../../../comm/index.ts';
import { decodeRuns, downloadCodec, type UpdateCompression, updateCompressionSchema } from '../compression.ts';
import type { ClientReport } from '../fit-task.ts';
import { UnreadableShares } from '../privacy/index.ts';
import { otherRuns, type Run, scatterRuns, sizeOfRuns } from '../sent-parts.ts';
import { type AllowList, checkBare, checkFit, checkTask, checkWanted, noiseOf } from './allow-list.ts';
import { epsilonGiven } from './client-account.ts';
import type { ClientCompute, ClientWork, StartVectors } from './client-compute.ts';
import type { ClientState } from './client-state.ts';
import { ClientRefusal } from './errors.ts';
import {
  type ClientRequest,
  clientOwner,
  type FitAnswer,
  type FitRequest,
  type JobDescription,
  type VectorList,
  type Welcome,
} from './messages.ts';
import { bytesOf, joinVectors, type Offered, offer, packed, splitVectors, take, unpacked } from './payload.ts';
import type { SecureMember } from './secure-member.ts';

/** What a server is told of a fit that gave nothing, where all that leaves is to be under noise. */
const UNTOLD = 'it has no update; its own log says why';

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
  /** Its part in secure aggregations. */
  readonly secure: SecureMember;
  readonly end: (ending: Ending) => void;
  start: { readonly version: number; readonly vectors: Promise<StartVectors> } | null;
  answer: Offered | null;
  queued: number;
  /** What is being computed, and waits to be. */
  last: Promise<unknown>;
}

/** A request that comes with vectors. */
type AboutVectors = Extract<ClientRequest, { version: number }>;

/**
 * Does what a server asks a client for in a session, and returns the answer.
 * @throws ClientRefusal if it is not allowed to, or what was sent does not fit
 */
export async function answerRequest(
  options: FederatedClientOptions,
  session: ClientSession,
  request: ClientRequest,
): Promise<unknown> {
  const { allow } = options;
  const { client, round } = request;
  switch (request.type) {
    case 'keys':
      return session.secure.keys(request);
    case 'shares':
      return session.secure.shares(request);
    case 'unmask':
      return session.secure.unmask(request);
    case 'fit':
      return answerFit(options, session, request);
    case 'ask':
      checkTask(allow, request.task);
  }
  checkBare(allow, `its answer to ${request.type === 'ask' ? `"${request.task}"` : 'what its loss is'}`);
  const start = await startOf(options, session, request);
  if (request.type === 'loss') return session.compute.loss(start, client, request.held);
  return packed(await session.compute.ask(start, { client, round }, request.task, unpacked(request.config)));
}

/** The vectors that a request is about; fetched once for each version. */
function startOf(
  options: FederatedClientOptions,
  session: ClientSession,
  { version, start, vectors, encoded }: AboutVectors,
): Promise<StartVectors> {
  if (session.start?.version === version) return session.start.vectors;
  const fetched = fetchStart(options, session, start, vectors, encoded);
  session.start = { version, vectors: fetched };
  fetched.catch(() => {
    if (session.start?.vectors === fetched) session.start = null;
  });
  return fetched;
}

async function fetchStart(
  { nats, job, signal }: FederatedClientOptions,
  { welcome, compute }: ClientSession,
  parcel: AboutVectors['start'],
  list: VectorList,
  encoded: AboutVectors['encoded'],
): Promise<StartVectors> {
  const codec = encoded && downloadCodec(compressionOf(welcome.job));
  if (encoded && !codec) throw new ClientRefusal('the server sends parameters by a codec that the job does not name');
  const places = encoded ? otherRuns(compute.paramsSize, checkedRuns(encoded.runs, compute.paramsSize)) : null;
  const expected = {
    params: places ? sizeOfRuns(places) : compute.paramsSize,
    state: compute.stateSize,
  };
  for (const [i, name] of (['params', 'state'] as const).entries())
    if (list[i]?.name !== name || list[i]?.length !== expected[name])
      throw new ClientRefusal(
        `the server sends ${list[i]?.length ?? 'no'} numbers of ${name}, ${expected[name]} were expected`,
      );
  const most = 64 * (compute.paramsSize + expected.state) + 2 ** 20;
  const length = bytesOf(list) + (encoded?.bytes ?? 0);
  if (length > 4 * most) throw new ClientRefusal(`the server sends ${length} bytes, which is too much`);
  const owner = `fed-${welcome.session}`;
  const bytes = await take(parcel, {
    ...{ nats, job, owner, secret: welcome.secret, length, deadlineMs: FETCH_MS, signal },
  });
  const { params: numbers, state, ...round } = Object.fromEntries(splitVectors(bytes, list, encoded?.bytes));
  if (!encoded || !codec || !places) return { params: numbers as Float32Array, state: state as Float32Array, round };
  const params = new Float32Array(compute.paramsSize);
  scatterRuns(numbers as Float32Array, places, params);
  try {
    decodeRuns(codec, bytes.subarray(0, encoded.bytes), encoded.runs, params);
  } catch (error) {
    throw new ClientRefusal(`the parameters that the server sends: ${(error as Error).message}`, { cause: error });
  }
  return { params, state: state as Float32Array, round };
}

/** How the job's parameters and updates travel. */
function compressionOf(job: JobDescription): UpdateCompression {
  const { compression } = unpacked(job.more) as { readonly compression?: unknown };
  return updateCompressionSchema.parse(compression);
}

/** Places that do not overlap, in order, inside the parameters. @throws ClientRefusal */
function checkedRuns(runs: readonly Run[], size: number): readonly Run[] {
  let at = 0;
  for (const [from, to] of runs) {
    if (from < at || to < from || to > size)
      throw new ClientRefusal(`the server writes places ${from} to ${to} of ${size} parameters`);
    at = to;
  }
  return runs;
}

async function answerFit(
  options: FederatedClientOptions,
  session: ClientSession,
  request: FitRequest,
): Promise<FitAnswer> {
  const { state, log, allow } = options;
  const { run, job } = session.welcome;
  const { round, client, epochs, maxSteps, firstStep, clipNorm, version, wanted } = request;
  const more = unpacked(request.more) as Partial<ClientWork>;
  const asked = { epochs, clipNorm, noise: more.noise ?? null };
  const noise = noiseOf(asked);
  checkFit(allow, asked, state.account, run);
  checkWanted(job.objective.name, wanted);
  checkMasked(job.secure, request);
  const start = await startOf(options, session, request);
  const kept = request.kept === null ? {} : await state.read(run, request.kept);
  // Noise of its own, never the same twice, or two answers would differ by what it hides.
  const noiseSecret = randomBytes(16).toString('hex');
  const work: ClientWork = { ...more, client, round, epochs, maxSteps, firstStep, clipNorm, kept, noiseSecret };
  const { update, report } = await session.compute.fit(start, work);
  const { steps, loss, lr, ms, problem } = report;
  const told = {
    session: request.session,
    round,
    version,
    steps,
    // (Under noise nothing is told of the examples but what is under it.)
    loss: noise > 0 || problem !== null ? null : loss,
    ms,
    problem: noise > 0 && problem !== null ? UNTOLD : problem,
    keeps: Object.keys(report.kept).length > 0,
    ...(lr === undefined ? {} : { lr }),
    ...(clipNorm === null || noise > 0 || request.masking ? {} : { clipped: report.norm > clipNorm }),
  };
  if (problem !== null) {
    log(`round ${round}: ${problem}`);
    return { ...told, update: null };
  }
  // On the disk before the server can count on it.
  await state.write(run, round, report.kept, [request.kept, request.durable]);
  const sending = await sentVectors(session, request, update, report).catch((error: unknown) => {
    if (error instanceof UnreadableShares) return error;
    if (noise === 0 || !(error instanceof ClientRefusal)) throw error;
    // (It names a norm or a value that is under no noise.)
    log(`round ${round}: ${error.message}`);
    throw new ClientRefusal(UNTOLD, { cause: error });
  });
  if (sending instanceof UnreadableShares) {
    log(`round ${round}: ${sending.message}`);
    return { ...told, loss: null, problem: sending.message, accused: [...sending.of], update: null };
  }
  const { vectors, encoded } = sending;
  const [, besides] = vectors;
  if (besides) checkBare(allow, `"${besides[0]}", which it would send besides its update,`);
  await state.spend(run, noise);
  const masked = request.masking ? `; its update is masked with ${request.masking.shares.length} others` : '';
  log(
    `round ${round}: ${steps} steps in ${Math.round(ms)} ms, loss ${loss.toPrecision(4)}${masked}${spent(options, noise)}`,
  );
  const { bytes, list } = joinVectors(vectors, encoded);
  // The server has asked for something else, so it does not want the last one any more.
  session.answer?.withdraw();
  const owner = clientOwner(state.identity.id);
  session.answer = offer(session.blobs, owner, `update ${request.session} ${version}`, bytes);
  return { ...told, update: { parcel: session.answer.parcel, vectors: list, encoded: encoded?.length ?? null } };
}

/** What all that it has answered tells, for its own log; nothing where this was under no noise. */
function spent({ state, allow: { delta, max_epsilon: most } }: FederatedClientOptions, noise: number): string {
  if (noise === 0) return '';
  const epsilon = epsilonGiven(state.account, delta);
  return `; epsilon ${epsilon.toPrecision(3)}${most === null ? '' : ` of ${most}`} spent (delta ${delta})`;
}

/** What the server gets of a fit: the update and what belongs to it, or the update under masks alone. */
async function sentVectors(
  { compute, secure }: ClientSession,
  request: FitRequest,
  update: Float32Array,
  report: ClientReport,
): Promise<{ readonly vectors: [string, Float32Array][]; readonly encoded: Uint8Array | null }> {
  const { masking, wanted } = request;
  if (masking) {
    const masked = await compute.mask(secure.masking(request, masking, update, report.norm));
    return { vectors: [['masked', masked]], encoded: null };
  }
  const { encoded = null } = report;
  const sent = Object.entries(report.sent ?? {}).map(([name, values]): [string, Float32Array] => [
    `sent/${name}`,
    values,
  ]);
  const kept = wanted.flatMap((name): [string, Float32Array][] => {
    const values = report.kept[name];
    return values ? [[`kept/${name}`, values]] : [];
  });
  // (Of the parameters the server decodes what this client's copy of the update is already.)
  const numbers = encoded ? update.subarray(compute.paramsSize) : update;
  return { vectors: [['update', numbers], ...sent, ...kept], encoded };
}

/** Where updates are to be masked none leaves without, and nothing else does. @throws ClientRefusal */
function checkMasked(secure: boolean, { masking, wanted }: FitRequest): void {
  if (secure && masking === null) throw new ClientRefusal('this run is to mask updates, and this one would not be');
  if (!secure && masking !== null) throw new ClientRefusal('this run was not said to mask updates');
  const [seen] = wanted;
  if (secure && seen !== undefined) throw new ClientRefusal(`"${seen}" would be seen, where updates are masked`);
}
