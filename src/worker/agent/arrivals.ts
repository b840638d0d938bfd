import type { MessagePort } from 'node:worker_threads';

/** What the agent's main thread tells a rank's thread about its tensors. */
export type Arrival =
  /** The first so many bytes of a piece of memory are there. */
  | { readonly piece: number; readonly bytes: number }
  /** Nothing more will come. */
  | { readonly problem: string };

/** How far the pieces of memory have come that tensors are fetched into, seen from the thread that reads them. */
export class Arrivals {
  readonly #bytes = new Map<number, number>();
  readonly #port: MessagePort;
  #waiting: (() => void)[] = [];
  #problem: string | null = null;

  /** Listens on the port until `close`, or until the other end closes it. */
  constructor(port: MessagePort) {
    this.#port = port;
    port.on('message', (arrival: Arrival) => {
      if ('piece' in arrival) this.#bytes.set(arrival.piece, arrival.bytes);
      else this.#problem ??= arrival.problem;
      this.#wake();
    });
    port.once('close', () => {
      this.#problem ??= 'the generation ended before its tensors had come';
      this.#wake();
    });
  }

  /** Waits for the first so many bytes of a piece. @throws Error if they will not come */
  async until(piece: number, bytes: number): Promise<void> {
    while ((this.#bytes.get(piece) ?? 0) < bytes) {
      if (this.#problem !== null) throw new Error(this.#problem);
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    }
  }

  /** Listens no more. */
  close(): void {
    this.#port.close();
  }

  #wake(): void {
    for (const resolve of this.#waiting.splice(0)) resolve();
  }
}
