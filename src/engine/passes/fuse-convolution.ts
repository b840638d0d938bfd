import type { GraphNode, ValueId } from '../graph.ts';
import { eitherOrder, inputsOf } from './match.ts';
import type { Rewrite } from './rewrite.ts';

/** What a convolution becomes with its bias. */
const FUSED = new Map([
  ['Conv2D', 'PlexusConv2D'],
  ['DepthwiseConv2dNative', 'PlexusDepthwiseConv2D'],
]);

/**
 * A bias for each channel that is added to a convolution, as an operand of the convolution: added by itself it costs more than the
 * convolution where channels are few.
 */
export function fuseConvolutionBias(rewrite: Rewrite, node: GraphNode): void {
  if (node.kernel !== 'Add') return;
  for (const [product, bias] of eitherOrder(rewrite, node)) {
    const convolution = rewrite.producer(product);
    const fused = convolution && FUSED.get(convolution.kernel);
    if (!fused || convolution.attrs.dataFormat !== 'NHWC' || rewrite.useCount(product) !== 1) continue;
    const channels = rewrite.shape(product).at(-1) as number;
    if (rewrite.shape(bias).length !== 1 || rewrite.shape(bias)[0] !== channels) continue;
    const inputs = [...inputsOf(rewrite, convolution), bias];
    const [sum] = rewrite.insert(node, fused, inputs, convolution.attrs) as [ValueId];
    rewrite.replaceValue(node.outputs[0] as ValueId, sum);
    return;
  }
}
