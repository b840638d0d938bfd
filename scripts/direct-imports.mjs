// Rewrites imports of a room's `index.js` into imports of the files that it passes on: what is bundled for one command or
// thread is then what that uses, not all that shares an index with it.
import { readFileSync } from 'node:fs';
import { dirname, join, relative, sep } from 'node:path';

const FROM = /^(import|export) \{([^}]*)\} from '(\.[^']*)';$/gm;
const ALL_FROM = /^export \* from '(\.[^']*)';$/gm;
const OWN = /^export (?:async )?(?:function\*?|const|let|class) ([\w$]+)/gm;
const OWN_LIST = /^export \{([^}]*)\};$/gm;

/** `a, b as c` as pairs of names: what it is called there, and here. */
function namesIn(list) {
  return list
    .split(',')
    .map((entry) => entry.trim())
    .filter((entry) => entry !== '')
    .map((entry) => {
      const [there, here = there] = entry.split(/\s+as\s+/);
      return { there, here };
    });
}

/**
 * Gives a function that rewrites the text of a built file.
 * @param mayPass whether a file may be passed by: that loading it does nothing but define things
 */
export function directImports(mayPass) {
  const known = new Map();

  /** By name, the file that defines what a file exports, and what it is called there. */
  function exportsOf(file) {
    const found = known.get(file);
    if (found) return found;
    const own = new Map();
    known.set(file, own);
    const text = readFileSync(file, 'utf8');
    for (const [, path] of text.matchAll(ALL_FROM))
      for (const [name, place] of exportsOf(join(dirname(file), path))) own.set(name, place);
    for (const [, kind, list, path] of text.matchAll(FROM)) {
      if (kind !== 'export') continue;
      const from = exportsOf(join(dirname(file), path));
      for (const { there, here } of namesIn(list)) own.set(here, from.get(there) ?? { file, name: here });
    }
    for (const [, name] of text.matchAll(OWN)) own.set(name, { file, name });
    for (const [, list] of text.matchAll(OWN_LIST))
      for (const { here } of namesIn(list)) own.set(here, { file, name: here });
    return own;
  }

  return (text, file) =>
    text.replaceAll(FROM, (statement, kind, list, path) => {
      const target = join(dirname(file), path);
      if (!path.endsWith('/index.js') || !mayPass(target)) return statement;
      const places = exportsOf(target);
      const byFile = new Map();
      for (const { there, here } of namesIn(list)) {
        const place = places.get(there);
        // (A name that is made in another way than those above; or a file that does more than define it.)
        if (!place || !mayPass(place.file)) return statement;
        const names = byFile.get(place.file) ?? [];
        byFile.set(place.file, names);
        names.push(place.name === here ? here : `${place.name} as ${here}`);
      }
      // On one line, so that the others keep their numbers.
      return [...byFile]
        .map(([from, names]) => {
          const way = relative(dirname(file), from).replaceAll(sep, '/');
          return `${kind} { ${names.join(', ')} } from '${way.startsWith('.') ? way : `./${way}`}';`;
        })
        .join(' ');
    });
}
