import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type NatsServer, startNatsServer } from '../../src/comm/index.ts';
import { cliPath, runCli } from './run-cli.ts';
import { tinyProject } from './tiny-run.ts';

const project = tinyProject();
const folder = mkdtempSync(join(tmpdir(), 'plexus-stop-'));
let server: NatsServer;

beforeAll(async () => {
  const configFile = join(folder, 'nats-server.conf');
  writeFileSync(
    configFile,
    `jetstream { store_dir: ${JSON.stringify(join(folder, 'js'))} }
     no_auth_user: all
     authorization { users: [
       { user: all, password: secret }
       { user: guest, password: secret, permissions: { publish: ["plexus.>", "$JS.API.>", "_INBOX.>"], subscribe: ">" } }
     ] }`,
  );
  server = await startNatsServer({ configFile });
});
afterAll(async () => {
  await server.stop();
  for (const made of [folder, project]) rmSync(made, { recursive: true, force: true });
});

/** Starts a worker of a job and waits until it is one. */
async function worker(job: string): Promise<{ readonly ended: Promise<number | null> }> {
  const child = spawn(process.execPath, [cliPath, 'worker', '--nats', server.url, '--job', job], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  const ended = once(child, 'close').then(([code]) => code as number | null);
  let said = '';
  child.stderr.setEncoding('utf8');
  await new Promise<void>((resolve, reject) => {
    child.stderr.on('data', (text: string) => {
      said += text;
      if (said.includes(`is a worker of job '${job}'`)) resolve();
    });
    void ended.then((code) => reject(new Error(`the worker ended with ${code}: ${said}`)));
  });
  return { ended };
}

describe('plexus stop', () => {
  it('says so where no run is going on, and ends workers if it is told to', async () => {
    const workers = [await worker('idle'), await worker('idle')];
    const stop = (...more: string[]) => runCli(['stop', 'idle', '--nats', server.url, ...more]);
    expect(await stop()).toMatchObject({ code: 0, stdout: 'job idle: no run was going on\n' });
    const all = await stop('--workers');
    expect(all).toMatchObject({ code: 0, stdout: 'job idle: no run was going on; 2 workers were told to end\n' });
    expect(await Promise.all(workers.map(({ ended }) => ended))).toEqual([0, 0]);
    const none = await stop('--workers', '--json');
    expect(JSON.parse(none.stdout)).toEqual({ job: 'idle', run: null, workers: 0 });
  });

  it('names the run that it has stopped', async () => {
    const workers = [await worker('busy'), await worker('busy')];
    const beside: { following?: ReturnType<typeof runCli>; stopping?: ReturnType<typeof runCli> } = {};
    const follow = () =>
      runCli(['logs', '-f', '--nats', server.url, '--job', 'busy'], {
        onStdout: (text, kill) => {
          if (text.includes('starts after step 0'))
            beside.stopping ??= runCli(['stop', 'busy', '--nats', server.url, '--workers']);
          if (text.includes('interrupted')) kill('SIGINT');
        },
      });
    const args = ['--nats', server.url, '--job', 'busy', '--set', 'train.steps=100000', '--set', 'train.eval_every=0'];
    const training = runCli(['train', 'config.yaml', ...args, '--set', 'run.id=named'], {
      cwd: project,
      onStderr: (text) => {
        if (/step +\d+\/100000/.test(text)) beside.following ??= follow();
      },
    });
    expect((await training).stdout).toMatch(/stopped after \d+ steps; checkpoint/);
    const stopped = 'job busy: run named has stopped; 2 workers were told to end\n';
    expect(await beside.stopping).toMatchObject({ code: 0, stdout: stopped });
    expect(await Promise.all(workers.map(({ ended }) => ended))).toEqual([0, 0]);

    // Who wrote these lines is gone.
    const logs = async (...more: string[]) => {
      const { code, stdout, stderr } = await runCli(['logs', '--nats', server.url, '--job', 'busy', ...more]);
      expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
      return stdout.trimEnd().split('\n');
    };
    const lines = await logs();
    for (const expected of [
      /^[\d:.]+ \[\S+\] runs rank \d of 2 in generation 1$/,
      /\[coordinator\] generation 1 of 2 ranks from step 0: /,
      /\[coordinator\] run named starts after step 0 of 100000, in /,
      /\[coordinator\] run named interrupted after step \d+; checkpoint /,
    ])
      expect(lines.filter((line) => expected.test(line)).length, String(expected)).toBeGreaterThan(0);
    expect(await logs('-n', '3')).toEqual(lines.slice(-3));
    const json = (await logs('--json')).map((line) => JSON.parse(line) as { from: string; line: string });
    expect(json.map(({ from, line }) => `[${from}] ${line}`)).toEqual(lines.map((line) => line.replace(/^\S+ /, '')));
    // Whoever followed has seen all of it, once.
    const { code, stdout } = await beside.following!;
    expect(code).toBe(130);
    const seen = stdout.split('\n');
    for (const line of lines.slice(0, lines.findIndex((line) => line.includes('interrupted')) + 1))
      expect(
        seen.filter((other) => other === line),
        line,
      ).toHaveLength(1);
  });
});

it('plexus logs says so where nothing is kept', async () => {
  const { code, stderr, stdout } = await runCli(['logs', '--nats', server.url, '--job', 'unknown']);
  expect({ code, stdout }).toEqual({ code: 0, stdout: '' });
  expect(stderr).toMatch(/the server has no lines of job unknown yet/);
});

it.each(['ps', 'stop', 'debug'])('plexus %s says so where nobody knows the job', async (command) => {
  const { code, stderr, stdout } = await runCli([command, '--nats', server.url, '--job', 'unknown']);
  expect(stderr).toBe("✗ the server knows no job 'unknown': has a worker or coordinator of it been started?\n");
  expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
});

// (A refusal that is taken for a server that is away is asked again for 15 s and more.)
describe('a login that may not do it', { timeout: 12_000 }, () => {
  const guest = () => ['--nats', server.url, '--nats-user', 'guest', '--nats-password', 'secret'];

  it('is no worker', async () => {
    const { code, stderr } = await runCli(['worker', ...guest()]);
    expect(stderr).toMatch(/✗ this login may not be a worker of job 'default' \(Permissions Violation .*members/);
    expect(stderr).toMatch(/configs\/cluster\/nats-server.conf/);
    expect(stderr).not.toMatch(/^\s+at /m);
    expect(code).toBe(5);
  });

  it('leads no run', async () => {
    const { code, stderr } = await runCli(['train', 'config.yaml', ...guest()], { cwd: project });
    expect(stderr).toMatch(/the records of job 'default' cannot be reached \(write 'leader'\): Permissions Violation/);
    expect(stderr).not.toMatch(/^\s+at /m);
    expect(code).toBe(5);
  });
});
