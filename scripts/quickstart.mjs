// `npm run quickstart`: sets the checkout up, then trains configs/quickstart.yaml. Arguments go to `plexus train`.
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { root, setup } from './setup.mjs';

setup();
const child = spawn(
  process.execPath,
  [join(root, 'dist', 'cli', 'main.js'), 'train', join('configs', 'quickstart.yaml'), ...process.argv.slice(2)],
  { cwd: root, stdio: 'inherit' },
);
// Ctrl-C reaches the whole terminal group; the child decides what to do with it.
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => signal === 'SIGTERM' && child.kill(signal));
child.on('exit', (code, signal) => process.exit(signal ? 1 : (code ?? 1)));
