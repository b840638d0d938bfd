import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { nkeys } from '@nats-io/transport-node';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type ConnectNatsOptions, connectNats, NatsConnectError } from '../../src/comm/index.ts';
import { freePorts, type NatsServers, startServers } from './nats-servers.ts';

let folder: string;
let servers: NatsServers;
let seed: string;
let silent: Server;
const ports: Record<'token' | 'users' | 'tls' | 'mutual' | 'silent', number> = {
  token: 0,
  users: 0,
  tls: 0,
  mutual: 0,
  silent: 0,
};
const at = (name: keyof typeof ports, scheme = 'nats') => `${scheme}://localhost:${ports[name]}`;
const file = (name: string) => join(folder, name);

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'plexus-login-'));
  const openssl = (...args: string[]) => execFileSync('openssl', args, { cwd: folder, stdio: 'ignore' });
  const ec = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2'];
  openssl('req', '-x509', ...ec, '-keyout', 'ca-key.pem', '-out', 'ca.pem', '-subj', '/CN=test ca');
  openssl('req', ...ec.slice(0, 5), '-keyout', 'key.pem', '-out', 'csr.pem', '-subj', '/CN=localhost');
  writeFileSync(file('ext'), 'subjectAltName=DNS:localhost,IP:127.0.0.1');
  openssl(
    'x509',
    '-req',
    '-in',
    'csr.pem',
    '-CA',
    'ca.pem',
    '-CAkey',
    'ca-key.pem',
    '-CAcreateserial',
    '-days',
    '2',
    '-extfile',
    'ext',
    '-out',
    'cert.pem',
  );
  const user = nkeys.createUser();
  seed = new TextDecoder().decode(user.getSeed());
  const found = await freePorts(4);
  [ports.token, ports.users, ports.tls, ports.mutual] = found as [number, number, number, number];
  const tls = `cert_file: "${file('cert.pem')}", key_file: "${file('key.pem')}"`;
  const texts = [
    'authorization { token: "let me in" }',
    `authorization { users: [{ user: anna, password: "s3cret" }, { nkey: ${user.getPublicKey()} }] }`,
    `tls { ${tls} }`,
    `tls { ${tls}, ca_file: "${file('ca.pem')}", verify: true }`,
  ];
  servers = await startServers(
    texts.map((text, i) => ({ port: found[i]!, text: `${text}\n` })),
    [],
  );
  silent = createServer(() => undefined);
  ports.silent = await new Promise((resolve) =>
    silent.listen(0, '127.0.0.1', () => resolve((silent.address() as { port: number }).port)),
  );
});
afterAll(async () => {
  silent?.close();
  await servers?.stop();
  rmSync(folder, { recursive: true, force: true });
});

const works = async (options: ConnectNatsOptions) => {
  const nats = await connectNats(options);
  await nats.flush();
  await nats.close();
};
const fails = async (options: ConnectNatsOptions, fault: string, message: RegExp) => {
  const error = await connectNats({ timeoutMs: 2000, ...options }).then(
    async (nats) => {
      await nats.close();
      return new Error('it was let in');
    },
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(NatsConnectError);
  expect((error as Error).message).toMatch(message);
  expect((error as NatsConnectError).fault).toBe(fault);
};

describe('logging in to NATS', () => {
  it('works by token, user and password, nkey as a seed or a file, or a part of the URL', async () => {
    await works({ servers: at('token'), token: 'let me in' });
    await works({ servers: at('token').replace('//', '//let%20me%20in@') });
    await works({ servers: at('users'), user: 'anna', password: 's3cret' });
    await works({ servers: [at('users').replace('//', '//anna:s3cret@')] });
    await works({ servers: at('users'), nkey: seed });
    writeFileSync(file('seed'), `# of anna\n${seed}\n`);
    await works({ servers: at('users').replace('nats://', ''), nkey: file('seed') });
  });

  it('fails with what is wrong, and what to do', async () => {
    await fails({ servers: at('token') }, 'login', /refuses a client without login\. Give the login/);
    await fails({ servers: at('token'), token: 'wrong' }, 'login', /the server refuses the login by token/);
    await fails({ servers: at('users'), user: 'anna', password: 'x' }, 'login', /refuses the login by user "anna"/);
    await fails(
      { servers: at('token').replace('//', '//bob:pw@') },
      'login',
      /refuses the login by what the URL contains/,
    );
    await fails(
      { servers: at('users'), creds: '/no/such.creds' },
      'options',
      /credentials file \/no\/such\.creds .*cannot be read/,
    );
    await fails({ servers: at('users'), nkey: 'nonsense' }, 'options', /neither a seed .* nor a file/);
    await fails(
      { servers: '127.0.0.1:1' },
      'unreachable',
      /NATS at nats:\/\/127\.0\.0\.1:1: nobody listens there .*plexus up/,
    );
    await fails({ servers: `127.0.0.1:${ports.silent}`, timeoutMs: 200 }, 'unreachable', /no answer within 200 ms/);
    await fails({ servers: 'nats://no-such-host.invalid' }, 'unreachable', /no such host/);
    await fails({ servers: 'http://127.0.0.1' }, 'options', /is not the URL of a NATS server; expected nats:/);
    await fails({ servers: ' , ' }, 'options', /no NATS server is named/);
  });

  it('over TLS checks the server, and shows a certificate where one is wanted', async () => {
    const caFile = file('ca.pem');
    const [certFile, keyFile] = [file('cert.pem'), file('key.pem')];
    await works({ servers: at('tls', 'tls'), tls: { caFile } });
    await works({ servers: at('tls'), tls: { caFile } });
    await works({ servers: at('mutual', 'tls'), tls: { caFile, certFile, keyFile } });
    await fails({ servers: at('tls', 'tls') }, 'tls', /TLS failed .*certificate authority/);
    await fails({ servers: at('mutual', 'tls'), tls: { caFile } }, 'unreachable', /wants a certificate of the client/);
    await fails({ servers: at('token', 'tls'), token: 'let me in' }, 'tls', /The server has no TLS: use nats:/);
  });
});
