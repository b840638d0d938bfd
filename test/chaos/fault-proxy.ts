import { type ChildProcess, spawn } from 'node:child_process';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { root } from './processes.ts';

/** What a fault proxy does to the connections through it; all can be changed while they are open. */
export interface Faults {
  /** Each way, in milliseconds. */
  readonly delayMs?: number;
  /** Each way and connection; 0 for no limit. */
  readonly bytesPerSecond?: number;
  /** Accepts connections, forwards nothing and tells nobody of an end; open streams go on when it heals. */
  readonly blackHole?: boolean;
  /** Resets every new connection. */
  readonly refuse?: boolean;
  /** Resets all connections this often, in milliseconds; 0 for never. */
  readonly cutEveryMs?: number;
}

/** What went through a proxy so far. */
export interface ProxyCounts {
  readonly connections: number;
  readonly open: number;
  readonly bytes: number;
  readonly cuts: number;
}

interface Answer {
  readonly id: number;
  readonly counts: ProxyCounts;
}

/** How long a proxy may take to start or to answer. */
const DEADLINE_MS = 10_000;

/**
 * A TCP proxy with faults, in a process of its own. (The kernels of the machines that run the tests have no `netem`.)
 */
export class FaultProxy {
  readonly host: string;
  readonly port: number;
  readonly #child: ChildProcess;
  readonly #waiting = new Map<number, { resolve(answer: Answer): void; reject(error: Error): void }>();
  #next = 1;

  private constructor(child: ChildProcess, address: { readonly host: string; readonly port: number }) {
    this.#child = child;
    this.host = address.host;
    this.port = address.port;
  }

  /** Starts a proxy in front of `target`, on a free port of 127.0.0.1 unless told otherwise. */
  static async start(
    target: { readonly host: string; readonly port: number },
    faults: Faults = {},
    where: {
      readonly listen?: { readonly host: string; readonly port?: number };
      readonly prefix?: readonly string[];
    } = {},
  ): Promise<FaultProxy> {
    const settings = JSON.stringify({ target, listen: where.listen });
    const script = join(root, 'test', 'chaos', 'fault-proxy-process.mjs');
    const [program, ...args] = [...(where.prefix ?? []), process.execPath, script, settings];
    const { NODE_OPTIONS: _, ...env } = process.env;
    const child = spawn(program as string, args, { env, stdio: ['pipe', 'pipe', 'inherit'] });
    const lines = createInterface({ input: child.stdout });
    const first = await new Promise<string>((resolve, reject) => {
      const timer = setTimeout(() => {
        child.kill('SIGKILL');
        reject(new Error(`the fault proxy did not listen within ${DEADLINE_MS} ms`));
      }, DEADLINE_MS);
      child.once('error', reject);
      child.once('exit', (code) => reject(new Error(`the fault proxy ended with exit code ${code}`)));
      lines.once('line', (line) => {
        clearTimeout(timer);
        child.removeAllListeners('exit');
        resolve(line);
      });
    });
    const { address, port } = (JSON.parse(first) as { listening: { address: string; port: number } }).listening;
    const proxy = new FaultProxy(child, { host: address, port });
    lines.on('line', (line) => proxy.#answered(JSON.parse(line) as Answer));
    child.once('exit', (code) => proxy.#gone(new Error(`the fault proxy ended with exit code ${code}`)));
    await proxy.set(faults);
    return proxy;
  }

  /** Where to connect, as `host:port`. */
  get address(): string {
    return `${this.host}:${this.port}`;
  }

  /** Changes faults; those that are not named stay. */
  async set(faults: Faults): Promise<ProxyCounts> {
    return this.#ask({ ...faults });
  }

  /** Resets every open connection once. */
  async cut(): Promise<ProxyCounts> {
    return this.#ask({ command: 'cut' });
  }

  /** No faults any more. */
  async heal(): Promise<ProxyCounts> {
    return this.set({ delayMs: 0, bytesPerSecond: 0, blackHole: false, refuse: false, cutEveryMs: 0 });
  }

  counts(): Promise<ProxyCounts> {
    return this.#ask({});
  }

  /** Ends the process and with it every connection. */
  async close(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const gone = new Promise<void>((resolve) => this.#child.once('close', () => resolve()));
    this.#child.kill('SIGKILL');
    await gone;
  }

  async #ask(message: object): Promise<ProxyCounts> {
    const id = this.#next++;
    let timer: NodeJS.Timeout | undefined;
    try {
      const { counts } = await new Promise<Answer>((resolve, reject) => {
        this.#waiting.set(id, { resolve, reject });
        timer = setTimeout(() => reject(new Error(`the fault proxy did not answer in ${DEADLINE_MS} ms`)), DEADLINE_MS);
        this.#child.stdin?.write(`${JSON.stringify({ id, ...message })}\n`);
      });
      return counts;
    } finally {
      clearTimeout(timer);
      this.#waiting.delete(id);
    }
  }

  #answered(answer: Answer): void {
    this.#waiting.get(answer.id)?.resolve(answer);
  }

  #gone(error: Error): void {
    for (const { reject } of this.#waiting.values()) reject(error);
  }
}
