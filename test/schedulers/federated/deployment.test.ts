import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { BlobServer } from '../../../src/comm/index.ts';
import { dataSchema, encodingOf, openDataset, prepareData } from '../../../src/data/index.ts';
import { packed, splitVectors, unpacked } from '../../../src/schedulers/federated/deployment/payload.ts';
import { SentStarts } from '../../../src/schedulers/federated/deployment/sent-starts.ts';
import {
  allowSchema,
  type BadUpdate,
  ClientState,
  checkBare,
  checkExamples,
  checkFit,
  checkJob,
  checkTask,
  checkUpdate,
  checkWanted,
  defaultAllowList,
  epsilonGiven,
  epsilonOf,
  fitsIn,
  GatheredSum,
  type JobDescription,
  localData,
  newAccount,
  Roster,
  type RosterNews,
  RunningTreeSum,
  readAllowList,
  withFit,
} from '../../../src/schedulers/index.ts';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'plexus-deployment-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const file = (name: string, text: string): string => {
  writeFileSync(join(folder, name), text);
  return join(folder, name);
};

describe('sums of updates that come in any order', () => {
  it('have the bits of the tree in order', () => {
    const parts = fc.array(
      fc.option(fc.array(fc.float({ noNaN: true, min: -1e6, max: 1e6 }), { minLength: 3, maxLength: 3 })),
      {
        minLength: 1,
        maxLength: 23,
      },
    );
    const property = fc.property(parts, fc.infiniteStream(fc.nat()), (list, stream) => {
      const inOrder = new RunningTreeSum(list.length);
      list.forEach((part, i) => {
        inOrder.add(i + 1, part && Float32Array.from(part));
      });
      const order = list.map((_, i) => i);
      for (let i = order.length - 1; i > 0; i--) {
        const j = (stream.next().value as number) % (i + 1);
        [order[i], order[j]] = [order[j] as number, order[i] as number];
      }
      const any = new GatheredSum(list.length);
      for (const i of order) any.add(i, list[i] ? Float32Array.from(list[i] as number[]) : null);
      expect(any.total()).toEqual(inOrder.total());
    });
    fc.assert(property, { seed: 1, numRuns: 200 });
  });

  it('take each position once', () => {
    const sum = new GatheredSum(3);
    sum.add(1, new Float32Array(2));
    expect(() => sum.add(1, null)).toThrow('position 1 has come already');
    expect(() => sum.add(3, null)).toThrow('no position 3 among 3');
    expect(() => sum.total()).toThrow('only 1 of 3');
  });
});

describe('updates', () => {
  const check = (values: number[], maxNorm: number | null = null) =>
    checkUpdate(Float32Array.from(values), { params: 2, state: 1, maxNorm });

  it('are checked for length, finite numbers and norm', () => {
    expect(check([3, 4, 100])).toBe(5);
    expect(() => check([1, 2])).toThrow('its update has 2 numbers, 3 were expected');
    expect(() => check([1, Number.NaN, 2])).toThrow('number 1 of its update is NaN');
    expect(() => check([1, 1, Number.POSITIVE_INFINITY])).toThrow('number 2 of its update is Infinity');
    expect(() => check([3, 4, 0], 4.5)).toThrow('the norm of its update is 5.000, the bound 4.5');
    expect(() => check([1e30, 0, 0])).toThrow('the norm of its update is 1.000e+30');
  });

  it('that are only too large are no malice', () => {
    const malicious = (values: number[]) => {
      try {
        check(values, 1);
      } catch (error) {
        return (error as BadUpdate).malicious;
      }
      return null;
    };
    expect([malicious([3, 4, 0]), malicious([Number.NaN, 0, 0]), malicious([1]), malicious([0.1, 0, 0])]).toEqual([
      false,
      true,
      true,
      null,
    ]);
  });
});

describe('versions of the parameters on their way', () => {
  it('are there while somebody trains on them, and the last few besides', () => {
    const there = new Set<string>();
    const offer = (name: string) => {
      there.add(name);
      return () => there.delete(name);
    };
    const sent = new SentStarts({ offer } as unknown as BlobServer, 'server');
    const publish = (version: number) => {
      // (More than travels in a message.)
      const start = { version, params: new SharedArrayBuffer(40_000), state: new SharedArrayBuffer(0), round: {} };
      const release = sent.hold(start);
      sent.of(start);
      return release;
    };
    const [first, second, ...others] = Array.from({ length: 10 }, (_, version) => publish(version));
    for (const release of others) release();
    const versions = () => [...there].map((name) => Number(name.split(' ')[1]));
    expect(versions()).toEqual([0, 1, 8, 9]);
    second?.();
    publish(10)();
    expect(versions()).toEqual([0, 8, 9, 10]);
    first?.();
    publish(11)();
    expect(versions()).toEqual([8, 9, 10, 11]);
  });
});

