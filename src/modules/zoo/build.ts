import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { describeNames } from '../errors.ts';
import type { Model, Module, TaskInfo } from '../module.ts';
import { crossEntropy } from '../nn/loss.ts';
import { checkModel } from '../structure.ts';
import { bundleModuleFile } from './bundle.ts';
import type { Built } from './entry.ts';
import { publishInstance } from './instance.ts';
import { outputOf } from './mlp.ts';
import type { ModelConfig } from './registry.ts';
import { zoo } from './registry.ts';
import { withHostBackend } from './tfjs-runtime.ts';

/** A `model` section that any worker can build: paths are absolute, a file is bundled. Plain data. */
export type ResolvedModel =
  | { readonly name: string; readonly args: Readonly<Record<string, unknown>> }
  | {
      readonly file: string;
      readonly bundle: string;
      readonly usesLayers: boolean;
      readonly args: Readonly<Record<string, unknown>>;
    };

/**
 * Makes a `model` section independent of this machine's working folder: bundles the file it names into `outDir`, and makes
 * paths absolute, relative ones being taken from `baseDir` (the config's folder).
 * @throws Error if the file is missing or does not compile.
 */
export async function prepareModel(
  config: ModelConfig,
  options: { readonly baseDir: string; readonly outDir: string },
): Promise<ResolvedModel> {
  if ('file' in config) {
    const file = resolve(options.baseDir, config.file);
    return { file, ...(await bundleModuleFile(file, resolve(options.outDir))), args: config.args };
  }
  if (config.name === 'tfjs-layers' && typeof config.args.path === 'string')
    return { name: config.name, args: { ...config.args, path: resolve(options.baseDir, config.args.path) } };
  return config;
}

/**
 * Builds a model for a task. A file that is not bundled yet is bundled in a temporary folder.
 * @throws Error naming the zoo model or file and what is wrong with it.
 */
export async function buildModel(config: ModelConfig | ResolvedModel, info: TaskInfo): Promise<Built> {
  const built = 'file' in config ? await buildFromFile(config, info) : await buildFromZoo(config, info);
  checkModel(built.model);
  return built;
}

async function buildFromZoo(config: { readonly name: string; readonly args: unknown }, info: TaskInfo): Promise<Built> {
  const entry = Object.hasOwn(zoo, config.name) ? zoo[config.name] : undefined;
  if (!entry)
    throw new Error(`there is no model "${config.name}" in the zoo; ${describeNames(config.name, Object.keys(zoo))}`);
  const parsed = entry.schema.safeParse(config.args);
  if (!parsed.success)
    throw new Error(
      `model ${config.name}: ${parsed.error.issues.map((i) => `${['args', ...i.path].join('.')}: ${i.message}`).join('; ')}`,
    );
  return entry.build(parsed.data, info);
}

async function buildFromFile(
  config: Extract<ModelConfig | ResolvedModel, { file: string }>,
  info: TaskInfo,
): Promise<Built> {
  if (!('bundle' in config)) {
    const outDir = await mkdtemp(join(tmpdir(), 'plexus-model-'));
    try {
      return await buildFromFile({ ...config, ...(await bundleModuleFile(resolve(config.file), outDir)) }, info);
    } finally {
      await rm(outDir, { recursive: true, force: true });
    }
  }
  await publishInstance(config.usesLayers);
  // So that stacks show the user's own file and lines. (Only files loaded from now on are looked up: this one.)
  process.setSourceMapsEnabled?.(true);
  const load = async () => {
    const loaded = import(pathToFileURL(config.bundle).href).catch((error: unknown) => {
      throw new Error(`${config.file} threw when it was loaded: ${error instanceof Error ? error.message : error}`, {
        cause: error,
      });
    });
    return modelOf(config.file, (await loaded) as Record<string, unknown>, config.args, info);
  };
  const model = await (config.usesLayers ? withHostBackend(load) : load());
  return { model, warnings: [] };
}

/** Finds what a model file offers. @throws Error saying what was found instead. */
async function modelOf(file: string, exports: Record<string, unknown>, args: unknown, info: TaskInfo): Promise<Model> {
  const call = async (name: string) => {
    const value = exports[name];
    if (typeof value !== 'function') return value;
    try {
      return (await (value as (args: unknown, info: TaskInfo) => unknown)(args, info)) as unknown;
    } catch (error) {
      throw new Error(`${name}() of ${file} threw: ${error instanceof Error ? error.message : error}`, {
        cause: error,
      });
    }
  };
  if ('model' in exports) {
    const model = await call('model');
    if (isModel(model)) return model;
    throw new Error(
      `\`model\` of ${file} gives ${describe(model)}; expected a model, { layers: [{ name, module }], loss }`,
    );
  }
  if ('module' in exports) {
    const module = await call('module');
    if (isModule(module)) {
      const loss = info.vocabSize === undefined ? outputOf(file, info).loss : crossEntropy({ accuracy: 'evaluation' });
      return { layers: [{ name: 'model', module }], loss };
    }
    throw new Error(`\`module\` of ${file} gives ${describe(module)}; expected a module, { kind, forward, ... }`);
  }
  const names = Object.keys(exports);
  throw new Error(
    `${file} exports ${names.length === 0 ? 'nothing' : names.join(', ')}; expected \`model\` or \`module\`: ` +
      'a function of (args, info), or what it would return',
  );
}

function isModule(value: unknown): value is Module {
  return (
    typeof value === 'object' &&
    value !== null &&
    typeof (value as Partial<Module>).forward === 'function' &&
    'kind' in value
  );
}

function isModel(value: unknown): value is Model {
  const model = value as Partial<Model> | null;
  return (
    typeof model === 'object' &&
    Array.isArray(model?.layers) &&
    model.layers.every((layer) => typeof layer?.name === 'string' && isModule(layer.module)) &&
    isModule(model.loss)
  );
}

function describe(value: unknown): string {
  if (value === null || typeof value !== 'object') return String(typeof value);
  const keys = Object.keys(value);
  return Array.isArray(value) ? `an array of ${value.length}` : `an object with ${keys.join(', ') || 'no keys'}`;
}
