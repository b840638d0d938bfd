import { createRequire } from 'node:module';
import { isMainThread } from 'node:worker_threads';
import type { InferenceSession } from 'onnxruntime-node';
import ort from 'onnxruntime-node';

/** What a run reads of a tensor. */
export type Feed = Pick<ort.Tensor, 'type' | 'data' | 'dims' | 'location'>;

/** The binding's own session, beneath the package's public one. */
interface BoundSession {
  loadModel(buffer: ArrayBufferLike, byteOffset: number, byteLength: number, options: object): void;
  readonly outputMetadata: readonly { readonly name: string }[];
  run(feeds: object, fetches: object, options: object): unknown;
  endProfiling(): void;
  dispose(): void;
}

interface BindingModule {
  readonly initOrt: () => void;
  readonly binding: {
    readonly InferenceSession: new () => BoundSession;
    readonly initOrtOnce: (logLevel: number, tensor: unknown, isMainThread: boolean) => void;
  };
}

/** Thrown by the binding's tensor constructor to say that outputs are written and nobody wants copies. */
const WRITTEN = new Error('outputs are in the memory that was given for them');
let writing = false;

/** Where the marker is written; nobody reads it. */
const MARKER: Feed = { type: 'float32', data: new Float32Array(1), dims: [1], location: 'cpu' };

/** What the binding makes of outputs for everyone else. */
class OutputTensor {
  constructor(type: 'float32', data: Float32Array, dims: readonly number[]) {
    if (writing) throw WRITTEN;
    // biome-ignore lint/correctness/noConstructorReturn: the binding calls `new` on what it was given
    return new ort.Tensor(type, data, dims);
  }
}
Object.setPrototypeOf(OutputTensor, ort.Tensor);

let module: BindingModule | null | undefined;

/**
 * A session that leaves outputs where they are wanted. The npm binding (1.30) writes outputs into memory that it is
 * given, but then copies every one of them into a fresh array all the same: measured, 4 MB of outputs cost 1.2 ms of
 * copying, page faults and garbage collection where writing them costs 0.15. It makes these copies one after another,
 * each wrapped by a tensor constructor that it was handed when it was set up. So models get a marker of one element as
 * their first output, and the constructor, called for the marker, throws: the run is over, the copies are not made.
 * With a binding that does not copy (nor call the constructor) the run simply returns.
 */
export class InPlaceSession {
  readonly #session: BoundSession;
  readonly #marker: string;

  private constructor(session: BoundSession) {
    this.#session = session;
    this.#marker = session.outputMetadata[0]?.name as string;
  }

  /**
   * Makes a session. Returns null where the package has no such binding inside; the public session then does the same,
   * more slowly.
   */
  static create(bytes: Uint8Array, options: InferenceSession.SessionOptions): InPlaceSession | null {
    module ??= load();
    if (module === null) return null;
    const session = new module.binding.InferenceSession();
    session.loadModel(bytes.buffer, bytes.byteOffset, bytes.byteLength, options);
    return new InPlaceSession(session);
  }

  /** Runs at once, on this thread. `fetches` has every output of the model but the first, which is the marker. */
  run(feeds: Readonly<Record<string, Feed>>, fetches: Readonly<Record<string, Feed>>): void {
    writing = true;
    try {
      this.#session.run(feeds, { [this.#marker]: MARKER, ...fetches }, {});
    } catch (error) {
      if (error !== WRITTEN) throw error;
    } finally {
      writing = false;
    }
  }

  endProfiling(): void {
    this.#session.endProfiling();
  }

  async release(): Promise<void> {
    this.#session.dispose();
  }
}

function load(): BindingModule | null {
  const require = createRequire(import.meta.url);
  let found: Partial<BindingModule>;
  try {
    found = require('onnxruntime-node/dist/binding.js') as Partial<BindingModule>;
  } catch {
    // Not laid out like the version that this was written for: nothing is lost but speed.
    return null;
  }
  if (typeof found.initOrt !== 'function' || typeof found.binding?.initOrtOnce !== 'function') return null;
  found.initOrt();
  // Errors and worse are thrown as well; 2 is the package's own default.
  found.binding.initOrtOnce(2, OutputTensor, isMainThread);
  return found as BindingModule;
}
