import type { Tensor } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import type { Rng } from '../../tensor/index.ts';
import * as init from '../init.ts';
import type { Initializer, Module, ParamSpec } from '../module.ts';
import { param } from '../param.ts';
import { withGradient } from './dispatch.ts';
import { lastAxis, linear } from './linear.ts';

/**
 * A simplex equiangular tight frame: the columns of `[dim, classes]` have norm 1 and all meet at the same angle, the widest
 * that so many directions can have (cosine -1 / (classes - 1)). √(C / (C - 1)) · U · (I - 1/C), with U drawn with orthonormal
 * columns: Papyan, Han and Donoho, Prevalence of Neural Collapse (2020), definition 1.
 * @throws RangeError if there are fewer than two classes, or fewer dimensions than classes
 */
export const simplexEtf: Initializer = (rng: Rng, shape) => {
  const [dim, classes] = shape as readonly [number, number];
  if (shape.length !== 2 || classes < 2 || dim < classes)
    throw new RangeError(
      `a simplex frame [${shape}] cannot be made: it needs two classes or more, and at least as many dimensions as classes`,
    );
  const basis = init.orthogonal()(rng, shape);
  const out = new Float32Array(basis.length);
  const scale = Math.sqrt(classes / (classes - 1));
  for (let row = 0; row < dim; row++) {
    let sum = 0;
    for (let c = 0; c < classes; c++) sum += basis[row * classes + c] as number;
    for (let c = 0; c < classes; c++)
      out[row * classes + c] = scale * ((basis[row * classes + c] as number) - sum / classes);
  }
  return out;
};

/** `x` divided by its Euclidean norm over the last axis; a vector of zeros stays one. */
export function unitVectors(x: Tensor): Tensor {
  const norm = tf.sqrt(tf.add(tf.sum(tf.square(x), -1, true), 1e-12));
  return tf.div(x, norm);
}

/** Options of classifiers that compare directions. */
export interface CosineOptions {
  /** Factor of the cosines at the start. Default 10. */
  readonly temperature?: number;
  /** Whether the factor is learned. Default true. */
  readonly learnTemperature?: boolean;
}

/** Options of `etfClassifier`. */
export interface EtfOptions extends CosineOptions {
  /** Width of the projection: at least the number of classes. Default: as wide as the input, or as the classes if they are more. */
  readonly dim?: number;
  /**
   * Whether the directions of the classes are trained as well, from the frame on. Default false: nothing changes them. (Local
   * fine-tuning after federated training uses it.)
   */
  readonly trainable?: boolean;
}

/**
 * A classifier whose directions are fixed to a simplex equiangular tight frame, so that only features are learned: a linear
 * projection (child `projection`), its outputs scaled to norm 1, and `temperature` times their cosines with the classes'
 * directions. float32 `[batch, inputs]` → logits `[batch, classes]`. The directions are the parameter `frame`, drawn from the
 * seed. Li, Shang, He, Lin and Wu, No Fear of Classifier Biases: Neural Collapse Inspired Federated Learning with Synthetic and
 * Fixed Classifier (2023), section 4.
 */
export function etfClassifier(inputs: number, classes: number, options: EtfOptions = {}): Module {
  const { dim = Math.max(inputs, classes), trainable = false } = options;
  return {
    kind: 'etfClassifier',
    params: { frame: param([dim, classes], simplexEtf, { decay: false }), ...temperatureParam(options) },
    children: { projection: linear(inputs, dim) },
    forward(params, [x], ctx) {
      const features = unitVectors(ctx.run('projection', lastAxis(x, inputs)));
      const directions = trainable ? params.frame : fixed(params.frame as Tensor);
      return scaled(tf.matMul(features as tf.Tensor2D, directions as tf.Tensor2D), params, options);
    },
  };
}

/**
 * Logits that are `temperature` times the cosines of a feature vector and the learned directions of the classes (Gidaris and
 * Komodakis 2018): float32 `[batch, inputs]` → `[batch, classes]`. No class can win by the norm of its weights.
 */
export function cosineClassifier(inputs: number, classes: number, options: CosineOptions = {}): Module {
  return {
    kind: 'cosineClassifier',
    params: { weight: param([inputs, classes], init.kaimingNormal(1)), ...temperatureParam(options) },
    forward(params, [x]) {
      const features = unitVectors(lastAxis(x, inputs));
      const directions = tf.transpose(unitVectors(tf.transpose(params.weight as Tensor)));
      return scaled(tf.matMul(features as tf.Tensor2D, directions as tf.Tensor2D), params, options);
    },
  };
}

/** The same values, with a gradient of zeros: a parameter that optimizers leave where it is. */
function fixed(x: Tensor): Tensor {
  return withGradient(
    x,
    (values) => tf.mul(values, 1),
    [],
    (dy) => tf.zerosLike(dy),
  );
}

function temperatureParam({
  temperature = 10,
  learnTemperature = true,
}: CosineOptions): Readonly<Record<string, ParamSpec>> {
  if (!(temperature > 0))
    throw new RangeError(`the temperature of a classifier is ${temperature}, but must be above 0`);
  return learnTemperature ? { temperature: param([1], init.constant(temperature)) } : {};
}

function scaled(
  cosines: Tensor,
  params: Readonly<Record<string, Tensor>>,
  { temperature = 10, learnTemperature = true }: CosineOptions,
): Tensor {
  return tf.mul(cosines, learnTemperature ? (params.temperature as Tensor) : temperature);
}
