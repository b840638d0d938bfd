// Makes a checkout ready to run: dependencies (`npm ci`) if node_modules is missing or not what package-lock.json
// says, then the build if a source is newer than it. Needs nothing but Node and npm, and takes milliseconds when there
// is nothing to do. `--rebuild` builds in any case, `--no-build` makes only what Deno needs to run the sources.
import { spawnSync } from 'node:child_process';
import { existsSync, lstatSync, mkdirSync, readdirSync, readFileSync, statSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

/** The repository's folder. */
export const root = fileURLToPath(new URL('..', import.meta.url));

/** Ends the process with a message; for failures that a person has to act on. */
function fail(message) {
  process.stderr.write(`setup: ${message}\n`);
  process.exit(2);
}

function checkNode() {
  const [major, minor] = process.versions.node.split('.').map(Number);
  if (major < 20 || (major === 20 && minor < 19))
    fail(`Node ${process.versions.node} is too old: Plexus needs Node 20.19 or newer (https://nodejs.org).`);
}

const json = (path) => JSON.parse(readFileSync(path, 'utf8'));

/**
 * Why node_modules does not match package-lock.json, or null if it does. npm keeps what it installed in
 * node_modules/.package-lock.json; optional packages depend on the platform, so they are looked at only when asked for.
 */
export function staleDependencies(folder = root, { optional = false } = {}) {
  const installedFile = join(folder, 'node_modules', '.package-lock.json');
  if (!existsSync(installedFile)) return 'node_modules is missing';
  const installed = json(installedFile).packages;
  for (const [path, wanted] of Object.entries(json(join(folder, 'package-lock.json')).packages)) {
    if (path === '' || wanted.peer || (!optional && (wanted.optional || wanted.devOptional))) continue;
    const found = installed[path]?.version;
    if (found !== wanted.version)
      return `${path.replace('node_modules/', '')} is ${found ?? 'missing'}, package-lock.json says ${wanted.version}`;
  }
  return null;
}

/** Runs npm in a folder: the npm that started this process, else the one on the PATH. */
export function npm(args, folder = root) {
  const self = process.env.npm_execpath;
  const options = {
    cwd: folder,
    // Standard output is for what the person asked for.
    stdio: ['ignore', 2, 2],
    // Also for an npm that is told to run install scripts: never fetch CUDA libraries here.
    env: { ...process.env, ONNXRUNTIME_NODE_INSTALL: process.env.ONNXRUNTIME_NODE_INSTALL ?? 'skip' },
  };
  const result =
    self && /npm-cli\.[cm]?js$/.test(self)
      ? spawnSync(process.execPath, [self, ...args], options)
      : spawnSync('npm', args, { ...options, shell: process.platform === 'win32' });
  return result.error ? 127 : (result.status ?? 1);
}

/** Installs what package-lock.json says, if it is not there. */
export function ensureDependencies() {
  const reason = staleDependencies();
  if (reason === null) return;
  process.stderr.write(`setup: ${reason}; installing the packages of package-lock.json (npm ci)\n`);
  const status = npm(['ci', '--no-audit', '--no-fund']);
  if (status === 127) fail('npm was not found. Install Node 20.19 or newer with npm, or run `npm ci` by other means.');
  if (status !== 0)
    fail(`npm ci failed with exit code ${status}; its message is above. Is the npm registry reachable?`);
}

function newestChange(path) {
  const stat = statSync(path);
  if (!stat.isDirectory()) return stat.mtimeMs;
  return readdirSync(path).reduce((newest, name) => Math.max(newest, newestChange(join(path, name))), stat.mtimeMs);
}

/** True if a source changed after the last complete build. */
export function staleBuild() {
  const stamp = join(root, 'dist', '.built');
  if (!existsSync(stamp) || !existsSync(join(root, 'vendor', 'tfjs-gradients.mjs'))) return true;
  const built = statSync(stamp).mtimeMs;
  const sources = ['src', 'scripts/build.mjs', 'tsconfig.json', 'tsconfig.build.json', 'package-lock.json'];
  return sources.some((path) => newestChange(join(root, path)) > built);
}

/** Makes `vendor/` alone: Deno runs the sources as they are. */
function ensureGradients() {
  if (existsSync(join(root, 'vendor', 'tfjs-gradients.mjs'))) return;
  runBuild(['--vendor-only']);
}

/**
 * Builds `dist/` and `vendor/` if a source is newer, or always with `force`. With `lenient`, type errors are shown but do
 * not end the process.
 */
export function ensureBuild({ force = false, lenient = false } = {}) {
  if (!force && !staleBuild()) return;
  process.stderr.write('setup: building dist/\n');
  runBuild(force ? ['--force'] : [], lenient);
}

function runBuild(flags, lenient = false) {
  // Under Deno, process.execPath is deno, which needs to be told what a script may do.
  const deno = 'deno' in process.versions ? ['run', '-A'] : [];
  const args = [...deno, join(root, 'scripts', 'build.mjs'), ...flags];
  const { status } = spawnSync(process.execPath, args, { cwd: root, stdio: ['ignore', 2, 2] });
  if (status !== 0 && !lenient) fail(`the build failed (exit code ${status}); the compiler's messages are above.`);
}

/** Makes `npx plexus` work in a clone as it does where Plexus is a dependency. */
function ensureCommand() {
  const link = join(root, 'node_modules', '.bin', 'plexus');
  if (process.platform === 'win32' || lstatSync(link, { throwIfNoEntry: false })) return;
  mkdirSync(join(root, 'node_modules', '.bin'), { recursive: true });
  symlinkSync(join('..', '..', 'dist', 'cli', 'main.js'), link);
}

/** Everything: Node's version, dependencies, build. */
export function setup({ rebuild = false, build = true } = {}) {
  checkNode();
  ensureDependencies();
  if (!build) {
    ensureGradients();
    return;
  }
  ensureBuild({ force: rebuild });
  ensureCommand();
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href)
  setup({ rebuild: process.argv.includes('--rebuild'), build: !process.argv.includes('--no-build') });
