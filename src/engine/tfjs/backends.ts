import { createRequire } from 'node:module';
import { dirname } from 'node:path';
import { EngineError } from '../errors.ts';
import { tf } from '../trace/index.ts';

/** A tfjs backend that the engine can compute on. */
export interface TfjsBackend {
  /** Name in the config: `cpu`, `wasm`, `webgpu`, `node`, `node-gpu`. */
  readonly device: string;
  /** Name under which it registers with tfjs. */
  readonly backend: string;
  readonly npm: string;
  /** What it is, for `plexus doctor`. */
  readonly gives: string;
  /** Whether values can be read without waiting, and live in host memory. */
  readonly onHost: boolean;
}

/** All backends, whether installed or not. */
export const tfjsBackends: readonly TfjsBackend[] = [
  {
    device: 'cpu',
    backend: 'cpu',
    npm: '@tensorflow/tfjs-backend-cpu',
    gives: 'plain JavaScript: slow, exact, everywhere; the reference in tests',
    onHost: true,
  },
  {
    device: 'wasm',
    backend: 'wasm',
    npm: '@tensorflow/tfjs-backend-wasm',
    gives: 'WebAssembly with SIMD on the CPU',
    onHost: true,
  },
  {
    device: 'webgpu',
    backend: 'webgpu',
    npm: '@tensorflow/tfjs-backend-webgpu',
    gives: 'a GPU through WebGPU, where the runtime has it',
    onHost: false,
  },
  {
    device: 'node',
    backend: 'tensorflow',
    npm: '@tensorflow/tfjs-node',
    gives: 'libtensorflow on the CPU',
    onHost: true,
  },
  {
    device: 'node-gpu',
    backend: 'tensorflow',
    npm: '@tensorflow/tfjs-node-gpu',
    gives: 'libtensorflow on an NVIDIA GPU (CUDA 11)',
    onHost: false,
  },
];

/** Whether the npm package of a backend is installed; it may still fail to start. */
export function isInstalled(backend: TfjsBackend): boolean {
  try {
    createRequire(import.meta.url).resolve(backend.npm);
    return true;
  } catch {
    return false;
  }
}

/** The backend of that name. @throws EngineError if there is none */
export function findBackend(device: string): TfjsBackend {
  const found = tfjsBackends.find((each) => each.device === device);
  if (found === undefined)
    throw new EngineError(
      `engine.device "${device}" is not a tfjs backend; the tfjs engine knows ${tfjsBackends.map((each) => each.device).join(', ')}`,
    );
  return found;
}

/**
 * Loads and starts a backend by its name in the config. tfjs's current backend stays what it was.
 * @throws EngineError if there is none of that name, or it is not installed, or it does not start.
 */
export async function startBackend(device: string): Promise<TfjsBackend> {
  const found = findBackend(device);
  if (!isInstalled(found))
    throw new EngineError(
      `engine.device "${device}" of the tfjs engine needs the npm package ${found.npm}, which is not installed; run "npm install ${found.npm}"`,
    );
  // Kernels that a backend lacks run on the JavaScript one.
  const spare = tfjsBackends[0] as TfjsBackend;
  if (found !== spare && isInstalled(spare)) await import(spare.npm);
  const previous = tf.getBackend() as string | undefined;
  try {
    const module = (await import(found.npm)) as { setWasmPaths?: (folder: string) => void };
    // tfjs looks for its .wasm files beside the main script, wherever that is.
    module.setWasmPaths?.(`${dirname(createRequire(import.meta.url).resolve(found.npm))}/`);
    if (!(await tf.setBackend(found.backend))) throw new Error('tfjs could not initialize it');
    return found;
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new EngineError(`engine.device "${device}" of the tfjs engine (${found.npm}) did not start: ${reason}`, {
      cause: error,
    });
  } finally {
    if (previous !== undefined && previous !== null) await tf.setBackend(previous);
  }
}
