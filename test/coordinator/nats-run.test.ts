import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type NatsServer, startNatsServer } from '../../src/comm/index.ts';
import { ConfigError, complete, findOrFetchRun, resume, train } from '../../src/coordinator/index.ts';
import '../../src/schedulers/index.ts';

const root = mkdtempSync(join(tmpdir(), 'plexus-natsrun-'));
let server: NatsServer;
beforeAll(async () => {
  const words = ['the', 'whale', 'sea', 'ship', 'white', 'old', 'captain', 'sailed', 'and', 'sank'];
  const text = Array.from({ length: 1500 }, (_, i) => words[(i * i * 7 + i * 3) % words.length]).join(' ');
  writeFileSync(join(root, 'corpus.txt'), text);
  server = await startNatsServer({ storeDir: join(root, 'js') });
});
afterAll(async () => {
  await server.stop('kill');
  rmSync(root, { recursive: true });
});

const config = (id: string, store: string, url: string | null) => ({
  seed: 3,
  model: { name: 'transformer-lm', args: { layers: 2, dim: 16, heads: 2 } },
  data: { name: 'text', path: join(root, 'corpus.txt'), context: 12, tokenizer: { kind: 'char' } },
  batch: { global: 8, micro: 2 },
  optim: { name: 'adamw', lr: 0.01 },
  engine: { threads: 1 },
  parallel: { data: 2 },
  comm: { nats: { url } },
  run: { dir: join(root, 'one'), id, store },
  train: { steps: 8, checkpoint_every: 3 },
});

describe('a run whose checkpoints are on NATS', () => {
  it('is gone on with on a machine that has never seen it, to the same bits', async () => {
    const whole = await complete(train(config('whole', 'folder', null)));
    const abort = new AbortController();
    const stopped = await complete(train(config('moved', 'nats', server.url), { signal: abort.signal }), (event) => {
      if (event.type === 'step' && event.step === 4) abort.abort();
    });
    expect(stopped.status).toBe('interrupted');
    rmSync(stopped.dir, { recursive: true });
    const nats = { servers: server.url };
    await expect(findOrFetchRun('other', { nats, dir: join(root, 'two') })).rejects.toThrow(/there are: moved/);
    const { path } = await findOrFetchRun('moved', { nats, dir: join(root, 'two') });
    expect(path).toBe(join(root, 'two', 'moved'));
    const finished = await complete(resume(path, ['parallel.data=1', 'parallel.pipeline=2']));
    expect(finished.summary?.weights_sha256).toBe(whole.summary?.weights_sha256);
    expect(finished.summary?.losses_sha256).toBe(whole.summary?.losses_sha256);
    // What is here is not fetched.
    expect((await findOrFetchRun('moved', { nats, dir: join(root, 'two') })).path).toMatch(/two.moved$/);
  });

  it('needs a server', async () => {
    await expect(complete(train(config('alone', 'nats', null)))).rejects.toThrow(ConfigError);
    const gone = config('gone', 'nats', 'nats://127.0.0.1:1');
    await expect(complete(train(gone))).rejects.toThrow(/127\.0\.0\.1:1/);
  });
});
