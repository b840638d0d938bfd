import type { GraphNode, ValueId } from '../graph.ts';
import { eitherOrder, inputsOf } from './match.ts';
import type { Rewrite } from './rewrite.ts';

/**
 * A bias for each channel that is added to a convolution, as an operand of the convolution: added by itself it costs more than the
 * convolution where channels are few.
 */
export function fuseConvolutionBias(rewrite: Rewrite, node: GraphNode): void {
  if (node.kernel !== 'Add') return;
  for (const [product, bias] of eitherOrder(rewrite, node)) {
    const convolution = rewrite.producedBy(product, 'Conv2D');
    if (convolution?.attrs.dataFormat !== 'NHWC' || rewrite.useCount(product) !== 1) continue;
    const channels = rewrite.shape(product).at(-1) as number;
    if (rewrite.shape(bias).length !== 1 || rewrite.shape(bias)[0] !== channels) continue;
    const inputs = [...inputsOf(rewrite, convolution), bias];
    const [sum] = rewrite.insert(node, 'PlexusConv2D', inputs, convolution.attrs) as [ValueId];
    rewrite.replaceValue(node.outputs[0] as ValueId, sum);
    return;
  }
}
