export { shareCommon } from './common.ts';
export { foldConstants } from './fold.ts';
export { fuse } from './fuse.ts';
export { optimize } from './optimize.ts';
export { deadCode } from './rewrite.ts';
export { simplify, unbroadcastOperands } from './simplify.ts';
