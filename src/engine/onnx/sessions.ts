import type { InferenceSession } from 'onnxruntime-node';
import ort from 'onnxruntime-node';
import { EngineError } from '../errors.ts';
import { deviceOptions, type OnnxDevice } from './devices.ts';
import { runtimeMessage } from './executable.ts';
import { InPlaceSession } from './in-place.ts';

/** The sessions of an engine, all with the same settings, which end together. */
export class Sessions {
  readonly #device: OnnxDevice;
  readonly #threads: number;
  readonly #profile: string | undefined;
  readonly #resident: boolean;
  readonly #sessions: (InferenceSession | InPlaceSession)[] = [];

  /** @param profile prefix of the files that ONNX Runtime writes its profiles to; none without */
  constructor(device: OnnxDevice, threads: number, profile: string | undefined) {
    this.#device = device;
    this.#threads = threads;
    this.#profile = profile;
    this.#resident = device.resident;
  }

  /**
   * Makes a session of a model.
   * @param outputs where they are to lie; `places` says it of each by name
   * @throws EngineError if ONNX Runtime refuses the model
   */
  async create(
    bytes: Uint8Array,
    outputs: 'host' | 'device',
    name = 'transfer',
    places: Readonly<Record<string, 'cpu' | 'gpu-buffer'>> | undefined = undefined,
  ): Promise<InferenceSession> {
    const options: InferenceSession.SessionOptions = {
      ...this.#options(name),
      ...(this.#resident && outputs === 'device' ? { preferredOutputLocation: places ?? 'gpu-buffer' } : {}),
    };
    try {
      const session = await ort.InferenceSession.create(bytes, options);
      this.#sessions.push(session);
      return session;
    } catch (error) {
      throw this.#refused(name, error);
    }
  }

  /**
   * A session that spares copies of its outputs, or null where that is not possible.
   * @throws EngineError if ONNX Runtime refuses the model
   */
  inPlace(bytes: Uint8Array, name: string): InPlaceSession | null {
    try {
      const session = InPlaceSession.create(bytes, this.#options(name));
      if (session) this.#sessions.push(session);
      return session;
    } catch (error) {
      throw this.#refused(name, error);
    }
  }

  #options(name: string): InferenceSession.SessionOptions {
    return {
      ...deviceOptions(this.#device),
      // Our passes fuse before a graph is cut, and what ONNX Runtime would fuse after could change bits with the place of the cut.
      graphOptimizationLevel: 'disabled',
      intraOpNumThreads: this.#threads,
      interOpNumThreads: 1,
      executionMode: 'sequential',
      logSeverityLevel: 4,
      // Every session has threads of its own. Those that spin while they wait take the cores of other sessions, of other
      // workers and of this one's sockets: a step with two threads on two busy cores took 132 ms spinning, 79 ms not.
      extra: { session: { intra_op: { allow_spinning: '0' } } },
      ...(this.#profile === undefined
        ? {}
        : { enableProfiling: true, profileFilePrefix: `${this.#profile}-${name.replaceAll(/\W/g, '_')}` }),
    };
  }

  #refused(name: string, cause: unknown): EngineError {
    return new EngineError(
      `"${name}" could not be made into a session on ${this.#device.name}: ${runtimeMessage(cause)}`,
      {
        path: name,
        cause,
      },
    );
  }

  /** Ends ONNX Runtime's profiles, which writes their files. */
  endProfiling(): void {
    for (const session of this.#sessions) session.endProfiling();
  }

  /** Ends all sessions. */
  async release(): Promise<void> {
    for (const session of this.#sessions) await session.release();
    this.#sessions.length = 0;
  }
}
