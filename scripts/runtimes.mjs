// Other JavaScript runtimes (Deno, Node 22, Node 24), which the registry carries as packages: installed on demand into
// .cache/runtimes, apart from the project's own packages, with versions and hashes from test/platform/runtimes.
// `node scripts/runtimes.mjs deno ARGS…` runs one.
import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { npm, root, staleDependencies } from './setup.mjs';

const files = { deno: 'deno', node22: 'bin/node', node24: 'bin/node' };

/** Names of the runtimes known here. */
export const runtimeNames = Object.keys(files);

/**
 * Path of a runtime's program, installing it first if need be.
 * @throws Error where the platform has no such package or the registry cannot be reached.
 */
export function runtime(name) {
  if (!(name in files)) throw new Error(`no runtime '${name}'; known: ${runtimeNames.join(', ')}`);
  const platform = `${process.platform}-${process.arch}`;
  if (platform !== 'linux-x64')
    throw new Error(`the packaged runtimes are for linux-x64, this is ${platform}: install ${name} by hand to try it`);
  const cache = join(root, '.cache', 'runtimes');
  const program = join(cache, 'node_modules', `${name}-${platform}`, files[name]);
  mkdirSync(cache, { recursive: true });
  for (const file of ['package.json', 'package-lock.json'])
    cpSync(join(root, 'test', 'platform', 'runtimes', file), join(cache, file));
  if (!existsSync(program) || staleDependencies(cache, { optional: true }) !== null) {
    const status = npm(['ci', '--no-audit', '--no-fund', '--ignore-scripts'], cache);
    if (status !== 0 || !existsSync(program))
      throw new Error(`could not install ${name} from the npm registry (npm ci in ${cache}: exit code ${status})`);
  }
  return program;
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  const [name, ...args] = process.argv.slice(2);
  const { status } = spawnSync(runtime(name ?? ''), args, { stdio: 'inherit' });
  process.exit(status ?? 1);
}
