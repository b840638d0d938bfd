import type { EngineOptions } from './engine.ts';
import { EngineError } from './errors.ts';
import { deviceSupport, parseDevice } from './onnx/devices.ts';
import { findBackend, isInstalled } from './tfjs/backends.ts';

type Chosen = Pick<EngineOptions, 'kind' | 'device'>;

/** Checks that an engine knows a device of that name, whether it is here or not. @throws EngineError listing the names */
export function checkDeviceName({ kind, device }: Chosen): void {
  if (kind === 'tfjs') findBackend(device);
  else parseDevice(device);
}

/**
 * Checks that this machine can have a device, as far as files and platform tell: nothing is started, so a driver may
 * still refuse later.
 * @throws EngineError naming what is missing and how to install it
 */
export function checkDevice({ kind, device }: Chosen): void {
  if (kind === 'tfjs') {
    const { npm } = findBackend(device);
    if (!isInstalled(findBackend(device)))
      throw new EngineError(
        `engine.device "${device}" of the tfjs engine needs the npm package ${npm}, which is not installed; run "npm install ${npm}"`,
      );
    return;
  }
  const { available, problem } = deviceSupport(parseDevice(device));
  if (!available) throw new EngineError(`engine.device ${device} is not available: ${problem}`);
}
