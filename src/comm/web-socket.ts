import { createHash, randomFillSync } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { request as httpRequest, type IncomingMessage } from 'node:http';
import { request as httpsRequest } from 'node:https';
import type { Socket } from 'node:net';
import type { TlsOptions, WsSocketFactory } from '@nats-io/transport-node';

/*
 * The client's end of RFC 6455, as far as the NATS client needs it: Node 20 has no global WebSocket, and the global ones
 * of Node 22 and Deno take no certificates.
 */

const GUID = '258EAFA5-E914-47DA-95CA-C5AB0DC85B11';
const CONTINUATION = 0;
const BINARY = 2;
const CLOSE = 8;
const PING = 9;
const PONG = 10;
/** No message of a NATS server is longer: its frames hold what it writes at once. */
const MAX_FRAME_BYTES = 256 * 2 ** 20;

const NOTHING = Buffer.alloc(0);

/** What the NATS client needs of a WebSocket. */
class ClientSocket {
  binaryType = 'arraybuffer';
  onopen: (() => void) | null = null;
  onmessage: ((event: { data: ArrayBuffer }) => void) | null = null;
  onclose: ((event: { wasClean: boolean; reason: string }) => void) | null = null;
  onerror: ((event: Error) => void) | null = null;
  readonly #abandon: () => void;
  #socket: Socket | null = null;
  #header: Buffer = NOTHING;
  #frame: { readonly opcode: number; readonly data: Uint8Array<ArrayBuffer>; filled: number } | null = null;
  #closed = false;

  /** (It must begin to dial only now: the client waits for ever if its factory rejects.) */
  constructor(url: string, tls: Certificates, timeoutMs: number) {
    this.#abandon = dial(url, tls, timeoutMs, {
      open: (socket, first) => this.#attach(socket, first),
      failed: (error) => {
        if (!this.#closed) this.onerror?.(error);
        this.#end(false, error.message);
      },
    });
  }

  #attach(socket: Socket, first: Buffer): void {
    this.#socket = socket;
    socket.setNoDelay(true);
    socket.on('data', (bytes: Buffer) => this.#arrived(bytes));
    socket.on('error', (error) => {
      if (!this.#closed) this.onerror?.(error);
    });
    socket.on('close', () => this.#end(false, ''));
    this.onopen?.();
    if (first.length > 0) this.#arrived(first);
  }

  /** Takes frames apart; what they carry is copied once, to where the client gets it. */
  #arrived(given: Buffer): void {
    let bytes = given;
    while (bytes.length > 0 && !this.#closed) {
      if (!this.#frame) {
        // (A header has 10 bytes at most.)
        const joined = this.#header.length > 0 ? Buffer.concat([this.#header, bytes]) : bytes;
        const found = frameHeader(joined);
        if (!found) {
          this.#header = Buffer.from(joined);
          return;
        }
        if (found.length > MAX_FRAME_BYTES) {
          this.#socket?.destroy(new Error('the server does not keep to the WebSocket protocol'));
          return;
        }
        this.#frame = { opcode: found.opcode, data: new Uint8Array(found.length), filled: 0 };
        this.#header = NOTHING;
        bytes = joined.subarray(found.headerBytes);
      }
      const frame = this.#frame;
      const count = Math.min(bytes.length, frame.data.length - frame.filled);
      frame.data.set(bytes.subarray(0, count), frame.filled);
      frame.filled += count;
      bytes = bytes.subarray(count);
      if (frame.filled < frame.data.length) return;
      this.#frame = null;
      this.#take(frame.opcode, frame.data);
    }
  }

  #take(opcode: number, data: Uint8Array<ArrayBuffer>): void {
    // (The client reads a stream, so it does not matter where messages of several frames begin and end.)
    if (opcode === BINARY || opcode === CONTINUATION) this.onmessage?.({ data: data.buffer });
    else if (opcode === PING) this.#write(PONG, data);
    else if (opcode === CLOSE) {
      this.#socket?.end();
      this.#end(false, data.length > 2 ? Buffer.from(data.subarray(2)).toString() : 'closed by the server');
    }
  }

  get bufferedAmount(): number {
    return this.#closed || !this.#socket ? 0 : this.#socket.writableLength;
  }

  send(data: ArrayBuffer): void {
    this.#write(BINARY, new Uint8Array(data));
  }

  close(): void {
    if (this.#closed) return;
    const socket = this.#socket;
    if (socket) {
      this.#write(CLOSE, new Uint8Array([0x03, 0xe8])); // 1000: in good order
      socket.end();
      // A server that does not answer the good-bye is left.
      const timer = setTimeout(() => socket.destroy(), 1000);
      timer.unref();
      socket.once('close', () => clearTimeout(timer));
    } else this.#abandon();
    this.#end(true, '');
  }

  #write(opcode: number, payload: Uint8Array): void {
    const socket = this.#socket;
    if (!socket?.writable) return;
    const { length } = payload;
    const header = Buffer.alloc(length < 126 ? 6 : length < 65_536 ? 8 : 14);
    header[0] = 0x80 | opcode;
    if (length < 126) header[1] = 0x80 | length;
    else if (length < 65_536) {
      header[1] = 0x80 | 126;
      header.writeUInt16BE(length, 2);
    } else {
      header[1] = 0x80 | 127;
      header.writeBigUInt64BE(BigInt(length), 2);
    }
    const mask = randomFillSync(header.subarray(header.length - 4));
    socket.cork();
    socket.write(header);
    socket.write(masked(payload, mask));
    socket.uncork();
  }

  #end(wasClean: boolean, reason: string): void {
    if (this.#closed) return;
    this.#closed = true;
    this.onclose?.({ wasClean, reason });
  }
}

