import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { bytesOf, openSafetensors, pathsInOrder, type SafetensorsReader } from '../../tensor/index.ts';
import { nearest } from '../config/suggest.ts';
import type { CheckpointIndex } from './checkpoint.ts';
import { CheckpointError } from './errors.ts';

/** A parameter as a model has it, for comparison with a checkpoint. */
export interface ExpectedParam {
  readonly path: string;
  readonly shape: readonly number[];
}

/** Prefix of parameters among the tensors of a checkpoint. */
export const PARAM_PREFIX = 'param/';

/** Prefix of state tensors (running statistics, router biases) among the tensors of a checkpoint. */
export const STATE_PREFIX = 'state/';

/** Where each tensor of a checkpoint lies. Open files are closed by `close`. */
export class CheckpointReader {
  readonly #byTensor: ReadonlyMap<string, SafetensorsReader>;
  readonly #readers: readonly SafetensorsReader[];

  private constructor(readers: readonly SafetensorsReader[], byTensor: ReadonlyMap<string, SafetensorsReader>) {
    this.#readers = readers;
    this.#byTensor = byTensor;
  }

  static async open(path: string, index: CheckpointIndex): Promise<CheckpointReader> {
    const readers = await Promise.all(index.shards.map(({ file }) => openSafetensors(join(path, file))));
    const byTensor = new Map<string, SafetensorsReader>();
    for (const reader of readers) for (const name of Object.keys(reader.specs)) byTensor.set(name, reader);
    return new CheckpointReader(readers, byTensor);
  }

  /** Names of all tensors. */
  names(): string[] {
    return pathsInOrder(this.#byTensor.keys());
  }

  /** Paths of the parameters. */
  params(): string[] {
    const names = [...this.#byTensor.keys()].filter((name) => name.startsWith(PARAM_PREFIX));
    return pathsInOrder(names.map((name) => name.slice(PARAM_PREFIX.length)));
  }

  /** Shape of a tensor, or null if there is none of that name. */
  shapeOf(name: string): readonly number[] | null {
    return this.#byTensor.get(name)?.specs[name]?.shape ?? null;
  }

  /** Reads one tensor. @throws CheckpointError if there is none of that name. */
  async read(name: string) {
    const reader = this.#byTensor.get(name);
    if (!reader) {
      const near = nearest(name, this.#byTensor.keys());
      throw new CheckpointError(`the checkpoint has no tensor '${name}'${near ? `; nearest: '${near}'` : ''}`);
    }
    return reader.read(name);
  }

  /** SHA-256 of all parameters in path order, little-endian float32, read one at a time: the run's `weights_sha256`. */
  async weightsSha256(): Promise<string> {
    const hash = createHash('sha256');
    for (const path of this.params()) hash.update(bytesOf((await this.read(PARAM_PREFIX + path)).data));
    return hash.digest('hex');
  }

  /**
   * Compares the parameters with a model's.
   * @throws CheckpointError listing missing, extra and differently shaped parameters, with the nearest names.
   */
  checkModel(expected: readonly ExpectedParam[]): void {
    const have = new Set(this.params());
    const want = new Map(expected.map(({ path, shape }) => [path, shape]));
    const missing = pathsInOrder(want.keys()).filter((path) => !have.has(path));
    const extra = [...have].filter((path) => !want.has(path));
    const near = (path: string, among: Iterable<string>): string => {
      const found = nearest(path, among);
      return found ? ` (nearest: ${found})` : '';
    };
    const problems = [
      ...missing.map((path) => `the model's '${path}' [${want.get(path)}] is not in it${near(path, extra)}`),
      ...extra.map((path) => `it has '${path}', which the model lacks${near(path, missing)}`),
      ...pathsInOrder(want.keys())
        .filter((path) => have.has(path) && `${want.get(path)}` !== `${this.shapeOf(PARAM_PREFIX + path)}`)
        .map(
          (path) => `'${path}' is [${this.shapeOf(PARAM_PREFIX + path)}] in it, but [${want.get(path)}] in the model`,
        ),
    ];
    if (problems.length === 0) return;
    const shown = problems.slice(0, 10).map((text) => `  ${text}`);
    if (problems.length > 10) shown.push(`  and ${problems.length - 10} more`);
    throw new CheckpointError(
      `the checkpoint is of another model (${problems.length} of its ${want.size} parameters do not fit):\n${shown.join('\n')}\n  use the config that the run was made with, or start a new run`,
    );
  }

  /**
   * Checks that there are all tensors of module and optimizer state that going on needs.
   * @throws CheckpointError naming some of those that are missing.
   */
  checkState(names: readonly string[]): void {
    const missing = pathsInOrder(names).filter((name) => !this.#byTensor.has(name));
    if (missing.length === 0) return;
    const shown = missing.slice(0, 3).map((name) => `'${name}'`);
    if (missing.length > 3) shown.push(`${missing.length - 3} more`);
    throw new CheckpointError(
      `the checkpoint was made with another optimizer, or other settings of the model: it has no ${shown.join(', ')}\n  use the config that the run was made with, or start a new run`,
    );
  }

  async close(): Promise<void> {
    await Promise.all(this.#readers.map((reader) => reader.close()));
  }
}
