import type { DeviceTensor, Engine, PhasedFunction, Signature, SlotId } from '../../src/engine/index.ts';
import type { ExpertFunction, LayerFunction } from '../../src/modules/index.ts';
import type { HostTensor } from '../../src/tensor/index.ts';
import { float32, zeros } from '../../src/tensor/index.ts';

/** What a layer function gave: outputs by index, gradients by input index, expert parameter gradients by path. */
export interface PhasedRun {
  readonly outputs: readonly HostTensor[];
  readonly gradients: readonly (HostTensor | null)[];
  readonly expertGradients: Readonly<Record<string, HostTensor>>;
}

/** Compiles a layer function for gradients of its parameters and float activations. */
export function compileLayer(engine: Engine, fn: LayerFunction, fused = false): Promise<PhasedFunction> {
  const stateEnd = fn.params.length + fn.state.length;
  return engine.vjp(fn.fn, fn.inputs, {
    name: fn.name,
    wrt: fn.inputs.map((s, i) => s.dtype === 'float32' && (i < fn.params.length || i > stateEnd)),
    differentiable: outputSignatures(fn).map((s, i) => i <= fn.layout.objective && s.dtype === 'float32'),
    fused,
  });
}

function outputSignatures(fn: LayerFunction): Signature[] {
  const { activations, metrics, contributions } = fn.layout;
  return [
    ...activations,
    { dtype: 'float32', shape: [] },
    ...metrics.map((m) => m.signature),
    ...contributions.map(
      (path): Signature => ({ dtype: 'float32', shape: fn.state.find((s) => s.path === path)?.spec.shape ?? [] }),
    ),
  ];
}

/**
 * Runs all phases of a compiled layer, serving its experts here, one after another. `cotangents` are of the activations
 * (zeros where missing); the objective's is 1.
 */
export async function runPhases(
  engine: Engine,
  fn: LayerFunction,
  phased: PhasedFunction,
  inputs: readonly HostTensor[],
  cotangents: readonly (HostTensor | null)[],
  expertParams: Readonly<Record<string, HostTensor>> = {},
): Promise<PhasedRun> {
  const values = new Map<SlotId, DeviceTensor>();
  const read = async (slot: SlotId) => engine.download(values.get(slot) as DeviceTensor);
  for (const [i, slot] of phased.inputs.entries()) values.set(slot, engine.upload(inputs[i] as HostTensor));
  phased.cotangents.forEach((slot, i) => {
    if (slot === null) return;
    const { shape } = phased.slots.get(slot) as Signature;
    const given = i === fn.layout.objective ? float32([1], []) : (cotangents[i] ?? zeros('float32', shape));
    values.set(slot, engine.upload(given));
  });
  const servers = fn.expertCalls.map((call) => new ExpertServer(engine, call, expertParams));
  for (const phase of phased.phases) {
    const results = await phase.executable.run(phase.reads.map((slot) => values.get(slot) as DeviceTensor));
    for (const [i, slot] of phase.writes.entries()) values.set(slot, results[i] as DeviceTensor);
    if (!phase.call) continue;
    const { call } = phase;
    const server = servers.find((s) => s.path.endsWith(call.path)) as ExpertServer;
    const rows = await read(call.rows);
    const counts = (await read(call.counts)).data as Int32Array;
    const result =
      phase.kind === 'forward' && !server.served
        ? await server.forward(rows, counts)
        : await server.backward(rows, counts);
    values.set(call.result, engine.upload(result));
  }
  return {
    outputs: await Promise.all(phased.outputs.map(read)),
    gradients: await Promise.all(phased.gradients.map((slot) => (slot === null ? null : read(slot)))),
    expertGradients: Object.assign({}, ...servers.map((s) => s.gradients)) as Record<string, HostTensor>,
  };
}

/** Experts of one call: each runs its own rows, padded to at least two. */
class ExpertServer {
  readonly path: string;
  readonly gradients: Record<string, HostTensor> = {};
  served = false;
  private readonly engine: Engine;
  private readonly call: ExpertFunction;
  private readonly params: Readonly<Record<string, HostTensor>>;
  private kept: HostTensor = float32([], [0]);

  constructor(engine: Engine, call: ExpertFunction, params: Readonly<Record<string, HostTensor>>) {
    this.engine = engine;
    this.call = call;
    this.params = params;
    this.path = call.path;
  }

  async forward(rows: HostTensor, counts: Int32Array): Promise<HostTensor> {
    this.served = true;
    this.kept = rows;
    return this.each(rows, counts, null);
  }

  async backward(cotangents: HostTensor, counts: Int32Array): Promise<HostTensor> {
    return this.each(this.kept, counts, cotangents);
  }

  private async each(rows: HostTensor, counts: Int32Array, cotangents: HostTensor | null): Promise<HostTensor> {
    const width = rows.shape[1] as number;
    const result = zeros('float32', rows.shape);
    let start = 0;
    for (const [e, count] of counts.entries()) {
      const own = this.call.params[e] ?? [];
      const bucket = Math.max(2, count);
      const slice = (t: HostTensor) => {
        const out = zeros('float32', [bucket, width]);
        (out.data as Float32Array).set((t.data as Float32Array).subarray(start * width, (start + count) * width));
        return out;
      };
      const inputs = [
        ...own.map(({ path }) => this.params[path] as HostTensor),
        { dtype: 'int32', shape: [2], data: Int32Array.of(1, 2) } as HostTensor,
        slice(rows),
      ];
      const signature = inputs.map((t): Signature => ({ dtype: t.dtype as 'float32', shape: t.shape }));
      const phased = await this.engine.vjp(this.call.fn, signature, {
        wrt: signature.map((s) => s.dtype === 'float32'),
        differentiable: [true],
      });
      const values = new Map<SlotId, DeviceTensor>(
        phased.inputs.map((slot, i) => [slot, this.engine.upload(inputs[i] as HostTensor)]),
      );
      if (phased.cotangents[0] != null)
        values.set(phased.cotangents[0], this.engine.upload(slice(cotangents ?? result)));
      for (const phase of phased.phases) {
        const out = await phase.executable.run(phase.reads.map((slot) => values.get(slot) as DeviceTensor));
        for (const [i, slot] of phase.writes.entries()) values.set(slot, out[i] as DeviceTensor);
      }
      const read = async (slot: SlotId) => this.engine.download(values.get(slot) as DeviceTensor);
      const back = await read((cotangents ? phased.gradients.at(-1) : phased.outputs[0]) as SlotId);
      (result.data as Float32Array).set((back.data as Float32Array).subarray(0, count * width), start * width);
      if (cotangents)
        for (const [i, { path }] of own.entries()) this.gradients[path] = await read(phased.gradients[i] as SlotId);
      start += count;
    }
    return result;
  }
}
