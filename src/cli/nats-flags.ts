import { readFileSync } from 'node:fs';
import type { Command } from 'commander';
import { UsageError } from './exit.ts';
import { readUpRecord } from './up-record.ts';

/** Flags of every command that talks to other machines, as commander hands them over. */
export interface NatsFlags {
  /** `true` where `--nats` was given without a URL. */
  readonly nats?: string | true;
  readonly natsCreds?: string;
  readonly natsNkey?: string;
  readonly natsToken?: string;
  readonly natsUser?: string;
  readonly natsPassword?: string;
  readonly tlsCa?: string;
  readonly tlsCert?: string;
  readonly tlsKey?: string;
  readonly job?: string;
}

/** Where the NATS server is and how to log in, as `connectNats` takes it. */
export interface NatsAccess {
  /** `nats://host:port`, without any login. */
  readonly servers: string[];
  /** A credentials file. */
  readonly creds?: string;
  /** A file with the seed of an nkey. */
  readonly nkey?: string;
  readonly token?: string;
  readonly user?: string;
  readonly password?: string;
  /** Present, if empty, where the server is to be reached over TLS. */
  readonly tls?: { readonly caFile?: string; readonly certFile?: string; readonly keyFile?: string };
}

/** Where the NATS server is and how to log in, and which job is meant. */
export interface NatsPlace {
  readonly nats: NatsAccess;
  readonly job: string;
  /** The servers as they may be shown: without any secret. */
  readonly shown: string;
}

/** The environment, injectable for tests. */
export type Environment = Readonly<Record<string, string | undefined>>;

/** Adds the connection flags to a command. */
export function addNatsFlags(command: Command): Command {
  return command
    .option('--nats [url]', 'NATS server(s), comma-separated: nats://host:4222, tls://, ws://, wss:// (PLEXUS_NATS)')
    .option('--job <name>', 'name of the job (PLEXUS_JOB; default: default)')
    .option('--nats-creds <file>', 'log in with a credentials file (PLEXUS_NATS_CREDS)')
    .option('--nats-nkey <file>', 'log in with an nkey: the file that holds its seed (PLEXUS_NATS_NKEY)')
    .option('--nats-token <token>', 'log in with a token (PLEXUS_NATS_TOKEN keeps it out of process lists)')
    .option('--nats-user <name>', 'log in with a user and password (PLEXUS_NATS_USER)')
    .option('--nats-password <password>', 'password of that user (PLEXUS_NATS_PASSWORD)')
    .option('--tls-ca <file>', 'certificate authority that signed the server’s certificate')
    .option('--tls-cert <file>', 'certificate of this client, with --tls-key')
    .option('--tls-key <file>', 'private key of this client, with --tls-cert');
}

/** Names of jobs are parts of NATS subjects and of bucket names. */
const JOB = /^[A-Za-z0-9_-]{1,64}$/;

/** Whether flags or environment name a server at all (for commands that can also do without). */
export function wantsNats(flags: NatsFlags, env: Environment = process.env): boolean {
  return flags.nats !== undefined || !blank(env.PLEXUS_NATS);
}

/**
 * The server, login and job that flags and environment name; flags come first. Without a URL it is the server that
 * `plexus up` of this user runs on this machine.
 * @throws UsageError naming the flag or variable, its value and what was expected
 */
