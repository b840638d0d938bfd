// Builds what running needs: `vendor/tfjs-gradients.mjs` (tfjs keeps its gradient registry and the chained methods of
// tensors, `x.add(y)`, in files that Node cannot import as they are: ES modules without extensions inside a CommonJS
// package; they register themselves in tfjs's process-wide registries) and `dist/` (the TypeScript sources).
import { spawnSync } from 'node:child_process';
import { chmodSync, existsSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

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

if (!process.argv.includes('--vendor-only')) {
  const tsc = join(dirname(require.resolve('typescript/package.json')), 'bin', 'tsc');
  const { status } = spawnSync(process.execPath, [tsc, '-p', join(root, 'tsconfig.build.json')], { stdio: 'inherit' });
  if (status !== 0) process.exit(status ?? 1);

  const cli = join(root, 'dist', 'cli', 'main.js');
  if (existsSync(cli)) chmodSync(cli, 0o755);
  writeFileSync(join(root, 'dist', '.built'), '');
}
