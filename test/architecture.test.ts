import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { checkImports, rooms } from '../scripts/check-imports.mjs';

const source = new URL('../src', import.meta.url).pathname;

describe('import rule', () => {
  let copy: string;
  beforeAll(() => {
    copy = mkdtempSync(join(tmpdir(), 'plexus-imports-'));
  });
  afterAll(() => rmSync(copy, { recursive: true, force: true }));

  /** Violations of a source folder made of the given files. */
  function check(files: Readonly<Record<string, string>>): string[] {
    const folder = mkdtempSync(join(copy, 'src-'));
    for (const [name, text] of Object.entries(files)) {
      mkdirSync(join(folder, name, '..'), { recursive: true });
      writeFileSync(join(folder, name), text);
    }
    return checkImports(folder);
  }

  it('holds in this repository', () => {
    expect(checkImports(source)).toEqual([]);
  });

  it('catches a violation planted in a real room', () => {
    const folder = join(copy, 'planted');
    cpSync(source, folder, { recursive: true });
    writeFileSync(join(folder, 'tensor', 'planted.ts'), "import type { Engine } from '../engine/index.ts';\n");
    expect(checkImports(folder)).toEqual([
      expect.stringMatching(/^src\/tensor\/planted\.ts:1: room 'tensor' imports from 'engine', which lies below it/),
    ]);
  });

  it.each([
    ['import', "import { a } from '../plan/index.ts';"],
    ['import of a type', "import type { A } from '../plan/index.ts';"],
    ['re-export', "export * from '../plan/index.ts';"],
    ['import()', "export const a = () => import('../plan/index.ts');"],
    ['type of import()', "export type A = import('../plan/index.ts').A;"],
    ['import for its effects', "import '../plan/index.ts';"],
  ])('sees an upward %s', (_, text) => {
    const found = check({ 'comm/a.ts': `\n${text}\n`, 'plan/index.ts': 'export type A = 1; export const a = 1;' });
    expect(found).toEqual([expect.stringContaining("src/comm/a.ts:2: room 'comm' imports from 'plan'")]);
  });

  it('allows the other direction only through the index', () => {
    const files = { 'comm/index.ts': 'export const a = 1;', 'comm/deep/b.ts': "export * from '../index.ts';" };
    expect(check({ ...files, 'plan/deep/x.ts': "export * from '../../comm/index.ts';" })).toEqual([]);
    expect(check({ ...files, 'plan/x.ts': "export * from '../comm/deep/b.ts';" })).toEqual([
      expect.stringContaining("import another room through 'comm/index.ts'"),
    ]);
  });

  it('refuses circles at run time, and lets types refer to each other', () => {
    const files = { 'comm/a.ts': "import './b.ts';", 'comm/b.ts': "export { x } from './c.ts';" };
    expect(check({ ...files, 'comm/c.ts': "import './a.ts'; export const x = 1;" })).toEqual([
      'import circle: src/comm/a.ts → src/comm/b.ts → src/comm/c.ts → src/comm/a.ts',
    ]);
    expect(check({ ...files, 'comm/c.ts': "import type { A } from './a.ts'; export const x: A = 1;" })).toEqual([]);
  });

  it('knows no other rooms', () => {
    expect(check({ 'utils/a.ts': '' })).toEqual([expect.stringContaining("'utils' is not a room")]);
  });
});

describe('package', () => {
  const manifest = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8'));

  it('exports its rooms', () => {
    const exported = Object.keys(manifest.exports).map((key) => key.replace('./', ''));
    const present = rooms.filter((room) => room !== 'cli' && existsSync(join(source, room, 'index.ts')));
    for (const room of present) expect(exported).toContain(room);
  });

  it('exports files that the build makes, types included', () => {
    for (const target of Object.values<string | Record<string, string>>(manifest.exports))
      for (const file of typeof target === 'string' ? [target] : Object.values(target))
        expect(existsSync(new URL(`../${file}`, import.meta.url)), file).toBe(true);
    expect(existsSync(new URL(`../${manifest.bin.plexus}`, import.meta.url))).toBe(true);
  });

  it('uses each of its dependencies', () => {
    const used = new Set<string>();
    for (const file of readdirSync(source, { recursive: true, encoding: 'utf8' })) {
      if (!file.endsWith('.ts')) continue;
      const text = readFileSync(join(source, file), 'utf8');
      for (const name of Object.keys(manifest.dependencies)) if (text.includes(`'${name}`)) used.add(name);
    }
    expect([...used].sort()).toEqual(Object.keys(manifest.dependencies).sort());
  });
});
