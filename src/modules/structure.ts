import { joinPath, pathsInOrder } from '../tensor/index.ts';
import { ModuleError } from './errors.ts';
import type { Named } from './layer-function.ts';
import type { Model, Module, ParamSpec, StateSpec } from './module.ts';

/** Path prefix of parameters and state that belong to the loss. */
export const LOSS_PATH = 'loss';

/** A module of a tree with its absolute path. */
export interface PlacedModule {
  readonly path: string;
  readonly module: Module;
}

/** Path of expert `index` of the module at `path`. */
export function expertPath(path: string, index: number): string {
  return joinPath(path, 'experts', index);
}

/** The module at `path` and everything under it, parents first. Experts are listed only when asked for. */
export function walk(module: Module, path: string, options: { readonly experts: boolean }): PlacedModule[] {
  const out: PlacedModule[] = [{ path, module }];
  for (const [name, child] of Object.entries(module.children ?? {}))
    out.push(...walk(child, joinPath(path, name), options));
  if (options.experts)
    (module.experts ?? []).forEach((expert, i) => {
      out.push(...walk(expert, expertPath(path, i), options));
    });
  return out;
}

/** Parameters of a module tree by absolute path, in path order; with `experts: false`, without those of experts. */
export function namedParams(module: Module, prefix: string, options = { experts: true }): Named<ParamSpec>[] {
  return inOrder(walk(module, prefix, options), (m) => m.params);
}

/** State of a module tree by absolute path, in path order. Experts have none. */
export function namedState(module: Module, prefix: string): Named<StateSpec>[] {
  return inOrder(walk(module, prefix, { experts: false }), (m) => m.state);
}

/** All parameters of a model, experts and loss included, in path order. */
export function modelParams(model: Model): Named<ParamSpec>[] {
  const parts = model.layers.map((layer) => namedParams(layer.module, layer.name));
  return sortNamed([...parts.flat(), ...namedParams(model.loss, LOSS_PATH)]);
}

/** All state of a model in path order. */
export function modelState(model: Model): Named<StateSpec>[] {
  const parts = model.layers.map((layer) => namedState(layer.module, layer.name));
  return sortNamed([...parts.flat(), ...namedState(model.loss, LOSS_PATH)]);
}

/** Puts named specs in path order. @throws Error if two have the same path. */
export function sortNamed<T>(named: readonly Named<T>[]): Named<T>[] {
  const byPath = new Map<string, Named<T>>();
  for (const item of named) {
    if (byPath.has(item.path))
      throw new Error(
        `two tensors have the path "${item.path}": rename a layer, child or parameter so that paths differ`,
      );
    byPath.set(item.path, item);
  }
  return pathsInOrder(byPath.keys()).map((path) => byPath.get(path) as Named<T>);
}

/**
 * Checks what the types cannot: layer names that are unique and not empty, names without a dot in children and
 * parameters, experts that are alike and hold no state or experts of their own.
 * @throws ModuleError or Error naming the place.
 */
export function checkModel(model: Model): void {
  if (model.layers.length === 0) throw new Error('a model needs at least one layer');
  const names = new Set<string>();
  for (const layer of model.layers) {
    if (layer.name === '' || layer.name === LOSS_PATH)
      throw new Error(`a layer cannot be named "${layer.name}": the name must not be empty or "${LOSS_PATH}"`);
    if (names.has(layer.name)) throw new Error(`two layers are named "${layer.name}"; layer names must be unique`);
    names.add(layer.name);
    checkModule(layer.module, layer.name);
  }
  checkModule(model.loss, LOSS_PATH);
  modelParams(model);
}

/** The checks of `checkModel` for one module tree. @throws ModuleError naming the module. */
export function checkModule(module: Module, path: string): void {
  for (const placed of walk(module, path, { experts: true })) {
    const { module: m, path: at } = placed;
    if (typeof m?.forward !== 'function' || typeof m.kind !== 'string')
      throw new ModuleError(
        String(m?.kind ?? typeof m),
        at,
        'is not a module: it needs a `kind` string and a `forward` function',
      );
    for (const name of [
      ...Object.keys(m.params ?? {}),
      ...Object.keys(m.state ?? {}),
      ...Object.keys(m.children ?? {}),
    ])
      if (name === '' || name.includes('.'))
        throw new ModuleError(
          m.kind,
          at,
          `"${name}" cannot be the name of a child, parameter or state: no dots, not empty`,
        );
    for (const name of Object.keys(m.state ?? {}))
      if (m.params?.[name]) throw new ModuleError(m.kind, at, `"${name}" is declared both as a parameter and as state`);
    if (m.experts) checkExperts(m, at);
  }
}

function checkExperts(module: Module, path: string): void {
  const experts = module.experts ?? [];
  if (experts.length === 0)
    throw new ModuleError(module.kind, path, '`experts` is empty; leave it out or list at least one');
  const shapes = (expert: Module) =>
    namedParams(expert, '')
      .map(({ path: name, spec }) => `${name} [${spec.shape}]`)
      .join(', ');
  const first = shapes(experts[0] as Module);
  experts.forEach((expert, i) => {
    if (shapes(expert) !== first)
      throw new ModuleError(
        module.kind,
        path,
        `expert ${i} has parameters ${shapes(expert)}, but expert 0 has ${first}; all experts of a module must be alike`,
      );
    for (const inner of walk(expert, expertPath(path, i), { experts: true })) {
      if (inner.module.state && Object.keys(inner.module.state).length > 0)
        throw new ModuleError(inner.module.kind, inner.path, 'has state, which is not supported inside an expert');
      if (inner.module.experts)
        throw new ModuleError(inner.module.kind, inner.path, 'has experts inside an expert; put it beside them');
    }
  });
}

function inOrder<T>(
  placed: readonly PlacedModule[],
  pick: (module: Module) => Readonly<Record<string, T>> | undefined,
): Named<T>[] {
  const named: Named<T>[] = [];
  for (const { path, module } of placed)
    for (const [name, spec] of Object.entries(pick(module) ?? {})) named.push({ path: joinPath(path, name), spec });
  return sortNamed(named);
}
