import { type ExitCode, exitCodes } from './exit.ts';
import { type Finding, gpus, hardware, natsServer, optionalPackages, versions, vulkan } from './machine.ts';
import { isInteractive, painter, type Streams } from './terminal.ts';

/** What is here and what is missing, in sections. */
export interface Diagnosis {
  /** False if something is missing without which Plexus cannot train. */
  readonly fit: boolean;
  readonly sections: Readonly<Record<string, readonly Finding[]>>;
}

/** Looks at versions, the machine, engines and devices, and optional parts. Starts nothing and changes nothing. */
export async function diagnose(): Promise<Diagnosis> {
  const sections = {
    versions: versions(),
    machine: [...hardware(), await gpus(), ...vulkan(), await natsServer()],
    'optional packages': optionalPackages(),
  };
  const fit = Object.values(sections).every((findings) => findings.every((finding) => finding.status !== 'fault'));
  return { fit, sections };
}

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
      if (gives) lines.push(`    ${' '.repeat(wide)}  ${paint('dim', `gives: ${gives}`)}`);
    }
  }
  const end = diagnosis.fit
    ? paint('green', 'Plexus can train here.')
    : paint('red', 'Plexus cannot train here until what is marked ✗ is mended.');
  return [...lines, '', end].join('\n');
}
