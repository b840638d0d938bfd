// `npm test`: sets the checkout up, then runs every check, one stage after another, and goes on after a failure so that
// one run shows everything. Arguments narrow the tests (`npm test -- test/engine`). The last line is `N passed, N failed`: vitest's tests plus one for each other stage.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { root, setup } from './setup.mjs';

setup();

const require = createRequire(import.meta.url);

/** Path of the script behind a package's command. */
function bin(name, command) {
  const manifest = require.resolve(`${name}/package.json`);
  const { bin: entry } = JSON.parse(readFileSync(manifest, 'utf8'));
  return join(dirname(manifest), typeof entry === 'string' ? entry : entry[command]);
}

const run = (args, env = {}) =>
  spawnSync(process.execPath, args, {
    cwd: root,
    stdio: ['ignore', 'inherit', 'inherit'],
    env: { ...process.env, ...env },
  }).status === 0;

/** Runs vitest and reads its figures; whatever it could not count (a crash, an error outside of tests) is one failure. */
function vitest() {
  const report = join(root, '.cache', 'vitest.json');
  mkdirSync(dirname(report), { recursive: true });
  rmSync(report, { force: true });
  const ok = run([
    bin('vitest', 'vitest'),
    'run',
    '--reporter=default',
    '--reporter=json',
    `--outputFile=${report}`,
    ...process.argv.slice(2),
  ]);
  if (!existsSync(report)) return { passed: 0, failed: 1, skipped: 0 };
  const result = JSON.parse(readFileSync(report, 'utf8'));
  // A file that could not even be loaded has no tests to count.
  const broken = result.testResults.filter((file) => file.status === 'failed' && file.assertionResults.length === 0);
  let failed = result.numFailedTests + broken.length;
  if (!ok && failed === 0) failed = 1;
  return { passed: result.numPassedTests, failed, skipped: result.numPendingTests + result.numTodoTests };
}

/** The quickstart as a stranger runs it, but a few steps long. */
function quickstart() {
  const dir = join(root, '.cache', 'quickstart');
  rmSync(dir, { recursive: true, force: true });
  return run([
    ...[join(root, 'scripts', 'quickstart.mjs'), '--set', 'train.steps=20', '--set', 'train.eval_every=10'],
    ...['--set', `run.dir=${dir}`],
  ]);
}

const one = (ok) => ({ passed: ok ? 1 : 0, failed: ok ? 0 : 1, skipped: 0 });
const stages = [
  ['type check', () => one(run([bin('typescript', 'tsc'), '-p', 'tsconfig.json']))],
  ['lint and format', () => one(run([bin('@biomejs/biome', 'biome'), 'check', '--error-on-warnings']))],
  ['import rule', () => one(run([join(root, 'scripts', 'check-imports.mjs')]))],
  ['tests', vitest],
  ['quickstart, short', () => one(quickstart())],
];

const results = stages.map(([name, stage]) => {
  process.stdout.write(`\n── ${name}\n`);
  const started = performance.now();
  const result = stage();
  return { name, seconds: (performance.now() - started) / 1000, ...result };
});

process.stdout.write('\n');
for (const { name, seconds, passed, failed, skipped } of results)
  process.stdout.write(
    `${failed ? '✗' : '✓'} ${name.padEnd(18)} ${seconds.toFixed(1).padStart(6)} s  ` +
      `${passed} passed${failed ? `, ${failed} failed` : ''}${skipped ? `, ${skipped} skipped` : ''}\n`,
  );
const total = (key) => results.reduce((sum, result) => sum + result[key], 0);
process.stdout.write(`\n${total('passed')} passed, ${total('failed')} failed\n`);
process.exit(total('failed') ? 1 : 0);
