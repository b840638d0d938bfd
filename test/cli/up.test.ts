import { existsSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { askPort, reachableAddresses } from '../../src/cli/nats-host.ts';
import { serverConfig } from '../../src/cli/own-server.ts';
import { connectNats } from '../../src/comm/index.ts';
import { runCli } from './run-cli.ts';

const folders: string[] = [];
const folder = (): string => {
  const made = mkdtempSync(join(tmpdir(), 'plexus-up-'));
  folders.push(made);
  return made;
};
afterAll(() => {
  for (const made of folders) rmSync(made, { recursive: true, force: true });
});

/** A port that was free a moment ago. */
async function freePort(): Promise<number> {
  const { createServer } = await import('node:net');
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as { port: number };
  await new Promise((resolve) => server.close(resolve));
  return port;
}

interface Up {
  readonly port: number;
  readonly url: string;
  readonly join: readonly string[];
  readonly store: string;
}

/** Runs `plexus up` until `meanwhile` is done with it. */
async function up(args: readonly string[], state: string, meanwhile: (up: Up) => Promise<void>) {
  let done: Promise<void> | null = null;
  let failure: unknown;
  const result = await runCli(['up', '--json', ...args], {
    env: { XDG_STATE_HOME: state },
    onStdout: (text, kill) => {
      const line = text.split('\n').find((part) => part.includes('"type":"up"'));
      if (!line || done) return;
      done = meanwhile(JSON.parse(line) as Up)
        .catch((error: unknown) => {
          failure = error;
        })
        .finally(() => kill('SIGINT'));
    },
  });
  await done;
  if (failure) throw failure;
  if (!done) throw new Error(`it did not start: ${result.stdout}${result.stderr}`);
  return result;
}

describe('plexus up', () => {
  it('starts a server with JetStream and a token, tells how to join, and ends it', async () => {
    const state = folder();
    const port = await freePort();
    let url = '';
    const result = await up(['--port', String(port)], state, async (it) => {
      url = it.url;
      expect(it.url).toMatch(new RegExp(`^nats://[\\w-]{24}@127.0.0.1:${port}$`));
      for (const command of it.join)
        expect(command).toMatch(/^plexus worker --nats nats:\/\/[\w-]{24}@[\w.:[\]]+:\d+$/);
      const connection = await connectNats({ servers: it.url });
      expect(connection.info).toMatchObject({ jetstream: true, max_payload: 2 ** 20, auth_required: true });
      await connection.close();
      await expect(connectNats({ servers: `nats://127.0.0.1:${port}` })).rejects.toMatchObject({ fault: 'login' });
      // The secret is its owner's, and in no process list.
      for (const file of [
        join(it.store, 'token'),
        join(it.store, 'nats-server.conf'),
        join(state, 'plexus', 'up.json'),
      ])
        expect(statSync(file).mode & 0o077).toBe(0);
      // Other commands of this machine find it by themselves.
      const second = await runCli(['up'], { env: { XDG_STATE_HOME: state } });
      expect(second.stderr).toMatch(new RegExp(`a NATS server answers at nats://127.0.0.1:${port} already`));
      expect(second.code).toBe(0);
    });
    expect(result.code).toBe(130);
    expect(await askPort('127.0.0.1', port)).toBe('none');
    expect(existsSync(join(state, 'plexus', 'up.json'))).toBe(false);
    // The token stays the same, so that workers come back by themselves.
    await up(['--port', String(port)], state, async (again) => expect(again.url).toBe(url));
  });

  it('starts the server again when it dies', async () => {
    const state = folder();
    const port = await freePort();
    const result = await up(['--port', String(port)], state, async ({ url }) => {
      const connection = await connectNats({ servers: url });
      const { server_id: before } = connection.info as { server_id: string };
      const back = (async () => {
        for await (const status of connection.status()) if (status.type === 'reconnect') return;
      })();
      // Whoever comes with a wrong token (which the server's log names) changes nothing about that.
      await expect(connectNats({ servers: `nats://wrong@127.0.0.1:${port}` })).rejects.toThrow();
      const { pid } = JSON.parse(readFileSync(join(state, 'plexus', 'up.json'), 'utf8')) as { pid: number };
      process.kill(childOf(pid), 'SIGKILL');
      await back;
      expect(connection.info?.server_id).not.toBe(before);
      await connection.close();
    });
    expect(result.stdout).toMatch(/nats-server ended with SIGKILL; starting it again/);
    expect(await askPort('127.0.0.1', port)).toBe('none');
  });
});

/** The nats-server that a process has started. */
function childOf(pid: number): number {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ').map(Number);
  const server = children.find((child) => readFileSync(`/proc/${child}/comm`, 'utf8').startsWith('nats-server'));
  if (server === undefined) throw new Error(`process ${pid} has no nats-server among its children`);
  return server;
}

it('configures the server', () => {
  expect(serverConfig({ token: 't0"ken', ws: { host: '::', port: 80 } })).toBe(
    '# Written by `plexus up`, and written anew each time.\nmax_payload: 1MB\nwrite_deadline: "60s"\n' +
      'authorization { token: "t0\\"ken" }\nwebsocket { listen: "[::]:80", no_tls: true }\n',
  );
});

it('lists addresses that others may reach', () => {
  const at = (address: string, internal = false) => ({
    address,
    internal,
    family: address.includes(':') ? 'IPv6' : 'IPv4',
  });
  expect(
    reachableAddresses({
      lo: [at('127.0.0.1', true)],
      docker0: [at('172.17.0.1')],
      eth0: [at('10.0.0.5'), at('fd00::5')],
      eth1: [at('169.254.1.1')],
    }),
  ).toEqual(['10.0.0.5']);
  expect(reachableAddresses({ eth0: [at('fd00::5'), at('fe80::1')] })).toEqual(['fd00::5']);
});

it('knows a NATS server from others', async () => {
  const { createServer } = await import('node:net');
  const silent = createServer(() => undefined);
  await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve));
  const { port } = silent.address() as { port: number };
  expect(await askPort('127.0.0.1', port, 100)).toBe('other');
  silent.close();
});
