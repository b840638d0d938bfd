import type { InferenceSession, Tensor } from 'onnxruntime-node';
import type { GraphDType } from '../graph.ts';
import { ANY_SIZE, OnnxBuilder } from './model.ts';
import type { OnnxTensor } from './tensor.ts';

/** Makes a session of the engine's device from a model. */
export type SessionMaker = (bytes: Uint8Array, outputs: 'host' | 'device') => Promise<InferenceSession>;

/**
 * Moves values between host memory and a device whose buffers ONNX Runtime keeps for us. Both ways go through sessions
 * of a single Identity: `tensor.getData()` of a device buffer aborts the process in the Node binding.
 */
export class Residence {
  toDevice = 0;
  toHost = 0;
  private readonly make: SessionMaker;
  private readonly sessions = new Map<string, Promise<InferenceSession>>();
  /** Uploads under way, so that two runs do not move the same value twice. */
  private readonly moving = new Map<OnnxTensor, Promise<void>>();

  constructor(make: SessionMaker) {
    this.make = make;
  }

  /** Moves a value to the device if it is not there yet; null if nothing is to be waited for. */
  bring(tensor: OnnxTensor): Promise<void> | null {
    if (tensor.byteLength === 0 || tensor.value?.location !== 'cpu') return null;
    const underway = this.moving.get(tensor);
    if (underway) return underway;
    const move = this.upload(tensor).finally(() => this.moving.delete(tensor));
    this.moving.set(tensor, move);
    return move;
  }

  /** Reads a value; one that never left the host costs nothing. */
  async fetch(tensor: OnnxTensor): Promise<Tensor> {
    await this.moving.get(tensor);
    const value = tensor.value as Tensor;
    if (value.location === 'cpu') return value;
    const session = await this.identity(tensor, 'host');
    const { [session.outputNames[0] as string]: read } = await session.run({
      [session.inputNames[0] as string]: value,
    });
    this.toHost += tensor.byteLength;
    return read as Tensor;
  }

  private async upload(tensor: OnnxTensor): Promise<void> {
    const session = await this.identity(tensor, 'device');
    const value = tensor.value as Tensor;
    const { [session.outputNames[0] as string]: moved } = await session.run({
      [session.inputNames[0] as string]: value,
    });
    this.toDevice += tensor.byteLength;
    if (tensor.value !== null) tensor.value = moved as Tensor;
    else (moved as Tensor).dispose();
  }

  /** Device tensors cannot be reshaped, so there is a session for each rank. */
  private identity({ dtype, shape }: OnnxTensor, to: 'host' | 'device'): Promise<InferenceSession> {
    const key = `${dtype} ${shape.length}>${to}`;
    let session = this.sessions.get(key);
    if (!session) {
      session = this.make(identityModel(dtype, shape.length), to);
      this.sessions.set(key, session);
    }
    return session;
  }
}

/** A model that copies a tensor of any sizes. */
export function identityModel(dtype: GraphDType, rank: number): Uint8Array {
  const builder = new OnnxBuilder();
  const input = builder.input({ dtype, shape: new Array<number>(rank).fill(ANY_SIZE) });
  return builder.finish('identity', [input]).bytes;
}
