import { readFileSync } from 'node:fs';

/** Version of this package. The coordinator and the agents of a job must be of the same one. */
export const PLEXUS_VERSION: string = (
  JSON.parse(readFileSync(new URL('../../../package.json', import.meta.url), 'utf8')) as { version: string }
).version;
