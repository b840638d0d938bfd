import type { Plan } from './compile.ts';
import { DEFAULT_MACHINE, type Machine } from './costs.ts';
import { worldSize } from './mesh.ts';
import { planReport } from './report.ts';
import { formatTimeline, TIMELINE_LEGEND } from './timeline.ts';

/** Options of the printed plan. */
export interface FormatPlanOptions {
  readonly machine?: Machine;
  /** Columns of the timeline. Default 100. */
  readonly columns?: number;
  /** Lines of ranks and of the timeline, at most. Default 16. */
  readonly maxRanks?: number;
}

/** A plan as text: mesh, batch, stages, what every rank holds and sends, the bubble and a timeline of one step. */
export function formatPlan(plan: Plan, options: FormatPlanOptions = {}): string {
  const { mesh, batch, schedule, verified } = plan;
  const machine = options.machine ?? DEFAULT_MACHINE;
  const limit = options.maxRanks ?? 16;
  const world = worldSize(mesh);
  const report = planReport(plan, { machine, timeline: world <= 4096 });
  const { simulation } = report;
  const shown = shownRanks(plan, limit);
  const local = plan.programs[0]?.local;
  const lines: string[] = [
    `mesh      data ${mesh.data} × pipeline ${mesh.pipeline}, expert ${mesh.expert}: ${plural(world, 'rank')}`,
    `batch     ${batch.explanation}`,
    ...(plan.zero === 1 && mesh.data > 1
      ? [`optimizer state sharded over ${plural(mesh.data, 'data rank')}: each updates a part of the parameters`]
      : []),
    ...(local
      ? [
          `local     rounds of ${plural(local.every, 'step')}, of which only the last one, shown here, exchanges over the data axis`,
        ]
      : []),
    `schedule  ${schedule.name}, ${plural(schedule.stageRanks.length, 'stage')}, ${plural(schedule.microbatches, 'microbatch', 'microbatches')} a data rank`,
    `verified  ${verified.train.instructions} instructions and ${verified.train.messages} point-to-point messages a step, no deadlock with ${plural(verified.train.credit, 'credit')} a channel`,
    '',
    ...table(
      ['stage', 'pipeline rank', 'share', 'forward', 'backward', 'layers'],
      report.stages.map((s) => [
        `${s.stage}`,
        `${s.pipelineRank}`,
        percent(s.share),
        `${count(s.flops.forward)}FLOP`,
        `${count(s.flops.backward)}FLOP`,
        layersText(s.layers),
      ]),
    ),
    '',
    ...table(
      [
        'rank',
        'data',
        'stages',
        'params',
        'optimizer',
        'gradients',
        'activations',
        'in flight',
        'sends',
        'bytes',
        'busy',
      ],
      report.ranks
        .filter(({ rank }) => shown.includes(rank))
        .map((r) => [
          `${r.rank}`,
          `${r.position.data}`,
          r.stages.join(' '),
          bytes(r.paramBytes),
          bytes(r.optimizerBytes),
          bytes(r.gradientBytes),
          bytes(r.activationBytes),
          `${r.inFlight}`,
          `${r.messages}`,
          bytes(r.bytes),
          percent(r.utilisation),
        ]),
    ),
  ];
  if (shown.length < world)
    lines.push(`(${shown.length} of ${world} ranks; the others are replicas of these or like them)`);
  lines.push(
    '',
    `step      ${duration(simulation.seconds)} at ${count(machine.flopsPerSecond)}FLOP/s a rank, ${bytes(machine.bytesPerSecond)}/s and ${duration(machine.latencySeconds)} a message: an assumption to compare plans by`,
    `idle      ${percent(report.bubble)} by the schedule alone, ${percent(simulation.bubble)} with communication`,
    `traffic   ${plural(report.messages, 'message')}, ${bytes(report.bytes)} a step over all ranks`,
  );
  if (simulation.timeline.length > 0)
    lines.push('', formatTimeline(simulation, { ranks: shown, columns: options.columns ?? 100 }), TIMELINE_LEGEND);
  if (plan.warnings.length > 0) lines.push('', ...plan.warnings.map((warning) => `warning: ${warning}`));
  return lines.join('\n');
}

/** All ranks if they fit; otherwise the first replica of every pipeline position, evenly thinned out. */
function shownRanks({ mesh }: Plan, limit: number): number[] {
  const world = worldSize(mesh);
  const all = Array.from({ length: world }, (_, rank) => rank);
  if (world <= limit) return all;
  const each = Math.max(1, Math.min(mesh.expert, Math.floor(limit / mesh.pipeline)));
  const firsts = all.filter((rank) => rank % mesh.data < each);
  const step = Math.ceil(firsts.length / limit);
  return firsts.filter((_, i) => i % step === 0);
}

function layersText(names: readonly string[]): string {
  if (names.length <= 4) return names.join(' ');
  return `${names[0]} ${names[1]} … ${names[names.length - 1]} (${names.length})`;
}

/** Columns padded to their widest cell; the last one is left as it is. */
function table(head: readonly string[], rows: readonly (readonly string[])[]): string[] {
  const widths = head.map((title, i) => Math.max(title.length, ...rows.map((row) => row[i]?.length ?? 0)));
  return [head, ...rows].map((row) =>
    row
      .map((cell, i) => (i === row.length - 1 ? cell : cell.padEnd(widths[i] as number)))
      .join('  ')
      .trimEnd(),
  );
}

function plural(n: number, one: string, many = `${one}s`): string {
  return `${n} ${n === 1 ? one : many}`;
}

function percent(share: number): string {
  return `${(100 * share).toFixed(1)} %`;
}

function count(value: number): string {
  return scaled(value, 1000, ['', 'k', 'M', 'G', 'T', 'P']);
}

/** A number of bytes in binary units. */
export function formatBytes(value: number): string {
  return `${scaled(value, 1024, ['', 'Ki', 'Mi', 'Gi', 'Ti'])}B`;
}

const bytes = formatBytes;

function scaled(value: number, base: number, units: readonly string[]): string {
  let unit = 0;
  let rest = value;
  while (rest >= base && unit < units.length - 1) {
    rest /= base;
    unit += 1;
  }
  return `${unit === 0 ? Math.round(rest) : rest.toPrecision(3)} ${units[unit]}`;
}

function duration(seconds: number): string {
  if (seconds >= 1) return `${seconds.toPrecision(3)} s`;
  if (seconds >= 1e-3) return `${(seconds * 1e3).toPrecision(3)} ms`;
  return `${(seconds * 1e6).toPrecision(3)} µs`;
}
