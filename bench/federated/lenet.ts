// LeNet as Flower's niid_bench has it, with PyTorch's initial values; see niid.ts.
import { init, type Model, nn } from 'plexus/modules';

export function model(): Model {
  const conv = (inputs: number, outputs: number) =>
    nn.conv2d(inputs, outputs, { kernel: 5, padding: 'valid', init: init.kaimingUniform(1 / Math.sqrt(3)) });
  const linear = (inputs: number, outputs: number) =>
    nn.linear(inputs, outputs, { biasInit: init.uniform(1 / Math.sqrt(inputs)) });
  const layers = [
    nn.sequential({ conv: conv(1, 6), relu: nn.activation('relu'), pool: nn.maxPool2d() }),
    nn.sequential({ conv: conv(6, 16), relu: nn.activation('relu'), pool: nn.maxPool2d(), flat: nn.flatten() }),
    nn.sequential({ linear: linear(256, 120), relu: nn.activation('relu') }),
    nn.sequential({ linear: linear(120, 84), relu: nn.activation('relu') }),
    nn.sequential({ linear: linear(84, 10) }),
  ];
  return {
    layers: layers.map((module, i) => ({ name: `layers.${i}`, module })),
    loss: nn.crossEntropy({ accuracy: 'always' }),
  };
}
