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

/** What the NATS client needs of a WebSocket. */
class ClientSocket {
  binaryType = 'arraybuffer';
  onopen: (() => void) | null = null;
  onmessage: ((event: { data: ArrayBuffer }) => void) | null = null;
  onclose: ((event: { wasClean: boolean; reason: string }) => void) | null = null;
  onerror: ((event: Error) => void) | null = null;
  readonly #socket: Socket;
  #unread: Buffer;
  #closed = false;

  constructor(socket: Socket, first: Buffer) {
    this.#socket = socket;
    this.#unread = first;
    socket.setNoDelay(true);
    socket.on('data', (bytes: Buffer) => {
      this.#unread = this.#unread.length > 0 ? Buffer.concat([this.#unread, bytes]) : bytes;
      this.#parse();
    });
    socket.on('error', (error) => {
      if (!this.#closed) this.onerror?.(error);
    });
    socket.on('close', () => this.#end(false, ''));
    // What came with the answer is read when the client has put its handlers in place.
    if (first.length > 0) setImmediate(() => this.#parse());
  }

  get bufferedAmount(): number {
    return this.#closed ? 0 : this.#socket.writableLength;
  }

  send(data: ArrayBuffer): void {
    this.#write(BINARY, new Uint8Array(data));
  }

  close(): void {
    if (this.#closed) return;
    this.#write(CLOSE, new Uint8Array([0x03, 0xe8])); // 1000: in good order
    this.#socket.end();
    // A server that does not answer the good-bye is left.
    setTimeout(() => this.#socket.destroy(), 1000).unref();
    this.#end(true, '');
  }

  #write(opcode: number, payload: Uint8Array): void {
    if (!this.#socket.writable) return;
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
    this.#socket.cork();
    this.#socket.write(header);
    this.#socket.write(masked(payload, mask));
    this.#socket.uncork();
  }

  #parse(): void {
    for (;;) {
      const bytes = this.#unread;
      if (bytes.length < 2 || this.#closed) return;
      const opcode = (bytes[0] as number) & 0x0f;
      let length = (bytes[1] as number) & 0x7f;
      let at = 2;
      if (length === 126) {
        if (bytes.length < 4) return;
        length = bytes.readUInt16BE(2);
        at = 4;
      } else if (length === 127) {
        if (bytes.length < 10) return;
        length = Number(bytes.readBigUInt64BE(2));
        at = 10;
      }
      if ((bytes[1] as number) & 0x80 || length > MAX_FRAME_BYTES) {
        this.#socket.destroy(new Error('the server does not keep to the WebSocket protocol'));
        return;
      }
      if (bytes.length < at + length) return;
      const payload = bytes.subarray(at, at + length);
      this.#unread = bytes.subarray(at + length);
      if (opcode === BINARY || opcode === CONTINUATION) {
        // (The client reads a stream, so it does not matter where messages of several frames begin and end.)
        const data = new ArrayBuffer(length);
        new Uint8Array(data).set(payload);
        this.onmessage?.({ data });
      } else if (opcode === PING) this.#write(PONG, payload);
      else if (opcode === CLOSE) {
        this.#socket.end();
        this.#end(false, payload.length > 2 ? payload.subarray(2).toString() : 'closed by the server');
      }
    }
  }

  #end(wasClean: boolean, reason: string): void {
    if (this.#closed) return;
    this.#closed = true;
    this.onclose?.({ wasClean, reason });
  }
}

/** A copy of the payload with the mask applied, four bytes at a time. */
function masked(payload: Uint8Array, mask: Uint8Array): Uint8Array {
  const { length } = payload;
  const words = new Uint32Array((length + 3) >> 2);
  const bytes = new Uint8Array(words.buffer);
  bytes.set(payload);
  const key = new Uint32Array(mask.slice().buffer)[0] as number;
  for (let i = 0; i < words.length; i++) words[i] = (words[i] as number) ^ key;
  return bytes.subarray(0, length);
}

/** Makes the sockets of `wsconnect`, with the given certificates, and a deadline for each dial. */
export function webSocketFactory(tls: TlsOptions | null, timeoutMs: number): WsSocketFactory {
  return async (url: string) => {
    const encrypted = url.startsWith('wss://');
    const socket = await dial(url, encrypted, certificates(tls), timeoutMs);
    return { socket: socket as unknown as WebSocket, encrypted };
  };
}

function certificates(tls: TlsOptions | null): { ca?: string; cert?: string; key?: string } {
  const read = (text: string | undefined, file: string | undefined) => text ?? (file && readFileSync(file, 'utf8'));
  const parts = {
    ca: read(tls?.ca, tls?.caFile),
    cert: read(tls?.cert, tls?.certFile),
    key: read(tls?.key, tls?.keyFile),
  };
  return Object.fromEntries(Object.entries(parts).filter(([, value]) => value)) as ReturnType<typeof certificates>;
}

function dial(
  url: string,
  encrypted: boolean,
  tls: { readonly ca?: string },
  timeoutMs: number,
): Promise<ClientSocket> {
  const key = randomFillSync(Buffer.alloc(16)).toString('base64');
  const expected = createHash('sha1')
    .update(key + GUID)
    .digest('base64');
  return new Promise((resolve, reject) => {
    const options = {
      headers: { Connection: 'Upgrade', Upgrade: 'websocket', 'Sec-WebSocket-Version': '13', 'Sec-WebSocket-Key': key },
      agent: false as const,
    };
    const address = url.replace(/^ws/, 'http');
    const request = encrypted ? httpsRequest(address, { ...options, ...tls }) : httpRequest(address, options);
    request.setTimeout(timeoutMs, () => request.destroy(new Error(`no answer within ${timeoutMs} ms`)));
    request.once('error', reject);
    request.once('response', (response) => {
      request.destroy();
      reject(new Error(`unexpected response: HTTP ${response.statusCode} in place of a WebSocket`));
    });
    request.once('upgrade', (response: IncomingMessage, socket: Socket, first: Buffer) => {
      socket.setTimeout(0);
      if (response.headers['sec-websocket-accept'] !== expected) {
        socket.destroy();
        reject(new Error('unexpected response: the answer to the WebSocket key is wrong'));
        return;
      }
      resolve(new ClientSocket(socket, first));
    });
    request.end();
  });
}
