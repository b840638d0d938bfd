import { barrier as enterBarrier } from '../../comm/index.ts';
import type { Handler } from '../program-run.ts';
import { groupNamed } from './group.ts';

/** Waits until every rank of a group has come here. */
export const barrier: Handler<'Barrier'> = (run, { group, tag }) =>
  enterBarrier(run.parts.transport, groupNamed(run.program, group), tag);

/** Drops what is kept of a microbatch on a stage. */
export const free: Handler<'Free'> = (run, { stage, microbatch }) => run.endPass(stage, microbatch);
