import { createHash } from 'node:crypto';
import { access, mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, isAbsolute, join, resolve } from 'node:path';
import { prepareModel, type ResolvedModel } from '../../modules/index.ts';
import { AgentRefusal } from './refusal.ts';

/**
 * SHA-256, as lower-case hex, of the code that a model is made of: of a module file the sources of its bundle (wherever
 * they lie), of a tfjs model its JSON and weights. Null for the other models of the zoo, whose code is this package's.
 */
export async function modelDigest(model: ResolvedModel): Promise<string | null> {
  if ('bundle' in model) return sourcesDigest(model.bundle);
  const { path } = model.args as { path?: unknown };
  if (model.name !== 'tfjs-layers' || typeof path !== 'string') return null;
  const hash = createHash('sha256');
  const text = await readFile(path);
  hash.update(text);
  const { weightsManifest = [] } = JSON.parse(text.toString('utf8')) as {
    weightsManifest?: readonly { readonly paths?: readonly string[] }[];
  };
  for (const file of weightsManifest.flatMap(({ paths = [] }) => paths))
    hash.update(await readFile(resolve(dirname(path), file)));
  return hash.digest('hex');
}

/** A temporary folder for compiled module files, made when there is one. */
export class ModelFolder {
  #made: Promise<string> | null = null;

  path(): Promise<string> {
    this.#made ??= mkdtemp(join(tmpdir(), 'plexus-models-'));
    return this.#made;
  }

  async remove(): Promise<void> {
    if (this.#made) await rm(await this.#made, { recursive: true, force: true });
  }
}

/**
 * Makes a coordinator's model one of this machine: a file is read from this machine's own disk, at the same path, and
 * compiled into `folder`; code never travels.
 * @throws AgentRefusal naming both digests, or the file that is missing
 */
export async function ownModel(model: unknown, expected: string | null, folder: ModelFolder): Promise<ResolvedModel> {
  const given = model as ResolvedModel;
  const path = 'file' in given ? given.file : given.name === 'tfjs-layers' ? given.args.path : undefined;
  if (typeof path === 'string') await checkFile(path);
  const own =
    'file' in given ? await prepareModel(stripped(given), { baseDir: '/', outDir: await folder.path() }) : given;
  const digest = await modelDigest(own);
  if (digest !== expected)
    throw new AgentRefusal(
      `the model file ${path} has other content here (${digest ?? 'none'}) than on the coordinator (${expected ?? 'none'}): copy the same file to every machine`,
    );
  return own;
}

/** Without the bundle, which lies on the coordinator's disk. */
function stripped({ file, args }: Extract<ResolvedModel, { file: string }>) {
  return { file, args };
}

async function checkFile(path: string): Promise<void> {
  if (!isAbsolute(path)) throw new AgentRefusal(`the model file ${path} is not an absolute path`);
  await access(path).catch(() => {
    throw new AgentRefusal(
      `the model file ${path} does not exist on this machine: no code travels, so every machine needs it at the same path`,
    );
  });
}

/** A bundle names paths of the machine that made it, but its source map holds the sources as they were. */
async function sourcesDigest(bundle: string): Promise<string> {
  const code = await readFile(bundle, 'utf8');
  const map = /\/\/# sourceMappingURL=data:application\/json;base64,([A-Za-z0-9+/=]+)\s*$/.exec(code)?.[1];
  if (map === undefined) throw new Error(`${bundle} has no source map: it was not made by this version of plexus`);
  const { sourcesContent = [] } = JSON.parse(Buffer.from(map, 'base64').toString('utf8')) as {
    sourcesContent?: readonly (string | null)[];
  };
  const hash = createHash('sha256');
  for (const source of sourcesContent) hash.update(`${source?.length ?? 0}\n${source ?? ''}`);
  return hash.digest('hex');
}
