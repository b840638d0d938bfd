import { generateText } from '../coordinator/index.ts';
import '../schedulers/index.ts';
import { type ExitCode, exitCodes } from './exit.ts';
import { isInteractive, painter, type Streams } from './terminal.ts';

/** Options of `plexus generate`. */
export interface GenerateOptions {
  readonly prompt?: string;
  readonly tokens: number;
  readonly temperature?: number;
  readonly topK?: number;
  readonly seed?: number;
  readonly step?: number;
}

/** `plexus generate RUN`: writes the prompt and what follows it to standard output, as it comes. */
export async function generate(run: string, options: GenerateOptions, streams: Streams): Promise<ExitCode> {
  let started = false;
  const begin = (): void => {
    if (!started) streams.out.write(options.prompt ?? '');
    started = true;
  };
  const { warnings } = await generateText(run, {
    ...options,
    onText: (piece) => {
      begin();
      streams.out.write(piece);
    },
  });
  begin();
  streams.out.write('\n');
  const paint = painter(isInteractive(streams.err));
  for (const warning of warnings) streams.err.write(`${paint('yellow', '!')} ${warning}\n`);
  return exitCodes.ok;
}
