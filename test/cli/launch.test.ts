import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { Writable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { ClusterCalls } from '../../src/cli/cluster-calls.ts';
import { type LaunchOptions, launch } from '../../src/cli/launch.ts';
import { describeEnd, RemoteWorker, remoteScript } from '../../src/cli/remote.ts';
import type { ClusterOptions, RunEvent } from '../../src/coordinator/index.ts';
import { tinyConfig } from './tiny-run.ts';

const folder = mkdtempSync(join(tmpdir(), 'plexus-launch-test-'));
const file = (name: string, text: string, mode = 0o644): string => {
  writeFileSync(join(folder, name), text);
  chmodSync(join(folder, name), mode);
  return join(folder, name);
};
const path = process.env.PATH;
let hosts: string;
let config: string;
beforeAll(() => {
  mkdirSync(join(folder, 'bin'));
  // Runs the command here, as the host's login shell would, and remembers how it was called.
  file(
    'bin/ssh',
    `#!/bin/sh
while [ "\${1#-}" != "$1" ]; do case "$1" in -o) shift;; esac; shift; done
host=$1; shift
echo "$host $*" >> ${folder}/calls
[ "$host" = down ] && { echo "ssh: connect to host down port 22: Connection refused" >&2; exit 255; }
exec sh -c "$*"
`,
    0o755,
  );
  // A worker: says what it got, leaves its pid and a child of its own, and ends in good order when it is told to.
  file(
    'worker.sh',
    `#!/bin/sh
echo "joined $* gpu=$CUDA_VISIBLE_DEVICES extra=$EXTRA in $(pwd) at $PLEXUS_NATS"
sleep 1000 & child=$!
echo $$ $child >> ${folder}/pids
trap 'echo leaving; exit 0' TERM
wait $child
`,
    0o755,
  );
  hosts = file('hosts', 'node1 slots=2\nme@node2\n');
  file('corpus.txt', 'call me ishmael\n'.repeat(200));
  config = file('config.yaml', tinyConfig);
  process.env.PATH = `${join(folder, 'bin')}${delimiter}${path}`;
});
afterAll(() => {
  process.env.PATH = path;
  rmSync(folder, { recursive: true, force: true });
});

function collector() {
  let text = '';
  const stream = new Writable({
    write(chunk, _, done) {
      text += String(chunk);
      done();
    },
  });
  return { stream, text: () => text };
}

const isAlive = (pid: number): boolean => {
  try {
    process.kill(pid, 0);
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false;
  }
};
const pids = (): number[] => readFileSync(join(folder, 'pids'), 'utf8').trim().split(/\s+/).map(Number);

/** Waits for a condition that another process brings about. */
async function until(what: string, check: () => boolean): Promise<void> {
  const end = performance.now() + 20_000;
  while (!check()) {
    if (performance.now() > end) throw new Error(`not within 20 s: ${what}`);
    await sleep(20);
  }
}

const finished = (status: 'completed' | 'interrupted'): RunEvent => ({
  type: 'finished',
  status,
  runId: 'r',
  dir: folder,
  step: 1,
  summary: null,
  checkpoint: null,
});

/** Launches with the library's run replaced. */
async function run(
  options: Partial<LaunchOptions>,
  lead: (signal: AbortSignal, options: ClusterOptions) => AsyncIterable<RunEvent>,
) {
  rmSync(join(folder, 'pids'), { force: true });
  rmSync(join(folder, 'calls'), { force: true });
  const [out, err] = [collector(), collector()];
  const calls = { trainCluster: (_, given) => lead(given.signal as AbortSignal, given) } as Partial<ClusterCalls>;
  const outcome = await launch(
    config,
    { set: [], hosts, remoteCommand: join(folder, 'worker.sh'), ssh: 'ssh -o BatchMode=yes', ...options },
    { out: out.stream, err: err.stream },
    async () => calls as ClusterCalls,
  ).then(
    (code) => ({ code, error: null }),
    (error: Error) => ({ code: null, error }),
  );
  return { ...outcome, out: out.text(), err: err.text() };
}

const threeThere = () => existsSync(join(folder, 'pids')) && pids().length === 6;

describe('plexus launch', () => {
  it('starts a worker a slot, leads the run, and ends them all', async () => {
    let servers: unknown;
    const result = await run({ device: 'cuda', env: ['EXTRA=a b'], job: 'night' }, async function* (_, options) {
      servers = options.nats?.servers;
      await until('three workers', threeThere);
      yield finished('completed');
    });
    expect(result).toMatchObject({ code: 0, error: null });
    expect(servers).toEqual([expect.stringMatching(/^nats:\/\/127.0.0.1:\d+$/)]);
    for (const [label, gpu] of [
      ['node1/0', 0],
      ['node1/1', 1],
      ['me@node2', 0],
    ])
      expect(result.err).toMatch(
        new RegExp(
          `^\\[${label}\\] joined worker --device cuda --job night gpu=${gpu} extra=a b in ${process.cwd()} at nats://[\\w-]{24}@[\\w.:]+$`,
          'm',
        ),
      );
    // The login is in no command line, of ssh or of the worker.
    const secret = /nats:\/\/([\w-]{24})@/.exec(result.err)?.[1] as string;
    expect(readFileSync(join(folder, 'calls'), 'utf8')).not.toContain(secret);
    expect(pids().filter(isAlive)).toEqual([]);
    expect(result.err.match(/leaving/g)).toHaveLength(3);
  });

  it('is JSON throughout with --json', async () => {
    const result = await run({ json: true }, async function* () {
      await until('three workers', threeThere);
      yield finished('completed');
    });
    const events = result.out
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line));
    expect(
      events
        .filter(({ type, line }) => type === 'log' && line.startsWith('joined'))
        .map(({ host }) => host)
        .sort(),
    ).toEqual(['me@node2', 'node1', 'node1']);
    expect(result.err).toBe('');
  });

  it('stops, and names the host, when a worker cannot be started', async () => {
    const down = file('hosts-down', 'node1\ndown\n');
    const result = await run({ hosts: down }, async function* (signal) {
      await new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }));
      yield finished('interrupted');
    });
    expect(result.error?.name).toBe('LaunchError');
    expect(result.error?.message).toMatch(
      /^down: ssh could not connect or log in.*\n +ssh: connect to host down port 22: Connection refused$/,
    );
    await until(
      'the other worker to end',
      () => !existsSync(join(folder, 'pids')) || pids().every((pid) => !isAlive(pid)),
    );
  });

  it('goes on without it if --min-workers allows', async () => {
    const down = file('hosts-down', 'node1\ndown\n');
    const result = await run({ hosts: down, minWorkers: 1 }, async function* (signal) {
      await until('one worker', () => existsSync(join(folder, 'pids')));
      await sleep(300);
      yield finished(signal.aborted ? 'interrupted' : 'completed');
    });
    expect(result).toMatchObject({ code: 0, error: null });
    expect(result.err).toMatch(/^! down: ssh could not connect/m);
  });

  it.each([
    [
      { remoteCommand: '/nowhere/plexus' },
      /node1: '\/nowhere\/plexus worker' was not found there: install Plexus in the same folder/,
    ],
    [{ remoteDir: '/nowhere' }, /node1: there is no folder '\/nowhere' there: name one with --remote-dir/],
    [{ remoteCommand: 'echo wrong version; exit 3;' }, /node1: the worker ended with exit code 3\n +wrong version/],
  ])('%j is explained', async (options, message) => {
    const one = file('hosts-one', 'node1\n');
    const result = await run({ hosts: one, ...options }, async function* (signal) {
      await new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }));
      yield finished('interrupted');
    });
    expect(result.error?.message).toMatch(message);
  });

  it('ends the workers when the run fails', async () => {
    // biome-ignore lint/correctness/useYield: it fails before its first event
    const result = await run({}, async function* () {
      await until('three workers', threeThere);
      throw Object.assign(new Error('the run failed'), { name: 'RunFailure' });
    });
    expect(result.error?.message).toBe('the run failed');
    expect(pids().filter(isAlive)).toEqual([]);
  });

  it('refuses variables that are not set', async () => {
    const result = await run({ env: ['PLEXUS_NOT_SET_ANYWHERE'] }, () => {
      throw new Error('must not be started');
    });
    expect(result.error?.message).toMatch(/--env PLEXUS_NOT_SET_ANYWHERE: it is not set here/);
  });
});