describe('plain data with arrays', () => {
  it('comes out as it went in', () => {
    const value = { a: Float32Array.of(1, 2), b: [Int32Array.of(3), null, 'x'], c: { d: Uint8Array.of(1) }, e: true };
    expect(unpacked(packed(value))).toEqual(value);
    expect(() => unpacked({ 'plexus array': 'Function', bytes: new Uint8Array(4) })).toThrow('cannot be received');
    expect(() => splitVectors(new Uint8Array(8), [{ name: 'a', length: 3 }])).toThrow('8 bytes came, 12 were expected');
  });
});

describe('an allow-list', () => {
  const allow = defaultAllowList();
  const asked = { model: { name: 'mlp' }, objective: { name: 'none' }, batch: 10, secure: false };

  it('lets built-in things through, and names what it refuses', () => {
    checkJob(allow, asked);
    checkTask(allow, 'batch-statistics');
    const fit = { epochs: 5, clipNorm: 0.1, noise: 0.2 };
    const none = newAccount();
    checkFit(allow, { ...fit, clipNorm: null }, none, 'run');
    checkFit({ ...allow, min_noise: 2 }, fit, none, 'run');
    for (const less of [{ noise: 0.19 }, { noise: null }, { clipNorm: null }])
      expect(() => checkFit({ ...allow, min_noise: 2 }, { ...fit, ...less }, none, 'run')).toThrow(
        'the allow-list wants 2 (min_noise)',
      );
    const twice = withFit(withFit(none, 'run', 0), 'run', 0);
    checkFit({ ...allow, max_rounds: 2 }, fit, twice, 'another run');
    expect(() => checkFit({ ...allow, max_rounds: 2 }, fit, twice, 'run')).toThrow(
      "rounds: 3 is more than the allow-list's max_rounds 2",
    );
    expect(() => checkJob(allow, { ...asked, model: { name: 'tfjs-layers' } })).toThrow(
      'the model "tfjs-layers" is not on the allow-list (models: ',
    );
    expect(() => checkJob(allow, { ...asked, objective: { name: 'eval' } })).toThrow(
      'the local objective "eval" is not',
    );
    expect(() => checkJob(allow, { ...asked, batch: 5000 })).toThrow("more than the allow-list's max_batch 4096");
    checkJob({ ...allow, secure_aggregation: true }, { ...asked, secure: true });
    expect(() => checkJob({ ...allow, secure_aggregation: true }, asked)).toThrow(
      'wants them masked (secure_aggregation)',
    );
    expect(() => checkFit(allow, { ...fit, epochs: 51 }, none, 'run')).toThrow(
      "local epochs: 51 is more than the allow-list's max_epochs 50",
    );
    expect(() => checkTask({ ...allow, tasks: [] }, 'top-gradients')).toThrow('(tasks: none)');
    expect(() => checkWanted('personal-layers', ['personal'])).toThrow(`"personal" is this client's own`);
    checkWanted('control-variates', ['own']);
  });

  it('bounds what all answers together tell, by the accountant of local privacy', () => {
    const bounded = { ...allow, max_epsilon: 8, delta: 1e-6 };
    const fit = { epochs: 1, clipNorm: 0.1, noise: 1 };
    let account = newAccount();
    for (let fits = 1; ; fits++) {
      const epsilon = epsilonOf({ noiseMultiplier: 5, sampling: 1, rounds: fits }, 1e-6);
      const check = () => checkFit(bounded, fit, account, `run ${fits}`);
      if (epsilon > 8) {
        expect(check).toThrow(`would tell epsilon ${epsilon.toPrecision(4)} of its examples (delta 0.000001), and`);
        expect(fits).toBeGreaterThan(10);
        break;
      }
      check();
      account = withFit(account, `run ${fits}`, 10);
      expect(epsilonGiven(account, 1e-6)).toBeCloseTo(epsilon, 9);
    }
    expect(() => checkFit(bounded, fit, withFit(newAccount(), 'run', 0), 'run')).toThrow(
      '1 fits under no noise before',
    );
    expect(() => checkFit(bounded, { ...fit, noise: 0 }, newAccount(), 'run')).toThrow('would tell epsilon Infinity');
    expect(() => checkBare(bounded, 'its answer')).toThrow('its answer would be under no noise');
    checkBare(allow, 'its answer');
  });

  it('wants enough examples of more than one class', () => {
    expect(() => checkExamples(allow, { examples: 0, classes: 0 })).toThrow('there are no examples to train on');
    expect(() => checkExamples(allow, { examples: 1, classes: 1 })).toThrow('only 1 examples');
    expect(() => checkExamples(allow, { examples: 9, classes: 1 })).toThrow('all examples are of one class');
    checkExamples({ ...allow, one_class: true }, { examples: 9, classes: 1 });
    checkExamples(allow, { examples: 9, classes: null });
    checkExamples(allow, { examples: 4096, classes: null }, null);
    expect(() => checkExamples(allow, { examples: 4097, classes: null }, null)).toThrow(
      "a batch of all examples: 4097 is more than the allow-list's max_batch 4096",
    );
    checkJob(allow, { model: { name: 'mlp' }, objective: { name: 'none' }, batch: null, secure: false });
  });

  it('is read from a file, whose mistakes are named', () => {
    expect(readAllowList(file('allow.yaml', 'models: [mlp]\nmax_epochs: 2\n'))).toEqual(
      allowSchema.parse({ models: ['mlp'], max_epochs: 2 }),
    );
    expect(() => readAllowList(file('typo.yaml', 'max_epoch: 2\n'))).toThrow(/unknown key 'max_epoch'/);
  });
});

