import { describe, expect, it } from 'vitest';
import { createEngine, engineSchema, inspectEngines } from '../../src/engine/index.ts';

describe('the engine section of a config', () => {
  it('has a default for every key', () => {
    expect(engineSchema.parse(undefined)).toEqual({ kind: 'onnx', device: 'cpu', threads: 0 });
  });

  it.each([{ kind: 'torch' }, { threads: -1 }, { threads: 1.5 }, { device: '' }, { devices: 'cpu' }])(
    'refuses %j',
    (section) => {
      expect(engineSchema.safeParse(section).success).toBe(false);
    },
  );
});

describe('createEngine', () => {
  it.each(['onnx', 'tfjs'] as const)('makes the %s engine', async (kind) => {
    const engine = await createEngine({ kind, device: 'cpu', threads: 1 });
    expect(engine).toMatchObject({ kind, device: 'cpu' });
    expect(engine.version).not.toBe('');
    await engine.dispose();
  });
});

describe('the engine report', () => {
  it('tells what is here, and for what is missing what to install', async () => {
    const report = await inspectEngines();
    expect(report.cores).toBeGreaterThan(0);
    expect(report.memory).toBeGreaterThan(2 ** 28);
    expect(report.versions['onnxruntime-node']).toMatch(/^\d+\.\d+\.\d+/);
    const cpu = report.engines.find(({ kind, device }) => kind === 'onnx' && device === 'cpu');
    expect(cpu).toMatchObject({ available: true });
    for (const { available, detail, gives } of report.engines) {
      expect(detail).not.toBe('');
      expect(gives).not.toBe('');
      if (!available) expect(detail).toMatch(/install|rebuild|Windows|macOS|driver|without|not/);
    }
  });
});
