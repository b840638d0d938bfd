import { existsSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { type ExitCode, exitCodes, UsageError } from './exit.ts';
import { configTemplate, moduleTemplate } from './templates.ts';
import { type Streams, shownPath } from './terminal.ts';

/** Options of `plexus init`. */
export interface InitOptions {
  readonly force?: boolean;
}

/** `plexus init [DIR]`: writes a commented config and a module file that train as they are. */
export async function init(dir: string, options: InitOptions, streams: Streams): Promise<ExitCode> {
  const files = { 'config.yaml': configTemplate, 'my-model.ts': moduleTemplate };
  const taken = Object.keys(files).filter((name) => existsSync(join(dir, name)));
  if (taken.length > 0 && !options.force)
    throw new UsageError(
      `${taken.map((name) => `'${join(dir, name)}'`).join(' and ')} exist${taken.length > 1 ? '' : 's'} already: choose another folder, or --force to overwrite`,
    );
  await mkdir(dir, { recursive: true });
  for (const [name, text] of Object.entries(files)) {
    await writeFile(join(dir, name), text);
    streams.out.write(`${join(dir, name)}\n`);
  }
  const config = shownPath(resolve(dir, 'config.yaml'));
  streams.err.write(`\nNext:\n  plexus plan ${config}\n  plexus train ${config}\n`);
  return exitCodes.ok;
}
