import * as z from 'zod';
import { sendUpdate, type UpdateCodec, updateCodec, type ValueCodecName } from '../../comm/index.ts';
import { createRng } from '../../tensor/index.ts';
import { gatherRuns, type Run, scatterRuns, sizeOfRuns } from './sent-parts.ts';
import { normOf } from './update-vector.ts';

/** Name of what a client's updates have left out, among what it keeps. */
export const LEFT_OUT = 'left out';

const ratio = (value: number) =>
  z.number().gt(0).max(1).default(value).describe('part of the values that is sent; at least one is');
const values = z
  .enum(['f32', 'f16', 'bf16', 'int8', 'sign'])
  .default('f32')
  .describe('how values that are sent are written; sign: their signs, and a scale for each 1024');
const feedback = (value: boolean) =>
  z
    .boolean()
    .default(value)
    .describe('whether each client keeps what its update left out, and adds it to its next one');
const down = z
  .enum(['f32', 'f16', 'bf16', 'int8'])
  .default('f32')
  .describe('how parameters are written on their way to the clients');

/** How clients' updates are written as fewer bytes. Module state (running statistics) always goes as it is. */
export const updateCompressionSchema = z
  .discriminatedUnion('name', [
    z.strictObject({ name: z.literal('none').describe('as they are'), down }),
    z.strictObject({
      name: z.literal('f16').describe('half, 11 bits of precision'),
      error_feedback: feedback(false),
      down,
    }),
    z.strictObject({
      name: z.literal('bf16').describe('half, 8 bits of precision'),
      error_feedback: feedback(false),
      down,
    }),
    z.strictObject({
      name: z.literal('int8').describe('a quarter: 255 steps in each block of 256'),
      error_feedback: feedback(false),
      down,
    }),
    z.strictObject({
      name: z.literal('sign').describe('a thirty-first: signs, and a scale for each 1024'),
      error_feedback: feedback(true),
      down,
    }),
    z.strictObject({
      name: z.literal('top-k').describe('only the largest changes'),
      ratio: ratio(0.05),
      values,
      error_feedback: feedback(true),
      down,
    }),
    z.strictObject({
      name: z
        .literal('random-mask')
        .describe(
          'changes at places that both ends draw from a seed; without error feedback divided by their chance to be drawn',
        ),
      ratio: ratio(0.05),
      values,
      // (What a client that is seldom asked left out is stale: unbiased and without it a mask costs far less accuracy.)
      error_feedback: feedback(false),
      down,
    }),
  ])
  .prefault({ name: 'none' })
  .describe('how what goes between clients and server is written as fewer bytes');

/** Settings of the compression of updates. */
export type UpdateCompression = z.output<typeof updateCompressionSchema>;

/** The codec of clients' updates; null where they go as they are. */
export function uploadCodec(config: UpdateCompression): UpdateCodec | null {
  switch (config.name) {
    case 'none':
      return null;
    case 'top-k':
      return updateCodec({ keep: 'top', ratio: config.ratio, values: config.values });
    case 'random-mask': {
      const unbiased = !config.error_feedback;
      return updateCodec({ keep: 'random', ratio: config.ratio, values: config.values, unbiased });
    }
    default:
      return updateCodec({ keep: 'all', values: config.name });
  }
}

/** The codec of the parameters that clients are sent; null where they go as they are. */
export function downloadCodec({ down: name }: UpdateCompression): UpdateCodec | null {
  return name === 'f32' ? null : updateCodec({ keep: 'all', values: name satisfies ValueCodecName });
}

/** Whether clients keep what their updates left out. */
export function feedsBack(config: UpdateCompression): boolean {
  return config.name !== 'none' && config.error_feedback;
}

/** Whether anything goes as fewer bytes. */
export function compressesUpdates(config: UpdateCompression): boolean {
  return config.name !== 'none' || config.down !== 'f32';
}

/** What goes between the server and the clients of a round as fewer bytes. */
export interface RoundCompression {
  readonly config: UpdateCompression;
  /** Places of the parameters that go between them: all but those that stay with clients. */
  readonly sent: readonly Run[];
}

/** Parameters on their way to clients. */
export interface SentParams {
  /** As clients receive them. */
  readonly params: Float32Array;
  /** What a codec wrote of the places that are sent; null where they go as they are. */
  readonly encoded: Uint8Array | null;
  /** Bytes that it takes to send them to one client. */
  readonly bytes: number;
}

/** Writes the parameters as few bytes, as the config says. */
export function sendParams(params: Float32Array, { config, sent }: RoundCompression): SentParams {
  const codec = downloadCodec(config);
  if (!codec) return { params, encoded: null, bytes: 4 * sizeOfRuns(sent) };
  const received = params.slice();
  const values = gatherRuns(params, sent).slice();
  const { bytes } = sendUpdate(codec, values, { seed: 0, left: null });
  scatterRuns(values, sent, received);
  return { params: received, encoded: bytes, bytes: bytes.length };
}

/**
 * Puts what a codec wrote of some places of a vector in these places.
 * @throws CommProtocolError if the bytes make no sense
 */
export function decodeRuns(codec: UpdateCodec, bytes: Uint8Array, runs: readonly Run[], vector: Float32Array): void {
  const values = new Float32Array(sizeOfRuns(runs));
  // (What came over the network need not begin at a multiple of four.)
  codec.decode(bytes.byteOffset % 4 === 0 ? bytes : new Uint8Array(bytes), values);
  scatterRuns(values, runs, vector);
}

/** Bytes that an update typically takes: what simulated time goes by. */
export function typicalUpdateBytes({ config, sent }: RoundCompression): number {
  const elements = sizeOfRuns(sent);
  return uploadCodec(config)?.typicalBytes(elements) ?? 4 * elements;
}

/** Who sends what, for the draw of a random mask. */
export interface Sender {
  readonly seed: number;
  readonly round: number;
  readonly client: number;
}

/** What went out, and what a client keeps for its next update. */
export interface Sent {
  readonly bytes: Uint8Array;
  /** What was left out; null where errors are not kept. */
  readonly left: Float32Array | null;
}

/**
 * Encodes an update; `update` becomes what the server decodes. Where there is a bound, its norm is not above it, which
 * rounding and what earlier updates left out could otherwise make of one that was clipped.
 * @param left what earlier updates left out; absent for a client that has not sent any
 */
export function compressUpdate(
  codec: UpdateCodec,
  update: Float32Array,
  sender: Sender,
  options: { readonly left: Float32Array | null; readonly bound: number | null },
): Sent {
  const seed = createRng(sender.seed).fork('update mask', sender.round, sender.client).uint32();
  const { left, bound } = options;
  const wanted = left ? update.map((value, i) => value + (left[i] as number)) : update.slice();
  let factor = 1;
  for (let attempt = 0; ; attempt++) {
    for (let i = 0; i < update.length; i++) update[i] = factor * (wanted[i] as number);
    const { bytes } = sendUpdate(codec, update, { seed, left: null });
    const norm = bound === null ? 0 : normOf(update);
    if (bound === null || norm <= bound)
      return { bytes, left: left && wanted.map((value, i) => value - (update[i] as number)) };
    if (attempt === 20)
      throw new RangeError(`an update of norm ${norm} cannot be brought below ${bound} by this codec`);
    // A little less each time, since rounding may go up.
    factor *= (bound / norm) * (1 - 2 ** (attempt - 20));
  }
}
