import { setMaxListeners } from 'node:events';

/** A signal that follows another and can also be aborted by itself. */
export interface ChildSignal {
  readonly signal: AbortSignal;
  abort(reason: Error): void;
  /** Lets go of the parent. */
  release(): void;
}

/** (`AbortSignal.any` leaks in Node 20 when the parent lives long.) */
export function childSignal(parent: AbortSignal | undefined): ChildSignal {
  const controller = new AbortController();
  const follow = () => controller.abort(parent?.reason);
  if (parent?.aborted) follow();
  else if (parent) {
    // (However many wait on one signal, each lets go of it.)
    setMaxListeners(0, parent);
    parent.addEventListener('abort', follow, { once: true });
  }
  setMaxListeners(0, controller.signal);
  return {
    signal: controller.signal,
    abort: (reason) => controller.abort(reason),
    release: () => parent?.removeEventListener('abort', follow),
  };
}

/** Waits for something until a signal says otherwise. @throws the signal's reason */
export function abortable<T>(wait: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const aborted = () => reject(signal.reason);
    if (signal.aborted) aborted();
    signal.addEventListener('abort', aborted, { once: true });
    wait.then(resolve, reject).finally(() => signal.removeEventListener('abort', aborted));
  });
}
