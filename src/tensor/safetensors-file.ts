import { createHash } from 'node:crypto';
import { type FileHandle, open, rm } from 'node:fs/promises';
import { bytesOf } from './hash.ts';
import { allocate, bytesPerElement, type HostTensor, sizeOf, type TensorSpec } from './host-tensor.ts';
import {
  dataBytesOf,
  encodeHeader,
  headerLength,
  parseHeader,
  type SafetensorsEntry,
  SafetensorsError,
  type SafetensorsHeader,
  type SafetensorsMetadata,
} from './safetensors.ts';
import type { FlatTree } from './tree.ts';

/** A tensor that is fetched (from a device, say) only when its turn to be written has come. */
export interface LazyTensor extends TensorSpec {
  load(): Promise<HostTensor>;
}

/** Bytes that are hashed and written at once. */
const PIECE_BYTES = 1024 * 1024;

/** What was written. */
export interface WrittenFile {
  readonly bytes: number;
  /** Of the whole file, lower-case hex. */
  readonly sha256: string;
}

/**
 * Writes tensors to a safetensors file, one after another, and returns once the content is on the disk (fsync). If
 * something fails no file is left behind.
 */
export async function writeSafetensors(
  path: string,
  tensors: FlatTree<HostTensor | LazyTensor>,
  metadata: SafetensorsMetadata = {},
): Promise<WrittenFile> {
  const { bytes: header, order } = encodeHeader(tensors, metadata);
  const hash = createHash('sha256');
  const file = await open(path, 'w');
  try {
    let offset = 0;
    const append = async (bytes: Uint8Array) => {
      // Piece by piece, so that whoever else uses this thread never waits for long.
      for (let at = 0; at < bytes.length; at += PIECE_BYTES) {
        const part = bytes.subarray(at, at + PIECE_BYTES);
        // Not every runtime writes from shared memory.
        const piece = part.buffer instanceof ArrayBuffer ? part : part.slice();
        hash.update(piece);
        await writeFully(file, piece, offset);
        offset += piece.length;
      }
    };
    await append(header);
    for (const name of order) {
      const declared = tensors[name] as HostTensor | LazyTensor;
      const tensor = 'load' in declared ? await declared.load() : declared;
      if (tensor.dtype !== declared.dtype || `${tensor.shape}` !== `${declared.shape}`)
        throw new SafetensorsError(
          `${path}: tensor '${name}' was announced as ${declared.dtype} [${declared.shape}], but ${tensor.dtype} [${tensor.shape}] was loaded`,
        );
      await append(dataBytesOf(name, tensor));
    }
    await file.sync();
    await file.close();
    return { bytes: offset, sha256: hash.digest('hex') };
  } catch (error) {
    // Closing may fail for the same reason (a full disk, say); the first error is the one to report.
    await file.close().catch(() => undefined);
    await rm(path, { force: true });
    const { code, message } = error as NodeJS.ErrnoException;
    if (code === 'ENOSPC' || code === 'EDQUOT' || code === 'EFBIG' || code === 'EIO')
      throw new SafetensorsError(`${path} cannot be written: ${message}`, { cause: error });
    throw error;
  }
}

/** An open safetensors file: the header is read and checked, data is read on demand. Close it when done. */
export interface SafetensorsReader {
  readonly file: string;
  readonly metadata: SafetensorsMetadata;
  /** Shape and dtype of every tensor by name. */
  readonly specs: FlatTree<TensorSpec>;
  /** Reads one tensor into fresh memory. @throws SafetensorsError if there is none of that name. */
  read(name: string): Promise<HostTensor>;
  /** Reads rows [start, end) of the first dimension. @throws RangeError if they are not within the tensor. */
  readRows(name: string, start: number, end: number): Promise<HostTensor>;
  close(): Promise<void>;
}

/**
 * Opens a safetensors file and validates its header against the file's size, without reading any data.
 * @throws SafetensorsError naming the file if it is missing, truncated, corrupt or of another format.
 */
