import { randomBytes } from 'node:crypto';
import { open, readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { gunzip, gzip } from 'node:zlib';
import type { NatsConnection } from '@nats-io/transport-node';
import { sha256OfFile } from '../../../tensor/index.ts';
import { writeFileAtomically } from '../atomic.ts';
import {
  type CheckpointIndex,
  checkpointIndexSchema,
  checkpointPath,
  saveCheckpoint,
  superfluous,
  type UsableCheckpoint,
  verifyCheckpoint,
} from '../checkpoint.ts';
import { CheckpointError } from '../errors.ts';
import type { ChunkStream } from './chunk-stream.ts';
import { folderStore } from './folder.ts';
import { type Manifest, openStream, packManifest, parseManifest, RUN, safeName, sha256, tokenOf } from './manifest.ts';
import type { CheckpointStore } from './store.ts';

/** Files of a run's folder that are of no use to whoever goes on with it. */
const LEFT_OUT = new Set(['summary.json', 'trace.json', 'flight-recorder.json']);

/** Where a run's checkpoints are kept on NATS. */
export interface NatsStoreOptions {
  readonly connection: NatsConnection;
  readonly job: string;
  /** Id of the run. */
  readonly run: string;
  /** Folder of the run on this machine: checkpoints pass through it, and are read from it. */
  readonly folder: string;
  /** How long a message may take, over lost connections and restarted servers, in milliseconds. Default 60 s. */
  readonly deadlineMs?: number;
}

/** A store on NATS that can also bring a run to a machine that has never seen it. */
export interface NatsStore extends CheckpointStore {
  /** Puts the files that the run's folder had when the checkpoint of `step` was saved into the folder. */
  restoreFiles(step: number): Promise<void>;
}

/**
 * Checkpoints in a JetStream stream, with the run's config, model and metrics beside them: a manifest that is stored last
 * makes one valid, as a folder's name does on a disk. Each is written to the run's folder first and then sent; it counts
 * as safe when the server has all of it. What is read is verified by SHA-256.
 * @throws CheckpointError if the server has no JetStream
 */
export async function natsStore(options: NatsStoreOptions): Promise<NatsStore> {
  const { connection, job, run, folder, deadlineMs = 60_000 } = options;
  const stream = await openStream(connection, job, deadlineMs);
  return new JetStreamStore(stream, tokenOf(run), run, folder);
}

class JetStreamStore implements NatsStore {
  readonly #stream: ChunkStream;
  readonly #token: string;
  readonly #run: string;
  readonly #folder: string;
  readonly #checkpoints: string;
  readonly #local: CheckpointStore;

  constructor(stream: ChunkStream, token: string, run: string, folder: string) {
    this.#stream = stream;
    this.#token = token;
    this.#run = run;
    this.#folder = folder;
    this.#checkpoints = join(folder, 'checkpoints');
    this.#local = folderStore(this.#checkpoints);
  }

  async save(...[info, write]: Parameters<CheckpointStore['save']>): ReturnType<CheckpointStore['save']> {
    const saved = await this.#local.save(info, write);
    const index = JSON.parse(await readFile(join(saved.path, 'index.json'), 'utf8')) as CheckpointIndex;
    const attempt = randomBytes(4).toString('hex');
    const place = (file: number): string => `data.${this.#token}.${info.step}.${attempt}.${file}`;
    const files: Manifest['files'] = [];
    for (const { file: name, bytes, sha256 } of index.shards) {
      await this.#sendFile(place(files.length), join(saved.path, name), bytes);
      files.push({ name, bytes, sha256 });
    }
    for (const [name, content] of await this.#smallFiles(saved.path)) {
      await this.#stream.put(place(files.length), content.length, (at, length) => content.subarray(at, at + length));
      files.push({ name, bytes: content.length, sha256: sha256(content) });
    }
    const manifest = packManifest({ step: info.step, attempt, chunkBytes: this.#stream.chunkBytes, files });
    await this.#stream.set(this.#manifestOf(info.step), manifest);
    return saved;
  }

  async steps(): Promise<number[]> {
    const all = new Set([...(await this.#remoteSteps()), ...(await this.#local.steps())]);
    return [...all].sort((a, b) => b - a);
  }

  async newest(step?: number): Promise<UsableCheckpoint> {
    const steps = await this.steps();
    const candidates = step === undefined ? steps : steps.filter((other) => other === step);
    const warnings: string[] = [];
    for (const candidate of candidates)
      try {
        return { ...(await this.#bring(candidate)), warnings };
      } catch (error) {
        if (!(error instanceof CheckpointError)) throw error;
        warnings.push(`skipped a damaged checkpoint: ${error.message}`);
      }
    const where = `of run '${this.#run}' on NATS and in ${this.#checkpoints}`;
    if (warnings.length > 0)
      throw new CheckpointError(`no checkpoint ${where} is whole:\n${warnings.map((text) => `  ${text}`).join('\n')}`);
    throw new CheckpointError(
      step === undefined
        ? `there is no checkpoint ${where}`
        : `there is no checkpoint of step ${step} ${where}; there are: ${steps.join(', ') || 'none'}`,
    );
  }

  async prune(...[rule]: Parameters<CheckpointStore['prune']>): Promise<void> {
    await this.#local.prune(rule);
    const steps = await this.#remoteSteps();
    // A manifest goes first: what has none is nothing.
    for (const step of superfluous(steps, rule.last, rule.every)) await this.#stream.purge(this.#manifestOf(step));
    const kept = new Set<string>();
    for (const step of await this.#remoteSteps()) {
      const manifest = await this.#manifest(step).catch(() => null);
      if (manifest) kept.add(`${step}.${manifest.attempt}`);
    }
    const there = new Set<string>();
    for (const name of await this.#stream.names(`data.${this.#token}.>`))
      there.add(name.split('.').slice(2, 4).join('.'));
    for (const content of there) if (!kept.has(content)) await this.#stream.purge(`data.${this.#token}.${content}.>`);
  }

  async restoreFiles(step: number): Promise<void> {
    const manifest = await this.#manifest(step);
    // Of a checkpoint that never got there the files are here.
    if (!manifest) return;
    for (const [i, { name }] of manifest.files.entries()) {
      if (!name.startsWith(RUN)) continue;
      const content = await promisify(gunzip)(await this.#small(manifest, i));
      await writeFileAtomically(join(this.#folder, safeName(name.slice(RUN.length))), content);
    }
  }

  /** Makes sure that a checkpoint is in the folder, whole. */
  async #bring(step: number): Promise<Omit<UsableCheckpoint, 'warnings'>> {
    const path = checkpointPath(this.#checkpoints, step);
    const orProblem = (error: unknown): CheckpointError => {
      if (error instanceof CheckpointError) return error;
      throw error;
    };
    const manifest = await this.#manifest(step).catch(orProblem);
    const here = await verifyCheckpoint(path).catch(orProblem);
    if (manifest instanceof CheckpointError || manifest === null) {
      if (!(here instanceof CheckpointError)) return { path, index: here };
      throw manifest ?? here;
    }
    if (here instanceof CheckpointError) return this.#download(manifest);
    const same = here.shards.every(({ file, sha256 }) =>
      manifest.files.some((stored) => stored.name === file && stored.sha256 === sha256),
    );
    return same ? { path, index: here } : this.#download(manifest);
  }

  async #download(manifest: Manifest): Promise<Omit<UsableCheckpoint, 'warnings'>> {
    const at = manifest.files.findIndex(({ name }) => name === 'index.json');
    const parsed = checkpointIndexSchema.safeParse(
      at < 0 ? null : JSON.parse((await this.#small(manifest, at)).toString('utf8')),
    );
    if (!parsed.success) throw this.#damaged(manifest, 'its index.json is missing or damaged');
    const { shards, format: _, ...info } = parsed.data;
    const { path } = await saveCheckpoint(this.#checkpoints, info, async (folder) => {
      for (const { file } of shards) {
        const position = manifest.files.findIndex(({ name }) => name === file);
        if (position < 0) throw this.#damaged(manifest, `the shard ${file} is not in its manifest`);
        await this.#receive(manifest, position, join(folder, safeName(file)));
      }
      return shards;
    });
    return { path, index: parsed.data };
  }

  async #sendFile(place: string, path: string, bytes: number): Promise<void> {
    const file = await open(path, 'r');
    try {
      await this.#stream.put(place, bytes, async (offset, length) => {
        const content = Buffer.allocUnsafe(length);
        const { bytesRead } = await file.read(content, 0, length, offset);
        if (bytesRead < length) throw new CheckpointError(`${path} shrank while it was sent`);
        return content;
      });
    } finally {
      await file.close();
    }
  }

  async #receive(manifest: Manifest, position: number, path: string): Promise<void> {
    const { name, bytes, sha256: expected } = manifest.files[position] as Manifest['files'][number];
    const file = await open(path, 'w');
    try {
      await this.#stream.get(this.#placeOf(manifest, position), bytes, manifest.chunkBytes, async (offset, content) => {
        await file.write(content, 0, content.length, offset);
      });
    } finally {
      await file.close();
    }
    if ((await sha256OfFile(path)) !== expected) throw this.#damaged(manifest, `the content of ${name} has changed`);
  }

  async #small(manifest: Manifest, position: number): Promise<Buffer> {
    const { name, bytes, sha256: expected } = manifest.files[position] as Manifest['files'][number];
    const content = Buffer.alloc(bytes);
    await this.#stream.get(this.#placeOf(manifest, position), bytes, manifest.chunkBytes, (offset, part) => {
      content.set(part, offset);
    });
    if (sha256(content) !== expected) throw this.#damaged(manifest, `the content of ${name} has changed`);
    return content;
  }

  /** The checkpoint's index, and the files of the run as they are now. */
  async #smallFiles(checkpoint: string): Promise<(readonly [name: string, content: Buffer])[]> {
    const files: (readonly [string, Buffer])[] = [['index.json', await readFile(join(checkpoint, 'index.json'))]];
    for (const name of (await readdir(this.#folder)).sort()) {
      const path = join(this.#folder, name);
      if (name.startsWith('.') || LEFT_OUT.has(name) || !(await stat(path)).isFile()) continue;
      files.push([RUN + name, await promisify(gzip)(await readFile(path))]);
    }
    return files;
  }

  async #remoteSteps(): Promise<number[]> {
    const names = await this.#stream.names(`manifest.${this.#token}.*`);
    return names.map((name) => Number(name.split('.').at(-1))).sort((a, b) => b - a);
  }

  /** @throws CheckpointError if it is damaged or of another version */
  async #manifest(step: number): Promise<Manifest | null> {
    const found = await this.#stream.last(this.#manifestOf(step));
    if (!found) return null;
    const where = `the manifest of the checkpoint of step ${step} of run '${this.#run}' on NATS`;
    return parseManifest(found, where);
  }

  #manifestOf(step: number): string {
    return `manifest.${this.#token}.${step}`;
  }

  #placeOf({ step, attempt }: Manifest, file: number): string {
    return `data.${this.#token}.${step}.${attempt}.${file}`;
  }

  #damaged({ step }: Manifest, what: string): CheckpointError {
    return new CheckpointError(`the checkpoint of step ${step} of run '${this.#run}' on NATS: ${what}`);
  }
}
