import { existsSync, readFileSync } from 'node:fs';
import type { Authenticator, NatsConnection, NodeConnectionOptions, TlsOptions } from '@nats-io/transport-node';

/** Where a NATS server is and how to log in: the client's own options, and files and seeds by name. */
export interface ConnectNatsOptions extends NodeConnectionOptions {
  /** `nats://`, `tls://`, `ws://` or `wss://` URLs, all of plain or all of WebSocket servers; a login may be part of them. */
  readonly servers: string | string[];
  /** A credentials file (JWT and seed, as `nsc` writes them). */
  readonly creds?: string;
  /** The seed of an nkey, or the file that holds it. */
  readonly nkey?: string;
  readonly token?: string;
  readonly user?: string;
  readonly password?: string;
  /** Certificates: `caFile`, `certFile`, `keyFile`, or their texts `ca`, `cert`, `key`. */
  readonly tls?: TlsOptions | null;
  /** Name of the connection in the server's lists. Default `plexus`. */
  readonly name?: string;
  /** How long the server may take to answer, in milliseconds. Default 5000. */
  readonly timeoutMs?: number;
}

/** Why there is no connection to NATS. */
export type NatsFault = 'unreachable' | 'login' | 'tls' | 'options';

/** There is no connection to NATS; the message says why and what to do. */
export class NatsConnectError extends Error {
  override readonly name = 'NatsConnectError';
  readonly fault: NatsFault;

  constructor(fault: NatsFault, message: string, cause?: unknown) {
    super(message, { cause });
    this.fault = fault;
  }
}

/** What this process (or thread) talks to NATS over: the client has one way for all connections, also when it reconnects. */
let used: 'tcp' | 'WebSocket' | null = null;

/**
 * Connects to NATS, over TCP or WebSocket as the URLs say. The connection is made again for ever once it stood; whoever
 * waits has deadlines.
 * @throws NatsConnectError naming the server, what is wrong and the likely fix
 */
export async function connectNats(options: ConnectNatsOptions): Promise<NatsConnection> {
  const { creds, nkey, password, timeoutMs = 5000, servers, ...rest } = options;
  // Loaded when it is used: it takes a thread as long to start as all the rest of this room.
  // (A CommonJS package has only a default export once it has been joined into the bundle.)
  const { default: client } = await import('@nats-io/transport-node');
  const { urls, web, secure, login } = parseServers(servers);
  const way = web ? 'WebSocket' : 'tcp';
  if (used !== null && used !== way)
    throw new NatsConnectError(
      'options',
      `${urls.join(', ')} is reached over ${way}, but this process has a connection to NATS over ${used} already, and the client cannot do both: use URLs of one kind in a process`,
    );
  used = way;
  const encode = (text: string) => new TextEncoder().encode(text);
  const authenticator: Authenticator | undefined = creds
    ? client.credsAuthenticator(encode(readSecret(creds, 'credentials file')))
    : nkey
      ? client.nkeyAuthenticator(encode(seedOf(nkey)))
      : undefined;
  const settings: NodeConnectionOptions = {
    name: 'plexus',
    maxReconnectAttempts: -1,
    reconnectTimeWait: 100,
    reconnectJitter: 50,
    // (A server that is cut off without a word is noticed after three of these.)
    pingInterval: 3000,
    maxPingOut: 2,
    timeout: timeoutMs,
    ...rest,
    ...login,
    ...(password !== undefined ? { pass: password } : {}),
    ...(authenticator ? { authenticator } : {}),
    ...(secure && !rest.tls ? { tls: {} } : {}),
    servers: urls,
  };
  const shown = urls.join(', ');
  try {
    if (!web) return await client.connect(settings);
    const { webSocketFactory } = await import('./web-socket.ts');
    const { tls, ...others } = settings;
    return await client.wsconnect({ ...others, wsFactory: webSocketFactory(tls ?? null, timeoutMs) });
  } catch (error) {
    throw explained(error as Error, shown, options, timeoutMs);
  }
}

interface ParsedServers {
  readonly urls: string[];
  readonly web: boolean;
  readonly secure: boolean;
  readonly login: { readonly user?: string; readonly pass?: string; readonly token?: string };
}

