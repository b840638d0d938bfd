import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';

const folder = join(import.meta.dirname, '../../dist/bundle');

/** What is loaded with an entry of the bundle, before anything that it imports later. */
function loadedWith(entry: string): string {
  const texts = new Map<string, string>();
  const load = (file: string): void => {
    if (texts.has(file)) return;
    const text = readFileSync(join(folder, file), 'utf8');
    texts.set(file, text);
    for (const [, path = ''] of text.matchAll(/^(?:import|\} from|export .* from) ?(?:.* from )?"\.\/([^"]+)";$/gm))
      load(path);
  };
  load(entry);
  return [...texts.values()].join('\n');
}

// Starting takes as long as what is loaded is large, in each thread again (docs/decisions.md).
describe('what is loaded at the start', () => {
  it('of the command line is no engine, no model and no client of NATS', () => {
    const text = loadedWith('main.js');
    expect(text).toMatch(/node_modules\/commander\//);
    expect(text).not.toMatch(/@tensorflow\/tfjs-core|onnxruntime-node|node_modules\/(zod|yaml|@nats-io)\//);
  });

  it('of a worker thread is no YAML, no client of NATS, no coordinator and no language of zod but one', () => {
    const text = loadedWith('thread.js');
    expect(text).toMatch(/@tensorflow\/tfjs-core/);
    expect(text).not.toMatch(/node_modules\/(yaml|@nats-io)\//);
    expect(text).not.toMatch(/\/coordinator\/|\/schedulers\//);
    expect(text.match(/zod\/v4\/locales\/\w+\.js/g)).toEqual(['zod/v4/locales/en.js']);
  });
});
