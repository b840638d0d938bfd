import type { HostTensor } from '../../tensor/index.ts';
import { jsonOf, jsonTensor } from './arrays.ts';

type Values = Readonly<Record<string, Float32Array>>;

/** Parts of a task: its first half, in which the model turns to new data, and its second one, in which that goes on. */
export type DriftPart = 'between' | 'within';

/** How far a parameter has moved in a part of a task. */
interface Moved {
  /** Sum of the absolute changes of its numbers. */
  readonly change: number;
  /** Sum of their absolute values before. */
  readonly size: number;
}

interface Span {
  readonly task: number;
  readonly part: DriftPart;
  readonly moved: Readonly<Record<string, Moved>>;
}

/** How much the parameters of a module change. */
export interface ModuleDrift {
  /** Path of the module. */
  readonly module: string;
  /** Numbers that its parameters have. */
  readonly parameters: number;
  /** Mean absolute change of a number in the first halves of the tasks after the first: what changes from task to task. */
  readonly between: number;
  /** The same in the second halves of all tasks: what changes as long as the task stays. */
  readonly within: number;
  /** Absolute changes between tasks as a share of the absolute values before. */
  readonly relative: number;
}

/**
 * How much each module changes when the task changes, and while it stays, which shows where a model forgets (Zhao et al., Does
 * continual learning equally forget all parameters?, 2023, section 3: mean absolute differences of parameters).
 */
export class DriftLog {
  readonly #spans: Span[] = [];
  #before: Values | null = null;

  /** Begins a span with the parameters as they are. */
  begin(values: Values): void {
    this.#before = values;
  }

  /** Ends a span and begins the next one. */
  end(task: number, part: DriftPart, values: Values): void {
    const before = this.#before;
    if (!before) return;
    const moved = Object.entries(values).map(([path, now]): [string, Moved] => {
      const old = before[path] as Float32Array;
      let [change, size] = [0, 0];
      for (let i = 0; i < now.length; i++) {
        change += Math.abs((now[i] as number) - (old[i] as number));
        size += Math.abs(old[i] as number);
      }
      return [path, { change, size }];
    });
    this.#spans.push({ task, part, moved: Object.fromEntries(moved) });
    this.#before = values;
  }

  /** Modules so far, the one that changes most between tasks first. */
  modules(): ModuleDrift[] {
    const paths = new Map<string, string[]>();
    for (const path of Object.keys(this.#before ?? {}).sort()) {
      const module = path.slice(0, Math.max(0, path.lastIndexOf('.')));
      paths.set(module, [...(paths.get(module) ?? []), path]);
    }
    const drifts = [...paths].map(([module, own]): ModuleDrift => {
      const parameters = own.reduce((sum, path) => sum + (this.#before?.[path]?.length ?? 0), 0);
      const sums = (part: DriftPart) => {
        const spans = this.#spans.filter((span) => span.part === part && (part === 'within' || span.task > 0));
        const moved = spans.flatMap((span) => own.map((path) => span.moved[path] ?? { change: 0, size: 0 }));
        const [change, size] = (['change', 'size'] as const).map((key) =>
          moved.reduce((sum, each) => sum + each[key], 0),
        );
        return {
          mean: ratio(change as number, parameters * spans.length),
          share: ratio(change as number, size as number),
        };
      };
      const between = sums('between');
      return { module, parameters, between: between.mean, within: sums('within').mean, relative: between.share };
    });
    return drifts.sort((a, b) => b.between - a.between || (a.module < b.module ? -1 : 1));
  }

  /** All of it, for a checkpoint. */
  tensors(): Record<string, HostTensor> {
    if (!this.#before) return {};
    const before = Object.entries(this.#before).map(([path, values]): [string, HostTensor] => [
      `before/${path}`,
      { dtype: 'float32', shape: [values.length], data: values },
    ]);
    const log = { spans: this.#spans, paths: Object.keys(this.#before) };
    return { log: jsonTensor(log), ...Object.fromEntries(before) };
  }

  /** What `tensors` gave, once more. */
  static async restore(find: (name: string) => Promise<HostTensor | null>): Promise<DriftLog> {
    const drift = new DriftLog();
    const log = await find('log');
    if (!log) return drift;
    const { spans, paths } = jsonOf(log) as { spans: Span[]; paths: string[] };
    drift.#spans.push(...spans);
    const before: [string, Float32Array][] = [];
    for (const path of paths) before.push([path, (await find(`before/${path}`))?.data as Float32Array]);
    drift.#before = Object.fromEntries(before);
    return drift;
  }
}

function ratio(part: number, whole: number): number {
  return whole > 0 ? part / whole : 0;
}
