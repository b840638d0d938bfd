import type { NatsConnection } from '@nats-io/transport-node';
import { BadUpdate, checkUpdate } from './check-update.ts';
import { clientOwner, type FitAnswer, fitAnswerSchema } from './messages.ts';
import { bytesOf, splitVectors, take } from './payload.ts';
import type { LiveClient } from './roster.ts';

/** Vectors besides the update that a client may send, in multiples of the model's size. */
const MAX_VECTORS = 8;

/** What a client was asked, and what its answer has to be like. */
export interface ExpectedUpdate {
  readonly nats: NatsConnection;
  readonly job: string;
  readonly from: Pick<LiveClient, 'id' | 'secret'>;
  readonly session: string;
  readonly round: number;
  /** Of the parameters that it began with. */
  readonly version: number;
  readonly sizes: { readonly paramsSize: number; readonly stateSize: number };
  /** Norm above which an update is not used; null for no bound. */
  readonly maxNorm: number | null;
  /** Bound that it was to clip the norm of its update to, so that no honest one is larger; null for none, or with noise on it. */
  readonly clipNorm: number | null;
  /** Names of what the client keeps that the strategy wants to see. */
  readonly wanted: readonly string[];
  /** Whether it is to come under masks: then nothing of it can be checked but its length, and nothing else comes with it. */
  readonly masked: boolean;
  /** Whether it was asked to add noise: then it tells no loss. */
  readonly noisy: boolean;
  /** Reads what a codec wrote of the parameters' update, where one did. @throws CommProtocolError if it makes no sense */
  readonly decode: ((bytes: Uint8Array, params: Float32Array) => void) | null;
  /** Milliseconds that are left. */
  readonly deadlineMs: () => number;
  readonly signal: AbortSignal;
  /** Called with the bytes of vectors that were fetched, whether they can be used or not. */
  readonly onBytes: (bytes: number) => void;
}

/** What came of a client's fit. */
export interface ReceivedUpdate {
  /** Null where the client had a problem, which `told` names. */
  readonly update: Float32Array | null;
  readonly norm: number;
  readonly kept: Readonly<Record<string, Float32Array>>;
  readonly sent: Readonly<Record<string, Float32Array>>;
  readonly told: FitAnswer;
}

/**
 * Fetches and checks what a client answers to a fit: nothing of it is used before all of it is as it must be.
 * @throws BadUpdate saying what is wrong with it; or what fetching throws
 */
export async function receivedUpdate(answer: unknown, expected: ExpectedUpdate): Promise<ReceivedUpdate> {
  const {
    nats,
    job,
    from,
    session,
    round,
    version,
    sizes,
    maxNorm,
    clipNorm,
    wanted,
    masked,
    noisy,
    decode,
    deadlineMs,
    signal,
    onBytes,
  } = expected;
  const parsed = fitAnswerSchema.safeParse(answer);
  if (!parsed.success) throw new BadUpdate(`its answer makes no sense: ${parsed.error.issues[0]?.message}`, true);
  const told: FitAnswer = parsed.data;
  if (told.session !== session || told.round !== round || told.version !== version)
    throw new BadUpdate(
      `it answers with an update of round ${told.round}, version ${told.version}; round ${round}, version ${version} was asked for`,
      true,
    );
  if (told.problem !== null || told.update === null)
    return {
      update: null,
      norm: 0,
      kept: {},
      sent: {},
      told: { ...told, problem: told.problem ?? 'it sent no update' },
    };
  if (told.loss === null ? !noisy : !Number.isFinite(told.loss))
    throw new BadUpdate(told.loss === null ? 'it does not tell its loss' : `its loss is ${told.loss}`, true);
  const { parcel, vectors: list, encoded } = told.update;
  const size = sizes.paramsSize + sizes.stateSize;
  if ((encoded === null) !== (decode === null))
    throw new BadUpdate(
      encoded === null
        ? 'its update is not written by the codec that was asked for'
        : 'its update is written by a codec, and none was asked for',
      true,
    );
  const numbers = encoded === null ? size : sizes.stateSize;
  const [first] = list;
  if (masked && (first?.name !== 'masked' || list.length !== 1))
    throw new BadUpdate(
      `it sends "${list.map(({ name }) => name).join('", "')}", and only "masked" was asked for`,
      true,
    );
  if ((!masked && first?.name !== 'update') || first?.length !== numbers)
    throw new BadUpdate(`its update has ${first?.length ?? 0} numbers, ${numbers} were expected`, true);
  const length = bytesOf(list) + (encoded ?? 0);
  if (length > 4 * MAX_VECTORS * (size + 1024))
    throw new BadUpdate(`it sends ${length} bytes, which is too much for a model of ${size} numbers`, true);
  const bytes = await take(parcel, {
    ...{ nats, job, secret: from.secret, owner: clientOwner(from.id), length },
    deadlineMs: deadlineMs(),
    signal,
  }).catch((error: Error) => {
    throw error instanceof RangeError ? new BadUpdate(`its update: ${error.message}`, true) : error;
  });
  onBytes(bytes.length);
  const vectors = splitVectors(bytes, list, encoded ?? 0);
  if (masked) return { update: vectors.get('masked') as Float32Array, norm: Number.NaN, kept: {}, sent: {}, told };
  const update = decode
    ? decoded(decode, bytes.subarray(0, encoded ?? 0), vectors.get('update') as Float32Array, sizes.paramsSize)
    : (vectors.get('update') as Float32Array);
  const norm = checkUpdate(update, { params: sizes.paramsSize, state: sizes.stateSize, maxNorm, clipNorm });
  const kept: Record<string, Float32Array> = {};
  const sent: Record<string, Float32Array> = {};
  for (const [name, values] of vectors) {
    if (name === 'update') continue;
    const bad = values.findIndex((value) => !Number.isFinite(value));
    if (bad >= 0) throw new BadUpdate(`number ${bad} of "${name}" is ${values[bad]}`, true);
    if (name.startsWith('kept/') && wanted.includes(name.slice(5))) kept[name.slice(5)] = values;
    if (name.startsWith('sent/')) sent[name.slice(5)] = values;
  }
  const missing = wanted.find((name) => kept[name]?.length !== sizes.paramsSize);
  if (missing !== undefined)
    throw new BadUpdate(
      `it sends ${kept[missing]?.length ?? 'no'} numbers of "${missing}", ${sizes.paramsSize} were expected`,
      true,
    );
  return { update, norm, kept, sent, told };
}

/** An update of which a codec has written the parameters. @throws BadUpdate if what it wrote makes no sense */
function decoded(
  decode: NonNullable<ExpectedUpdate['decode']>,
  bytes: Uint8Array,
  state: Float32Array,
  params: number,
): Float32Array {
  const update = new Float32Array(params + state.length);
  update.set(state, params);
  try {
    decode(bytes, update.subarray(0, params));
  } catch (error) {
    throw new BadUpdate(`its update: ${(error as Error).message}`, true);
  }
  return update;
}
