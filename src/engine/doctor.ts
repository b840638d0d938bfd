import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism, cpus, totalmem } from 'node:os';
import ort from 'onnxruntime-node';
import { deviceSupport, parseDevice } from './onnx/devices.ts';
import { createOnnxEngine } from './onnx/engine.ts';
import { instructionSets } from './processor.ts';
import { tfjsBackends } from './tfjs/index.ts';

/** One thing that an engine can use, and whether it is here. */
export interface EngineFinding {
  /** As in the config: engine kind and device. */
  readonly kind: 'onnx' | 'tfjs';
  readonly device: string;
  readonly available: boolean;
  /** Version or hardware where it is there; otherwise what to install. */
  readonly detail: string;
  /** What having it gives. */
  readonly gives: string;
}

/** What `plexus doctor` prints about engines and hardware. */
export interface EngineReport {
  /** Versions of the libraries by package name. */
  readonly versions: Readonly<Record<string, string>>;
  readonly cores: number;
  readonly processor: string;
  /** Vector instruction sets that matter to the CPU kernels; empty where the system does not tell. */
  readonly instructions: readonly string[];
  /** Bytes of memory. */
  readonly memory: number;
  /** Names of GPUs that drivers report. */
  readonly gpus: readonly string[];
  readonly engines: readonly EngineFinding[];
}

const ONNX_DEVICES: readonly { readonly device: string; readonly gives: string }[] = [
  { device: 'cpu', gives: 'compiled training on AVX2, AVX-512 or NEON' },
  { device: 'cuda:0', gives: 'compiled training on an NVIDIA GPU' },
  {
    device: 'webgpu',
    gives: 'compiled training on any GPU with Vulkan, Metal or Direct3D 12; values stay on it between steps',
  },
  { device: 'dml', gives: 'compiled training on any GPU under Windows' },
  { device: 'coreml', gives: "compiled training on Apple's accelerators" },
];

/**
 * Looks at what this machine can compute with. Devices that look installed are started once with the smallest model, so
 * that `available` means that they work.
 */
export async function inspectEngines(): Promise<EngineReport> {
  const engines: EngineFinding[] = [];
  for (const { device, gives } of ONNX_DEVICES)
    engines.push({ kind: 'onnx', device, gives, ...(await tryDevice(device)) });
  for (const { device, npm, gives } of tfjsBackends) {
    const version = packageVersion(npm);
    const detail = version === null ? `npm install ${npm}` : `${npm} ${version}`;
    engines.push({ kind: 'tfjs', device, gives, available: version !== null, detail });
  }
  const names = ['onnxruntime-node', '@tensorflow/tfjs-core', 'onnx-proto'];
  return {
    versions: Object.fromEntries(names.map((name) => [name, packageVersion(name) ?? 'missing'])),
    cores: availableParallelism(),
    processor: cpus()[0]?.model ?? 'unknown',
    instructions: instructionSets(),
    memory: totalmem(),
    gpus: gpuNames(),
    engines,
  };
}

async function tryDevice(name: string): Promise<{ available: boolean; detail: string }> {
  const support = deviceSupport(parseDevice(name));
  if (!support.available) return { available: false, detail: support.problem };
  try {
    const engine = await createOnnxEngine({ device: name, threads: 1 });
    await engine.dispose();
    return { available: true, detail: `onnxruntime-node ${ort.env.versions.node ?? ort.env.versions.common}` };
  } catch (error) {
    return { available: false, detail: error instanceof Error ? error.message : String(error) };
  }
}

function packageVersion(name: string): string | null {
  const require = createRequire(import.meta.url);
  for (const directory of require.resolve.paths(name) ?? []) {
    const file = `${directory}/${name}/package.json`;
    if (existsSync(file)) return (JSON.parse(readFileSync(file, 'utf8')) as { version: string }).version;
  }
  return null;
}

/** GPUs as the Linux drivers list them, without starting a program. */
function gpuNames(): string[] {
  const names: string[] = [];
  for (let i = 0; i < 16; i++) {
    const vendor = `/sys/class/drm/card${i}/device/vendor`;
    if (!existsSync(vendor)) continue;
    const ids: Readonly<Record<string, string>> = { '0x10de': 'NVIDIA', '0x1002': 'AMD', '0x8086': 'Intel' };
    const id = readFileSync(vendor, 'utf8').trim();
    names.push(`${ids[id] ?? id} (card${i})`);
  }
  return names;
}
