import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { complete, resume, train } from '../../../src/index.ts';
import {
  askClients,
  behaviourSchema,
  clientBehaviour,
  diurnalTrace,
  readTrace,
} from '../../../src/schedulers/index.ts';

let dir: string;
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'plexus-availability-'));
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));
const file = (name: string, text: string): string => {
  writeFileSync(join(dir, name), text);
  return join(dir, name);
};

describe('a trace', () => {
  it('says what one finds by looking at each second', () => {
    const stretch = fc.tuple(fc.nat(2), fc.nat(29), fc.integer({ min: 1, max: 10 }));
    let files = 0;
    const property = fc.property(fc.array(stretch, { minLength: 1, maxLength: 8 }), fc.nat(100), (rows, time) => {
      const text = rows.map(([device, from, length]) => `d${device},${from},${from + length}`).join('\n');
      const trace = readTrace(file(`trace-${files++ % 2}.csv`, `client,from,until\n${text}\n`));
      const devices = [...new Set(rows.map(([device]) => device))];
      const period = Math.max(...rows.map(([, from, length]) => from + length));
      for (const client of [0, 1, 2, 3]) {
        const own = rows.filter(([device]) => device === devices[client % devices.length]);
        const there = (at: number) => own.some(([, from, n]) => at % period >= from && at % period < from + n);
        let until = time;
        while (there(until) && until < time + 2 * period) until += 1;
        let next = time;
        while (!there(next)) next += 1;
        const always = until === time + 2 * period;
        expect(trace.until(client, time)).toBe(!there(time) ? null : always ? Number.POSITIVE_INFINITY : until);
        expect(trace.next(client, time)).toBe(next);
      }
    });
    fc.assert(property, { seed: 1, numRuns: 300 });
  });

  it('of days has each client there for its part of every day, at hours of its own', () => {
    const trace = diurnalTrace(0.25, 7);
    const clients = Array.from({ length: 200 }, (_, i) => i);
    for (const client of [0, 1, 199]) {
      const minutes = Array.from({ length: 2 * 1440 }, (_, i) => trace.until(client, i * 60) !== null);
      expect(Math.abs(minutes.filter(Boolean).length - 720)).toBeLessThanOrEqual(2);
      // One stretch a day.
      expect(minutes.filter((there, i) => there && !minutes[i - 1]).length).toBeLessThanOrEqual(3);
    }
    for (const hour of [0, 6, 12, 18])
      expect(clients.filter((client) => trace.until(client, hour * 3600) !== null).length).toBeGreaterThan(25);
    expect(diurnalTrace(1, 7).until(3, 12)).toBe(Number.POSITIVE_INFINITY);
  });

  it.each([
    ['client,from\na,1\n', /:1: expected the columns client, from, until, found client, from: there is no 'until'/],
    ['client,from,until\na,1,2\na,x,3\n', /:3: 'from' is "x", expected a number of seconds/],
    ['client,from,until\na,5,5\n', /:2: 'until' is 5, expected more than 'from', which is 5/],
    ['client,from,until\na,-1,5\n', /:2: 'from' is "-1"/],
  ])('that makes no sense is refused by line: %j', (text, why) => {
    expect(() => readTrace(file('bad.csv', text))).toThrow(why);
    expect(() => readTrace(join(dir, 'none.csv'))).toThrow(/none.csv cannot be read/);
  });
});

const config = (id: string, scheduler: object) => ({
  seed: 5,
  model: { name: 'mlp', args: { hidden: [16] } },
  data: { name: 'mnist', limit: 400, validation: 0.1 },
  optim: { name: 'sgd', lr: 0.1, momentum: 0 },
  train: { steps: 8, eval_every: 0 },
  run: { dir, id },
  scheduler: { clients: 8, local_batch: 8, threads: 1, ...scheduler },
});
const metricsOf = (id: string) =>
  readFileSync(join(dir, id, 'metrics.jsonl'), 'utf8')
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));
/** What must not depend on threads or on interruptions. */
const told = (id: string) => metricsOf(id).map(({ step_ms: _, examples_per_s: __, ...line }) => line);

