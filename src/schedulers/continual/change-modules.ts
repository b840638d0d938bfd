import { type Model, type Module, walk } from '../../modules/index.ts';
import { joinPath } from '../../tensor/index.ts';

/**
 * A model with other modules in places: `change` is given each module and its path, children before their parents and in the order
 * in which they are declared, and returns what takes its place (itself, to leave it). Paths stay.
 */
export function changeModules(model: Model, change: (module: Module, path: string) => Module): Model {
  const visit = (module: Module, path: string): Module => {
    if (!module.children) return change(module, path);
    const children = Object.entries(module.children).map(([name, child]) => [name, visit(child, joinPath(path, name))]);
    return change({ ...module, children: Object.fromEntries(children) }, path);
  };
  return { ...model, layers: model.layers.map(({ name, module }) => ({ name, module: visit(module, name) })) };
}

/** Modules of a sequence that are looked for, and where parameters are between them. */
export interface Places {
  /** Paths of the modules, in order. */
  readonly found: readonly string[];
  /** For each parameter of another module, the found ones just before and after it; null where there is none. */
  readonly between: Readonly<Record<string, { readonly from: string | null; readonly to: string | null }>>;
}

/** Where the parameters of a plain sequence of modules are, between those that `wanted` finds. */
export function placesBetween(model: Model, wanted: (module: Module) => boolean): Places {
  const found: string[] = [];
  const between: Record<string, { readonly from: string | null; readonly to: string | null }> = {};
  let waiting: string[] = [];
  const place = (to: string | null): void => {
    for (const path of waiting) between[path] = { from: found.at(-1) ?? null, to };
    waiting = [];
    if (to !== null) found.push(to);
  };
  for (const { path, module } of model.layers.flatMap((layer) => walk(layer.module, layer.name, { experts: false }))) {
    if (wanted(module)) place(path);
    else waiting.push(...Object.keys(module.params ?? {}).map((name) => joinPath(path, name)));
  }
  place(null);
  return { found, between };
}