/** Reads the header of a server's frame; null while it is not whole. A masked one gets an impossible length. */
function frameHeader(bytes: Buffer): { opcode: number; length: number; headerBytes: number } | null {
  if (bytes.length < 2) return null;
  const opcode = (bytes[0] as number) & 0x0f;
  const short = bytes[1] as number;
  if (short & 0x80) return { opcode, length: Number.POSITIVE_INFINITY, headerBytes: 2 };
  if (short < 126) return { opcode, length: short, headerBytes: 2 };
  if (short === 126) return bytes.length < 4 ? null : { opcode, length: bytes.readUInt16BE(2), headerBytes: 4 };
  return bytes.length < 10 ? null : { opcode, length: Number(bytes.readBigUInt64BE(2)), headerBytes: 10 };
}

/** A copy of the payload with the mask applied, four bytes at a time. */
function masked(payload: Uint8Array, mask: Uint8Array): Uint8Array {
  const { length } = payload;
  const words = new Uint32Array((length + 3) >> 2);
  const bytes = new Uint8Array(words.buffer);
  bytes.set(payload);
  const key = new Uint32Array(Uint8Array.from(mask).buffer)[0] as number;
  for (let i = 0; i < words.length; i++) words[i] = (words[i] as number) ^ key;
  return bytes.subarray(0, length);
}

/** Makes the sockets of `wsconnect`, with the given certificates, and a deadline for each dial. */
export function webSocketFactory(tls: TlsOptions | null, timeoutMs: number): WsSocketFactory {
  return async (url: string) => {
    const socket = new ClientSocket(url, certificates(tls), timeoutMs);
    return { socket: socket as unknown as WebSocket, encrypted: url.startsWith('wss://') };
  };
}

interface Certificates {
  readonly ca?: string;
  readonly cert?: string;
  readonly key?: string;
}

function certificates(tls: TlsOptions | null): Certificates {
  const read = (text: string | undefined, file: string | undefined) => text ?? (file && readFileSync(file, 'utf8'));
  const parts = {
    ca: read(tls?.ca, tls?.caFile),
    cert: read(tls?.cert, tls?.certFile),
    key: read(tls?.key, tls?.keyFile),
  };
  return Object.fromEntries(Object.entries(parts).filter(([, value]) => value)) as Certificates;
}

/** Dials; one of the two is called, never before this returns. The returned function gives up. */
function dial(
  url: string,
  tls: Certificates,
  timeoutMs: number,
  on: { open(socket: Socket, first: Buffer): void; failed(error: Error): void },
): () => void {
  const key = randomFillSync(Buffer.alloc(16)).toString('base64');
  const expected = createHash('sha1')
    .update(key + GUID)
    .digest('base64');
  const options = {
    headers: { Connection: 'Upgrade', Upgrade: 'websocket', 'Sec-WebSocket-Version': '13', 'Sec-WebSocket-Key': key },
    agent: false as const,
  };
  const address = url.replace(/^ws/, 'http');
  const request = url.startsWith('wss://')
    ? httpsRequest(address, { ...options, ...tls })
    : httpRequest(address, options);
  const failed = (error: Error) => {
    clearTimeout(timer);
    on.failed(error);
  };
  const timer = setTimeout(() => request.destroy(new Error(`no answer within ${timeoutMs} ms`)), timeoutMs);
  request.once('error', failed);
  request.once('response', (response) => {
    request.off('error', failed);
    request.on('error', () => undefined); // (It is over: what its socket still has to say does not matter.)
    request.destroy();
    failed(new Error(`unexpected response: HTTP ${response.statusCode} in place of a WebSocket`));
  });
  request.once('upgrade', (response: IncomingMessage, socket: Socket, first: Buffer) => {
    clearTimeout(timer);
    if (response.headers['sec-websocket-accept'] === expected) return on.open(socket, first);
    socket.destroy();
    on.failed(new Error('unexpected response: the answer to the WebSocket key is wrong'));
  });
  request.end();
  return () => request.destroy(new Error('given up'));
}