describe('clients that come and go by a trace', () => {
  // Half of the devices are there in the first second, the others in the fourth; nobody in between.
  const trace = 'client,from,until\na,0,0.5\nb,3,4\n';

  it.each([
    { name: 'fedavg', cohort: 8 },
    { name: 'fedbuff', concurrency: 4, buffer: 2 },
    { name: 'gossip', topology: 'ring' },
  ])('take part when they are there, to the same bits with two threads and interrupted: $name', async (scheduler) => {
    const { name } = scheduler;
    const behaviour = { trace: file('there.csv', trace), bytes_per_second: 5e5, seconds_per_example: 0.004 };
    const whole = await complete(train(config(`${name}-1`, { ...scheduler, behaviour })));
    const stop = new AbortController();
    const again = config(`${name}-2`, { ...scheduler, behaviour, threads: 2 });
    for await (const event of train(again, { signal: stop.signal }))
      if (event.type === 'step' && event.step === 3) stop.abort();
    const rest = await complete(resume(join(dir, `${name}-2`)));
    expect(told(`${name}-2`)).toEqual(told(`${name}-1`));
    for (const key of ['weights_sha256', 'simulated_s'] as const)
      expect(rest.summary?.[key]).toBe(whole.summary?.[key]);
    // Time went on where nobody was there.
    const lines = metricsOf(`${name}-1`);
    expect(lines.reduce((sum, { simulated_s: seconds }) => sum + seconds, 0)).toBeGreaterThan(3);
    // A server that does not wait for rounds asks only those who are there.
    if (name !== 'fedbuff') expect(lines.some(({ dropped_clients: gone }) => gone.length > 0)).toBe(true);
    expect(lines.some(({ clients }) => clients > 0)).toBe(true);
  });

  it('are found also where hardly anybody is there at a time', async () => {
    const often = Array.from({ length: 1000 }, (_, i) => `phone-${i},${100 * i},${100 * i + 1}`).join('\n');
    const behaviour = { trace: file('rare.csv', `client,from,until\n${often}\n`), seconds_per_example: 0.001 };
    await complete(train(config('rare', { name: 'fedbuff', concurrency: 2, buffer: 2, behaviour })));
    const lines = metricsOf('rare');
    expect(lines.every(({ clients }) => clients === 2)).toBe(true);
    const gone = lines.flatMap(({ dropped_clients }) => dropped_clients);
    expect(gone.every(({ reason }: { reason: string }) => reason === 'it left while it trained')).toBe(true);
    expect(lines.reduce((sum, { simulated_s: seconds }) => sum + seconds, 0)).toBeGreaterThan(100);
  });

  it('have left if they can no longer be reached before they are done', async () => {
    const behaviour = { trace: file('short.csv', 'client,from,until\na,0,0.2\nb,0,100\n'), bytes_per_second: 5e5 };
    await complete(train(config('short', { name: 'fedavg', cohort: 8, behaviour })));
    const [first] = metricsOf('short');
    expect(first.dropped_clients).toEqual(
      [0, 2, 4, 6].map((client) => ({ client, reason: 'it left in the middle of the round' })),
    );
  });

  it('are refused with file and line', async () => {
    const behaviour = { trace: file('bad.csv', 'client,from,until\na,3,1\n') };
    await expect(complete(train(config('bad', { name: 'fedavg', behaviour })))).rejects.toThrow(
      /bad.csv:2: 'until' is 1/,
    );
  });
});

describe('clients that are late', () => {
  const asked = (late: 'drop' | 'partial', deadline: number | null) => {
    const behaviour = clientBehaviour(behaviourSchema.parse({ late, seconds_per_example: 0.01 }), 1);
    const cohort = [
      { client: 0, examples: new Int32Array(10) },
      { client: 1, examples: new Int32Array(95) },
      { client: 2, examples: new Int32Array(1000) },
    ];
    return askClients(cohort, {
      ...{ behaviour, local: { epochs: 2, batch: 10 }, round: 0, time: 0, deadline, bytes: 0 },
      weigh: ({ examples, steps }) => examples / steps,
      tell: () => ({ clipNorm: null, kept: {} }),
    });
  };

  it('are left out, or send what they have by the deadline', () => {
    const steps = ({ fits }: ReturnType<typeof asked>) => fits.map(({ client, maxSteps }) => [client, maxSteps]);
    expect(steps(asked('drop', null))).toEqual([
      [0, null],
      [1, null],
      [2, null],
    ]);
    expect(asked('drop', null).seconds).toBeCloseTo(20, 9);
    expect(steps(asked('drop', 1))).toEqual([[0, null]]);
    // 20 steps for 190 examples in 1.9 s, 200 steps in 20 s.
    const partial = asked('partial', 1);
    expect(steps(partial)).toEqual([
      [0, null],
      [1, 10],
      [2, 10],
    ]);
    expect(partial.fits.map(({ weight }) => weight)).toEqual([5, 9.5, 100]);
    expect(partial).toMatchObject({ seconds: 1, dropped: [], left: [] });
    // Not even time for one step.
    expect(steps(asked('partial', 0.05))).toEqual([]);
    expect(asked('partial', 0.05).dropped.map(({ reason }) => reason)).toContain(
      'it would have taken 20.0 s, the deadline is 0.05 s',
    );
  });

  it('train on as much as they have time for, to the same bits with two threads', async () => {
    const scheduler = { name: 'fedprox', cohort: 8, local_epochs: 3, round_deadline_s: 0.3 };
    const behaviour = { speed_spread: 20, seconds_per_example: 0.002 };
    const run = async (id: string, late: string, threads: number) =>
      (await complete(train(config(id, { ...scheduler, threads, behaviour: { ...behaviour, late } })))).summary;
    const [dropped, one, two] = [
      await run('drop', 'drop', 1),
      await run('partial-1', 'partial', 1),
      await run('partial-2', 'partial', 2),
    ];
    expect(two?.weights_sha256).toBe(one?.weights_sha256);
    expect(one?.weights_sha256).not.toBe(dropped?.weights_sha256);
    expect(metricsOf('drop')[0].dropped).toBeGreaterThan(metricsOf('partial-1')[0].dropped);
    // Less than all passes over all examples, more than what those do who are in time.
    expect(one?.samples_seen as number).toBeGreaterThan(dropped?.samples_seen as number);
    expect(one?.samples_seen as number).toBeLessThan(8 * 3 * 360);
  });
});
