// Codecs of gradients and activations in one thread, beside a plain copy of the same values in the same minute:
// `node bench/run.mjs comm/codecs [millions of values, default 4]`. Throughput is of float32 bytes; minima of many rounds.
import { type CodecName, codecNamed, ErrorFeedback } from '../../src/comm/index.ts';
import { createRng } from '../../src/tensor/index.ts';

const count = Number(process.argv[2] ?? 4) * 2 ** 20;
const rng = createRng('codecs');
// Gradients: mostly small, a few large; many of them are subnormal as float16.
const values = Float32Array.from({ length: count }, () => rng.normal() * 10 ** (-6 + 4 * rng.uniform()));
const into = new Float32Array(count);

/** Seconds of the quickest of at least seven rounds. */
function fastest(run: () => void): number {
  let best = Number.POSITIVE_INFINITY;
  const end = performance.now() + 1500;
  for (let round = 0; round < 7 || performance.now() < end; round++) {
    const start = performance.now();
    run();
    best = Math.min(best, performance.now() - start);
  }
  return best / 1000;
}

const gigabytes = (4 * count) / 1e9;
const copy = gigabytes / fastest(() => into.set(values));
console.log(`${count} values, copy: ${copy.toFixed(1)} GB/s`);
console.log('| codec | ratio | encode GB/s | of copy | decode GB/s | of copy |');
console.log('| --- | --- | --- | --- | --- | --- |');
const row = (name: string, source: Float32Array, codec: CodecName): void => {
  const { encodedBytes, encode, decode } = codecNamed(codec);
  const bytes = new Uint8Array(encodedBytes(source));
  const encoding = gigabytes / fastest(() => encode(source, bytes));
  const decoding = gigabytes / fastest(() => decode(bytes, into));
  const figures = [encoding, encoding / copy, decoding, decoding / copy].map((figure) => figure.toFixed(2));
  console.log(`| ${name} | ${((4 * count) / bytes.length).toFixed(2)} | ${figures.join(' | ')} |`);
};
row('f16', values, 'f16');
row('bf16', values, 'bf16');
row('int8', values, 'int8');
const feedback = new ErrorFeedback(count, 0.01);
const kept = values.slice();
const selecting =
  gigabytes /
  fastest(() => {
    kept.set(values);
    feedback.apply(kept);
  });
row('top-k, 1 % (as bytes)', kept, 'sparse');
console.log(`choosing the largest 1 % with error feedback: ${selecting.toFixed(2)} GB/s`);
