import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type Graph, type Signature, trace, traceVjp } from '../../../src/engine/index.ts';
import { loweredKernels } from '../../../src/engine/onnx/index.ts';
import { elementwiseCases } from './cases-elementwise.ts';
import { imageCases } from './cases-image.ts';
import { indexCases, layoutCases } from './cases-layout.ts';
import { matmulCases } from './cases-matmul.ts';
import { reductionCases } from './cases-reduction.ts';
import { type Input, type KernelCase, property } from './harness.ts';

const families: Record<string, KernelCase[]> = {
  'element-wise': elementwiseCases,
  reductions: reductionCases,
  layout: layoutCases,
  indexing: indexCases,
  'matrix products': matmulCases,
  images: imageCases,
};

describe.each(Object.entries(families))('ONNX agrees with the tfjs CPU backend: %s', (_family, cases) => {
  it.each(cases.map((test) => [test.name, test] as const))('%s', (_name, test) => property(test));
});

describe('the table of lowerings', () => {
  it('has no kernel without a case', () => {
    const seen = new Set<string>();
    const add = (graph: Graph) =>
      graph.nodes.forEach((node) => {
        seen.add(node.kernel);
      });
    for (const test of Object.values(families).flat())
      for (const inputs of fc.sample(test.inputs, { numRuns: 3, seed: 1 })) {
        const signature = inputs.map(signatureOfInput);
        const graph = trace(test.fn, signature);
        add(graph);
        const differentiable = graph.outputs.map((id) => graph.values.get(id)?.dtype === 'float32');
        const wrt = signature.map(({ dtype }) => dtype === 'float32');
        if (test.gradient !== 'none' && wrt.includes(true))
          add(traceVjp(test.fn, signature, { wrt, differentiable }).graph);
      }
    expect(loweredKernels().filter((kernel) => !seen.has(kernel))).toEqual([]);
  });
});

function signatureOfInput(input: Input): Signature {
  const fill = input.fill ?? 'normal';
  const integer = typeof fill === 'object' || fill === 'small-int' || fill === 'nonzero-int';
  return { dtype: input.dtype ?? (fill === 'bool' ? 'bool' : integer ? 'int32' : 'float32'), shape: input.shape };
}
