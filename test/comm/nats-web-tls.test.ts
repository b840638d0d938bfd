import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { connectNats, createNatsTransport, NatsConnectError, type Transport } from '../../src/comm/index.ts';
import { float32 } from '../../src/tensor/index.ts';
import { type NatsServers, startWeb } from './nats-servers.ts';

// (In a file of its own: a process has connections over TCP or over WebSocket, not both.)
let folder: string;
let web: NatsServers;
const file = (name: string) => join(folder, name);
/** `wss://localhost:…`: the name in the certificate. */
const url = () => web.urls[0]!.replace('127.0.0.1', 'localhost');

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'plexus-wss-'));
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2'];
  // Self-signed: its own certificate is what clients are told to trust.
  execFileSync(
    'openssl',
    ['req', '-x509', ...key, '-keyout', file('key.pem'), '-out', file('cert.pem'), '-subj', '/CN=localhost'].concat([
      '-addext',
      'subjectAltName=DNS:localhost',
    ]),
    { stdio: 'ignore' },
  );
  writeFileSync(file('other.pem'), readFileSync(join(import.meta.dirname, 'tls', 'cert.pem')));
  web = await startWeb(`tls { cert_file: "${file('cert.pem')}", key_file: "${file('key.pem')}" }`);
});
afterAll(async () => {
  await web?.stop();
  rmSync(folder, { recursive: true, force: true });
});

describe('NATS over WebSocket with TLS', () => {
  it('carries tensors, and goes on after the death of its server', async () => {
    const tls = { caFile: file('cert.pem') };
    const connections = await Promise.all([0, 1].map(() => connectNats({ servers: url(), tls })));
    const options = { world: 2, job: 'wss', deadlineMs: 20_000, probeMs: 100 };
    const [a, b] = (await Promise.all(
      connections.map((nats, rank) => createNatsTransport({ ...options, rank, nats })),
    )) as [Transport, Transport];
    const size = 400_000; // more than a NATS message holds
    const sending = (async () => {
      for (let i = 0; i < 12; i++) await a.send(1, 'x/m', [float32(new Float32Array(size).fill(i), [size])]);
    })();
    for (let i = 0; i < 12; i++) {
      const [got] = await b.recv(0, 'x/m');
      expect((got!.data as Float32Array).every((value) => value === i)).toBe(true);
      if (i !== 4) continue;
      await web.kill(0);
      await web.restart(0);
    }
    await sending;
    await Promise.all([a.close(), b.close()]);
    await Promise.all(connections.map((nats) => nats.close()));
  });

  it('refuses a server whose certificate it was not told to trust, or that bears another name', async () => {
    const fails = async (servers: string, caFile?: string) => {
      const error = await connectNats({ servers, timeoutMs: 2000, ...(caFile ? { tls: { caFile } } : {}) }).then(
        () => null,
        (reason: unknown) => reason,
      );
      expect(error).toBeInstanceOf(NatsConnectError);
      expect((error as NatsConnectError).fault).toBe('tls');
      return (error as Error).message;
    };
    expect(await fails(url())).toMatch(/TLS/);
    expect(await fails(url(), file('other.pem'))).toMatch(/TLS/);
    expect(await fails(web.urls[0]!, file('cert.pem'))).toMatch(/TLS/);
  });
});
