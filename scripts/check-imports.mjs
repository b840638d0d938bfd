// The import rule, as `npm run lint` runs it: a room (a folder of src/) may import from rooms above it in the list below,
// only through their index.ts, never from below; and no import at run time may close a circle. Imports are found by a
// real parser, so type-only imports, re-exports, `import()` and `import('…').T` count too.
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { dirname, join, relative, resolve, sep } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { parseSync, Visitor } from 'oxc-parser';

/** The rooms, from the ground up: each may import from those before it. */
export const rooms = [
  'tensor',
  'engine',
  'modules',
  'optim',
  'data',
  'comm',
  'plan',
  'worker',
  'coordinator',
  'schedulers',
  'cli',
  'dashboard',
];

function sourceFiles(folder) {
  return readdirSync(folder, { withFileTypes: true })
    .sort((a, b) => a.name.localeCompare(b.name))
    .flatMap((entry) => {
      const path = join(folder, entry.name);
      return entry.isDirectory() ? sourceFiles(path) : /\.[cm]?ts$/.test(entry.name) ? [path] : [];
    });
}

/** Every import of a file: specifier, offset, and whether it exists at run time. */
function importsOf(file) {
  const text = readFileSync(file, 'utf8');
  const { program, module, errors } = parseSync(file, text);
  const found = errors.map((error) => ({ error: error.message, offset: error.labels?.[0]?.start ?? 0 }));
  for (const { moduleRequest, entries } of module.staticImports)
    found.push({
      specifier: moduleRequest.value,
      offset: moduleRequest.start,
      runtime: entries.length === 0 || entries.some((entry) => !entry.isType),
    });
  for (const { entries } of module.staticExports)
    for (const { moduleRequest, isType } of entries)
      if (moduleRequest) found.push({ specifier: moduleRequest.value, offset: moduleRequest.start, runtime: !isType });
  for (const { moduleRequest } of module.dynamicImports) {
    const literal = /^(['"`])(.*)\1$/.exec(text.slice(moduleRequest.start, moduleRequest.end));
    if (literal) found.push({ specifier: literal[2], offset: moduleRequest.start, runtime: false });
  }
  new Visitor({
    TSImportType(node) {
      if (node.source?.value) found.push({ specifier: node.source.value, offset: node.start, runtime: false });
    },
  }).visit(program);
  return found.map((entry) => ({ ...entry, line: text.slice(0, entry.offset).split('\n').length }));
}

/** Circles among run-time imports, each once, as lists of files. */
function cycles(graph) {
  const state = new Map();
  const stack = [];
  const found = [];
  const visit = (file) => {
    state.set(file, 'open');
    stack.push(file);
    for (const next of graph.get(file) ?? []) {
      if (state.get(next) === 'open') found.push([...stack.slice(stack.indexOf(next)), next]);
      else if (!state.has(next)) visit(next);
    }
    stack.pop();
    state.set(file, 'done');
  };
  for (const file of graph.keys()) if (!state.has(file)) visit(file);
  return found;
}

/** Checks a source folder; returns one line of text for each violation. */
export function checkImports(source) {
  const violations = [];
  const graph = new Map();
  for (const file of sourceFiles(source)) {
    const name = relative(source, file).split(sep).join('/');
    const room = name.includes('/') ? name.split('/')[0] : null;
    if (room !== null && !rooms.includes(room)) {
      violations.push(`src/${name}: '${room}' is not a room; rooms are ${rooms.join(', ')}`);
      continue;
    }
    const targets = [];
    for (const { specifier, line, runtime, error } of importsOf(file)) {
      const at = `src/${name}:${line}`;
      if (error) {
        violations.push(`${at}: ${error}`);
        continue;
      }
      if (!specifier.startsWith('.')) continue;
      const target = relative(source, resolve(dirname(file), specifier))
        .split(sep)
        .join('/');
      // Outside of src/ lies only what the build makes.
      if (target.startsWith('..')) {
        if (!target.startsWith('../vendor/') && target !== '../package.json')
          violations.push(`${at}: imports '${specifier}', outside of src/`);
        continue;
      }
      if (runtime) targets.push(target);
      // src/index.ts is the public face: it may see every room, through its index like everybody.
      const other = target.includes('/') ? target.split('/')[0] : null;
      if (other === room) continue;
      if (other === null) {
        violations.push(`${at}: imports '${specifier}'; import the room that defines it instead of src/index.ts`);
      } else if (room !== null && rooms.indexOf(other) > rooms.indexOf(room)) {
        violations.push(`${at}: room '${room}' imports from '${other}', which lies below it (${rooms.join(' < ')})`);
      } else if (target !== `${other}/index.ts`) {
        violations.push(`${at}: imports '${specifier}'; import another room through '${other}/index.ts'`);
      }
    }
    graph.set(name, targets);
  }
  for (const circle of cycles(graph))
    violations.push(`import circle: ${circle.map((file) => `src/${file}`).join(' → ')}`);
  return violations;
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  const source = resolve(process.argv[2] ?? fileURLToPath(new URL('../src', import.meta.url)));
  if (!statSync(source, { throwIfNoEntry: false })?.isDirectory()) throw new Error(`no folder '${source}'`);
  const violations = checkImports(source);
  for (const violation of violations) process.stderr.write(`${violation}\n`);
  if (violations.length > 0) {
    process.stderr.write(`${violations.length} violation(s) of the import rule\n`);
    process.exit(1);
  }
}
