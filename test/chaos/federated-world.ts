import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { freePort, NatsServers } from './nats.ts';
import { builtCli, type Proc, Processes, root } from './processes.ts';

/** Clients of a run, each with a part of MNIST. */
export const CLIENTS = 5;

/** What is looked at of a line of metrics.jsonl. */
export interface Line {
  readonly step: number;
  readonly counted: boolean;
  readonly cohort?: number[];
  readonly answers?: { readonly client: number; readonly fit: number; readonly version: number }[];
  readonly staleness?: number;
  readonly quarantined?: number;
  readonly retries?: number;
  readonly bytes_down: number;
  readonly bytes_up: number;
  readonly dropped_clients: { readonly client: number; readonly reason: string }[];
}

/** Real processes around a real NATS server, in a folder of their own. */
export class World {
  readonly processes = new Processes();
  readonly folder = mkdtempSync(join(tmpdir(), 'plexus-federated-'));
  readonly events: { readonly type: string; readonly [key: string]: unknown }[] = [];
  servers!: NatsServers;
  /** The server for those that come over WebSockets. */
  webUrl!: string;

  static async start(): Promise<World> {
    const world = new World();
    const port = await freePort();
    world.webUrl = `ws://127.0.0.1:${port}`;
    world.servers = await NatsServers.start(world.processes, world.folder, {
      lines: [`websocket { listen: "127.0.0.1:${port}", no_tls: true }`],
    });
    return world;
  }

  get url(): string {
    return this.servers.url;
  }

  client(part: number, ...args: string[]): Proc {
    // (Half of them come over WebSockets.)
    const url = part % 2 === 0 ? this.webUrl : this.url;
    return this.#client(`client ${part}`, url, '--data', 'mnist', '--part', `${part}/${CLIENTS}`, ...args);
  }

  /** A client with a file of its own in the folder, and nothing else said. */
  clientWith(file: string): Proc {
    return this.#client(`client with ${file}`, this.url, '--data', `./${file}`);
  }

  liar(kind: string): Proc {
    const script = join(root, 'test', 'chaos', 'federated-liar.mjs');
    return this.processes.start(`liar ${kind}`, [process.execPath, script, this.url, join(this.folder, kind), kind]);
  }

  train(...args: string[]): Proc {
    return this.processes.start('server', [...builtCli, 'train', '--json', ...args], { cwd: this.folder }, (line) =>
      this.events.push(JSON.parse(line)),
    );
  }

  /** Times that clients have come. */
  get joined(): number {
    return this.events.filter(({ type, what }) => type === 'client' && what === 'joined').length;
  }

  /** Waits for a step of the run. */
  reached(step: number): Promise<boolean> {
    return this.processes.until(`step ${step}`, 60_000, () =>
      this.events.some((event) => event.type === 'step' && (event.step as number) >= step),
    );
  }

  /** Folders of runs, oldest first. */
  runs(): string[] {
    return readdirSync(join(this.folder, 'runs')).map((run) => join(this.folder, 'runs', run));
  }

  lines(run: string): Line[] {
    const text = readFileSync(join(run, 'metrics.jsonl'), 'utf8').trim();
    return text.split('\n').map((line) => JSON.parse(line) as Line);
  }

  weights(run: string): string {
    return this.summary(run).weights_sha256 as string;
  }

  /** What a run ended with. */
  summary(run: string): Record<string, unknown> {
    return JSON.parse(readFileSync(join(run, 'summary.json'), 'utf8'));
  }

  async close(): Promise<void> {
    await this.processes.close();
    rmSync(this.folder, { recursive: true, force: true });
  }

  #client(name: string, url: string, ...args: string[]): Proc {
    return this.processes.start(name, [...builtCli, 'client', '--nats', url, '--once', ...args], {
      cwd: this.folder,
      env: { XDG_STATE_HOME: join(this.folder, 'state') },
    });
  }
}
