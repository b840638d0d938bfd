import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  type ClientEvaluation,
  complete,
  FitPool,
  type KeptVectors,
  optimSchema,
  resume,
  train,
} from '../../../src/index.ts';
import { CLASSES, MODEL, smallTable, writeTable } from './small-federation.ts';

let dir: string;
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'plexus-personal-run-'));
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

describe('models of clients', () => {
  it('are measured in order, and taken a few at a time', async () => {
    const data = await smallTable(dir);
    const pool = await FitPool.start({
      job: {
        seed: 1,
        model: MODEL,
        optim: optimSchema.parse({ name: 'sgd', lr: 0.1, momentum: 0 }),
        data,
        engine: { kind: 'onnx', device: 'cpu', threads: 1 },
        objective: { name: 'own-model', config: { lambda: 1, epochs: null } },
        batch: 4,
      },
      threads: 2,
    });
    try {
      const none = new Float32Array(0);
      const vectorOf = (n: number) => Float32Array.from({ length: pool.paramsSize }, (_, i) => Math.sin(i * (n + 2)));
      const examplesOf = (n: number) => Int32Array.from({ length: 1 + (n % 7) }, (_, i) => n + i);
      const start = pool.publish(vectorOf(100), none);
      let taken = 0;
      const clients = function* (): Generator<ClientEvaluation> {
        for (let n = 0; n < 60; n++) {
          taken += 1;
          // Every third one has a model of its own.
          yield {
            client: n,
            examples: examplesOf(n % 20),
            kept: n % 3 === 0 ? { own: vectorOf(n) } : ({} as KeptVectors),
          };
        }
      };
      const measuring = pool.evaluateClients(start, clients());
      expect(taken).toBeLessThanOrEqual(48);
      const reports = await measuring;
      expect(reports).toHaveLength(60);
      for (const n of [0, 1, 33, 59]) {
        const at = n % 3 === 0 ? pool.publish(vectorOf(n), none) : start;
        expect(reports[n]).toEqual(await pool.evaluate(at, 'train', examplesOf(n % 20)));
      }
    } finally {
      await pool.close();
    }
  });
});

describe("runs with clients' own models", () => {
  const config = (id: string, scheduler: object) => ({
    seed: 5,
    model: MODEL,
    data: { name: 'csv', path: writeTable(dir), validation: 0.1 },
    optim: { name: 'sgd', lr: 0.1, momentum: 0.5 },
    train: { steps: 5 },
    run: { dir, id },
    scheduler: { clients: 4, cohort: 2, local_batch: 3, threads: 1, ...scheduler },
  });

  it.each([
    ['apfl', {}],
    ['fedmd', { public: 9 }],
  ])('%s has the same bits with two threads, and when it was interrupted', async (name, settings) => {
    const scheduler = { name, ...settings };
    const whole = await complete(train(config(`${name}-whole`, { ...scheduler, threads: 2 })));
    const stop = new AbortController();
    for await (const event of train(config(`${name}-cut`, scheduler), { signal: stop.signal }))
      if (event.type === 'step' && event.step === 3) stop.abort();
    const rest = await complete(resume(join(dir, `${name}-cut`)));
    expect(rest.summary?.weights_sha256).toBe(whole.summary?.weights_sha256);
    expect(rest.summary?.losses_sha256).toBe(whole.summary?.losses_sha256);
    const lines = readFileSync(join(dir, `${name}-whole`, 'metrics.jsonl'), 'utf8')
      .trim()
      .split('\n');
    // What stays with the client is not counted as sent.
    const { bytes_up, bytes_down } = JSON.parse(lines[1] as string);
    if (name === 'fedmd') expect(bytes_up).toBe(2 * 4 * 9 * CLASSES);
    else expect(bytes_up).toBe(bytes_down);
  });
});
