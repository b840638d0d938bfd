import { type ExitCode, exitCodes } from './exit.ts';

/** Turns signals of the operating system into an AbortSignal. */
export interface Interrupt {
  readonly signal: AbortSignal;
  /** Exit code of a run that the signal stopped. */
  readonly code: () => ExitCode;
  /** Stops listening, so that the process can end. */
  dispose(): void;
}

/**
 * The first Ctrl-C (or SIGTERM) asks for a stop with a checkpoint, and `onFirst` says so; the second ends the process at
 * once. A reader of the output that went away asks for a stop too: nobody would see what the run comes to.
 */
export function listenForInterrupt(onFirst: () => void): Interrupt {
  const controller = new AbortController();
  let code: ExitCode = exitCodes.interrupted;
  const listener = (name: NodeJS.Signals): void => {
    code = name === 'SIGTERM' ? exitCodes.terminated : exitCodes.interrupted;
    if (controller.signal.aborted) {
      // To die of the signal itself is the one way out that does not wait for, or trip over, threads in native code.
      process.off(name, listener);
      process.kill(process.pid, name);
      return;
    }
    controller.abort(new Error(`stopped by ${name}`));
    onFirst();
  };
  const onClosed = (error: NodeJS.ErrnoException): void => {
    if (error.code !== 'EPIPE' || controller.signal.aborted) return;
    code = exitCodes.terminated;
    controller.abort(new Error('stopped, since the output was closed'));
  };
  process.on('SIGINT', listener);
  process.on('SIGTERM', listener);
  // These stay: what is still written later fails in the same way.
  process.stdout.on('error', onClosed);
  process.stderr.on('error', onClosed);
  return {
    signal: controller.signal,
    code: () => code,
    dispose: () => {
      process.off('SIGINT', listener);
      process.off('SIGTERM', listener);
    },
  };
}
