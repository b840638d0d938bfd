import { Worker } from 'node:worker_threads';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createEngine, type Engine } from '../../src/engine/index.ts';
import { FLIGHT_LENGTH, FlightRecorder, readEntries, readWaits } from '../../src/worker/flight-recorder.ts';
import {
  createProgress,
  createRanks,
  culpritOf,
  formatFlight,
  PROGRESS_FIELDS,
  type RankState,
  readFlight,
} from '../../src/worker/index.ts';
import { makeJobs } from './jobs.ts';

let engine: Engine;
beforeAll(async () => {
  engine = await createEngine({ kind: 'onnx', device: 'cpu', threads: 1 });
});
afterAll(() => engine.dispose());

describe('the flight recorder', () => {
  it('remembers the last instructions, oldest first', () => {
    const progress = createProgress();
    const recorder = FlightRecorder.in(progress)!;
    expect(readEntries(progress)).toEqual([]);
    expect(readWaits(progress)).toBeNull();
    for (let i = 0; i < FLIGHT_LENGTH + 10; i++) recorder.record(i >> 3, i % 2, i);
    const entries = readEntries(progress);
    expect(entries.map(({ index }) => index)).toEqual(Array.from({ length: FLIGHT_LENGTH }, (_, i) => i + 10));
    expect(entries.every(({ step, mode, index }) => step === index >> 3 && mode === index % 2)).toBe(true);
    expect(entries.every(({ began }, i) => i === 0 || began >= (entries[i - 1]?.began as number))).toBe(true);
  });

  it('does without memory for it', () => {
    expect(FlightRecorder.in(undefined)).toBeNull();
    const small = new SharedArrayBuffer(PROGRESS_FIELDS.length * 4);
    expect(FlightRecorder.in(small)).toBeNull();
    expect([readEntries(small), readWaits(small)]).toEqual([[], null]);
  });

  it('is read while it is written', async () => {
    const progress = createProgress();
    const writer = new Worker(
      `const { parentPort, workerData } = require('node:worker_threads');
       import(workerData.entry).then(({ FlightRecorder }) => {
         const recorder = FlightRecorder.in(workerData.progress);
         for (let i = 0; i < 300000; i++) {
           if (i === 1000) parentPort.postMessage('begun');
           recorder.record(i, 0, i);
         }
         parentPort.postMessage('done');
       });`,
      {
        eval: true,
        workerData: { progress, entry: new URL('../../dist/worker/flight-recorder.js', import.meta.url).href },
      },
    );
    let done = false;
    const ended = new Promise<void>((resolve, reject) => {
      writer.on('message', (text) => {
        done ||= text === 'done';
        if (done) resolve();
      });
      writer.on('error', reject);
    });
    let looks = 0;
    while (!done) {
      const indices = readEntries(progress).map(({ index }) => index);
      expect(indices.every((index, i) => i === 0 || index === (indices[i - 1] as number) + 1)).toBe(true);
      looks += 1;
      await new Promise((resolve) => setImmediate(resolve));
    }
    await ended;
    await writer.terminate();
    expect(looks).toBeGreaterThan(0);
  });

  it('tells what ranks wait for, and who holds them up', async () => {
    const made = await makeJobs({ parallel: { pipeline: 2 } });
    const jobs = made.jobs.map((job) => ({ ...job, progress: createProgress(), deadlineMs: 1500 }));
    const look = () =>
      jobs.map(({ rank, progress, train, evaluate }) => readFlight({ rank, generation: 3, progress, train, evaluate }));
    expect(look().map(({ doing }) => doing)).toEqual(['starting', 'starting']);
    const { ranks, dispose } = await createRanks(jobs, { ...made.overrides, engine });
    try {
      await Promise.all(ranks.map((rank) => rank.step(0)));
      const [after] = look();
      expect(after).toMatchObject({ rank: 0, generation: 3, step: 0, doing: 'between steps, after step 0', waits: [] });
      expect(after?.recent.at(-1)?.instruction).toMatch(/^Optimize/);
      // Only the second stage goes on: it waits for the first, which does nothing.
      const failed = ranks[1]!.step(1).catch((error: Error) => error);
      await new Promise((resolve) => setTimeout(resolve, 400));
      const states = look();
      const [, waiting] = states;
      expect(waiting?.doing).toMatch(/^step 1, Recv activation s1 m0 from rank 0/);
      expect(waiting?.waits).toEqual([{ from: 0, tag: expect.stringMatching(/act/), sinceMs: expect.any(Number) }]);
      expect(waiting?.waits[0]?.sinceMs).toBeGreaterThan(300);
      expect(culpritOf(states)).toMatchObject({ kind: 'rank', rank: 0, waiting: 1 });
      const text = formatFlight(states);
      expect(text).toMatch(
        /rank 1 +step 1, Recv activation s1 m0 from rank 0 .*, for 0\.\d\d s\n +waits for rank 0 \[/,
      );
      expect(text).toMatch(/one other rank waits for rank 0, which waits for nobody: between steps, after step 0/);
      expect(await failed).toMatchObject({ name: 'CommTimeout' });
    } finally {
      await dispose();
    }
  });

  it('costs next to nothing', () => {
    const recorder = FlightRecorder.in(createProgress())!;
    let best = Number.POSITIVE_INFINITY;
    for (let round = 0; round < 20; round++) {
      const start = performance.now();
      for (let i = 0; i < 10_000; i++) recorder.record(1, 0, i);
      best = Math.min(best, (performance.now() - start) / 10_000);
    }
    // Milliseconds an instruction.
    expect(best).toBeLessThan(0.005);
  });
});

describe('who holds the others up', () => {
  const state = (rank: number, from: number[], sinceMs = 1000): RankState => ({
    rank,
    generation: 0,
    step: 4,
    doing: `step 4, something of ${rank}`,
    sinceMs,
    waits: from.map((peer) => ({ from: peer, tag: 't', sinceMs })),
    recent: [],
  });

  it('is found through others', () => {
    expect(culpritOf([state(0, [1]), state(1, [2]), state(2, []), state(3, [])])).toMatchObject({
      rank: 2,
      waiting: 2,
    });
  });

  it('is somebody of whom nothing was heard', () => {
    const states = [state(0, [2]), state(1, [2])];
    expect(culpritOf(states)).toMatchObject({ rank: 2, state: null });
    expect(formatFlight(states)).toMatch(/2 other ranks wait for rank 2, of which nothing was heard$/);
  });

  it('may be a circle, or nobody', () => {
    const circle = [state(0, [1]), state(1, [2]), state(2, [0])];
    expect(culpritOf(circle)).toEqual({ kind: 'circle', ranks: [0, 1, 2] });
    expect(formatFlight(circle)).toMatch(/ranks wait for each other: 0 → 1 → 2 → 0$/);
    expect(culpritOf([state(0, []), state(1, [])])).toEqual({ kind: 'none' });
    expect(formatFlight([])).toBe('');
  });
});
