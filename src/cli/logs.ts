import { stripVTControlCharacters } from 'node:util';
import type { ClusterCalls } from './cluster-calls.ts';
import { type ExitCode, exitCodes } from './exit.ts';
import { listenForInterrupt } from './interrupt.ts';
import { type NatsFlags, natsPlace } from './nats-flags.ts';
import type { Streams } from './terminal.ts';

/** `plexus logs [-f] [-n LINES]`: the newest lines of all processes of a job. */
export async function logs(
  options: NatsFlags & { readonly json?: boolean; readonly follow?: boolean; readonly lines: number },
  streams: Streams,
  calls: () => Promise<ClusterCalls>,
): Promise<ExitCode> {
  const { nats, job } = natsPlace(options);
  const interrupt = listenForInterrupt(() => undefined);
  try {
    const lines = (await calls()).tailLogs(
      { nats, job },
      { follow: options.follow === true, lines: options.lines, signal: interrupt.signal },
    );
    let empty = true;
    for await (const { at, from, line } of lines) {
      empty = false;
      streams.out.write(
        options.json
          ? `${JSON.stringify({ at, from, line })}\n`
          : `${new Date(at).toISOString().slice(11, 23)} [${plain(from)}] ${plain(line)}\n`,
      );
    }
    if (empty && options.lines > 0 && !interrupt.signal.aborted)
      streams.err.write(
        `the server has no lines of job ${job} yet: it keeps them from when a coordinator first leads it\n`,
      );
    return interrupt.signal.aborted ? interrupt.code() : exitCodes.ok;
  } finally {
    interrupt.dispose();
  }
}

/** Text of another process, without what a terminal would take for orders. */
function plain(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is to go
  return stripVTControlCharacters(text).replace(/[\x00-\x08\x0b-\x1f\x7f]/g, '');
}
