import type { ZodType } from 'zod';
import type { LocalObjective } from './objective.ts';

/** An objective that a config can name. `config` describes its own keys; `make` builds it from them. */
export interface ObjectiveKind<C = unknown> {
  readonly name: string;
  readonly config: ZodType<C>;
  make(config: C): LocalObjective;
}

const registry = new Map<string, ObjectiveKind>();

/** Makes an objective known to configs by its name. */
export function registerObjective<C>(kind: ObjectiveKind<C>): void {
  registry.set(kind.name, kind as ObjectiveKind<unknown>);
}

/** Names of the registered objectives. */
export function objectiveNames(): string[] {
  return [...registry.keys()];
}

/** Builds a registered objective. @throws Error listing the known names if there is none of that name */
export function objectiveNamed(name: string, config: unknown): LocalObjective {
  const kind = registry.get(name);
  if (!kind) throw new Error(`there is no local objective "${name}"; known: ${objectiveNames().join(', ')}`);
  return kind.make(kind.config.parse(config));
}
