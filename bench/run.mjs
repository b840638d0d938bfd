// Runs a benchmark under any Node: `node bench/run.mjs engine/transformer [arguments]`. Bundles the .ts file with its
// neighbours into dist/bench/, its imports of src/ pointing at the build in dist/, and starts it.
import { spawnSync } from 'node:child_process';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { build } from 'esbuild';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const [name, ...args] = process.argv.slice(2);
if (!name) {
  console.error('usage: node bench/run.mjs ROOM/NAME [arguments], for example engine/transformer');
  process.exit(2);
}
const source = join(root, 'bench', `${name.replace(/\.ts$/, '')}.ts`);
const outfile = join(root, 'dist', 'bench', `${name.replace(/\.ts$/, '')}.js`);
const built = {
  name: 'built-sources',
  setup(plugin) {
    plugin.onResolve({ filter: /^\..*\.ts$/ }, ({ path, resolveDir }) => {
      const file = resolve(resolveDir, path);
      const inSources = file.startsWith(join(root, 'src'));
      if (!inSources) return undefined;
      const compiled = file.replace(join(root, 'src'), join(root, 'dist')).replace(/\.ts$/, '.js');
      return { path: pathToFileURL(compiled).href, external: true };
    });
  },
};
await build({
  entryPoints: [source],
  outfile,
  bundle: true,
  format: 'esm',
  platform: 'node',
  target: 'node20',
  packages: 'external',
  plugins: [built],
  logLevel: 'warning',
});
process.exit(spawnSync(process.execPath, [outfile, ...args], { stdio: 'inherit' }).status ?? 1);
