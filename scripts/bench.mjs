// `npm run bench -- engine/transformer [arguments]`: sets the checkout up, then runs one benchmark of bench/. Without a
// name it lists them.
import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { root, setup } from './setup.mjs';

setup();
const [name, ...args] = process.argv.slice(2);
if (!name) {
  const files = readdirSync(join(root, 'bench'), { recursive: true, encoding: 'utf8' });
  // What exports something is a part of benchmarks, not one itself.
  const isPart = (file) => /^export /m.test(readFileSync(join(root, 'bench', file), 'utf8'));
  const names = files
    .filter((file) => /[\\/].+\.ts$/.test(file) && !isPart(file))
    .map((file) => file.replace(/\.ts$/, ''));
  process.stdout.write(`${names.sort().join('\n')}\n`);
  process.exit(0);
}
const { status } = spawnSync(process.execPath, [join(root, 'bench', 'run.mjs'), name, ...args], { stdio: 'inherit' });
process.exit(status ?? 1);
