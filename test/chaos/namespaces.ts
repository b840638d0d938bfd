import { execFile } from 'node:child_process';
import { promisify } from 'node:util';

const execute = promisify(execFile);

/** Says what is missing where this machine cannot make namespaces. */
export class NamespacesError extends Error {
  override readonly name = 'NamespacesError';
}

async function ip(...args: readonly string[]): Promise<string> {
  try {
    return (await execute('ip', args, { timeout: 20_000 })).stdout;
  } catch (error) {
    const { stderr = '', message } = error as Error & { stderr?: string };
    throw new NamespacesError(
      `'ip ${args.join(' ')}' failed: ${stderr.trim() || message}. Hosts made of network namespaces need root ` +
        '(or CAP_NET_ADMIN and CAP_SYS_ADMIN), iproute2, and a kernel with veth and bridge',
      { cause: error },
    );
  }
}

/** Hosts of one process get distinct names; those of different processes differ by the process id. */
let made = 0;

/** A host: a network namespace with one link to the switch. */
export interface Host {
  readonly name: string;
  /** Its IPv4 address on the test's network. */
  readonly address: string;
  /** Put in front of a command to run it there. */
  readonly prefix: readonly string[];
}

/**
 * Hosts on a network of their own: network namespaces, each with a veth pair to a bridge in a namespace that is the
 * switch. Nothing of the machine's own network is touched.
 */
export class Network {
  readonly hosts: readonly Host[];
  readonly #switch: string;
  readonly #ports: ReadonlyMap<string, string>;

  private constructor(hosts: readonly Host[], switchName: string, ports: ReadonlyMap<string, string>) {
    this.hosts = hosts;
    this.#switch = switchName;
    this.#ports = ports;
  }

  /** Makes `count` hosts. @throws NamespacesError saying what is missing */
  static async create(count: number): Promise<Network> {
    const base = `plx${process.pid.toString(36)}${(made++).toString(36)}`;
    const switchName = `${base}s`;
    const hosts: Host[] = [];
    const ports = new Map<string, string>();
    const network = new Network(hosts, switchName, ports);
    try {
      await ip('netns', 'add', switchName);
      await ip('-n', switchName, 'link', 'add', 'switch', 'type', 'bridge');
      await ip('-n', switchName, 'link', 'set', 'switch', 'up');
      for (let index = 0; index < count; index++) {
        const name = `${base}h${index}`;
        const port = `port${index}`;
        const address = `10.77.0.${index + 1}`;
        await ip('netns', 'add', name);
        // Known from here on, so that a failure takes it away again.
        hosts.push({ name, address, prefix: ['ip', 'netns', 'exec', name] });
        await ip('-n', switchName, 'link', 'add', port, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', name);
        ports.set(name, port);
        await ip('-n', switchName, 'link', 'set', port, 'master', 'switch', 'up');
        await ip('-n', name, 'addr', 'add', `${address}/24`, 'dev', 'eth0');
        await ip('-n', name, 'link', 'set', 'lo', 'up');
        await ip('-n', name, 'link', 'set', 'eth0', 'up');
      }
      return network;
    } catch (error) {
      await network.close();
      throw error;
    }
  }

  host(index: number): Host {
    const host = this.hosts[index];
    if (!host) throw new RangeError(`there are ${this.hosts.length} hosts, no host ${index}`);
    return host;
  }

  /** Runs a command on a host to its end and returns its standard output. */
  async run(index: number, command: readonly string[]): Promise<string> {
    return ip('netns', 'exec', this.host(index).name, ...command);
  }

  /** Cuts a host off: packets vanish, no connection is told. */
  async partition(index: number): Promise<void> {
    await ip('-n', this.#switch, 'link', 'set', this.#port(index), 'down');
  }

  /** Joins it again. */
  async heal(index: number): Promise<void> {
    await ip('-n', this.#switch, 'link', 'set', this.#port(index), 'up');
  }

  /** Removes everything. Processes that still run there keep what they hold until they end: end them first. */
  async close(): Promise<void> {
    const errors: unknown[] = [];
    for (const name of [...this.hosts.map((host) => host.name), this.#switch])
      await ip('netns', 'del', name).catch((error: unknown) => errors.push(error));
    if (errors.length > 0) throw errors[0];
  }

  #port(index: number): string {
    return this.#ports.get(this.host(index).name) as string;
  }
}
