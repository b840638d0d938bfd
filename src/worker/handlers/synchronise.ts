import { broadcast as broadcastTensors, barrier as enterBarrier } from '../../comm/index.ts';
import type { HostTensor } from '../../tensor/index.ts';
import type { Handler } from '../program-run.ts';
import { groupNamed } from './group.ts';

/** Waits until every rank of a group has come here. */
export const barrier: Handler<'Barrier'> = (run, { group, tag }) =>
  enterBarrier(run.parts.transport, groupNamed(run.program, group), tag);

/** Gives the root's parameters and state to the ranks of a group, which hold the same ones. */
export const broadcast: Handler<'Broadcast'> = async (run, { group: id, root, tag }) => {
  const { transport, space, model } = run.parts;
  const held = model.groups.flatMap((group) => [...group.params, ...group.state]);
  const isRoot = transport.rank === root;
  const own: HostTensor[] = [];
  if (isRoot) for (const { tensor } of held) own.push(await space.read(tensor));
  const tensors = await broadcastTensors(transport, groupNamed(run.program, id), root, tag, isRoot ? own : null);
  if (isRoot) return;
  held.forEach((holder, i) => {
    space.give(holder.tensor);
    holder.tensor = space.engine.upload(tensors[i] as HostTensor);
  });
};

/** Drops what is kept of a microbatch on a stage. */
export const free: Handler<'Free'> = (run, { stage, microbatch }) => run.endPass(stage, microbatch);
