import { createHash } from 'node:crypto';
import { access, mkdir, writeFile } from 'node:fs/promises';
import { basename, extname, join } from 'node:path';
import type { Plugin } from 'esbuild';
import { INSTANCE_MODULES, INSTANCE_SYMBOL } from './instance.ts';

/** A user's module file as one JavaScript file that any worker can import. */
export interface BundledFile {
  /** Absolute path of the `.mjs`. */
  readonly bundle: string;
  /** Whether it imports tfjs-layers, which must be loaded before it. */
  readonly usesLayers: boolean;
}

/**
 * Bundles a `.ts` or `.js` file and what it imports into `outDir`. Imports of plexus and tfjs become look-ups of the
 * instances that the importing thread already runs, because two copies of tfjs would not see each other's tensors. The
 * name carries a hash of the content, so that a changed file is never served from an import cache.
 * @throws Error with file, line and reason if it cannot be read or compiled.
 */
export async function bundleModuleFile(path: string, outDir: string): Promise<BundledFile> {
  await access(path).catch(() => {
    throw new Error(`the model file ${path} does not exist; paths are relative to the config file`);
  });
  const { build } = await import('esbuild');
  const used = new Set<string>();
  const result = await build({
    entryPoints: [path],
    bundle: true,
    write: false,
    // Sources in the map are relative to where the bundle will lie.
    outdir: outDir,
    sourcemap: 'inline',
    format: 'esm',
    platform: 'node',
    target: 'es2022',
    logLevel: 'silent',
    // CommonJS packages inside the bundle may ask for Node's own modules.
    banner: {
      js: "import { createRequire as plexusRequire } from 'node:module'; const require = plexusRequire(import.meta.url);",
    },
    plugins: [instancePlugin(used)],
  }).catch(
    (error: {
      errors?: { text: string; location: { file: string; line: number; column: number } | null }[];
      message: string;
    }) => {
      const details = (error.errors ?? []).map(({ text, location }) =>
        location ? `${location.file}:${location.line}:${location.column + 1}: ${text}` : text,
      );
      throw new Error(`the model file ${path} could not be compiled:\n  ${details.join('\n  ') || error.message}`, {
        cause: error,
      });
    },
  );
  const code = result.outputFiles[0]?.contents as Uint8Array;
  const hash = createHash('sha256').update(code).digest('hex').slice(0, 12);
  const bundle = join(outDir, `${basename(path, extname(path))}-${hash}.mjs`);
  await mkdir(outDir, { recursive: true });
  await writeFile(bundle, code);
  return { bundle, usesLayers: used.has('@tensorflow/tfjs-layers') || used.has('@tensorflow/tfjs') };
}

function instancePlugin(used: Set<string>): Plugin {
  return {
    name: 'plexus-instance',
    setup(build) {
      build.onResolve({ filter: /^(plexus|@tensorflow\/tfjs)(-|\/|$)/ }, ({ path }) => {
        if (!path.startsWith('plexus') && !INSTANCE_MODULES.includes(path)) return null;
        if (!INSTANCE_MODULES.includes(path))
          return {
            errors: [
              { text: `"${path}" cannot be imported by a model file; these can: ${INSTANCE_MODULES.join(', ')}` },
            ],
          };
        used.add(path);
        return { path, namespace: 'plexus-instance' };
      });
      build.onLoad({ filter: /.*/, namespace: 'plexus-instance' }, ({ path }) => ({
        contents: `module.exports = globalThis[Symbol.for(${JSON.stringify(INSTANCE_SYMBOL)})](${JSON.stringify(path)});`,
        loader: 'js',
      }));
    },
  };
}
