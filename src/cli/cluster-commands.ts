import type { Command } from 'commander';
import { collect, decimal, slotCount, wholeNumber } from './arguments.ts';
import type { ClusterCalls } from './cluster-calls.ts';
import type { ExitCode } from './exit.ts';
import { addNatsFlags } from './nats-flags.ts';
import type { Streams } from './terminal.ts';

/** What the registration of a command needs. */
export interface CommandSetting {
  readonly streams: Streams;
  readonly done: (code: ExitCode) => void;
  readonly calls: () => Promise<ClusterCalls>;
  /** Makes a command with the flags that all have. */
  readonly sub: (name: string, description: string) => Command;
}

/** Flags of commands that run a config with workers elsewhere. */
export function addRunFlags(command: Command): Command {
  return command
    .option('--set <key=value>', 'set a key of the config, e.g. parallel.data=2 (repeatable)', collect)
    .option('--resume <run>', 'continue a run (folder or id) from its newest checkpoint, on any mesh')
    .option('--workers <n>', 'use this many ranks: scales parallel.data', wholeNumber(1))
    .option('--min-workers <n>', 'begin, and go on, with no fewer ranks than this (over NATS)', wholeNumber(1))
    .option('--max-workers <n>', 'use no more ranks than this (over NATS)', wholeNumber(1))
    .option('--min-clients <n>', 'begin with no fewer federated clients than this (over NATS)', wholeNumber(1))
    .option('--standby', 'wait until nobody leads the job, then take over (over NATS)')
    .option('--json', 'print one JSON object a line on standard output, nothing for people')
    .option('-q, --quiet', 'no progress, only the summary');
}

const JSON_FLAG = ['--json', 'print JSON on standard output'] as const;

/** Registers the commands for runs on several processes and machines. */
export function addClusterCommands({ streams, done, calls, sub }: CommandSetting): void {
  addNatsFlags(
    sub('worker', 'join a job and run ranks of it, until stopped')
      .option(
        '--slots <n>',
        "ranks that it can run at a time; 'auto' is one a GPU with --device cuda (default: 1)",
        slotCount,
      )
      .option(
        '--device <name>',
        'cpu, cuda (a GPU for each slot), cuda:N, webgpu, …; instead of engine.device of the config',
      )
      .option('--listen <host:port>', 'address for direct links from other workers (default: all, any free port)')
      .option('--lease <seconds>', 'silence after which it counts as dead (default: 5)', decimal(0.5))
      .option('--once', 'end when the job has ended, instead of waiting for the next')
      .option('--name <name>', 'name of this worker in `plexus ps` (default: made of the host and a random part)')
      .option(...JSON_FLAG),
  ).action(async (options) => done(await (await import('./worker.ts')).worker(options, streams, calls)));

  addNatsFlags(
    sub('client', 'take part in federated runs with data that stay here, until stopped')
      .option(
        '--data <path>',
        'CSV file, folder of IDX files, text; or the name of the dataset of the job, with --part',
      )
      .option('--part <k/n>', 'only the part of client k of n, as a simulation would share the data out: for trying it')
      .option('--name <name>', "name in the server's messages (default: made of the host and the data)")
      .option('--allow <file>', 'YAML file of what a server may ask for (default: built-in models and limits)')
      .option('--state <dir>', 'folder of its identity and of what it keeps (default: below ~/.local/state/plexus)')
      .option('--device <name>', 'cpu, cuda:N, webgpu, …: where it computes (default: cpu)')
      .option('--once', 'end when the run has ended, instead of waiting for the next')
      .option('--json', 'print its lines as JSON on standard output'),
  ).action(async (options) => done(await (await import('./client.ts')).client(options, streams)));

  addNatsFlags(
    addRunFlags(
      sub('up', 'start a NATS server if none answers, say how workers join; with a config, lead the run too')
        .argument('[config]', 'YAML file to train; without one the server stays until it is stopped')
        .option('--port <n>', 'port of the NATS server (default: 4222)', wholeNumber(1, 65_535))
        .option('--listen <address>', 'address that it listens on (default: 0.0.0.0, all)')
        .option('--store <dir>', "folder of the server's files (default: ~/.local/state/plexus/nats-PORT)")
        .option('--ws <port>', 'listen for clients over WebSocket as well', wholeNumber(1, 65_535))
        .option(
          '--token <token>',
          'token that workers need (default: a generated one, unless only this machine can connect)',
        )
        .option('--no-token', 'let everybody in who reaches the port'),
    ),
  ).action(async (config, options) =>
    done(await (await import('./up.ts')).up(config, { set: [], ...options }, streams, calls)),
  );

  addNatsFlags(
    addRunFlags(
      sub('launch', 'train with a worker for each slot of a hostfile, started over ssh')
        .argument('[config]', 'YAML file to train')
        .option('--hosts <file>', "machines, one a line: 'node1 slots=4'")
        .option('--device <name>', 'device of the workers; cuda gives each a GPU of its own')
        .option('--remote-command <command>', 'how Plexus is started there (default: npx plexus)')
        .option('--remote-dir <dir>', 'folder to start it in (default: the present one)')
        .option('--env <name=value>', 'variable for the workers; NAME alone takes its value here (repeatable)', collect)
        .option('--ssh <command>', "ssh and its options, e.g. 'ssh -p 2222 -o BatchMode=yes'")
        .option('--address <host>', 'address of this machine that the workers use (default: found out)')
        .option(
          '--port <n>',
          'port of the NATS server that is started here (default: a free one)',
          wholeNumber(1, 65_535),
        ),
    ),
  ).action(async (config, options) =>
    done(await (await import('./launch.ts')).launch(config, { set: [], ...options }, streams, calls)),
  );

  addNatsFlags(
    sub('ps', 'show who leads a job, how far it is, its workers and their links').option(...JSON_FLAG),
  ).action(async (options) => done(await (await import('./ps.ts')).ps(options, streams, calls)));

  addNatsFlags(
    sub('logs', 'show the newest lines that the processes of a job wrote')
      .option('-f, --follow', 'go on with new ones until interrupted')
      .option('-n, --lines <n>', 'at most this many of the older ones', wholeNumber(0), 100)
      .option(...JSON_FLAG),
  ).action(async (options) => done(await (await import('./logs.ts')).logs(options, streams, calls)));

  addNatsFlags(
    sub('stop', "end a job's run after its step, with a checkpoint")
      .argument('[job]', 'name of the job, instead of --job')
      .option('--workers', 'end its workers too, wherever they are')
      .option(...JSON_FLAG),
  ).action(async (job, options) => done(await (await import('./stop.ts')).stop(job, options, streams, calls)));

  addNatsFlags(
    sub('debug', 'show what each rank of a job does, whom it waits for, and who holds up the others')
      .argument('[job]', 'name of the job, instead of --job')
      .option('--last <n>', 'instructions to show of each rank (default: 5)', wholeNumber(0, 64))
      .option(...JSON_FLAG),
  ).action(async (job, options) => done(await (await import('./debug.ts')).debug(job, options, streams, calls)));
}