export function natsPlace(flags: NatsFlags, env: Environment = process.env): NatsPlace {
  const job = jobName(flags, env);
  const { from, text } = serverText(flags, env);
  const servers: string[] = [];
  const logins = new Set<string>();
  let secure = false;
  for (const part of text.split(',').filter((url) => url.trim() !== '')) {
    const url = parseServer(part.trim(), from);
    secure ||= url.protocol === 'tls:' || url.protocol === 'wss:';
    servers.push(`${url.protocol}//${url.host}${url.pathname}`);
    if (url.username !== '') logins.add(JSON.stringify([url.username, url.password].map(decodeURIComponent)));
  }
  if (servers.length === 0) throw new UsageError(`${from} is empty: give the URL of a NATS server, nats://HOST:4222`);
  if (new Set(servers.map((url) => url.startsWith('ws'))).size > 1)
    throw new UsageError(`${from} mixes WebSocket and plain NATS servers; give URLs of one kind`);
  if (logins.size > 1) throw new UsageError(`${from} names servers with different logins; all must share one`);
  const inUrl = logins.size === 1 ? (JSON.parse([...logins][0] as string) as [string, string]) : null;
  const login = loginOf(flags, env, inUrl, from);
  const tls = tlsOf(flags, env, secure);
  return { nats: { servers, ...login, ...tls }, job, shown: servers.join(', ') };
}

/** The job's name. @throws UsageError */
export function jobName(flags: NatsFlags, env: Environment = process.env): string {
  const [from, job] =
    flags.job !== undefined ? ['--job', flags.job] : ['PLEXUS_JOB', blank(env.PLEXUS_JOB) ? 'default' : env.PLEXUS_JOB];
  if (!JOB.test(job as string))
    throw new UsageError(`${from} '${job}' is no name for a job: 1 to 64 letters, digits, - and _ were expected`);
  return job as string;
}

function serverText(flags: NatsFlags, env: Environment): { from: string; text: string } {
  if (typeof flags.nats === 'string') return { from: '--nats', text: flags.nats };
  if (!blank(env.PLEXUS_NATS)) return { from: 'PLEXUS_NATS', text: env.PLEXUS_NATS as string };
  const record = readUpRecord(env);
  if (record) return { from: 'the server of `plexus up` here', text: record.url };
  throw new UsageError(
    'no NATS server is named: give --nats nats://HOST:4222 or set PLEXUS_NATS, or start a server here with `plexus up`',
  );
}

/** The parts of a server's URL; the user's name and password are percent-encoded. */
type ServerUrl = Record<'protocol' | 'host' | 'username' | 'password' | 'pathname', string>;

