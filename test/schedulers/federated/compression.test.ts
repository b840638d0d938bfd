import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { updateCodec } from '../../../src/comm/index.ts';
import { ConfigError, complete, resume, train } from '../../../src/index.ts';
import { compressUpdate, updateCompressionSchema, uploadCodec } from '../../../src/schedulers/federated/compression.ts';
import { gatherRuns, runsWithout, scatterRuns, sizeOfRuns } from '../../../src/schedulers/federated/sent-parts.ts';

let dir: string;
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'plexus-compression-'));
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

/** Parameters of the model below: 784 x 16 + 16 and 16 x 10 + 10. */
const PARAMS = 784 * 16 + 16 + 160 + 10;
const HEAD = 170;

const config = (id: string, compression: object, scheduler: object = {}) => ({
  seed: 5,
  model: { name: 'mlp', args: { hidden: [16] } },
  // 128 examples a client: one executable makes all steps of a fit. 250 to validate on, which is one as well.
  data: { name: 'mnist', limit: 1274, validation: 0.19623 },
  optim: { name: 'sgd', lr: 0.1, momentum: 0 },
  train: { steps: 4 },
  run: { dir, id },
  scheduler: {
    name: 'fedavg',
    clients: 8,
    cohort: 4,
    local_epochs: 2,
    local_batch: 32,
    threads: 2,
    client_metrics: { clients: 0 },
    compression,
    ...scheduler,
  },
});

const linesOf = (id: string) =>
  readFileSync(join(dir, id, 'metrics.jsonl'), 'utf8')
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));

const wave = (size: number) => Float32Array.from({ length: size }, (_, i) => Math.sin(i * 1.3) / (1 + (i % 17)));

describe('updates as fewer bytes', () => {
  it.each([
    ['none', { name: 'none' }, 4 * PARAMS],
    ['sign', { name: 'sign' }, Math.ceil(PARAMS / 8) + 4 * Math.ceil(PARAMS / 1024)],
    ['random-mask', { name: 'random-mask', ratio: 0.1 }, 4 + 4 * Math.round(PARAMS / 10)],
    ['top-k', { name: 'top-k', ratio: 0.1, values: 'int8' }, null],
  ])('learn, and are counted to the byte: %s', async (name, compression, bytes) => {
    const { summary } = await complete(train(config(`count-${name}`, compression, { threads: 1 })));
    expect(summary?.accuracy).toBeGreaterThan(0.3);
    const lines = linesOf(`count-${name}`);
    for (const line of lines) {
      expect(line.bytes_down).toBe(4 * 4 * PARAMS);
      if (bytes !== null) expect(line.bytes_up).toBe(4 * bytes);
      // A byte for each value and each gap, and scales; only gaps of 128 and more take two.
      else expect(Math.abs(line.bytes_up / (4 * 0.1 * PARAMS * 2.016) - 1)).toBeLessThan(0.05);
    }
    expect(summary).toMatchObject({
      bytes_down: 16 * 4 * PARAMS,
      bytes_up: lines.reduce((sum, line) => sum + line.bytes_up, 0),
    });
  });

  it.each([
    ['top-k', { name: 'top-k', ratio: 0.05, values: 'int8' }, {}],
    [
      'random-mask, parameters as f16',
      { name: 'random-mask', ratio: 0.1, error_feedback: true, down: 'f16' },
      { name: 'scaffold' },
    ],
  ])(
    'have the same bits with one thread, with two, and when a run was interrupted: %s',
    async (name, compression, more) => {
      const id = name.replaceAll(/[ ,]+/g, '-');
      // All clients every round, so that what was left out counts.
      const scheduler = { cohort: 8, ...more };
      const whole = await complete(train(config(`${id}-1`, compression, { ...scheduler, threads: 1 })));
      const two = await complete(train(config(`${id}-2`, compression, scheduler)));
      expect(two.summary?.weights_sha256).toBe(whole.summary?.weights_sha256);
      const stop = new AbortController();
      for await (const event of train(config(`${id}-3`, compression, scheduler), { signal: stop.signal }))
        if (event.type === 'step' && event.step === 2) stop.abort();
      const rest = await complete(resume(join(dir, `${id}-3`)));
      expect(rest.summary?.weights_sha256).toBe(whole.summary?.weights_sha256);
      expect(rest.summary?.losses_sha256).toBe(whole.summary?.losses_sha256);
      expect(rest.summary).toMatchObject({ bytes_up: (whole.summary as { bytes_up?: number }).bytes_up });
    },
  );

  it('keep what they left out: without it the same codec gives other weights', async () => {
    const compression = { name: 'top-k', ratio: 0.02 };
    const hash = async (error_feedback: boolean) =>
      (
        await complete(
          train(config(`left-${error_feedback}`, { ...compression, error_feedback }, { cohort: 8, threads: 1 })),
        )
      ).summary?.weights_sha256;
    expect(await hash(true)).not.toBe(await hash(false));
  });

  it('leave out layers that stay with clients, and count parameters on their way to them', async () => {
    await complete(
      train(
        config(
          'personal',
          { name: 'int8', down: 'int8' },
          { name: 'fedper', personal: ['head.*'], cohort: 3, threads: 1 },
        ),
      ),
    );
    const sent = PARAMS - HEAD;
    for (const line of linesOf('personal')) {
      expect(line.bytes_up).toBe(3 * (sent + 4 * Math.ceil(sent / 256)));
      expect(line.bytes_down).toBe(line.bytes_up);
    }
  });

  it('shorten simulated rounds, since less is sent', async () => {
    const behaviour = { bytes_per_second: 10_000 };
    const seconds = async (name: string) =>
      (await complete(train(config(`time-${name}`, { name }, { behaviour, threads: 1 })))).summary as unknown as {
        simulated_s: number;
      };
    const [plain, short] = [await seconds('none'), await seconds('sign')];
    expect(short.simulated_s).toBeLessThan(0.6 * plain.simulated_s);
  });

  it('cannot be had with secure aggregation, nor where a strategy sends less in a way of its own', async () => {
    const secure = config('secure', { name: 'int8' }, { secure_aggregation: { name: 'secagg+' } });
    await expect(complete(train(secure))).rejects.toThrow(ConfigError);
    await expect(complete(train(secure))).rejects.toThrow(/scheduler.compression: secure aggregation adds masks/);
    await expect(complete(train(config('ratio', { name: 'top-k', ratio: 0 })))).rejects.toThrow(ConfigError);
  });
});

