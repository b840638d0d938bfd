import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, describe, expect, it } from 'vitest';
import { UsageError } from '../../src/cli/exit.ts';
import { jobName, type NatsFlags, natsPlace, wantsNats } from '../../src/cli/nats-flags.ts';

const folder = mkdtempSync(join(tmpdir(), 'plexus-flags-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const file = (name: string, text: string): string => {
  writeFileSync(join(folder, name), text);
  return join(folder, name);
};
// No `plexus up` of whoever runs the tests.
const env = { XDG_STATE_HOME: folder };
const place = (flags: NatsFlags, more: Record<string, string> = {}) => natsPlace(flags, { ...env, ...more });

const seed = `SU${'A'.repeat(56)}`;
const creds = file('user.creds', '-----BEGIN NATS USER JWT-----\nx\n------END NATS USER JWT------\n');
const pem = file('ca.pem', '-----BEGIN CERTIFICATE-----\n');

describe('where the server is', () => {
  it.each([
    ['nats://10.0.0.1:4222', ['nats://10.0.0.1:4222']],
    ['10.0.0.1', ['nats://10.0.0.1:4222']],
    ['nats://a,nats://b:5000', ['nats://a:4222', 'nats://b:5000']],
    ['nats://[fd00::1]:4222', ['nats://[fd00::1]:4222']],
    ['nats://host:80', ['nats://host:80']],
    ['wss://proxy.example/nats', ['wss://proxy.example:443/nats']],
    ['ws://proxy:8080', ['ws://proxy:8080']],
  ])('%s', (nats, servers) => {
    expect(place({ nats }).nats.servers).toEqual(servers);
  });

  it('may come from the environment; the flag comes first', () => {
    expect(place({}, { PLEXUS_NATS: 'nats://env' }).nats.servers).toEqual(['nats://env:4222']);
    expect(place({ nats: 'nats://flag' }, { PLEXUS_NATS: 'nats://env' }).nats.servers).toEqual(['nats://flag:4222']);
    expect([wantsNats({}, {}), wantsNats({}, { PLEXUS_NATS: 'x' }), wantsNats({ nats: true }, {})]).toEqual([
      false,
      true,
      true,
    ]);
  });

  it('is the server of `plexus up` where nothing is said', () => {
    expect(() => place({})).toThrow(/no NATS server is named: give --nats .* or start a server here with `plexus up`/);
  });

  it.each([
    [{ nats: 'http://x' }, /--nats 'http:\/\/x' is no NATS server: expected nats:\/\/HOST:PORT/],
    [{ nats: 'nats://' }, /--nats 'nats:\/\/' is no NATS server/],
    [{ nats: 'nats://host:99999' }, /--nats 'nats:\/\/host:99999' is no NATS server/],
    [{ nats: 'nats://secret@host:port' }, /--nats 'nats:\/\/…@host:port' is no NATS server/],
    [{ nats: 'nats://host/path' }, /has a path, but a NATS server has none/],
    [{ nats: ' , ' }, /--nats is empty/],
    [{ nats: 'nats://a,ws://b' }, /mixes WebSocket and plain/],
    [{ nats: 'nats://t1@a,nats://t2@b' }, /different logins/],
  ])('%j is refused', (flags, message) => {
    expect(() => place(flags)).toThrow(message);
    expect(() => place(flags)).toThrow(UsageError);
  });

  it('never shows a secret', () => {
    fc.assert(
      fc.property(fc.stringMatching(/^[A-Za-z0-9]{8,20}$/), fc.stringMatching(/^[a-z]{3,8}$/), (secret, host) => {
        fc.pre(!host.includes(secret));
        const { shown, nats } = place({ nats: `nats://${secret}@${host}:4222` });
        expect(shown).toBe(`nats://${host}:4222`);
        expect(nats.token).toBe(secret);
      }),
    );
  });
});

describe('how to log in', () => {
  const nats = 'nats://h';
  it.each([
    ['a token', { natsToken: 't' }, { token: 't' }],
    ['a user', { natsUser: 'u', natsPassword: 'p' }, { user: 'u', password: 'p' }],
    ['credentials', { natsCreds: creds }, { creds }],
    ['an nkey', { natsNkey: file('seed', `# mine\n${seed}\n`) }, { nkey: join(folder, 'seed') }],
    ['TLS', { tlsCa: pem }, { tls: { caFile: pem } }],
    ['TLS with a certificate', { tlsCert: pem, tlsKey: pem }, { tls: { certFile: pem, keyFile: pem } }],
  ])('with %s', (_, flags, login) => {
    expect(place({ nats, ...flags }).nats).toEqual({ servers: ['nats://h:4222'], ...login });
  });

  it('with what the URL contains', () => {
    expect(place({ nats: 'nats://u:p%40@h' }).nats).toMatchObject({ user: 'u', password: 'p@' });
    expect(place({ nats: 'tls://h' }).nats.tls).toEqual({});
  });

  it('with variables, unless a flag or the URL says otherwise', () => {
    const more = { PLEXUS_NATS_TOKEN: 'env', PLEXUS_TLS_CA: pem };
    expect(place({ nats }, more).nats).toMatchObject({ token: 'env', tls: { caFile: pem } });
    expect(place({ nats, natsToken: 'flag' }, more).nats.token).toBe('flag');
    expect(place({ nats: 'nats://url@h' }, more).nats.token).toBe('url');
    expect(place({ nats, natsUser: 'u' }, { PLEXUS_NATS_PASSWORD: 'p' }).nats).toMatchObject({ password: 'p' });
  });

  it.each([
    [{ natsToken: 't', natsUser: 'u' }, /--nats-token and --nats-user are two ways to log in/],
    [{ natsUser: 'u' }, /--nats-user 'u' needs a password: --nats-password or PLEXUS_NATS_PASSWORD/],
    [{ natsPassword: 'p' }, /--nats-password needs the user/],
    [{ natsCreds: '/nowhere' }, /--nats-creds '\/nowhere' cannot be read/],
    [{ natsCreds: pem }, /is no NATS credentials file/],
    [{ natsNkey: pem }, /holds no seed of a user/],
    [{ tlsCert: pem }, /--tls-cert needs --tls-key/],
    [{ tlsKey: pem }, /--tls-key needs --tls-cert/],
    [{ tlsCa: creds.replace('user.creds', 'seed') }, /is not in PEM format/],
    [{ nats: 'nats://t@h', natsToken: 'u' }, /contains a login already, and --nats-token is given too/],
  ])('%j is refused', (flags, message) => {
    expect(() => place({ nats, ...flags })).toThrow(message);
  });
});

it('names of jobs', () => {
  expect(jobName({}, {})).toBe('default');
  expect(jobName({}, { PLEXUS_JOB: 'night' })).toBe('night');
  expect(() => jobName({ job: 'a.b' }, {})).toThrow(/--job 'a.b' is no name for a job: 1 to 64 letters/);
  expect(() => jobName({}, { PLEXUS_JOB: 'a b' })).toThrow(/PLEXUS_JOB 'a b'/);
});
