import type { Tensor, TensorInfo } from '@tensorflow/tfjs-core';
import { alias, record } from '../backend.ts';
import { type KernelDefinition, kernelDefinition } from '../definition.ts';
import { tf } from '../tf.ts';

/** Inputs of a tfjs kernel by name. */
export type Inputs = Readonly<Record<string, Tensor>>;
/** Attributes of a tfjs kernel. */
export type Values = Readonly<Record<string, unknown>>;

/** Records a node of one output. */
export const node = (kernel: string, inputs: Readonly<Record<string, TensorInfo>>, attrs: Values = {}): Tensor =>
  tf
    .engine()
    .makeTensorFromTensorInfo(record(kernelDefinition(kernel) as KernelDefinition, inputs, attrs)[0] as TensorInfo);
/** The same value as another tensor. */
export const aliased = (x: Tensor): Tensor => tf.engine().makeTensorFromTensorInfo(alias(x));
/** Inputs of a kernel that takes an array. */
export const list = (inputs: Inputs): Tensor[] => Object.values(inputs);
/** An input that is always there. */
export const input = (inputs: Inputs, name: string): Tensor => inputs[name] as Tensor;