describe('an update that is compressed', () => {
  const sender = { seed: 1, round: 2, client: 3 };

  it('is within the bound on norms even if rounding and what was left out would make it larger', () => {
    for (const name of ['f16', 'int8', 'sign', 'top-k', 'random-mask']) {
      const codec = uploadCodec(updateCompressionSchema.parse({ name }));
      if (!codec) throw new Error('no codec');
      const update = wave(5000);
      const before = Float32Array.from(update);
      const left = wave(5000).map((value) => 40 * value);
      const sent = compressUpdate(codec, update, sender, { left, bound: 0.5 });
      const norm = Math.hypot(...update);
      expect(norm).toBeLessThanOrEqual(0.5);
      expect(norm).toBeGreaterThan(0.45);
      // Nothing is lost: what was not sent is kept.
      update.forEach((value, i) => {
        expect(value + (sent.left?.[i] as number)).toBeCloseTo((before[i] as number) + (left[i] as number), 4);
      });
    }
  });

  it('is masked at places drawn for each round and client', () => {
    const codec = updateCodec({ keep: 'random', ratio: 0.1, values: 'f32', unbiased: true });
    const places = (round: number, client: number) => {
      const update = wave(1000);
      compressUpdate(codec, update, { seed: 1, round, client }, { left: null, bound: null });
      return update.map((value) => (value === 0 ? 0 : 1)).join('');
    };
    expect(places(1, 2)).toBe(places(1, 2));
    expect(new Set([places(1, 2), places(2, 2), places(1, 3)]).size).toBe(3);
  });

  it('is gathered from the places that are sent', () => {
    const runs = runsWithout(10, [
      { offset: 0, size: 2 },
      { offset: 5, size: 1 },
    ]);
    expect(runs).toEqual([
      [2, 5],
      [6, 10],
    ]);
    expect(runsWithout(3, [])).toEqual([[0, 3]]);
    expect(runsWithout(3, [{ offset: 0, size: 3 }])).toEqual([]);
    const vector = Float32Array.from({ length: 10 }, (_, i) => i);
    const values = gatherRuns(vector, runs);
    expect([...values]).toEqual([2, 3, 4, 6, 7, 8, 9]);
    expect(sizeOfRuns(runs)).toBe(7);
    scatterRuns(
      values.map((value) => -value),
      runs,
      vector,
    );
    expect([...vector]).toEqual([0, 1, -2, -3, -4, 5, -6, -7, -8, -9]);
    expect(gatherRuns(vector, [])).toHaveLength(0);
  });
});
