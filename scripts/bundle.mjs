// Joins what the command line and the worker threads load into a few files. Of the time from a command to its first
// step a third went into finding, reading and parsing 200 small files and their packages, in each thread again:
// measured, a worker's imports take 100 ms of CPU this way, 350 without.
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join, relative, sep } from 'node:path';
import { build } from 'esbuild';
import { directImports } from './direct-imports.mjs';

const require = createRequire(import.meta.url);

/** Loaded by `require`: Node parses a CommonJS package that is imported once more to learn the names it exports. */
const REQUIRED = /^(@tensorflow\/tfjs-core|onnxruntime-node)$/;

/**
 * An ES module with what a CommonJS package exports, name by name: esbuild's own way copies all names (tfjs-core has 700) for each
 * file that imports them, 14 ms of a thread's start.
 */
function exportsOf(path) {
  const names = Object.keys(require(path)).filter((name) => name !== 'default' && name !== '__esModule');
  const lines = names.map((name, i) => `const e${i} = all[${JSON.stringify(name)}]; export { e${i} as ${name} };`);
  return [`const all = require(${JSON.stringify(path)});`, 'export default all;', ...lines].join('\n');
}

const requirePlugin = {
  name: 'require',
  setup(plugin) {
    plugin.onResolve({ filter: REQUIRED }, ({ path, namespace }) =>
      namespace === 'require' ? { path, external: true } : { path, namespace: 'require' },
    );
    plugin.onLoad({ filter: /.*/, namespace: 'require' }, ({ path }) => ({ contents: exportsOf(path) }));
  },
};

/** A file's own place, as code; not where it stands in a text, in the banner of what `modules/zoo/bundle.ts` makes. */
const OWN_PLACE = /(?<!plexusRequire\()import\.meta\.url/g;

/** Rooms whose files only define things: one of which nothing is used is left out, and the packages that only it needs. */
const DEFINES_ONLY = /^(cli|comm|coordinator|data|modules|optim|plan|tensor|worker)\//;

const definesOnly = (dist) => (file) => DEFINES_ONLY.test(relative(dist, file).replaceAll(sep, '/'));

const unusedPlugin = (dist) => ({
  name: 'unused',
  setup(plugin) {
    const unused = definesOnly(dist);
    plugin.onResolve({ filter: /^\.\.?\/.*\.js$/ }, ({ path, resolveDir, kind }) => {
      const file = join(resolveDir, path);
      return kind === 'import-statement' && unused(file) ? { path: file, sideEffects: false } : undefined;
    });
  },
});

/**
 * Files find others by where they lie themselves; joined into another file, they still say where they came from. What they import
 * comes from where it is made.
 */
const filePlugin = (dist, bundle) => ({
  name: 'file',
  setup(plugin) {
    const direct = directImports(definesOnly(dist));
    plugin.onLoad({ filter: /\.js$/ }, ({ path }) => {
      if (!path.startsWith(dist + sep)) return undefined;
      const place = JSON.stringify(relative(bundle, path).replaceAll(sep, '/'));
      const text = direct(readFileSync(path, 'utf8'), path);
      return { contents: text.replaceAll(OWN_PLACE, `new URL(${place}, import.meta.url).href`) };
    });
  },
});

/**
 * Bundles the entries of a build into its folder `bundle` and makes the entries load that. The other files of the build
 * stay as they are, for whoever imports rooms of the library.
 */
export async function bundleEntries(dist) {
  const bundle = join(dist, 'bundle');
  const entries = ['cli/main.js', 'worker/thread.js', 'schedulers/near-data-thread.js'].map((entry) =>
    join(dist, entry),
  );
  rmSync(bundle, { recursive: true, force: true });
  await build({
    entryPoints: entries,
    outdir: bundle,
    entryNames: '[name]',
    bundle: true,
    splitting: true,
    format: 'esm',
    platform: 'node',
    target: 'node20',
    sourcemap: 'linked',
    logLevel: 'warning',
    // What needs tfjs-core must find the one copy of it; what is optional is looked for when it is asked for; piscina starts
    // threads from a file beside its own.
    external: ['@tensorflow/*', 'esbuild', 'piscina'],
    plugins: [requirePlugin, unusedPlugin(dist), filePlugin(dist, bundle)],
    banner: {
      js: "import { createRequire as plexusRequire } from 'node:module'; const require = plexusRequire(import.meta.url);",
    },
  });
  for (const entry of entries) {
    const [first = ''] = readFileSync(entry, 'utf8').split('\n', 1);
    const hashbang = first.startsWith('#!') ? `${first}\n` : '';
    const target = relative(dirname(entry), join(bundle, entry.slice(dirname(entry).length + 1))).replaceAll(sep, '/');
    writeFileSync(entry, `${hashbang}import '${target}';\n`);
    rmSync(`${entry}.map`, { force: true });
  }
}
