// What starting costs: tracing, passes, lowering and sessions of a 12-layer transformer, layer by layer as workers
// compile it (equal layers share sessions), in a fresh process. Budget: 0.6 s.
//   node bench/run.mjs engine/compile [--layers=12]
import type { Tensor } from '@tensorflow/tfjs-core';
import { createOnnxEngine, type Signature, tf } from '../../src/engine/index.ts';
import * as model from './model.ts';

const layers = Number(process.argv.find((arg) => arg.startsWith('--layers='))?.split('=')[1] ?? 12);
const sizes = { ...model.ISSUE, layers };
const parts = model.parts(sizes);
const begin = performance.now();
const engine = await createOnnxEngine({ device: 'cpu', threads: 1 });
const ids: Signature = { dtype: 'int32', shape: [sizes.batch * sizes.time] };
const activation: Signature = { dtype: 'float32', shape: [sizes.batch * sizes.time, sizes.width] };
for (const [i, part] of parts.entries()) {
  const specs = model.paramSignature(part);
  const [first, last] = [i === 0, i === parts.length - 1];
  const signature = [...specs, ...(first ? [ids] : [activation]), ...(last ? [ids] : [])];
  const fn = (...all: Tensor[]): Tensor => {
    const params = all.slice(0, specs.length);
    const x = all[specs.length] as Tensor;
    if (first) return model.embed(sizes, params, x);
    return last ? model.runHead(params, x, all.at(-1) as Tensor) : model.runBlock(sizes, params, x);
  };
  const wrt = signature.map(({ dtype }) => dtype === 'float32');
  await engine.vjp(fn, signature, { wrt, differentiable: [true], fused: last, name: `layer ${i}` });
  await engine.compile(
    (...all) => specs.map((_, k) => tf.sub(all[k] as Tensor, tf.mul(all[specs.length + k] as Tensor, 0.1))),
    [...specs, ...specs],
    { name: `sgd ${i}` },
  );
}
const total = performance.now() - begin;
const { traces, executables, cacheHits, traceMs, loweringMs, sessionMs } = engine.compileStatistics();
console.log(
  `${layers} layers: ${total.toFixed(0)} ms for ${traces} traces (${traceMs.toFixed(0)} ms), lowering ${loweringMs.toFixed(0)} ms, ${executables} sessions (${sessionMs.toFixed(0)} ms), ${cacheHits} found in the cache`,
);

const specs = parts.flatMap(model.paramSignature);
const signature = [...specs, ids, ids];
const before = performance.now();
await engine.vjp((...all) => model.lossOf(sizes, all), signature, {
  wrt: signature.map(({ dtype }) => dtype === 'float32'),
  differentiable: [true],
  fused: true,
  name: 'whole',
});
console.log(`the whole model as one executable: ${(performance.now() - before).toFixed(0)} ms`);
await engine.dispose();
