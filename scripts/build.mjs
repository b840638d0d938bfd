// Builds what running needs: `vendor/tfjs-gradients.mjs` (tfjs keeps its gradient registry and the chained methods of
// tensors, `x.add(y)`, in files that Node cannot import as they are: ES modules without extensions inside a CommonJS
// package; they register themselves in tfjs's process-wide registries) and `dist/` (the TypeScript sources).
import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join, relative, sep } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import { bundleEntries } from './bundle.mjs';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const require = createRequire(import.meta.url);
const tfjsCore = dirname(require.resolve('@tensorflow/tfjs-core/package.json'));

const gradients = join(root, 'vendor', 'tfjs-gradients.mjs');
if (!existsSync(gradients) || process.argv.includes('--force'))
  await build({
    stdin: {
      contents: `import './register_all_gradients.js'; import './public/chained_ops/register_all_chained_ops.js';`,
      resolveDir: join(tfjsCore, 'dist'),
    },
    outfile: gradients,
    bundle: true,
    format: 'esm',
    platform: 'node',
    target: 'es2022',
    minify: true,
    legalComments: 'inline',
    logLevel: 'warning',
  });

/** Files under a folder, as paths relative to it. */
const filesOf = (folder) =>
  readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(folder, join(entry.parentPath ?? entry.path, entry.name)));

/**
 * Makes `to` what `from` is, file by file and each in one rename, so that a process which is using the old build never
 * sees half a file; files that did not change are left alone, those whose source is gone are deleted.
 */
function replaceBuild(from, to) {
  const made = new Set(filesOf(from));
  for (const file of made) {
    const target = join(to, file);
    const content = readFileSync(join(from, file));
    if (existsSync(target) && readFileSync(target).equals(content)) continue;
    mkdirSync(dirname(target), { recursive: true });
    renameSync(join(from, file), target);
  }
  // dist/bench is made by bench/run.mjs.
  for (const file of filesOf(to))
    if (!made.has(file) && file !== '.built' && !file.startsWith(`bench${sep}`)) rmSync(join(to, file));
  rmSync(from, { recursive: true });
}

if (!process.argv.includes('--vendor-only')) {
  const begun = new Date();
  const tsc = join(dirname(require.resolve('typescript/package.json')), 'bin', 'tsc');
  const dist = join(root, 'dist');
  const fresh = join(root, `dist.build-${process.pid}`);
  const { status } = spawnSync(process.execPath, [tsc, '-p', join(root, 'tsconfig.build.json'), '--outDir', fresh], {
    stdio: 'inherit',
  });
  mkdirSync(dist, { recursive: true });
  // A build with errors is not joined, so that every room that could be built can be tried.
  if (status === 0)
    await bundleEntries(fresh).catch((error) => {
      rmSync(fresh, { recursive: true, force: true });
      throw error;
    });
  if (existsSync(fresh)) replaceBuild(fresh, dist);
  // What could be built is in place, so that one broken room does not stop work on the others.
  if (status !== 0) process.exit(status ?? 1);

  const cli = join(dist, 'cli', 'main.js');
  if (existsSync(cli)) chmodSync(cli, 0o755);
  const stamp = join(dist, '.built');
  writeFileSync(stamp, '');
  // Sources that were changed while the compiler ran are newer than this build.
  utimesSync(stamp, begun, begun);
}
