// tfjs kernels that are written as others while tracing.
import './contractions.ts';
import './elementwise.ts';
import './indexing.ts';
import './layout.ts';

/** Kernels composed of others, so that no graph contains them (those that may also stand in graphs are not listed). */
export const composedKernels = [
  'Identity',
  'ExpandDims',
  'ZerosLike',
  'OnesLike',
  'LinSpace',
  'AddN',
  'SquaredDifference',
  'Relu6',
  'Pack',
  'Unpack',
  'SplitV',
  'BroadcastTo',
  'MirrorPad',
  'SpaceToBatchND',
  'BatchToSpaceND',
  'DepthToSpace',
  'Diag',
  'Cumprod',
  'Einsum',
  '_FusedMatMul',
  'FusedConv2D',
  'FusedDepthwiseConv2D',
  'FusedBatchNorm',
  'Bincount',
  'DenseBincount',
  'ResizeBilinear',
  'ResizeNearestNeighbor',
  'Reshape',
  'Cast',
  'Select',
  'StridedSlice',
  'GatherV2',
  'UnsortedSegmentSum',
];
