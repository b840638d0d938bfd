import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { gunzip, type ZlibOptions } from 'node:zlib';
import { DataError } from './errors.ts';

/** An IDX file of bytes (http://yann.lecun.com/exdb/mnist): sizes and data. */
export interface IdxArray {
  readonly shape: readonly number[];
  readonly data: Uint8Array;
}

const UNSIGNED_BYTE = 8;

/** On a thread of its own, so that several files are unpacked at a time. */
const unpack = promisify<Uint8Array, ZlibOptions, Uint8Array>(gunzip);
/** Unpacked bytes that are handed over at a time. */
const CHUNK = 2 ** 20;

/**
 * Reads `name` or `name.gz` in a folder.
 * @throws DataError naming the file if neither exists, or if it is not an IDX file of bytes with `rank` dimensions.
 */
export async function readIdx(folder: string, name: string, rank: number): Promise<IdxArray> {
  const plain = join(folder, name);
  let bytes: Uint8Array | null = await readIfExists(plain);
  let file = plain;
  if (bytes === null) {
    file = `${plain}.gz`;
    const packed = await readIfExists(file);
    if (packed === null)
      throw new DataError(`${folder} has neither ${name} nor ${name}.gz; expected the four IDX files of MNIST there`);
    try {
      bytes = await unpack(packed, { chunkSize: CHUNK });
    } catch (error) {
      throw new DataError(`${file} cannot be unpacked: ${(error as Error).message}`, { cause: error });
    }
  }
  return parseIdx(bytes, rank, file);
}

/** Parses an IDX file of bytes. @throws DataError naming `file`, what was expected and what was found. */
export function parseIdx(bytes: Uint8Array, rank: number, file: string): IdxArray {
  const start = 4 + 4 * rank;
  const magic = bytes.length < 4 ? -1 : new DataView(bytes.buffer, bytes.byteOffset).getUint32(0);
  if (magic !== UNSIGNED_BYTE * 256 + rank || bytes.length < start)
    throw new DataError(
      `${file} is not an IDX file of bytes with ${rank} dimensions: expected it to begin with 0x${(UNSIGNED_BYTE * 256 + rank).toString(16).padStart(8, '0')}, found ${magic < 0 ? `only ${bytes.length} bytes` : `0x${magic.toString(16).padStart(8, '0')}`}`,
    );
  const header = new DataView(bytes.buffer, bytes.byteOffset, start);
  const shape = Array.from({ length: rank }, (_, i) => header.getUint32(4 + 4 * i));
  const size = shape.reduce((a, b) => a * b, 1);
  if (bytes.length - start !== size)
    throw new DataError(
      `${file} announces ${shape.join(' x ')} = ${size} bytes of data, but ${bytes.length - start} follow; was a download interrupted?`,
    );
  return { shape, data: bytes.subarray(start) };
}

async function readIfExists(path: string): Promise<Uint8Array | null> {
  try {
    return await readFile(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw new DataError(`${path} cannot be read: ${(error as Error).message}`, { cause: error });
  }
}
