import { darkOf, groupOf, type PreparedData, rotationViews, type Split, turned } from '../../data/index.ts';
import type { FeatureShiftConfig } from './round-schema.ts';

/** Examples that are seen alike, and the group that sees them so. */
export interface SeenAlike {
  readonly group: number;
  readonly examples: Int32Array;
}

/** How clients see the examples of a dataset, where they do not all see alike. */
export interface ClientView {
  /** A split as a client sees it. */
  of(split: Split, client: number): Split;
  /** A split as a group of clients sees it. */
  ofGroup(split: Split, group: number): Split;
  /** Examples parted so that each is seen by one group, the groups in turn. */
  inTurn(examples: Int32Array): readonly SeenAlike[];
}

/** Makes the views of a run's clients. @throws RangeError if the data cannot be seen in that way */
export function clientView(data: PreparedData, shift: FeatureShiftConfig | undefined, seed: number): ClientView {
  if (!shift || shift.name === 'none')
    return { of: (split) => split, ofGroup: (split) => split, inTurn: (examples) => [{ group: 0, examples }] };
  const views = rotationViews(data.info.inputs[0]?.shape ?? [], shift);
  const dark = darkOf(data);
  const ofGroup = (split: Split, group: number) => turned(split, views, group, dark);
  return {
    ofGroup,
    of: (split, client) => ofGroup(split, groupOf(client, shift.groups, seed)),
    inTurn: (examples) =>
      Array.from({ length: shift.groups }, (_, group) => ({
        group,
        examples: examples.filter((example) => example % shift.groups === group),
      })),
  };
}
