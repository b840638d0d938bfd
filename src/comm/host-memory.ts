import { closeSync, fstatSync, ftruncateSync, openSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { ownName, SHARED_MEMORY } from './own-files.ts';

/** A file in memory that several processes have mapped. */
export interface SharedMapping {
  /** Its name in `/dev/shm`, for the other process. */
  readonly name: string;
  readonly buffer: ArrayBuffer;
  /** Removes the file; what has mapped it keeps it. */
  unlink(): void;
  /** Gives the memory back. Nothing may touch `buffer` afterwards: that would end the process. */
  unmap(): void;
}

interface Calls {
  readonly map: (fd: number, bytes: number) => { readonly address: unknown; readonly buffer: ArrayBuffer };
  readonly unmap: (address: unknown, bytes: number) => void;
  /** 0, or the number of an error. */
  readonly reserve: (fd: number, bytes: number) => number;
}

let loading: Promise<Calls | null> | null = null;

/** Whether this process can map shared memory: on Linux with the optional package `koffi`. */
export async function sharedMemoryAvailable(): Promise<boolean> {
  return (await calls()) !== null;
}

/** Makes and maps a file of zeros that only this user can open. @throws Error where that is not to be had */
export async function createSharedMemory(bytes: number): Promise<SharedMapping> {
  const name = ownName();
  const path = join(SHARED_MEMORY, name);
  const fd = openSync(path, 'wx+', 0o600);
  try {
    const system = await needed();
    ftruncateSync(fd, bytes);
    // Without room for it now, the first touch of a page would end the process later.
    const failed = system.reserve(fd, bytes);
    if (failed !== 0)
      throw new Error(
        `${SHARED_MEMORY} has no room for ${bytes} bytes of a link (error ${failed}): enlarge it (docker run --shm-size=1g), or use unix sockets`,
      );
    return mapping(system, name, fd, bytes);
  } catch (error) {
    rmSync(path, { force: true });
    throw error;
  } finally {
    closeSync(fd);
  }
}

/** Maps what another process has made. @throws Error if there is no such file, or it has another size */
export async function openSharedMemory(name: string, bytes: number): Promise<SharedMapping> {
  if (!/^plexus-[\w-]+$/.test(name)) throw new Error(`"${name.slice(0, 80)}" is no name of shared memory`);
  const system = await needed();
  const fd = openSync(join(SHARED_MEMORY, name), 'r+');
  try {
    const { size } = fstatSync(fd);
    if (size !== bytes) throw new Error(`shared memory ${name} has ${size} bytes, ${bytes} were expected`);
    return mapping(system, name, fd, bytes);
  } finally {
    closeSync(fd);
  }
}

function mapping(system: Calls, name: string, fd: number, bytes: number): SharedMapping {
  const { address, buffer } = system.map(fd, bytes);
  let mapped = true;
  return {
    name,
    buffer,
    unlink: () => rmSync(join(SHARED_MEMORY, name), { force: true }),
    unmap: () => {
      if (mapped) system.unmap(address, bytes);
      mapped = false;
    },
  };
}

async function needed(): Promise<Calls> {
  const system = await calls();
  if (!system) throw new Error('this process cannot map shared memory: it takes Linux and the optional package koffi');
  return system;
}

function calls(): Promise<Calls | null> {
  loading ??= load();
  return loading;
}

const PROT_READ_WRITE = 3;
const MAP_SHARED = 1;

async function load(): Promise<Calls | null> {
  if (process.platform !== 'linux') return null;
  let koffi: typeof import('koffi').default;
  try {
    koffi = (await import('koffi')).default;
  } catch {
    return null; // an optional package: unix sockets take its place, and `plexus doctor` says so
  }
  for (const library of ['libc.so.6', `libc.musl-${process.arch === 'arm64' ? 'aarch64' : 'x86_64'}.so.1`]) {
    let libc: ReturnType<typeof koffi.load>;
    try {
      libc = koffi.load(library);
    } catch {
      continue; // the other C library
    }
    const mmap = libc.func('void *mmap(void *address, size_t bytes, int protection, int flags, int fd, long offset)');
    const reserve = libc.func('int posix_fallocate(int fd, long offset, long bytes)');
    const munmap = libc.func('int munmap(void *address, size_t bytes)');
    return {
      map: (fd, bytes) => {
        const address: unknown = mmap(null, bytes, PROT_READ_WRITE, MAP_SHARED, fd, 0);
        if (BigInt.asIntN(64, koffi.address(address)) === -1n) throw new Error(`${bytes} bytes could not be mapped`);
        return { address, buffer: koffi.view(address, bytes) };
      },
      unmap: (address, bytes) => void munmap(address, bytes),
      reserve: (fd, bytes) => Number(reserve(fd, 0, bytes)),
    };
  }
  return null;
}
