import * as z from 'zod';

/** The config's `engine` section. */
export const engineSchema = z
  .strictObject({
    kind: z
      .enum(['onnx', 'tfjs'])
      .default('onnx')
      .describe(
        'onnx compiles layers and runs them in ONNX Runtime; tfjs runs them op by op on a TensorFlow.js backend',
      ),
    device: z
      .string()
      .min(1)
      .default('cpu')
      .describe(
        'where to compute. onnx: cpu, cuda:N, webgpu, dml, coreml; tfjs: a backend, cpu, wasm, webgpu, node, node-gpu. ' +
          '`plexus doctor` tells which ones this machine has',
      ),
    threads: z
      .int()
      .min(0)
      .default(0)
      .describe(
        'threads that one worker computes with; 0 means 1 with numerics: exact (bits depend on this number, and must not ' +
          "on the number of workers), and else the machine's cores shared out over the workers",
      ),
  })
  .describe('what computes, and where')
  // Every key has a default, so the section may be left out.
  .prefault({});
