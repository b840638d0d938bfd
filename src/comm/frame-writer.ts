import { bytesOf, type HostTensor } from '../tensor/index.ts';
import { FrameEncoder, type FrameFields, type FrameRoute } from './frame.ts';
import { scratch } from './scratch.ts';

/** Turns what a rank has to say to another into the frames of one stream. */
export class FrameWriter {
  readonly #encoder: FrameEncoder;
  /** Whether data carries a checksum; not where the layer below has one, or moves memory of this machine. */
  checked: boolean;
  #sequence = 0;

  constructor(route: FrameRoute, checked: boolean) {
    this.#encoder = new FrameEncoder(route);
    this.checked = checked;
  }

  /** Headers and data of a message in turn. The data is the tensors' own memory, not a copy. */
  message(tag: string, tensors: readonly HostTensor[]): Uint8Array[] {
    if (tensors.length === 0) return [this.#header({ kind: 'data', tag })];
    return tensors.flatMap(({ dtype, shape, data }, part) => {
      const bytes = bytesOf(data);
      const pooled = scratch.owns(data.buffer);
      const header = this.#header({ kind: 'data', tag, dtype, shape, part, parts: tensors.length, pooled }, bytes);
      return bytes.length > 0 ? [header, bytes] : [header];
    });
  }

  credit(channel: string, count: number): Uint8Array {
    return this.#header({ kind: 'credit', tag: channel, value: count });
  }

  close(reason: string): Uint8Array {
    return this.#header({ kind: 'close', tag: reason.slice(0, 128) });
  }

  #header(fields: FrameFields, data?: Uint8Array): Uint8Array {
    const header = this.#encoder.encode({ ...fields, sequence: this.#sequence }, data, { checked: this.checked });
    this.#sequence += 1;
    return header.slice();
  }
}

/** Takes scratch memory back that was given away with a message and has left. */
export function reclaim(tensors: readonly HostTensor[]): void {
  const seen = new Set<ArrayBufferLike>();
  for (const { data } of tensors) {
    if (!(data instanceof Float32Array) || !scratch.owns(data.buffer) || seen.has(data.buffer)) continue;
    seen.add(data.buffer);
    scratch.give(data);
  }
}
