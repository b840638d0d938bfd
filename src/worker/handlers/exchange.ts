import type { Handler } from '../program-run.ts';
import { exchangeOf, giveResult, openExchange } from './forward.ts';
import { groupNamed } from './group.ts';

/** Moves tokens to the ranks of their experts and back, and their cotangents the same way. */
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
  const layerPass = pass.layer(layer);
  switch (what) {
    case 'dispatch': {
      const { exchange, rows } = await openExchange(run, pass, layer, call);
      return exchange.send(transport, group, tag, rows);
    }
    case 'combine':
      giveResult(run, pass, part, await exchangeOf(pass, layer, call).collect(transport, group, tag));
      return;
    // The gradient of combining the results sends their cotangents out, that of dispatching the rows brings theirs back.
    case 'combine-gradient':
      return exchangeOf(pass, layer, call).send(transport, group, tag, layerPass.takeCotangents(call));
    case 'dispatch-gradient':
      layerPass.giveCotangents(call, await exchangeOf(pass, layer, call).collect(transport, group, tag));
      return;
  }
};
