import type { Instruction } from './program.ts';
import type { Simulation, Span } from './simulate.ts';

/** Options of a text timeline. */
export interface TimelineOptions {
  /** Columns of the time axis. Default 100. */
  readonly columns?: number;
  /** Ranks to show, in order. Default all. */
  readonly ranks?: readonly number[];
}

const FILL: Partial<Record<Instruction['op'], string>> = {
  Forward: '░',
  Backward: '█',
  BackwardInput: '▓',
  BackwardWeight: '▒',
  Optimize: '+',
};

/** What the characters of a timeline mean. */
export const TIMELINE_LEGEND =
  '░ forward  █ backward  ▓ gradient of inputs  ▒ gradient of parameters  + optimizer  - waits or communicates; blocks begin with their microbatch';

/**
 * A simulation as text: one line for each rank, time from left to right. Each block of work begins with the number of
 * its microbatch, where there is room. The simulation must have been made with `timeline: true`.
 */
export function formatTimeline(simulation: Simulation, options: TimelineOptions = {}): string {
  const columns = options.columns ?? 100;
  const ranks = options.ranks ?? simulation.timeline.map((_, rank) => rank);
  const label = Math.max(...ranks.map((rank) => `rank ${rank}`.length));
  const scale = simulation.seconds > 0 ? columns / simulation.seconds : 0;
  return ranks
    .map((rank) => `${`rank ${rank}`.padEnd(label)} │${line(simulation.timeline[rank] ?? [], scale, columns)}│`)
    .join('\n');
}

function line(spans: readonly Span[], scale: number, columns: number): string {
  const cells = new Array<string>(columns).fill('-');
  for (const { start, end, instruction } of blocks(spans)) {
    const fill = FILL[instruction.op];
    if (!fill) continue;
    const from = Math.min(columns - 1, Math.round(start * scale));
    const to = Math.min(columns, Math.max(from + 1, Math.round(end * scale)));
    const number = 'microbatch' in instruction ? String(instruction.microbatch) : '';
    for (let i = from; i < to; i++) cells[i] = to - from > number.length ? (number[i - from] ?? fill) : fill;
  }
  return cells.join('');
}

/** Merges the segments of one pass of a microbatch, which follow one another. */
function blocks(spans: readonly Span[]): Span[] {
  const out: Span[] = [];
  for (const span of spans) {
    const last = out[out.length - 1];
    const { instruction: i } = span;
    const same =
      last &&
      last.instruction.op === i.op &&
      'microbatch' in i &&
      'microbatch' in last.instruction &&
      last.instruction.microbatch === i.microbatch &&
      last.instruction.stage === i.stage &&
      span.start - last.end <= 1e-12 + 1e-9 * span.end;
    if (same) out[out.length - 1] = { ...last, end: span.end };
    else out.push(span);
  }
  return out;
}
