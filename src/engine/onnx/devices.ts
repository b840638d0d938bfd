import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import type { InferenceSession } from 'onnxruntime-node';
import ort from 'onnxruntime-node';
import { EngineError } from '../errors.ts';

/** A device of the ONNX engine, parsed from its name. */
export interface OnnxDevice {
  /** As in the config: `cpu`, `cuda:0`, `webgpu`, `dml`, `coreml`. */
  readonly name: string;
  readonly provider: 'cpu' | 'cuda' | 'webgpu' | 'dml' | 'coreml';
  /** Number of the device among its kind. */
  readonly index: number;
  /**
   * Whether values can stay in the device's memory between runs. The npm binding of ONNX Runtime hands out device
   * buffers for WebGPU alone; on the others inputs and outputs go through host memory, and are counted.
   */
  readonly resident: boolean;
}

/** What it takes to have a device. */
export interface DeviceSupport {
  readonly available: boolean;
  /** Why not, and what to do about it; empty when available. */
  readonly problem: string;
}

const PROVIDERS = ['cpu', 'cuda', 'webgpu', 'dml', 'coreml'] as const;

/** Parses a device name. @throws EngineError for a name that no provider has. */
export function parseDevice(name: string): OnnxDevice {
  const [provider, index, ...rest] = name.split(':');
  const known = PROVIDERS.find((each) => each === provider);
  const indexed = known === 'cuda' || known === 'dml';
  if (!known || rest.length > 0 || (index !== undefined && !(indexed && /^\d+$/.test(index))))
    throw new EngineError(
      `engine.device is "${name}", expected cpu, cuda:N (N from 0), webgpu, dml or coreml for engine.kind: onnx`,
    );
  return { name, provider: known, index: Number(index ?? 0), resident: known === 'webgpu' };
}

/** Whether this machine can have a device, as far as files and platform tell: nothing is started. */
export function deviceSupport(device: OnnxDevice): DeviceSupport {
  const no = (problem: string): DeviceSupport => ({ available: false, problem });
  const { provider } = device;
  const platform = `${process.platform}-${process.arch}`;
  if (!ort.listSupportedBackends().some((backend) => backend.name === provider)) {
    if (provider === 'dml')
      return no(`DirectML is part of Windows; this is ${platform}. On Linux use cuda:N or webgpu`);
    if (provider === 'coreml') return no(`CoreML is part of macOS; this is ${platform}. On Linux use cuda:N or webgpu`);
    return no(`the onnxruntime-node package for ${platform} was built without ${provider}`);
  }
  if (provider === 'cuda') {
    const library = join(binaryDirectory(), 'libonnxruntime_providers_cuda.so');
    if (!existsSync(library))
      return no(
        `the CUDA provider is not installed (${library} is missing). With CUDA 12 and cuDNN 9 on the library path, run: ` +
          'ONNXRUNTIME_NODE_INSTALL=cuda12 npm rebuild onnxruntime-node --ignore-scripts=false',
      );
    if (process.platform === 'linux' && !existsSync('/dev/nvidiactl'))
      return no(
        'no NVIDIA driver is loaded (/dev/nvidiactl is missing): install the driver, or give the container the GPU',
      );
  }
  return { available: true, problem: '' };
}

/** Where onnxruntime-node keeps the binaries of this platform. */
export function binaryDirectory(): string {
  const root = dirname(createRequire(import.meta.url).resolve('onnxruntime-node/package.json'));
  return join(root, 'bin', 'napi-v6', process.platform, process.arch);
}

/** What to check when a provider that is installed fails to start. */
export function startHint(device: OnnxDevice): string {
  switch (device.provider) {
    case 'cuda':
      return `check that nvidia-smi lists GPU ${device.index}, and that CUDA 12 and cuDNN 9 are on the library path`;
    case 'webgpu':
      return process.platform === 'linux'
        ? 'WebGPU runs over Vulkan here: install libvulkan1 and a driver (Debian: apt-get install libvulkan1 mesa-vulkan-drivers), ' +
            'or point VK_ICD_FILENAMES at one'
        : 'check that the graphics driver is up to date';
    default:
      return 'check that the driver is installed';
  }
}

/** Session options that select a device. */
export function deviceOptions(device: OnnxDevice): Pick<InferenceSession.SessionOptions, 'executionProviders'> {
  const { provider, index } = device;
  if (provider === 'cuda' || provider === 'dml')
    return { executionProviders: [{ name: provider, deviceId: index }, 'cpu'] };
  return { executionProviders: provider === 'cpu' ? ['cpu'] : [provider, 'cpu'] };
}
