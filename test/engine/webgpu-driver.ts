import { existsSync } from 'node:fs';

// WebGPU without a GPU: Vulkan's loader and a driver that runs on the CPU.
const drivers = [
  ...(process.env.VK_ICD_FILENAMES?.split(':') ?? []),
  '/usr/lib/chromium/vk_swiftshader_icd.json',
  '/opt/google/chrome/vk_swiftshader_icd.json',
  '/usr/share/vulkan/icd.d/lvp_icd.x86_64.json',
  '/usr/share/vulkan/icd.d/lvp_icd.aarch64.json',
  '/usr/share/vulkan/icd.d/lvp_icd.json',
];
const loaders = [
  '/usr/lib',
  '/usr/lib64',
  '/lib/x86_64-linux-gnu',
  '/usr/lib/x86_64-linux-gnu',
  '/usr/lib/aarch64-linux-gnu',
];

/** Whether tests can use WebGPU here. */
export interface WebGpu {
  /** Debian packages to install; empty when all is there. */
  readonly missing: readonly string[];
  /** What to say about it. */
  readonly toInstall: string;
  /** Tests of WebGPU are left out on a developer's machine that lacks the packages; in CI they fail instead. */
  readonly skip: boolean;
}

/**
 * Finds a Vulkan driver and names it to the loader, which reads the variable when ONNX Runtime first asks for an
 * adapter: early enough in a test file, since each has a process of its own.
 */
export function findWebGpu(): WebGpu {
  const driver = drivers.find((file) => existsSync(file));
  const loader = loaders.some((directory) => existsSync(`${directory}/libvulkan.so.1`));
  if (driver) process.env.VK_ICD_FILENAMES = driver;
  const missing =
    process.platform === 'linux'
      ? [...(loader ? [] : ['libvulkan1']), ...(driver ? [] : ['chromium-common (or mesa-vulkan-drivers)'])]
      : [];
  const toInstall = `WebGPU tests need Debian's ${missing.join(' and ')}: apt-get install libvulkan1 chromium-common`;
  const skip = missing.length > 0 && !process.env.CI;
  if (skip) console.warn(`SKIPPED: ${toInstall}`);
  return { missing, toInstall, skip };
}
