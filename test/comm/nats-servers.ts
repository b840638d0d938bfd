import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type NatsServer, startNatsServer } from '../../src/comm/index.ts';

/** Several real NATS servers that belong together, in files of their own. */
export interface NatsServers {
  readonly servers: NatsServer[];
  /** URLs for clients: of each server, or of the WebSocket port of each. */
  readonly urls: readonly string[];
  stop(): Promise<void>;
  /** Ends one of them with SIGKILL, and starts it again later. */
  kill(index: number): Promise<void>;
  restart(index: number): Promise<void>;
}

/** Free ports, found all at once so that none is found twice. */
export async function freePorts(count: number): Promise<number[]> {
  const servers = Array.from({ length: count }, () => createServer());
  const ports = await Promise.all(
    servers.map(
      (server) =>
        new Promise<number>((resolve) =>
          server.listen(0, '127.0.0.1', () => resolve((server.address() as { port: number }).port)),
        ),
    ),
  );
  await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))));
  return ports;
}

/** Starts servers with the given texts of configuration, on the given ports. */
export async function startServers(
  configs: readonly { readonly port: number; readonly text: string }[],
  urls: readonly string[],
): Promise<NatsServers> {
  const folder = mkdtempSync(join(tmpdir(), 'plexus-servers-'));
  const start = (index: number) =>
    startNatsServer({ port: configs[index]!.port, configFile: join(folder, `${index}.conf`) });
  for (const [index, { text }] of configs.entries()) writeFileSync(join(folder, `${index}.conf`), text);
  const servers = await Promise.all(configs.map((_, index) => start(index)));
  return {
    servers,
    urls,
    kill: (index) => servers[index]!.stop('kill'),
    restart: async (index) => {
      servers[index] = await start(index);
    },
    stop: async () => {
      await Promise.all(servers.map((server) => server.stop('kill')));
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/** Three servers that form a cluster. */
export async function startCluster(): Promise<NatsServers> {
  const ports = await freePorts(6);
  const routes = ports.slice(3).map((port) => `nats://127.0.0.1:${port}`);
  return startServers(
    [0, 1, 2].map((i) => ({
      port: ports[i]!,
      text: `server_name: s${i}\ncluster { name: test, listen: "127.0.0.1:${ports[3 + i]}", routes: [${routes.map((r) => `"${r}"`).join(', ')}] }\n`,
    })),
    [0, 1, 2].map((i) => `nats://127.0.0.1:${ports[i]}`),
  );
}

/** A hub and a leaf node of it, whose clients may send 64 KB at most. */
export async function startLeaf(): Promise<NatsServers> {
  const [hub, leaf, link] = (await freePorts(3)) as [number, number, number];
  return startServers(
    [
      { port: hub, text: `server_name: hub\nleafnodes { listen: "127.0.0.1:${link}" }\nmax_payload: 65536\n` },
      {
        port: leaf,
        text: `server_name: leaf\nleafnodes { remotes: [{ url: "nats://127.0.0.1:${link}" }] }\nmax_payload: 65536\n`,
      },
    ],
    [`nats://127.0.0.1:${hub}`, `nats://127.0.0.1:${leaf}`],
  );
}

/** A server with a WebSocket port. */
export async function startWeb(more = ''): Promise<NatsServers> {
  const [port, web] = (await freePorts(2)) as [number, number];
  const text = `websocket { host: "127.0.0.1", port: ${web}, ${more || 'no_tls: true'} }\n`;
  return startServers([{ port, text }], [`${more ? 'wss' : 'ws'}://127.0.0.1:${web}`]);
}