function parseServers(servers: string | readonly string[]): ParsedServers {
  const given = (typeof servers === 'string' ? servers.split(',') : servers).map((url) => url.trim()).filter(Boolean);
  if (given.length === 0)
    throw new NatsConnectError('options', 'no NATS server is named; give a URL such as nats://10.0.0.1:4222');
  const urls: string[] = [];
  const schemes = new Set<string>();
  let login: ParsedServers['login'] = {};
  for (const text of given) {
    const whole = text.includes('://') ? text : `nats://${text}`;
    const match = /^(nats|tls|ws|wss):\/\/(?:([^@/]*)@)?([^@]+)$/i.exec(whole);
    if (!match)
      throw new NatsConnectError(
        'options',
        `"${text.replace(/\/\/[^@]*@/, '//…@')}" is not the URL of a NATS server; expected nats://HOST:PORT, or tls://, ws://, wss://`,
      );
    const [, scheme, who, place] = match as unknown as [string, string, string | undefined, string];
    schemes.add(scheme.toLowerCase());
    const [user = '', pass] = (who ?? '').split(':').map(decodeURIComponent);
    if (user) login = pass === undefined ? { token: user } : { user, pass };
    urls.push(`${scheme.toLowerCase()}://${place.replace(/\/$/, '')}`);
  }
  const web = [...schemes].filter((scheme) => scheme.startsWith('ws')).length;
  if (web > 0 && web < schemes.size)
    throw new NatsConnectError('options', `${urls.join(', ')}: URLs of WebSocket and of plain servers cannot be mixed`);
  return { urls, web: web > 0, secure: schemes.has('tls'), login };
}

function readSecret(path: string, what: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    throw new NatsConnectError(
      'options',
      `the ${what} ${path} of NATS cannot be read: ${(error as Error).message}`,
      error,
    );
  }
}

function seedOf(nkey: string): string {
  const seed = /^S[A-Z2-7]{57,}$/;
  if (seed.test(nkey.trim())) return nkey.trim();
  const text = existsSync(nkey) ? readSecret(nkey, 'nkey seed file') : '';
  const line = text
    .split('\n')
    .map((part) => part.trim())
    .find((part) => seed.test(part));
  if (line) return line;
  throw new NatsConnectError(
    'options',
    `the nkey is neither a seed (58 characters that begin with SU) nor a file that holds one${text ? `: ${nkey} has no such line` : ''}`,
  );
}

const START = 'Start one (`plexus up`, or nats-server -js) or give the URL of one that runs';

function explained(error: Error, servers: string, options: ConnectNatsOptions, timeoutMs: number): NatsConnectError {
  if (error instanceof NatsConnectError) return error;
  const root = rootOf(error);
  const text = `${error.message || root.message || error.name}`;
  const code = (root as { code?: string }).code ?? /\bE[A-Z_]{4,}\b/.exec(text)?.[0] ?? '';
  const made = (fault: NatsFault, words: string) => new NatsConnectError(fault, `NATS at ${servers}: ${words}`, error);
  if (error.name === 'AuthorizationError' || /authorization|authentication/i.test(text)) {
    const given = loginGiven(options);
    return made(
      'login',
      `${text}: the server refuses ${given ? `the login by ${given}` : 'a client without login'}. Give the login that the server's configuration names (credentials file, nkey, token, or user and password)`,
    );
  }
  if (/CERT|TLS|SSL|SELF_SIGNED|UNABLE_TO|EPROTO/.test(code) || /\btls\b|certificate|handshake/i.test(text)) {
    const fix = /required|bad certificate/i.test(text + root.message)
      ? 'The server wants a certificate of the client: give a certificate and its key'
      : /does not support/.test(text)
        ? 'The server has no TLS: use nats:// in place of tls://, and no certificates'
        : "Give the certificate authority that signed the server's certificate, and a host name that it bears";
    return made('tls', `TLS failed (${code || text}${code && root.message ? `: ${root.message}` : ''}). ${fix}`);
  }
  if (code === 'ENOTFOUND' || code === 'EAI_AGAIN')
    return made('unreachable', `no such host (${code}). Check the name in the URL`);
  if (/refused/i.test(text) || code === 'ECONNREFUSED')
    return made('unreachable', `nobody listens there (connection refused). ${START}`);
  if (
    error.name === 'TimeoutError' ||
    /no answer within/.test(text) ||
    code === 'ETIMEDOUT' ||
    code === 'EHOSTUNREACH' ||
    code === 'ENETUNREACH'
  )
    return made(
      'unreachable',
      `no answer within ${timeoutMs} ms${code ? ` (${code})` : ''}. Check host, port and firewalls${
        /(tls|wss):/.test(servers) && !options.tls?.certFile && !options.tls?.cert
          ? ' (a server that wants a certificate of the client answers like this too)'
          : ''
      }`,
    );
  if (/unexpected response|Parse Error/.test(text))
    return made(
      'unreachable',
      'what listens there is not NATS, or not at this kind of port (nats:// and ws:// have different ones)',
    );
  return made('unreachable', `no connection: ${text || 'the server hung up'}. ${START}`);
}

function rootOf(error: Error): Error {
  let root = error;
  while (root.cause instanceof Error) root = root.cause;
  return root;
}

function loginGiven({ creds, nkey, token, user, authenticator, servers }: ConnectNatsOptions): string | null {
  if (creds) return `credentials file ${creds}`;
  if (nkey) return 'nkey';
  if (token) return 'token';
  if (user) return `user "${user}"`;
  if (authenticator) return 'authenticator';
  return String(servers).includes('@') ? 'what the URL contains' : null;
}