function parseServer(text: string, from: string): ServerUrl {
  const whole = text.includes('://') ? text : `nats://${text}`;
  // As a special scheme, so that hosts and ports are checked.
  const special = whole.replace(/^(nats|tls|ws|wss):\/\//i, 'http://');
  const parsed = URL.canParse(special) ? new URL(special) : null;
  if (special === whole || parsed === null || parsed.hostname === '')
    throw new UsageError(
      `${from} '${hideLogin(text)}' is no NATS server: expected nats://HOST:PORT (or tls://, ws://, wss://), e.g. nats://10.0.0.1:4222`,
    );
  const scheme = (whole.split('://')[0] as string).toLowerCase();
  const web = scheme.startsWith('ws');
  if (!web && (parsed.pathname !== '/' || parsed.search !== ''))
    throw new UsageError(
      `${from} '${hideLogin(text)}' has a path, but a NATS server has none: expected nats://HOST:PORT`,
    );
  // (`http` drops its own default port, which somebody may well use.)
  const explicit = /:(\d+)$/.exec(special.slice(7).split(/[/?]/)[0] as string)?.[1];
  const port = explicit ?? (web ? (scheme === 'ws' ? '80' : '443') : '4222');
  return {
    protocol: `${scheme}:`,
    host: `${parsed.hostname}:${port}`,
    username: parsed.username,
    password: parsed.password,
    pathname: parsed.pathname === '/' ? '' : parsed.pathname,
  };
}

/** A URL as messages may show it. */
const hideLogin = (url: string): string => url.replace(/\/\/[^/@]*@/, '//…@');

type Login = Pick<NatsAccess, 'token' | 'user' | 'password' | 'creds' | 'nkey'>;

function loginOf(flags: NatsFlags, env: Environment, inUrl: [string, string] | null, from: string): Login {
  const given = {
    creds: flags.natsCreds,
    nkey: flags.natsNkey,
    token: flags.natsToken,
    user: flags.natsUser,
  };
  const set = {
    creds: env.PLEXUS_NATS_CREDS,
    nkey: env.PLEXUS_NATS_NKEY,
    token: env.PLEXUS_NATS_TOKEN,
    user: env.PLEXUS_NATS_USER,
  };
  const byFlag = Object.values(given).some((value) => value !== undefined);
  const chosen: Partial<Record<keyof typeof given, string | undefined>> = byFlag ? given : inUrl ? {} : set;
  const name = (key: string): string => (byFlag ? `--nats-${key}` : `PLEXUS_NATS_${key.toUpperCase()}`);
  const kinds = Object.entries(chosen).filter(([, value]) => !blank(value)) as [keyof typeof given, string][];
  if (kinds.length > 1)
    throw new UsageError(`${kinds.map(([key]) => name(key)).join(' and ')} are two ways to log in; give one`);
  if (inUrl && byFlag)
    throw new UsageError(
      `${from} contains a login already, and ${name(kinds[0]?.[0] ?? 'token')} is given too; give one`,
    );
  const password = flags.natsPassword ?? env.PLEXUS_NATS_PASSWORD;
  const [kind, value] = kinds[0] ?? [];
  if (flags.natsPassword !== undefined && kind !== 'user')
    throw new UsageError('--nats-password needs the user that it belongs to: --nats-user NAME');
  switch (kind) {
    case 'creds': {
      const file = readNamed(value as string, name('creds'));
      if (!/BEGIN NATS USER JWT/.test(file))
        throw new UsageError(
          `${name('creds')} '${value}' is no NATS credentials file: it has no 'BEGIN NATS USER JWT' line`,
        );
      return { creds: value as string };
    }
    case 'nkey': {
      const seed = readNamed(value as string, name('nkey'))
        .split('\n')
        .map((line) => line.trim())
        .find((line) => /^SU[A-Z2-7]{56}$/.test(line));
      if (!seed)
        throw new UsageError(
          `${name('nkey')} '${value}' holds no seed of a user: a line of 58 characters that begins with SU was expected`,
        );
      return { nkey: value as string };
    }
    case 'token':
      return { token: value as string };
    case 'user':
      if (blank(password))
        throw new UsageError(`${name('user')} '${value}' needs a password: --nats-password or PLEXUS_NATS_PASSWORD`);
      return { user: value as string, password: password as string };
  }
  if (!inUrl) return {};
  return inUrl[1] === '' ? { token: inUrl[0] } : { user: inUrl[0], password: inUrl[1] };
}

function tlsOf(flags: NatsFlags, env: Environment, secure: boolean): Pick<NatsAccess, 'tls'> {
  const ca = flags.tlsCa ?? env.PLEXUS_TLS_CA;
  const cert = flags.tlsCert ?? env.PLEXUS_TLS_CERT;
  const key = flags.tlsKey ?? env.PLEXUS_TLS_KEY;
  if (blank(cert) !== blank(key))
    throw new UsageError(
      `${blank(cert) ? '--tls-key needs --tls-cert' : '--tls-cert needs --tls-key'}: the certificate and its key go together`,
    );
  const files = { ...(blank(ca) ? {} : { caFile: ca }), ...(blank(cert) ? {} : { certFile: cert, keyFile: key }) };
  const labels = { caFile: '--tls-ca', certFile: '--tls-cert', keyFile: '--tls-key' } as const;
  for (const [name, file] of Object.entries(files)) {
    const label = labels[name as keyof typeof labels];
    if (!/-----BEGIN /.test(readNamed(file as string, label)))
      throw new UsageError(`${label} '${file}' is not in PEM format: a '-----BEGIN …' line was expected`);
  }
  return secure || Object.keys(files).length > 0 ? { tls: files as object } : {};
}

function readNamed(file: string, flag: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    throw new UsageError(`${flag} '${file}' cannot be read: ${(error as Error).message}`);
  }
}

const blank = (value: string | undefined): boolean => value === undefined || value.trim() === '';
