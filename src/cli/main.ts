#!/usr/bin/env node
import { readFileSync } from 'node:fs';
import { Command, CommanderError } from 'commander';
import { collect, decimal, wholeNumber } from './arguments.ts';
import { addClusterCommands, addRunFlags } from './cluster-commands.ts';
import { type ExitCode, exitCodes } from './exit.ts';
import { addNatsFlags, wantsNats } from './nats-flags.ts';
import { describeError } from './report.ts';
import { isInteractive, processStreams, type Streams } from './terminal.ts';

/** Version of the package that this file belongs to. */
function packageVersion(): string {
  const manifest = readFileSync(new URL('../../package.json', import.meta.url), 'utf8');
  return (JSON.parse(manifest) as { version: string }).version;
}

/** Builds the command line. Each command's code is loaded only when it is the one to run. */
function commandLine(streams: Streams, done: (code: ExitCode) => void): Command {
  const program = new Command('plexus')
    .description('Distributed training for modular neural networks: the same bits on every mesh.')
    .version(packageVersion(), '-V, --version')
    .option('-v, --verbose', 'show whole stacks, and everything that followed from a failure')
    .showHelpAfterError('(plexus --help lists the commands and options)')
    .exitOverride()
    .configureOutput({
      writeOut: (text) => streams.out.write(text),
      writeErr: (text) => streams.err.write(text),
    });
  program.addHelpText(
    'after',
    '\nExit codes: 0 done, 1 run failed, 2 usage or config, 3 data or checkpoint, 4 unfit (doctor), 5 no NATS server, 70 internal, 130 or 143 interrupted',
  );

  const calls = async () => (await import('./cluster-calls.ts')).clusterCalls();
  const SET = ['--set <key=value>', 'set a key of the config, e.g. parallel.data=2 (repeatable)', collect] as const;
  const sub = (name: string, description: string): Command =>
    program
      .command(name)
      .description(description)
      // Also after the command's name, where people type it.
      .option('-v, --verbose', 'show whole stacks, and everything that followed from a failure');

  addNatsFlags(
    addRunFlags(
      sub('train', 'train what a config describes, and report the result').argument(
        '[config]',
        'YAML file, e.g. configs/quickstart.yaml; with --resume the config of the run if left out',
      ),
    ),
  ).action(async (config, options) => {
    const onThreads = (config ?? options.resume) !== undefined && !wantsNats(options);
    const begun = onThreads ? (await import('./begin.ts')).startFirstThread() : null;
    try {
      done(await (await import('./train.ts')).train(config, { set: [], ...options }, streams, calls, { begun }));
    } finally {
      await begun?.end();
    }
  });

  sub('plan', 'show what each rank would hold and do, without training')
    .argument('<config>', 'YAML file')
    .option(...SET)
    .option('--workers <n>', 'use this many workers: scales parallel.data', wholeNumber(1))
    .option('--programs', 'print every instruction of every rank')
    .option('--json', 'print the plan as JSON')
    .action(async (config, options) =>
      done(await (await import('./plan.ts')).plan(config, { set: [], ...options }, streams)),
    );

  sub('eval', 'evaluate the newest checkpoint of a run on a whole split, or task by task')
    .argument('<run>', 'run folder or id')
    .option('--split <name>', "train, validation or test; the run's train.eval_split if left out")
    .option('--step <n>', 'checkpoint of this step instead of the newest', wholeNumber(0))
    .option(...SET)
    .option('--json', 'print the figures as one JSON object')
    .action(async (run, options) =>
      done(await (await import('./eval.ts')).evaluate(run, { set: [], ...options }, streams)),
    );

  sub('inspect', 'show what a run has found out about its model')
    .argument('<run>', 'run folder or id')
    .option('--drift', 'how much each module changed between and within the tasks of a continual run')
    .option('--json', 'print it as one JSON object')
    .action(async (run, options) => done(await (await import('./inspect.ts')).inspect(run, options, streams)));

  sub('generate', 'sample text from a run of a language model')
    .argument('<run>', 'run folder or id')
    .option('--prompt <text>', 'text to continue')
    .option('--tokens <n>', 'tokens to sample', wholeNumber(1), 200)
    .option('--temperature <x>', '0 takes the likeliest token, 1 samples from the model as it is', decimal(0))
    .option('--top-k <k>', 'sample among the k likeliest tokens; 0 among all', wholeNumber(0))
    .option('--seed <n>', 'seed of the sampling', wholeNumber(0))
    .option('--step <n>', 'checkpoint of this step instead of the newest', wholeNumber(0))
    .action(async (run, options) => done(await (await import('./generate.ts')).generate(run, options, streams)));

  sub('doctor', 'show versions, engines, devices, and what each missing part would give')
    .option('--json', 'print the findings as one JSON object')
    .action(async (options) => done(await (await import('./doctor.ts')).doctor(options, streams)));

  sub('init', 'write a commented config and a module file to start from')
    .argument('[dir]', 'folder to write to', '.')
    .option('--force', 'overwrite files that exist')
    .action(async (dir, options) => done(await (await import('./init.ts')).init(dir, options, streams)));

  addClusterCommands({ streams, done, calls, sub });

  return program;
}

/** Runs a command line and returns its exit code. */
export async function main(argv: readonly string[], streams: Streams): Promise<ExitCode> {
  let code: ExitCode = exitCodes.ok;
  const program = commandLine(streams, (result) => {
    code = result;
  });
  try {
    await program.parseAsync([...argv], { from: 'user' });
    return code;
  } catch (error) {
    // Commander has printed its message (or the help that was asked for) already.
    if (error instanceof CommanderError) return error.exitCode === 0 ? exitCodes.ok : exitCodes.usage;
    return fail(error, argv, streams);
  }
}

function fail(error: unknown, argv: readonly string[], streams: Streams): ExitCode {
  const verbose = argv.includes('--verbose') || argv.includes('-v');
  const { text, code } = describeError(error, { verbose, colour: isInteractive(streams.err) });
  streams.err.write(`${text}\n`);
  return code;
}

// Deep enough to reach a user's module below the layers of tfjs and of the engine.
Error.stackTraceLimit = 50;
const streams = processStreams();
const argv = process.argv.slice(2);
// A promise that nobody awaits is a fault of Plexus: say so, and do not go on with a run that is half broken.
process.on('unhandledRejection', (error) => {
  fail(error, argv, streams);
  process.exit(exitCodes.internal);
});
process.exitCode = await main(argv, streams);
