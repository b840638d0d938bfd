import type { Handler } from '../program-run.ts';
import { exchangeOf, openExchange } from './forward.ts';
import { groupNamed } from './group.ts';

/**
 * Moves tokens to the ranks of their experts and back, and their cotangents the same way. It only sends: what the peers
 * send is waited for by the instruction that needs it, and the program may have put other work in between.
 */
export const exchangeTokens: Handler<'AllToAll'> = async (
  run,
  { what, group: id, stage, segment, microbatch, tag },
) => {
  const { transport } = run.parts;
  const group = groupNamed(run.program, id);
  const pass = run.pass(stage, microbatch);
  const part = pass.stage.segments[segment]?.parts[0];
  if (part?.kind !== 'experts') throw new RangeError(`segment ${segment} of stage ${stage} is not one of experts`);
  const { layer, call } = part;
  switch (what) {
    case 'dispatch': {
      const { exchange, rows } = await openExchange(run, pass, layer, call);
      return exchange.send(transport, group, tag, rows);
    }
    // The gradient of combining the results sends their cotangents out, that of dispatching the rows brings theirs back.
    case 'combine-gradient':
      return exchangeOf(pass, layer, call).send(transport, group, tag, pass.layer(layer).takeCotangents(call));
    case 'combine':
    case 'dispatch-gradient':
      return exchangeOf(pass, layer, call).sendBack(transport, group, tag);
  }
};
