import { relative } from 'node:path';
import { stripVTControlCharacters, styleText } from 'node:util';

/** Where a command writes: data to `out`, everything for people to `err`. Injectable for tests. */
export interface Streams {
  readonly out: NodeJS.WritableStream;
  readonly err: NodeJS.WritableStream & { readonly isTTY?: boolean; readonly columns?: number };
}

/**
 * The process' own streams. A reader that went away (`| head`) ends a command that only prints quietly; a command that
 * listens for interrupts is stopped by its listener instead.
 */
export function processStreams(): Streams {
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error;
    if (process.stdout.listenerCount('error') === 1) process.exit(0);
  });
  process.stderr.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error;
  });
  return { out: process.stdout, err: process.stderr };
}

/** Whether to use colour and redrawn lines on a stream: a terminal, not told otherwise by NO_COLOR or TERM=dumb. */
export function isInteractive(stream: Streams['err']): boolean {
  return stream.isTTY === true && !process.env.CI && process.env.TERM !== 'dumb';
}

type Style = Parameters<typeof styleText>[0];

/** Colours text, or returns it as it is. */
export function painter(on: boolean): (style: Style, text: string) => string {
  const active = on && !process.env.NO_COLOR;
  return (style, text) => (active ? styleText(style, text, { validateStream: false }) : text);
}

/** Cuts text to a number of columns, not counting colour codes; colours are dropped where it is cut. */
export function truncate(text: string, columns: number): string {
  const bare = stripVTControlCharacters(text);
  return bare.length <= columns ? text : `${bare.slice(0, Math.max(0, columns - 1))}…`;
}

/** `1.5 GB`, `820 MB`, `12 kB`: decimal units. */
export function formatBytes(bytes: number): string {
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  let value = bytes;
  let unit = 0;
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  return `${unit === 0 || value >= 99.5 ? Math.round(value) : value.toPrecision(2)} ${units[unit]}`;
}

/** `48.2k`, `912`, `1.3M`. */
export function formatCount(value: number): string {
  if (!Number.isFinite(value)) return '–';
  if (value >= 999_500) return `${(value / 1e6).toFixed(1)}M`;
  if (value >= 9_995) return `${(value / 1e3).toFixed(1)}k`;
  return value >= 100 ? String(Math.round(value)) : value.toPrecision(3);
}

/** `0:42`, `12:05`, `3:00:10`. */
export function formatDuration(seconds: number): string {
  if (!Number.isFinite(seconds) || seconds < 0) return '–';
  const whole = Math.round(seconds);
  const two = (n: number): string => String(n).padStart(2, '0');
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return h > 0 ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}

/** A path as a person would type it from here. */
export function shownPath(path: string): string {
  const short = relative(process.cwd(), path);
  return short === '' || short.startsWith('..') ? path : short;
}
