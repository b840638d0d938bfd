// Completes package-lock.json after dependencies were changed: a registry mirror that lacks the packages of other
// platforms makes `npm install` leave them out of the lock file, and then `npm ci` refuses it everywhere. Entries are
// derived from the packages that name them (exact version) and from the platform in their name.
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { root } from './setup.mjs';

const OS = ['android', 'darwin', 'freebsd', 'linux', 'netbsd', 'openbsd', 'openharmony', 'sunos', 'win32'];
const CPU = ['arm64', 'arm', 'x64', 'ia32', 'ppc64', 'riscv64', 's390x', 'wasm32', 'loong64'];

/** What `@scope/binding-linux-arm64-musl` runs on, or null if its name does not say. */
function platformOf(name) {
  const parts = name.split('/').at(-1).split('-');
  const os = OS.find((value) => parts.includes(value));
  const cpu = CPU.find((value) => parts.includes(value));
  if (!os || !cpu) return null;
  const libc = parts.some((part) => part.startsWith('musl'))
    ? 'musl'
    : parts.some((part) => part.startsWith('gnu'))
      ? 'glibc'
      : null;
  return { cpu: [cpu], ...(libc ? { libc: [libc] } : {}), os: [os] };
}

const file = join(root, 'package-lock.json');
const lock = JSON.parse(readFileSync(file, 'utf8'));
const added = [];
for (const owner of Object.values(lock.packages))
  for (const [name, version] of Object.entries(owner.optionalDependencies ?? {})) {
    const path = `node_modules/${name}`;
    const platform = platformOf(name);
    if (lock.packages[path] || platform === null || !/^\d/.test(version)) continue;
    lock.packages[path] = { version, ...platform, ...(owner.dev ? { dev: true } : {}), optional: true };
    added.push(name);
  }
lock.packages = Object.fromEntries(Object.entries(lock.packages).sort(([a], [b]) => (a < b ? -1 : 1)));
writeFileSync(file, `${JSON.stringify(lock, null, 2)}\n`);
process.stdout.write(added.length === 0 ? 'package-lock.json is complete\n' : `added ${added.join(', ')}\n`);
