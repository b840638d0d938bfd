import { MessageChannel, type MessagePort } from 'node:worker_threads';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createLoopbackTransports } from '../../src/comm/index.ts';
import { createEngine, type Engine } from '../../src/engine/index.ts';
import { SnapshotShelf, serve, type WorkerCommand, type WorkerEvent } from '../../src/worker/index.ts';
import { type JobOptions, makeJobs } from './jobs.ts';

let engine: Engine;
beforeAll(async () => {
  engine = await createEngine({ kind: 'onnx', device: 'cpu', threads: 1 });
});
afterAll(() => engine.dispose());

/** A worker in this thread, driven over a port as the coordinator does. */
async function launch(options: JobOptions = {}) {
  const { jobs, overrides } = await makeJobs(options);
  const channel = new MessageChannel();
  const [transport] = createLoopbackTransports(1);
  const events: WorkerEvent[] = [];
  const waiting: (() => void)[] = [];
  channel.port1.on('message', (event: WorkerEvent) => {
    events.push(event);
    for (const wake of waiting.splice(0)) wake();
  });
  const done = serve(jobs[0]!, transport!, channel.port2 as MessagePort, { ...overrides, engine });
  return {
    done,
    events,
    port: channel.port1,
    send: (command: WorkerCommand) => channel.port1.postMessage(command),
    /** Waits for the n-th event of a type. */
    async event<T extends WorkerEvent['type']>(type: T, n = 0): Promise<Extract<WorkerEvent, { type: T }>> {
      for (;;) {
        const found = events.filter((event) => event.type === type)[n];
        if (found) return found as Extract<WorkerEvent, { type: T }>;
        await new Promise<void>((resolve) => waiting.push(resolve));
      }
    },
  };
}

describe('serve', () => {
  it('obeys commands in order and ends when told to', async () => {
    const worker = await launch({ job: { trace: true } });
    const ready = await worker.event('ready');
    expect(ready).toMatchObject({ step: 0, engineVersion: engine.version });
    worker.send({ type: 'run', until: 2 });
    worker.send({ type: 'evaluate', id: 7, split: 'validation', maxMicrobatches: 2 });
    worker.send({ type: 'snapshot', id: 8 });
    worker.send({ type: 'run', until: 3 });
    worker.send({ type: 'stop' });
    const stopped = await worker.event('stopped');
    await worker.done;
    expect(worker.events.map(({ type }) => type)).toEqual([
      'ready',
      'step',
      'step',
      'evaluated',
      'snapshotted',
      'step',
      'stopped',
    ]);
    expect((await worker.event('evaluated')).metrics.loss).toHaveLength(2);
    const { step, share } = await worker.event('snapshotted');
    expect(step).toBe(2);
    expect(new SnapshotShelf(share!).steps()).toEqual([2]);
    expect((await worker.event('step', 2)).report).toMatchObject({
      step: 2,
      gradNorm: expect.any(Number),
      lr: expect.any(Number),
    });
    expect((stopped.trace as unknown[]).length).toBeGreaterThan(10);
  });

  it('reports what goes wrong at the start, with the module path, and ends', async () => {
    const { jobs, overrides } = await makeJobs();
    const broken = {
      ...overrides.model!,
      layers: overrides.model!.layers.map((layer, i) =>
        i === 1
          ? {
              ...layer,
              module: {
                kind: 'broken',
                forward: () => {
                  throw new Error('on purpose');
                },
              },
            }
          : layer,
      ),
    };
    const channel = new MessageChannel();
    const events: WorkerEvent[] = [];
    channel.port1.on('message', (event: WorkerEvent) => events.push(event));
    const closed = new Promise<void>((resolve) => channel.port1.on('close', resolve));
    await serve(jobs[0]!, createLoopbackTransports(1)[0]!, channel.port2, { ...overrides, engine, model: broken });
    await closed;
    expect(events).toHaveLength(1);
    expect(events[0]).toMatchObject({
      type: 'failed',
      report: { rank: 0, path: 'blocks.0', secondary: false, message: expect.stringContaining('on purpose') },
    });
    expect((events[0] as Extract<WorkerEvent, { type: 'failed' }>).report.stack).toContain('serve.test.ts');
  });

  it('reports what goes wrong in a step, with the instruction, and ends', async () => {
    const { overrides } = await makeJobs();
    const dataset = overrides.dataset!;
    const worker = await launch({
      dataset: {
        ...dataset,
        split: (name) => ({
          ...dataset.split(name),
          batch: () => {
            throw new Error('the disk is gone');
          },
        }),
      },
    });
    worker.send({ type: 'run', until: 1 });
    const { report } = await worker.event('failed');
    expect(report).toMatchObject({ step: 0, microbatch: 0, message: 'the disk is gone', secondary: false });
    expect(report.instruction).toMatch(/LoadBatch/);
    await worker.done;
  });

  it('ends when nobody is there any more', async () => {
    const worker = await launch();
    await worker.event('ready');
    worker.port.close();
    await worker.done;
  });
});
