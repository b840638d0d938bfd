import type * as z from 'zod';
import type { Model, TaskInfo } from '../module.ts';

/** A model and what its user should be told once. */
export interface Built {
  readonly model: Model;
  readonly warnings: readonly string[];
}

/** A named model that a config can ask for. */
export interface ZooEntry<S extends z.ZodType = z.ZodType> {
  readonly name: string;
  /** One line for help texts. */
  readonly summary: string;
  /** Arguments with defaults and descriptions; unknown keys are refused. */
  readonly schema: S;
  /** @throws Error saying what does not fit, if the arguments do not suit the task. */
  build(args: z.output<S>, info: TaskInfo): Built | Promise<Built>;
}

/** Keeps an entry's schema type. */
export function zooEntry<S extends z.ZodType>(entry: ZooEntry<S>): ZooEntry<S> {
  return entry;
}

/** Context length and vocabulary of a text task. @throws Error if the task is not text. */
export function textTask(name: string, info: TaskInfo): { readonly length: number; readonly vocab: number } {
  const input = info.inputs[0];
  if (info.inputs.length !== 1 || input?.dtype !== 'int32' || input.shape.length !== 1 || info.vocabSize === undefined)
    throw new Error(
      `model ${name} needs text (one int32 input [length] and a vocabulary), but the dataset gives ` +
        `${describe(info.inputs)}${info.vocabSize === undefined ? ' and no vocabulary' : ''}`,
    );
  return { length: input.shape[0] as number, vocab: info.vocabSize };
}

/** The one float32 input of a task. @throws Error if there is another number or another dtype. */
export function valuesTask(name: string, info: TaskInfo): readonly number[] {
  const input = info.inputs[0];
  if (info.inputs.length !== 1 || input?.dtype !== 'float32')
    throw new Error(`model ${name} needs one float32 input, but the dataset gives ${describe(info.inputs)}`);
  return input.shape;
}

function describe(signatures: TaskInfo['inputs']): string {
  return signatures.map((s) => `${s.dtype} [${s.shape}]`).join(', ') || 'no inputs';
}
