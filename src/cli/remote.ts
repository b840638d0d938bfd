import { type ChildProcess, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';

/** A command for another machine. */
export interface RemoteCommand {
  /** As ssh takes it. */
  readonly host: string;
  /** Program and options of ssh before the host. */
  readonly ssh: readonly string[];
  /** Shell command to run there. */
  readonly command: string;
  /** Folder to change to first. */
  readonly dir: string | null;
  readonly env: Readonly<Record<string, string>>;
  /** Exported there as well, but handed over on standard input, where no process list shows it. */
  readonly secret: { readonly name: string; readonly value: string };
  /** A line of the command's output, standard error included. */
  readonly onLine: (line: string) => void;
}

/** How a remote command ended. */
export interface RemoteEnd {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  /** The last lines of its output. */
  readonly tail: readonly string[];
}

const TAIL_LINES = 8;
/** Exit codes of the script below for what goes wrong before the command. */
const NO_INPUT = 96;
const NO_FOLDER = 97;
/** Seconds between SIGTERM and SIGKILL on the other machine. */
const GRACE_S = 10;

/** A word for a POSIX shell. */
export const quote = (text: string): string =>
  /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;

/**
 * The script that runs there, for `sh -c`: one line, without anything that only some shells understand. Its standard input
 * is its lifeline: when that ends, because it is closed here, or this process or the connection is gone, the command and all
 * its children are ended. (A terminal, `ssh -tt`, would do that too, but mixes outputs and ends lines with a carriage return.)
 */
export function remoteScript(command: Pick<RemoteCommand, 'command' | 'dir' | 'env' | 'secret'>): string {
  const exports = Object.entries(command.env).map(([name, value]) => `export ${name}=${quote(value)}`);
  // (Without a shell of its own in between, which could die in its place, where there is no setsid.)
  const simple = /^[\w@%+=:,./ -]+$/.test(command.command);
  return [
    `IFS= read -r ${command.secret.name} || exit ${NO_INPUT}`,
    `export ${command.secret.name}`,
    ...(command.dir === null ? [] : [`cd ${quote(command.dir)} || exit ${NO_FOLDER}`]),
    ...exports,
    // The command's children are in its process group; so one signal reaches them all.
    'own=$(command -v setsid || echo)',
    'exec 3<&0',
    `$own sh -c ${quote(simple ? `exec ${command.command}` : command.command)} </dev/null 3<&- & pid=$!`,
    'end() { kill "-$1" "-$pid" 2>/dev/null || kill "-$1" "$pid"; }',
    `( cat <&3; end TERM; sleep ${GRACE_S}; end KILL ) >/dev/null 2>&1 & watch=$!`,
    'exec 3<&-',
    'wait "$pid"; code=$?',
    'kill "$watch" 2>/dev/null',
    '[ -z "$own" ] || kill -TERM "-$pid" 2>/dev/null',
    'exit "$code"',
  ].join('; ');
}

/** A command that runs on another machine for as long as this process wants it to. */
export class RemoteWorker {
  readonly host: string;
  /** Resolves when ssh has ended. */
  readonly ended: Promise<RemoteEnd>;
  readonly #child: ChildProcess;

  constructor(command: RemoteCommand) {
    this.host = command.host;
    const [program = 'ssh', ...options] = command.ssh;
    const script = `exec sh -c ${quote(remoteScript(command))}`;
    // In a process group of its own: Ctrl-C is for this process, which lets the workers finish their step.
    const child = spawn(program, [...options, command.host, script], {
      stdio: ['pipe', 'pipe', 'pipe'],
      detached: true,
    });
    this.#child = child;
    const tail: string[] = [];
    for (const stream of [child.stdout, child.stderr])
      createInterface(stream).on('line', (line) => {
        if (tail.push(line) > TAIL_LINES) tail.shift();
        command.onLine(line);
      });
    // (A connection that breaks is reported by the end of ssh.)
    child.stdin.on('error', () => undefined);
    child.stdin.write(`${command.secret.value}\n`);
    this.ended = new Promise((resolve) => {
      child.once('error', (error) => resolve({ code: 127, signal: null, tail: [error.message] }));
      child.once('exit', () => child.stdin.end());
      child.once('close', (code, signal) => resolve({ code, signal, tail }));
    });
  }

  /**
   * Ends the command there in good order and waits for it; what has not ended after `deadlineMs` is given up here, and ends
   * there when its connection does.
   */
  async end(deadlineMs = (GRACE_S + 5) * 1000): Promise<void> {
    this.#child.stdin?.end();
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(() => {
        this.#child.kill('SIGKILL');
        resolve();
      }, deadlineMs);
    });
    await Promise.race([this.ended, late]);
    clearTimeout(timer);
  }
}

/** What an ending means, in words that name the host and the likely fix. */
export function describeEnd(
  host: string,
  command: RemoteCommand | Pick<RemoteCommand, 'command' | 'dir'>,
  end: RemoteEnd,
): string {
  const said = end.tail.length > 0 ? `\n${end.tail.map((line) => `    ${line}`).join('\n')}` : '';
  const fail = (what: string): string => `${host}: ${what}${said}`;
  switch (end.code) {
    case 255:
      return fail(
        'ssh could not connect or log in (no password is asked for: set up a key, and try `ssh -o BatchMode=yes HOST true`)',
      );
    case 127:
      return fail(
        `'${command.command}' was not found there: install Plexus in the same folder, or name it with --remote-command`,
      );
    case NO_FOLDER:
      return fail(`there is no folder '${command.dir}' there: name one with --remote-dir`);
    case NO_INPUT:
      return fail('the connection ended before the worker had started');
    default:
      return fail(`the worker ended with ${end.signal ?? `exit code ${end.code}`}`);
  }
}