describe("a client's own data", () => {
  const server = 'age,city,ill\n20,Rome,no\n40,Oslo,yes\n30,Rome,yes\n50,Oslo,no\n';
  const job = async (): Promise<JobDescription> => {
    const section = dataSchema.parse({ name: 'csv', path: file('server.csv', server), validation: 0 });
    const encoding = encodingOf(await prepareData(section));
    return {
      ...{ seed: 1, model: { name: 'mlp', args: {} }, optim: {}, objective: { name: 'none', config: {} }, batch: 2 },
      ...{ engine: 'onnx', data: { section, encoding }, partition: { how: { name: 'iid' }, holdout: 0 }, more: {} },
      secure: false,
    };
  };
  const read = async (text: string) => localData({ data: file('own.csv', text), part: null }, await job());

  it('becomes numbers as the job says, in whatever order its columns are', async () => {
    const { prepared, examples, classes } = await read('ill,note,city,age\nyes,a,Oslo,35\nno,b,Rome,46.18034\n');
    expect(examples.length).toBe(2);
    expect(classes).toBe(2);
    const { inputs, targets } = openDataset(prepared).split('train').batch(Int32Array.of(0, 1));
    const rows = [...((inputs[0] as { data: unknown }).data as Float32Array)];
    const first = [...((targets[0] as { data: unknown }).data as Int32Array)].indexOf(1);
    // Age is shifted and scaled by the server's mean 35 and deviation 11.18; Oslo and Rome are its categories.
    expect(rows.slice(3 * first, 3 * first + 3)).toEqual([0, 1, 0]);
    expect(rows[3 * (1 - first)]).toBeCloseTo(1, 5);
  });

  it.each([
    ['a missing column', 'age,ill\n1,no\n', "has no column 'city'; expected age, city, ill, found age, ill"],
    ['two missing columns', 'ill\nno\n', "has no columns 'age', 'city'"],
    ['an unknown category', 'age,city,ill\n1,Bonn,no\n', `column 'city': expected one of Oslo, Rome, found "Bonn"`],
    ['an unknown label', 'age,city,ill\n1,Oslo,maybe\n', `column 'ill': expected one of no, yes, found "maybe"`],
    ['a word for a number', 'age,city,ill\nold,Oslo,no\n', `own.csv:2: column 'age': expected a number, found "old"`],
    ['an empty cell', 'age,city,ill\n,Oslo,no\n', "column 'age': the cell is empty; fill it in"],
    ['no rows', 'age,city,ill\n', 'there is a header but no rows'],
  ])('with %s is refused', async (_, text, message) => {
    await expect(read(text)).rejects.toThrow(message);
  });

  it('must be there, and of the kind of the job', async () => {
    const description = await job();
    await expect(localData({ data: join(folder, 'none.csv'), part: null }, description)).rejects.toThrow(
      'there is no file',
    );
    await expect(localData({ data: 'mnist', part: null }, description)).rejects.toThrow(
      'the job trains on data like "csv"',
    );
  });

  it('is held out in part, where the job says so', async () => {
    const given = await job();
    const text = `age,city,ill\n${Array.from({ length: 10 }, (_, i) => `${30 + i},Oslo,${i % 2 ? 'yes' : 'no'}`).join('\n')}\n`;
    const read = (holdout: number) => {
      const partition = { ...(given.partition as object), holdout };
      return localData({ data: file('held.csv', text), part: null }, { ...given, partition });
    };
    const { examples, held } = await read(0.3);
    expect([examples.length, held.length]).toEqual([7, 3]);
    expect([...examples, ...held].sort((a, b) => a - b)).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    expect((await read(0)).held.length).toBe(0);
  });

  it('can be a part, which is that of the simulation', async () => {
    const description = await job();
    const parts = await Promise.all(
      [0, 1].map((index) => localData({ data: join(folder, 'server.csv'), part: { index, of: 2 } }, description)),
    );
    expect(parts.flatMap(({ examples }) => [...examples]).sort()).toEqual([0, 1, 2, 3]);
  });
});

