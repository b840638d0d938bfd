import type { UpdateCodec } from '../../comm/index.ts';
import type { LocalState, LocalTrainer } from '../local/index.ts';
import { spoilUpdate } from './attack.ts';
import { compressUpdate, feedsBack, LEFT_OUT, type Sender, type Sent, uploadCodec } from './compression.ts';
import type { FitStart, PersonalPlaces } from './fit-start.ts';
import type { ClientFit, FitJob } from './fit-task.ts';
import { addLocalNoise } from './privacy/local-noise.ts';
import { gatherRuns, type Run, runsWithout, scatterRuns } from './sent-parts.ts';
import type { UpdateArena } from './update-arena.ts';
import { normOf, scaleBy } from './update-vector.ts';

/** What is known of an update when it has been written. */
export interface WrittenUpdate {
  /** Of the parameters' part, before it was clipped; NaN if what stays with the client is not finite. */
  readonly norm: number;
  /** Values that stay with the client; null where none do. */
  readonly personal: Float32Array | null;
  /** What a codec made of it, and what that left out; null without one. */
  readonly written: Uint8Array | null;
  readonly left: Float32Array | null;
}

/** What an `UpdateWriter` is made of. */
export interface UpdateWriterOptions {
  readonly trainer: LocalTrainer;
  readonly personal: PersonalPlaces;
  readonly job: Pick<FitJob, 'seed' | 'compression'>;
  /** Where updates are made; it has the start that was opened last. */
  readonly arena: UpdateArena;
}

/** Makes of trained parameters what a client sends: how they changed, clipped, with noise, in fewer bytes, weighted. */
export class UpdateWriter {
  readonly #options: UpdateWriterOptions;
  /** Writes updates as fewer bytes; null where they go as they are. */
  readonly #codec: UpdateCodec | null;
  /** Places of the parameters that are sent. */
  readonly #sent: readonly Run[];

  constructor(options: UpdateWriterOptions) {
    const { job, trainer, personal } = options;
    this.#options = options;
    this.#codec = job.compression ? uploadCodec(job.compression) : null;
    this.#sent = runsWithout(trainer.layout.size, personal[0]);
  }

  /** Writes the clipped and scaled difference to the start, zeros where the client keeps its own values. */
  async write(
    start: FitStart,
    end: LocalState,
    update: Float32Array,
    scale: number,
    { clipNorm, noise, noiseSecret: secret, attack, round, client, kept }: ClientFit,
  ): Promise<WrittenUpdate> {
    const { trainer, job, arena } = this.#options;
    const between = trainer.layout.size;
    const params = update.subarray(0, between);
    let parts = [
      ...(await trainer.parts(end.params, trainer.layout)),
      ...(await trainer.parts(end.state, trainer.stateLayout)).map(({ offset, data }) => ({
        offset: between + offset,
        data,
      })),
    ];
    let personal: Float32Array | null = null;
    if (this.#options.personal.some((places) => places.length > 0)) {
      for (const { offset, data } of parts) update.set(data, offset);
      personal = this.#takePersonal(start, params, update.subarray(between));
      parts = [{ offset: 0, data: update }];
    }
    // Weighted after it was rounded, as an update that was sent by itself is; at once where nothing comes in between.
    const atOnce =
      clipNorm === null && !noise && !attack && this.#codec === null && Math.fround(scale) === scale ? scale : 1;
    let norm = arena.change(update, 0, between, parts, atOnce);
    arena.change(update, between, update.length, parts, atOnce);
    if (attack) {
      spoilUpdate(update, attack, round, client);
      norm = normOf(params);
    }
    if (clipNorm !== null && norm > clipNorm) scaleBy(params, clipNorm / norm);
    if (noise)
      addLocalNoise(params, noise, { seed: job.seed, round, client, ...(secret === undefined ? {} : { secret }) });
    const sender = { seed: job.seed, round, client };
    // (Noise of the client's own makes an update as large as it is meant to be.)
    const bound = noise ? null : clipNorm;
    const packed = Number.isFinite(norm) ? this.#pack(params, sender, kept[LEFT_OUT], bound) : null;
    if (scale !== atOnce) scaleBy(update, scale);
    const finite = personal?.every((value) => Number.isFinite(value)) ?? true;
    return {
      norm: finite ? norm : Number.NaN,
      personal,
      written: packed?.bytes ?? null,
      left: packed?.left ?? null,
    };
  }

  /** Copies what stays with the client, and puts the start's values in its place: it has not changed for the server. */
  #takePersonal(start: FitStart, params: Float32Array, state: Float32Array): Float32Array {
    const [ownParams, ownState] = this.#options.personal;
    const stays = [
      ...ownParams.map((place) => ({ place, of: params, from: start.params })),
      ...ownState.map((place) => ({ place, of: state, from: start.moduleState })),
    ];
    const personal = new Float32Array(stays.reduce((sum, { place }) => sum + place.size, 0));
    let at = 0;
    for (const { place, of, from } of stays) {
      const [begin, end] = [place.offset, place.offset + place.size];
      personal.set(of.subarray(begin, end), at);
      of.set(from.subarray(begin, end), begin);
      at += place.size;
    }
    return personal;
  }

  /** Makes a parameters' update what the server decodes of it, if there is a codec. */
  #pack(update: Float32Array, sender: Sender, before: Float32Array | undefined, bound: number | null): Sent | null {
    const { compression } = this.#options.job;
    if (!this.#codec || !compression) return null;
    const values = gatherRuns(update, this.#sent);
    const left = feedsBack(compression) ? (before ?? new Float32Array(values.length)) : null;
    const sent = compressUpdate(this.#codec, values, sender, { left, bound });
    scatterRuns(values, this.#sent, update);
    return sent;
  }
}
