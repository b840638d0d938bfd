import { rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type CliResult, runCli } from './run-cli.ts';
import { tinyProject } from './tiny-run.ts';

/** Refused before anything is started: one message, no stack, code 2 unless said otherwise. */
function expectRefused(result: CliResult, message: RegExp, code = 2): void {
  expect(result.stderr).toMatch(message);
  expect(result.stderr).not.toMatch(/unhandled|Warning:|node:internal|^\s+at /im);
  expect(result).toMatchObject({ code, stdout: '' });
}

const folder = tinyProject();
const hosts = join(folder, 'hosts');
const config = join(folder, 'config.yaml');
writeFileSync(hosts, 'node1 slots=two\n');
let other: Server;
let port: number;
beforeAll(async () => {
  // Something that listens and is no NATS server.
  other = createServer((socket) => socket.end('SSH-2.0-x\r\n'));
  await new Promise<void>((resolve) => other.listen(0, '127.0.0.1', resolve));
  port = (other.address() as { port: number }).port;
});
afterAll(() => {
  other.close();
  rmSync(folder, { recursive: true, force: true });
});

describe.each(['worker', 'ps', 'logs', 'stop', 'debug'])('plexus %s', (command) => {
  it('needs a server', async () => {
    expectRefused(
      await runCli([command]),
      /no NATS server is named: give --nats nats:\/\/HOST:4222 or set PLEXUS_NATS/,
    );
  });

  it('refuses what is no server, and no name of a job', async () => {
    expectRefused(
      await runCli([command, '--nats', 'http://x']),
      /--nats 'http:\/\/x' is no NATS server: expected nats:/,
    );
    expectRefused(await runCli([command, '--nats', 'x', '--job', 'a.b']), /--job 'a.b' is no name for a job/);
  });

  it('says so where nobody listens', async () => {
    // (Port 1 is nobody's.)
    expectRefused(
      await runCli([command, '--nats', 'nats://127.0.0.1:1']),
      /NATS at nats:\/\/127.0.0.1:1: nobody listens there.*plexus up/s,
      5,
    );
  });

  it('prints its help', async () => {
    const { code, stdout } = await runCli([command, '--help']);
    expect(code).toBe(0);
    for (const flag of ['--nats', '--job', '--nats-creds', '--nats-nkey', '--nats-token', '--tls-ca', '--json'])
      expect(stdout).toContain(flag);
  });
});

describe('flags', () => {
  it.each([
    [['worker', '--nats', 'x', '--slots', '0'], /expected a whole number from 1 to 1024, or 'auto'/],
    [['worker', '--nats', 'x', '--slots', 'many'], /expected a whole number from 1 to 1024, or 'auto'/],
    [['worker', '--nats', 'x', '--device', 'gpu'], /--device 'gpu' is no device: cpu, cuda/],
    [['worker', '--nats', 'x', '--listen', 'a b'], /--listen 'a b': HOST or HOST:PORT was expected/],
    [['worker', '--nats', 'x', '--lease', '0.1'], /expected a number of at least 0.5/],
    [['worker', '--nats', 'x', '--name', 'a.b'], /--name 'a.b': 1 to 64 letters/],
    [['worker', '--nats', 'x', '--nats-creds', '/nowhere'], /--nats-creds '\/nowhere' cannot be read: ENOENT/],
    [['train', config, '--min-workers', '2'], /--min-workers is for workers on other machines: name their NATS server/],
    [['train', config, '--standby'], /--standby is for workers on other machines/],
    [['train', config, '--job', 'j'], /--job is for workers on other machines/],
    [
      ['train', config, '--nats', 'x', '--min-workers', '3', '--max-workers', '2'],
      /--min-workers 3 is more than --max-workers 2/,
    ],
    [['train', '--nats', 'c.yaml'], /give a config to train/],
    [['debug', '--last', '65'], /expected a whole number from 0 to 64/],
    [['up', '--port', '0'], /expected a whole number from 1 to 65535/],
    [['up', '--min-workers', '2'], /--min-workers belongs to a run, and no config is given/],
    [['up', '--set', 'a=1'], /--set belongs to a run, and no config is given/],
    [['up', '--port', '1', '--token', 'a b'], /--token: at least 8 letters, digits/],
    [['launch', 'c.yaml'], /give the machines with --hosts FILE/],
    [['launch', '--hosts', 'h'], /give a config to train/],
    [['launch', 'c.yaml', '--hosts', '/nowhere'], /--hosts '\/nowhere' cannot be read: ENOENT/],
    [['launch', 'c.yaml', '--hosts', hosts], /hosts:1: 'slots=two': slots must be a whole number/],
  ])('%j', async (args, message) => {
    expectRefused(await runCli(args), message);
  });

  it('a port that somebody else has', async () => {
    expectRefused(
      await runCli(['up', '--port', String(port)]),
      /what listens at 127.0.0.1:\d+ is no NATS server: choose another port with --port/,
    );
  });

  it('another machine without a server', async () => {
    // (TEST-NET addresses answer nobody.)
    expectRefused(
      await runCli(['up', '--nats', 'nats://192.0.2.1:4222']),
      /no NATS server answers at nats:\/\/192.0.2.1:4222, and 'plexus up' starts one on its own machine only/,
    );
  });
});
