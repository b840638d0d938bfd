import type { Stage } from './program.ts';
import { isExchanged } from './segments.ts';

/** How far one microbatch has got on one stage. */
export interface Progress {
  inputs: boolean;
  targets: boolean;
  received: boolean;
  /** Steps of the forward and backward chain done. */
  forward: number;
  backward: number;
  sent: boolean;
  gradient: boolean;
  sentGradient: boolean;
  /** Null until the backward begins. */
  split: boolean | null;
  weight: boolean;
  freed: boolean;
}

/** What a microbatch goes through on a stage, in order: names of segments and exchanges. */
export interface Chains {
  readonly forward: readonly string[];
  readonly backward: readonly string[];
}

/** A microbatch of which nothing has been done. */
export function notBegun(): Progress {
  return {
    inputs: false,
    targets: false,
    received: false,
    forward: 0,
    backward: 0,
    sent: false,
    gradient: false,
    sentGradient: false,
    split: null,
    weight: false,
    freed: false,
  };
}

/** The steps of a stage: segments with the exchanges around those of sharded experts. */
export function chainsOf(stage: Stage): Chains {
  const forward: string[] = [];
  const backward: string[] = [];
  for (const segment of stage.segments) {
    const { index } = segment;
    const exchanged = isExchanged(segment);
    forward.push(...(exchanged ? [`dispatch ${index}`, `Forward ${index}`, `combine ${index}`] : [`Forward ${index}`]));
    backward.unshift(
      ...(exchanged
        ? [`combine-gradient ${index}`, `Backward ${index}`, `dispatch-gradient ${index}`]
        : [`Backward ${index}`]),
    );
  }
  return { forward, backward };
}