describe("a client's state", () => {
  it('keeps its identity, and what the server may still come back to', async () => {
    const path = join(folder, 'state');
    const state = await ClientState.open(path);
    await expect(ClientState.open(path)).rejects.toThrow('another client uses the state folder');
    const vectors = (value: number) => ({ own: Float32Array.of(value) });
    await state.write('run', 3, vectors(3), [null]);
    await state.write('run', 7, vectors(7), [3, 3]);
    await state.write('run', 9, vectors(9), [7, 3]);
    expect(await state.read('run', 3)).toEqual(vectors(3));
    await state.write('run', 11, vectors(11), [9, 9]);
    expect(await state.read('run', 9)).toEqual(vectors(9));
    await expect(state.read('run', 3)).rejects.toThrow('what it kept after round 3 is not in its state folder');
    await state.close();
    const again = await ClientState.open(path);
    expect(again.identity).toEqual(state.identity);
    await again.close();
  });

  it('keeps account of what it has answered, over runs', async () => {
    const path = join(folder, 'account');
    const state = await ClientState.open(path);
    expect(state.account).toEqual(newAccount());
    for (const run of ['one', 'two', 'one']) await state.spend(run, 2);
    await state.spend('two', 0);
    await state.close();
    const again = await ClientState.open(path);
    expect(fitsIn(again.account, 'one')).toBe(2);
    expect(again.account).toMatchObject({ noisy: 0.75, bare: 1 });
    await again.close();
    writeFileSync(join(path, 'account.json'), '{"runs": 3}');
    await expect(ClientState.open(path)).rejects.toThrow(
      /account.json is not the account of what a client has answered/,
    );
    // (Nobody holds the folder after that.)
    writeFileSync(join(path, 'account.json'), JSON.stringify(newAccount()));
    await (await ClientState.open(path)).close();
  });
});

describe('the roster', () => {
  const token = 'a'.repeat(64);
  const who = (letter: string) => ({ id: letter.repeat(36), token, name: letter });
  const told = { protocol: 1, version: '1', session: 'f'.repeat(36), params: 1, state: 0, secret: token };
  const arrive = (roster: Roster, letter: string, part: number | null = null) => {
    roster.join({ type: 'join', ...who(letter), ...told, part: part === null ? null : { index: part, of: 9 } });
    roster.arrive({ type: 'ready', ...who(letter), ...told, examples: 5 });
  };

  it('gives numbers by part and name, for ever', async () => {
    const options = { file: join(folder, 'clients.json'), leaseMs: 60_000, news: () => undefined };
    const roster = await Roster.open(options);
    for (const letter of ['c', 'a']) arrive(roster, letter);
    arrive(roster, 'b', 1);
    expect(roster.numbers()).toEqual([0, 1, 2]);
    expect([0, 1, 2].map((number) => roster.nameOf(number))).toEqual(['a', 'b', 'c']);
    expect(() => roster.join({ type: 'join', ...who('d'), ...told, part: { index: 1, of: 9 } })).toThrow(
      'part 2 belongs to client b',
    );
    expect(() => roster.beat({ ...who('a'), token: 'b'.repeat(64) })).toThrow(
      'this identity belongs to another client',
    );
    roster.quarantine(2, 'it sent nonsense');
    expect(roster.numbers()).toEqual([0, 1]);
    await roster.close();
    const again = await Roster.open(options);
    expect(() => again.join({ type: 'join', ...who('c'), ...told, part: null })).toThrow(
      'quarantined: it sent nonsense',
    );
    arrive(again, 'd');
    arrive(again, 'a');
    expect(again.numbers()).toEqual([0, 3]);
    expect(again.examples(1)).toBe(5);
    await again.close();
  });

  it('notices who is silent, and waits for enough', async () => {
    const news: RosterNews[] = [];
    let gone = () => {};
    const heard = new Promise<void>((resolve) => {
      gone = resolve;
    });
    const roster = await Roster.open({
      file: join(folder, 'silent.json'),
      leaseMs: 80,
      news: (each) => {
        news.push(each);
        if (each.what === 'gone') gone();
      },
    });
    const never = new AbortController().signal;
    const waited = roster.enough(1, 5000, never, () => undefined);
    arrive(roster, 'a');
    expect(await waited).toBe(true);
    expect(await roster.enough(2, 1, never, () => undefined)).toBe(false);
    expect(await roster.enough(2, 5000, AbortSignal.abort(), () => undefined)).toBe(false);
    await heard;
    expect(roster.ready).toBe(0);
    await roster.close();
    expect(news.map(({ what, name }) => [what, name])).toEqual([
      ['joined', 'a'],
      ['gone', 'a'],
    ]);
  });
});