export async function openSafetensors(path: string): Promise<SafetensorsReader> {
  let file: FileHandle;
  try {
    file = await open(path, 'r');
  } catch (error) {
    throw new SafetensorsError(`${path}: cannot be opened: ${(error as Error).message}`, { cause: error });
  }
  try {
    const { size } = await file.stat();
    const prefix = await readUpTo(file, 8, 0);
    const length = headerLength(prefix, size, path);
    const json = await readUpTo(file, length, 8);
    return new FileReader(path, file, parseHeader(json, size - 8 - length, path));
  } catch (error) {
    await file.close();
    throw error;
  }
}

/**
 * Reads tensors of a safetensors file: those named, or all.
 * @throws SafetensorsError if the file is not valid or a name is not in it.
 */
export async function readSafetensors(
  path: string,
  names?: Iterable<string>,
): Promise<{ readonly tensors: FlatTree<HostTensor>; readonly metadata: SafetensorsMetadata }> {
  const reader = await openSafetensors(path);
  try {
    const tensors: Record<string, HostTensor> = Object.create(null);
    for (const name of names ?? Object.keys(reader.specs)) tensors[name] = await reader.read(name);
    return { tensors, metadata: reader.metadata };
  } finally {
    await reader.close();
  }
}

class FileReader implements SafetensorsReader {
  readonly file: string;
  readonly metadata: SafetensorsMetadata;
  readonly specs: FlatTree<TensorSpec>;
  private readonly handle: FileHandle;
  private readonly header: SafetensorsHeader;

  constructor(path: string, handle: FileHandle, header: SafetensorsHeader) {
    this.file = path;
    this.metadata = header.metadata;
    this.specs = Object.assign(
      Object.create(null) as Record<string, TensorSpec>,
      Object.fromEntries(Object.entries(header.entries).map(([name, { dtype, shape }]) => [name, { dtype, shape }])),
    );
    this.handle = handle;
    this.header = header;
  }

  async read(name: string): Promise<HostTensor> {
    const { dtype, shape, start } = this.entry(name);
    return this.load(dtype, shape, start, name);
  }

  async readRows(name: string, start: number, end: number): Promise<HostTensor> {
    const entry = this.entry(name);
    const [rows, ...rest] = entry.shape;
    if (
      rows === undefined ||
      !(Number.isInteger(start) && Number.isInteger(end) && 0 <= start && start <= end && end <= rows)
    )
      throw new RangeError(
        `${this.file}: rows ${start} to ${end} are not within tensor '${name}' of shape [${entry.shape}]`,
      );
    const rowBytes = sizeOf(rest) * bytesPerElement(entry.dtype);
    return this.load(entry.dtype, [end - start, ...rest], entry.start + start * rowBytes, name);
  }

  close(): Promise<void> {
    return this.handle.close();
  }

  private async load(
    dtype: TensorSpec['dtype'],
    shape: TensorSpec['shape'],
    start: number,
    name: string,
  ): Promise<HostTensor> {
    const data = allocate(dtype, sizeOf(shape));
    const bytes = bytesOf(data);
    const read = await readInto(this.handle, bytes, this.header.dataStart + start);
    if (read < bytes.length)
      throw new SafetensorsError(
        `${this.file}: tensor '${name}' should have ${bytes.length} bytes here, but only ${read} could be read: the file shrank while it was open`,
      );
    return { dtype, shape, data };
  }

  private entry(name: string): SafetensorsEntry {
    const entry = this.header.entries[name];
    if (!entry) {
      const names = Object.keys(this.header.entries);
      const some = names.slice(0, 5).join(', ') + (names.length > 5 ? `, ... (${names.length} in all)` : '');
      throw new SafetensorsError(`${this.file}: there is no tensor '${name}'; the file has ${some || 'none'}`);
    }
    return entry;
  }
}

async function writeFully(file: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    const length = Math.min(bytes.length - done, 1 << 30);
    const { bytesWritten } = await file.write(bytes, done, length, position + done);
    done += bytesWritten;
  }
}

async function readInto(file: FileHandle, bytes: Uint8Array, position: number): Promise<number> {
  let done = 0;
  while (done < bytes.length) {
    const { bytesRead } = await file.read(bytes, done, Math.min(bytes.length - done, 1 << 30), position + done);
    if (bytesRead === 0) break;
    done += bytesRead;
  }
  return done;
}

async function readUpTo(file: FileHandle, length: number, position: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(length);
  return bytes.subarray(0, await readInto(file, bytes, position));
}
