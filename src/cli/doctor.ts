import { type ExitCode, exitCodes } from './exit.ts';
import { type Finding, gpus, natsServer, optionalPackages, runtimes, sharedMemory, vulkan } from './machine.ts';
import { formatBytes, isInteractive, painter, type Streams } from './terminal.ts';

/** What is here and what is missing, in sections. */
export interface Diagnosis {
  /** False if something is missing without which Plexus cannot train. */
  readonly fit: boolean;
  readonly sections: Readonly<Record<string, readonly Finding[]>>;
}

/**
 * Looks at versions, the machine, engines and devices, and optional parts. Devices that look installed are started once
 * with the smallest model. Changes nothing.
 */
export async function diagnose(): Promise<Diagnosis> {
  const found = await engines();
  const sections = {
    versions: [...runtimes(), ...found.versions],
    machine: [...found.machine, await gpus(), ...vulkan(), await natsServer(), sharedMemory()],
    engines: found.engines,
    'optional packages': optionalPackages(),
  };
  const fit = Object.values(sections).every((findings) => findings.every((finding) => finding.status !== 'fault'));
  return { fit, sections };
}

/** What the engine room finds; if it cannot even be loaded (onnxruntime-node is missing, say), that is the finding. */
async function engines(): Promise<{ versions: Finding[]; machine: Finding[]; engines: Finding[] }> {
  const room = await import('../engine/index.ts').catch((error: unknown) => error as Error);
  if (room instanceof Error)
    return {
      versions: [],
      machine: [],
      engines: [
        {
          name: 'engine',
          status: 'fault',
          detail: room.message.split('\n')[0] ?? '',
          gives: 'everything; run `npm ci`',
        },
      ],
    };
  const report = await room.inspectEngines();
  const vector = report.instructions.length > 0 ? `, ${report.instructions.join(' ')}` : '';
  return {
    versions: Object.entries(report.versions).map(([name, detail]) => ({
      name,
      status: detail === 'missing' ? 'fault' : 'ok',
      detail,
    })),
    machine: [
      { name: 'cores', status: 'ok', detail: `${report.cores} (${report.processor.trim()}${vector})` },
      { name: 'memory', status: 'ok', detail: formatBytes(report.memory) },
      { name: 'GPUs', status: report.gpus.length > 0 ? 'ok' : 'missing', detail: report.gpus.join(', ') || 'none' },
    ],
    engines: report.engines.map(({ kind, device, available, detail, gives }) => ({
      name: `${kind} ${device}`,
      // Compiled training on the CPU is what everything else falls back to.
      status: available ? 'ok' : kind === 'onnx' && device === 'cpu' ? 'fault' : 'missing',
      detail,
      gives: `${gives}${UNTESTED.has(device) ? ' (not exercised in CI)' : ''}`,
    })),
  };
}

/** Devices that no machine of the project's CI has. */
const UNTESTED = new Set(['cuda:0', 'dml', 'coreml', 'node', 'node-gpu']);

/** `plexus doctor`: prints a diagnosis. */
export async function doctor(options: { readonly json?: boolean }, streams: Streams): Promise<ExitCode> {
  const diagnosis = await diagnose();
  if (options.json) streams.out.write(`${JSON.stringify(diagnosis)}\n`);
  else streams.out.write(`${formatDiagnosis(diagnosis, isInteractive(streams.err))}\n`);
  return diagnosis.fit ? exitCodes.ok : exitCodes.unfit;
}

const MARKS = { ok: ['green', '✓'], missing: ['dim', '·'], fault: ['red', '✗'] } as const;

function formatDiagnosis(diagnosis: Diagnosis, colour: boolean): string {
  const paint = painter(colour);
  const lines: string[] = [];
  for (const [title, findings] of Object.entries(diagnosis.sections)) {
    lines.push(...(lines.length > 0 ? [''] : []), paint('bold', title));
    const wide = Math.max(...findings.map(({ name }) => name.length));
    for (const { name, status, detail, gives } of findings) {
      const [style, mark] = MARKS[status];
      lines.push(`  ${paint(style, mark)} ${name.padEnd(wide)}  ${detail}`);
      if (gives && status !== 'ok') lines.push(`    ${' '.repeat(wide)}  ${paint('dim', `gives: ${gives}`)}`);
    }
  }
  const end = diagnosis.fit
    ? paint('green', 'Plexus can train here.')
    : paint('red', 'Plexus cannot train here until what is marked ✗ is mended.');
  return [...lines, '', end].join('\n');
}
