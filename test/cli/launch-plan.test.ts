import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { parseHostfile } from '../../src/cli/hostfile.ts';
import { planLaunch } from '../../src/cli/launch.ts';
import { gpuEnvironments, planSlots, visibleGpus } from '../../src/cli/slots.ts';
import { parseListen } from '../../src/cli/worker.ts';

describe('hostfile', () => {
  it('is read as DeepSpeed and MPI write it', () => {
    const text = '# the machines\nnode1 slots=4\n\n me@node2   slots=2 max_slots=8 # old\r\n10.0.0.3\nnode1 slots=2\n';
    expect(parseHostfile(text, 'hosts')).toEqual([
      { host: 'node1', slots: 6, line: 2 },
      { host: 'me@node2', slots: 2, line: 4 },
      { host: '10.0.0.3', slots: null, line: 5 },
    ]);
  });

  it.each([
    ['-oProxyCommand=evil', /hosts:1: '-oProxyCommand=evil' is no host/],
    ['node1; rm -rf', /hosts:1: 'node1;' is no host/],
    ['ok\nnode1 slot=4', /hosts:2: 'slot=4' is not known: 'slots=N'/],
    ['node1 slots=0', /slots must be a whole number of at least 1/],
    ['node1 slots=two', /slots must be a whole number of at least 1/],
    ['# nobody', /hosts names no host/],
  ])('%j is refused', (text, message) => {
    expect(() => parseHostfile(text, 'hosts')).toThrow(message);
  });

  it('never lets through what a shell or ssh would take for something else', () => {
    fc.assert(
      fc.property(fc.string({ maxLength: 30 }), (text) => {
        try {
          for (const { host } of parseHostfile(text, 'f'))
            expect(host).toMatch(/^[^-\s;&|$`'"<>()\\*?!][^\s;&|$`'"<>()\\*?!]*$/);
        } catch (error) {
          expect((error as Error).name).toBe('UsageError');
        }
      }),
    );
  });
});

describe('slots and GPUs', () => {
  const gpus = (n: number) => () => n;

  it.each([
    ['without a device', undefined, undefined, {}, 0, { slots: 1, devices: [null] }],
    ['auto on a CPU', 'auto', 'cpu', {}, 8, { slots: 1, devices: ['cpu'] }],
    ['several on a CPU', 3, undefined, {}, 0, { slots: 3, devices: [null, null, null] }],
    ['auto with GPUs', 'auto', 'cuda', {}, 2, { slots: 2, devices: ['cuda:0', 'cuda:1'] }],
    ['a GPU unless more are asked for', undefined, 'cuda', {}, 4, { slots: 1, devices: ['cuda:0'] }],
    [
      'what is visible, counted from 0',
      'auto',
      'cuda',
      { CUDA_VISIBLE_DEVICES: '5,7' },
      8,
      { slots: 2, devices: ['cuda:0', 'cuda:1'] },
    ],
    ['one GPU for all', 2, 'cuda:1', {}, 2, { slots: 2, devices: ['cuda:1', 'cuda:1'] }],
  ] as const)('%s', (_, wanted, device, env, present, plan) => {
    expect(planSlots(wanted, device, env, gpus(present))).toEqual(plan);
  });

  it.each([
    ['auto', 'gpu', {}, 1, /--device 'gpu' is no device/],
    ['auto', 'cuda', {}, 0, /shows no NVIDIA GPU/],
    ['auto', 'cuda', { CUDA_VISIBLE_DEVICES: '' }, 4, /CUDA_VISIBLE_DEVICES='' leaves no GPU/],
    [3, 'cuda', {}, 2, /--slots 3 with --device cuda: .* 2 are visible/],
  ] as const)('slots %s on %s is refused', (wanted, device, env, present, message) => {
    expect(() => planSlots(wanted, device, env, gpus(present))).toThrow(message);
  });

  it('stops at the first entry that is none, as CUDA does', () => {
    expect(visibleGpus({ CUDA_VISIBLE_DEVICES: '1,-1,2' }, gpus(4))).toEqual([0]);
    expect(visibleGpus({ CUDA_VISIBLE_DEVICES: 'GPU-abc, MIG-d' }, gpus(4))).toEqual([0, 1]);
  });

  it('gives each process a GPU of its own', () => {
    fc.assert(
      fc.property(fc.uniqueArray(fc.nat(15), { minLength: 1, maxLength: 8 }), (visible) => {
        const environments = gpuEnvironments(visible.join(','), visible.length);
        expect(environments.map(({ CUDA_VISIBLE_DEVICES }) => Number(CUDA_VISIBLE_DEVICES))).toEqual(visible);
        for (const env of environments) expect(planSlots('auto', 'cuda', env, gpus(16)).devices).toEqual(['cuda:0']);
      }),
    );
    expect(() => gpuEnvironments('0', 2)).toThrow(/names 1 GPUs, but 2 workers/);
  });

  it('plans one process a slot', () => {
    const hosts = parseHostfile('a slots=2\nb', 'f');
    expect(planLaunch(hosts, 'cuda')).toEqual([
      { host: 'a', index: 0, label: 'a/0', env: { CUDA_VISIBLE_DEVICES: '0' } },
      { host: 'a', index: 1, label: 'a/1', env: { CUDA_VISIBLE_DEVICES: '1' } },
      { host: 'b', index: 0, label: 'b', env: { CUDA_VISIBLE_DEVICES: '0' } },
    ]);
    expect(planLaunch(hosts, undefined).every(({ env }) => Object.keys(env).length === 0)).toBe(true);
  });
});

describe('--listen', () => {
  it.each([
    ['10.0.0.5', '10.0.0.5', 0],
    ['10.0.0.5:7000', '10.0.0.5', 7000],
    [':7000', '0.0.0.0', 7000],
    ['[fd00::1]:7000', 'fd00::1', 7000],
    ['fd00::1', 'fd00::1', 0],
  ])('%s', (text, host, port) => expect(parseListen(text)).toEqual({ host, port }));

  it.each(['', ':', 'a b', 'host:70000', 'host:x', '[x'])('%j is refused', (text) =>
    expect(() => parseListen(text)).toThrow(/HOST or HOST:PORT was expected/),
  );
});
