import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';

const root = fileURLToPath(new URL('..', import.meta.url));
const pages = ['README.md', ...readdirSync(join(root, 'docs')).map((name) => `docs/${name}`)].filter((name) =>
  name.endsWith('.md'),
);
const text = (page: string): string => readFileSync(join(root, page), 'utf8');

/** Anchors of a page, as they are made from its headings. */
function anchors(page: string): string[] {
  return [...text(page).matchAll(/^#+ (.*)$/gm)].map(([, heading]) =>
    (heading as string)
      .toLowerCase()
      .replace(/[^\p{L}\p{N} _-]/gu, '')
      .replaceAll(' ', '-'),
  );
}

describe('documentation', () => {
  it('of the config is what the schemas say', () => {
    const { status, stderr } = spawnSync(process.execPath, ['scripts/config-docs.mjs', '--check'], {
      cwd: root,
      encoding: 'utf8',
    });
    expect(status, stderr).toBe(0);
  });

  it.each(pages)('%s links to what exists', (page) => {
    for (const [, target] of text(page).matchAll(/\]\(([^)]+)\)/g)) {
      if (!target || /^https?:/.test(target)) continue;
      const [file = '', anchor] = target.split('#');
      const path = file === '' ? page : join(dirname(page), file);
      expect(existsSync(join(root, path)), `${page} links to ${target}`).toBe(true);
      if (anchor) expect(anchors(path), `${page} links to ${target}`).toContain(anchor);
    }
  });

  it('keeps the README under two screens', () => {
    expect(text('README.md').split('\n').length).toBeLessThan(90);
  });

  it('names only commands and scripts that exist', () => {
    const { scripts } = JSON.parse(text('package.json'));
    const { tasks } = JSON.parse(text('deno.json'));
    for (const page of pages) {
      for (const [, name] of text(page).matchAll(/npm run ([\w:-]+)/g))
        expect(Object.keys(scripts), page).toContain(name);
      for (const [, name] of text(page).matchAll(/deno task ([\w:-]+)/g))
        expect(Object.keys(tasks), page).toContain(name);
      for (const [, name] of text(page).matchAll(/configs\/([\w-]+\.\w+)/g))
        expect(existsSync(join(root, 'configs', name as string)), `${page} names configs/${name}`).toBe(true);
    }
  });
});
