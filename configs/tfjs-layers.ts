// A tfjs LayersModel as a Plexus model: nothing in it knows about workers. See tfjs-layers.yaml.
import * as tfl from '@tensorflow/tfjs-layers';
import { type Model, nn, type TaskInfo, wrapLayersModel } from 'plexus/modules';

/** `args` is the config's `model.args`, `info` what the dataset says about its examples. */
export function model(args: { units?: number }, info: TaskInfo): Model {
  const net = tfl.sequential();
  net.add(tfl.layers.flatten({ inputShape: [...(info.inputs[0]?.shape ?? [])] }));
  net.add(tfl.layers.dense({ units: args.units ?? 128, activation: 'relu' }));
  net.add(tfl.layers.dropout({ rate: 0.2 }));
  net.add(tfl.layers.dense({ units: info.classes ?? 10, activation: 'softmax' }));
  return { layers: wrapLayersModel(net), loss: nn.crossEntropy({ accuracy: 'always' }) };
}
