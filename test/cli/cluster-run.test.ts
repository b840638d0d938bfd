import { type ChildProcess, spawn } from 'node:child_process';
import { chmodSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { hostname, tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { startNatsServer } from '../../src/comm/index.ts';
import { type CliResult, cliPath, runCli } from './run-cli.ts';
import { tinyProject } from './tiny-run.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const folders: string[] = [];
const workers: ChildProcess[] = [];
let bin: string;
let alone: Record<string, unknown>;

const folder = (): string => {
  const made = tinyProject();
  folders.push(made);
  return made;
};
const program = (name: string, text: string): void => {
  writeFileSync(join(bin, name), text);
  chmodSync(join(bin, name), 0o755);
};
const summaryOf = (project: string, id?: string): Record<string, unknown> => {
  const run = id ?? (readdirSync(join(project, 'runs'))[0] as string);
  return JSON.parse(readFileSync(join(project, 'runs', run, 'summary.json'), 'utf8')) as Record<string, unknown>;
};
/** The same bits as on one machine. */
function expectSame(project: string, id?: string): void {
  const { weights_sha256, losses_sha256 } = summaryOf(project, id);
  expect({ weights_sha256, losses_sha256 }).toEqual({
    weights_sha256: alone.weights_sha256,
    losses_sha256: alone.losses_sha256,
  });
}
/** Nothing that a person should not see. */
function expectClean({ stderr }: CliResult): void {
  expect(stderr).not.toMatch(/unhandled|Warning:|node:internal|^\s+at /im);
}

beforeAll(async () => {
  bin = mkdtempSync(join(tmpdir(), 'plexus-bin-'));
  folders.push(bin);
  // The host's login shell runs the command, here.
  program(
    'ssh',
    // biome-ignore lint/suspicious/noTemplateCurlyInString: the shell's own
    '#!/bin/sh\nwhile [ "${1#-}" != "$1" ]; do case "$1" in -o) shift;; esac; shift; done\nshift\nexec sh -c "$*"\n',
  );
  program('plexus', `#!/bin/sh\nexec ${process.execPath} ${cliPath} "$@"\n`);
  // Two nodes: the command runs twice, and ends when both have.
  program(
    'srun',
    '#!/bin/bash\nwhile [[ $1 == --* ]]; do shift; done\n"$@" & a=$!\n"$@" & b=$!\ntrap "kill -TERM $a $b" TERM\nwait\nwait\n',
  );
  program('scontrol', '#!/bin/sh\necho "$*" >> "$SCONTROL_LOG"\n');
  const project = folder();
  await runCli(['train', 'config.yaml', '--workers', '1', '-q'], { cwd: project });
  alone = summaryOf(project);
});
afterEach(async () => {
  for (const worker of workers.splice(0)) {
    if (worker.exitCode !== null || worker.signalCode !== null) continue;
    const ended = new Promise((resolve) => worker.once('exit', resolve));
    worker.kill('SIGKILL');
    await ended;
  }
});
afterAll(() => {
  for (const made of folders) rmSync(made, { recursive: true, force: true });
});

const path = (): Record<string, string> => ({ PATH: `${bin}${delimiter}${process.env.PATH}` });

describe('plexus launch', () => {
  it('gives the same bits with a worker a slot, and leaves nothing behind', async () => {
    const project = folder();
    writeFileSync(join(project, 'hosts'), 'localhost slots=2 # this box\n');
    const result = await runCli(['launch', '--hosts', 'hosts', 'config.yaml', '--remote-command', 'plexus'], {
      cwd: project,
      env: path(),
    });
    expect(result.stderr).toMatch(/^\[localhost\/0\] joining job 'default' at nats:\/\/127.0.0.1:\d+: host /m);
    expect(result.stderr).toMatch(/^generation 1: data 2 × pipeline 1, expert 2 on 2 processes, links 1 \w+$/m);
    expect(result.stderr).toMatch(/step 6\/6/);
    expect(result.code).toBe(0);
    expectClean(result);
    expectSame(project);
  });
});

describe('SLURM', () => {
  const slurm = (project: string, more: Record<string, string> = {}) => ({
    ...path(),
    SLURM_JOB_ID: String(process.pid),
    SLURMD_NODENAME: hostname(),
    PLEXUS: 'plexus',
    SCONTROL_LOG: join(project, 'scontrol'),
    TMPDIR: project,
    ...more,
  });
  const batch = (
    project: string,
    args: readonly string[],
    onStderr?: (text: string, kill: (signal: NodeJS.Signals) => void) => void,
  ) =>
    runCli([join(root, 'configs', 'cluster', 'slurm.sbatch'), 'config.yaml', ...args], {
      cwd: project,
      program: ['bash'],
      env: slurm(project),
      ...(onStderr ? { onStderr } : {}),
    });

  it('trains on the nodes of the job', async () => {
    const project = folder();
    const result = await batch(project, ['--workers', '2']);
    expect(result.stdout, result.stderr).toMatch(/✓ slurm-\d+: 6 steps/);
    expect(result.code).toBe(0);
    expectSame(project, `slurm-${process.pid}`);
  });

  it('writes a checkpoint before the time limit, and goes on with it in the next turn', async () => {
    const project = folder();
    let sent = false;
    const long = ['--set', 'train.eval_every=0', '--set', 'train.checkpoint_every=0'];
    const stopped = await batch(project, [...long, '--set', 'train.steps=100000'], (text, kill) => {
      if (sent || !/step +\d+\/100000/.test(text)) return;
      sent = true;
      // SLURM's --signal=B:TERM reaches the batch script only.
      kill('SIGTERM');
    });
    expect(stopped.stdout, stopped.stderr).toMatch(/stopped after \d+ steps; checkpoint/);
    expect(stopped.code).toBe(143);
    expect(readFileSync(join(project, 'scontrol'), 'utf8')).toBe(`requeue ${process.pid}\n`);
    const done = Number(/stopped after (\d+) steps/.exec(stopped.stdout)?.[1]);
    const again = await batch(project, [...long, '--set', `train.steps=${done + 2}`]);
    expect(again.stderr).toMatch(new RegExp(`continuing after step ${done} of ${done + 2}`));
    expect(again.code).toBe(0);
  });
});

describe('nats-server.conf', () => {
  it('lets workers and a coordinator with their own logins train', async () => {
    const project = folder();
    const passwords = {
      COORDINATOR_PASSWORD: 'coordinators-own',
      WORKER_PASSWORD: 'workers-own',
      CLIENT_PASSWORD: 'clients-own',
    };
    Object.assign(process.env, passwords);
    const file = join(project, 'nats-server.conf');
    const text = readFileSync(join(root, 'configs', 'cluster', 'nats-server.conf'), 'utf8');
    writeFileSync(file, text.replace('store_dir: "./nats"', `store_dir: ${JSON.stringify(join(project, 'js'))}`));
    const server = await startNatsServer({ configFile: file });
    try {
      const worker = () => {
        const child = spawn(
          process.execPath,
          [cliPath, 'worker', '--nats', server.url, '--nats-user', 'worker', '--once'],
          {
            cwd: project,
            env: { ...process.env, NODE_OPTIONS: '', PLEXUS_NATS_PASSWORD: passwords.WORKER_PASSWORD },
            stdio: ['ignore', 'ignore', 'pipe'],
          },
        );
        workers.push(child);
        let said = '';
        child.stderr.setEncoding('utf8').on('data', (piece: string) => {
          said += piece;
        });
        return new Promise<{ code: number | null; said: string }>((resolve) =>
          child.once('close', (code) => resolve({ code, said })),
        );
      };
      const ended = [worker(), worker()];
      // Through the server, where every subject is checked.
      const args = ['--nats', server.url, '--nats-user', 'coordinator', '--set', 'comm.data=nats'];
      const env = { PLEXUS_NATS_PASSWORD: passwords.COORDINATOR_PASSWORD };
      const result = await runCli(['train', 'config.yaml', ...args], { cwd: project, env });
      expectClean(result);
      expect(result.stderr).toMatch(/on 2 processes, links 1 nats/);
      expect(result.code).toBe(0);
      expectSame(project);
      for (const end of ended) {
        const { code, said } = await end;
        expect(code, said).toBe(0);
        expect(said).not.toMatch(/permission/i);
      }
      const status = await runCli(['ps', ...args.slice(0, 4), '--json'], { env });
      expect(JSON.parse(status.stdout)).toMatchObject({
        job: 'default',
        record: { status: 'completed' },
        leader: null,
      });
    } finally {
      await server.stop();
      for (const name of Object.keys(passwords)) delete process.env[name];
    }
  });
});