describe('a remote command', () => {
  const command = (more: object = {}) => ({
    host: 'node1',
    ssh: ['ssh'],
    command: join(folder, 'worker.sh'),
    dir: folder,
    env: {},
    secret: { name: 'PLEXUS_NATS', value: 'nats://x' },
    onLine: () => undefined,
    ...more,
  });

  it('ends, with its children, when the connection breaks', async () => {
    rmSync(join(folder, 'pids'), { force: true });
    const lines: string[] = [];
    const remote = new RemoteWorker(command({ onLine: (line: string) => lines.push(line) }));
    await until(
      'the worker',
      () => lines.some((line) => line.startsWith('joined')) && existsSync(join(folder, 'pids')),
    );
    // What a connection that is gone looks like from there: the end of standard input.
    (remote as unknown as { end(ms: number): Promise<void> }).end(20_000);
    await remote.ended;
    expect(pids().filter(isAlive)).toEqual([]);
  });

  it('gets its settings whatever they contain', async () => {
    const lines: string[] = [];
    const value = `it's "$HOME" \`id\`; echo \\ no`;
    const remote = new RemoteWorker(
      command({
        command: 'printenv EXTRA PLEXUS_NATS',
        env: { EXTRA: value },
        onLine: (line: string) => lines.push(line),
      }),
    );
    expect(await remote.ended).toMatchObject({ code: 0 });
    expect(lines).toEqual([value, 'nats://x']);
  });

  it('is one line, and says nothing of the secret', () => {
    const script = remoteScript(command({ secret: { name: 'PLEXUS_NATS', value: 's3cret' } }));
    expect(script).not.toMatch(/\n|s3cret/);
  });

  it('that is killed says so', () => {
    const end = { code: null, signal: 'SIGKILL' as const, tail: [] };
    expect(describeEnd('h', command(), end)).toBe('h: the worker ended with SIGKILL');
  });
});
