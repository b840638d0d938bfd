/**
 * Cutting text into pieces that byte-pair merges never cross: words with the space or apostrophe before them, numbers,
 * runs of punctuation, runs of white space. Follows the idea of GPT-2's pattern (Radford et al. 2019) but works on bytes,
 * so that any input, valid UTF-8 or not, is covered exactly.
 */

/** Bounds the quadratic merge loop on input without spaces. */
const MAX_PIECE = 128;

const SPACE = 0;
const LETTER = 1;
const DIGIT = 2;
const OTHER = 3;

// Kinds of first bytes: those above, whatever byte follows, and two for which that decides.
const E2 = 4;
const E3 = 5;

const KIND = Uint8Array.from({ length: 256 }, (_, byte) => {
  if (byte >= 128) return byte === 0xc2 ? OTHER : byte === 0xe2 ? E2 : byte === 0xe3 ? E3 : LETTER;
  const char = String.fromCharCode(byte);
  if (/\s/.test(char)) return SPACE;
  if (/[A-Za-z]/.test(char)) return LETTER;
  return /[0-9]/.test(char) ? DIGIT : OTHER;
});

/**
 * Class of a character by the kind of its first byte (times 256) and the byte after that. Bytes from 128 on count as
 * letters, except where they begin Latin-1 punctuation (C2), general punctuation and symbols (E2 80 to E2 AF) or CJK
 * punctuation (E3 80).
 */
const CLASS = Uint8Array.from({ length: 6 * 256 }, (_, at) => {
  const kind = at >> 8;
  const next = at & 255;
  if (kind === E2) return next >= 0x80 && next <= 0xaf ? OTHER : LETTER;
  if (kind === E3) return next === 0x80 ? OTHER : LETTER;
  return kind;
});

/** Class of the character at `at`: looked up, since a branch that is rarely taken makes engines compile again. */
function classAt(bytes: Uint8Array, at: number): number {
  const next = at + 1 < bytes.length ? (bytes[at + 1] as number) : 0;
  return CLASS[256 * (KIND[bytes[at] as number] as number) + next] as number;
}

/** Bytes that the character at `at` takes, which is of class OTHER; characters of other classes count byte by byte. */
function widthAt(bytes: Uint8Array, at: number): number {
  const byte = bytes[at] as number;
  if (byte < 128) return 1;
  return Math.min(byte === 0xc2 ? 2 : 3, bytes.length - at);
}

/** Width of an apostrophe (ASCII or U+2019) at `at`, or 0. */
function apostropheAt(bytes: Uint8Array, at: number): number {
  if (bytes[at] === 0x27) return 1;
  return bytes[at] === 0xe2 && bytes[at + 1] === 0x80 && bytes[at + 2] === 0x99 ? 3 : 0;
}

/** End (exclusive) of the piece that starts at `start`; always after `start`. */
export function pieceEnd(bytes: Uint8Array, start: number): number {
  const limit = Math.min(bytes.length, start + MAX_PIECE);
  let at = start;
  if (classAt(bytes, at) === SPACE) {
    while (at < limit && classAt(bytes, at) === SPACE) at++;
    const run = at - start;
    // The last space of a run belongs to the word that follows.
    if (at === limit || bytes[at - 1] !== 0x20) return at;
    if (run > 1) return at - 1;
  }
  const apostrophe = apostropheAt(bytes, at);
  if (apostrophe > 0 && at === start && at + apostrophe < limit && classAt(bytes, at + apostrophe) === LETTER)
    at += apostrophe;
  const cls = classAt(bytes, at);
  if (cls === OTHER) while (at < limit && classAt(bytes, at) === OTHER) at += widthAt(bytes, at);
  else while (at < limit && classAt(bytes, at) === cls) at++;
  return Math.max(start + 1, Math.min(at, limit));
}
