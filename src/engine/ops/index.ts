import './convolution.ts';
import './matmul.ts';
import './squared-sum.ts';

export { GELU_CUBIC, GELU_SCALE, type GeluApproximation, gelu, silu } from './activations.ts';
export { softmaxCrossEntropy } from './cross-entropy.ts';
export { type ExpertCallAttrs, expertCall } from './experts.ts';
export { layerNorm, rmsNorm } from './norms.ts';
export { COLUMN_STEP, MIX_A, MIX_B, mix32, ROW_STEP, uniform, uniformMatrix, uniformReference } from './uniform.ts';
