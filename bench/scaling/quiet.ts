import { readFileSync } from 'node:fs';

/** Cores of other processes above which a run is repeated while there is patience. */
export const DISTURBED = 0.1;

/** CPU seconds of the whole machine since it was started (Linux). */
export function busySeconds(): number {
  if (process.platform !== 'linux') return Number.NaN;
  const [, user, nice, system, , , irq, softirq] = readFileSync('/proc/stat', 'utf8').split(/\s+/, 8);
  return [user, nice, system, irq, softirq].reduce((sum, ticks) => sum + Number(ticks), 0) / 100;
}

/** Waits for a moment in which nothing else runs, if there is patience for that. */
export async function quiet(until: number): Promise<void> {
  while (performance.now() < until) {
    const [busy, own] = [busySeconds(), process.cpuUsage()];
    await new Promise((resolve) => setTimeout(resolve, 1000));
    const { user, system } = process.cpuUsage(own);
    if (!(busySeconds() - busy - (user + system) / 1e6 > DISTURBED)) return;
  }
}
