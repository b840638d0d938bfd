// `npm run bench -- cluster/recovery [--kills=100] [--workers=2] [--spares=1] [--links=auto] [--seed=1] [--early] [--steps=200]
// [--into=FILE [--seconds=60]]`: workers are killed at random moments of a step while a model of ten million parameters
// trains; time from the kill to the first new step, detection and recovery apart. Every run's bits must be the
// undisturbed run's; a wait of 30 s counts as a hang. With `--into` it can be done in pieces: what was measured is added
// to the file (and the undisturbed run is not done again), no run begins after so many seconds, and the figures are of
// all kills so far.
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { Cluster, type Event, type Outcome, sameOutcome, type Training } from '../../test/chaos/cluster.ts';
import type { Proc } from '../../test/chaos/processes.ts';
import type { ProjectOptions } from '../../test/chaos/project.ts';
import { generator, median } from '../../test/chaos/soak.ts';

const { values } = parseArgs({
  options: {
    kills: { type: 'string', default: '100' },
    workers: { type: 'string', default: '2' },
    spares: { type: 'string', default: '1' },
    links: { type: 'string', default: 'auto' },
    seed: { type: 'string', default: '1' },
    /** `small` for a quick look. */
    model: { type: 'string', default: '10m' },
    /** Experts, so that replicas are needed. */
    moe: { type: 'boolean', default: false },
    /** Kill also while spares still compile. */
    early: { type: 'boolean', default: false },
    steps: { type: 'string', default: '200' },
    into: { type: 'string' },
    seconds: { type: 'string', default: '60' },
    verbose: { type: 'boolean', default: false },
  },
});
const kills = Number(values.kills);
const world = Number(values.workers);
const spares = Number(values.spares);
/** Steps of a run, and the last after which somebody is killed. */
const STEPS = Number(values.steps);
const LAST_KILL = STEPS - 10;
const HANG_MS = 30_000;

// 12 · 288² · 10 = 10 million parameters; few tokens, so that a step is short and what is measured is the recovery.
const size = values.model === '10m' ? { dim: 288, layers: 10 } : { dim: 32, layers: 2 };
const options: ProjectOptions = {
  ...size,
  steps: STEPS,
  moe: values.moe,
  microbatches: 4,
  context: 16,
  parallel: { data: world, ...(values.moe ? { expert: 2 } : {}) },
  sections: { comm: { data: values.links } },
};

/** Milliseconds of one recovery. */
interface Recovery {
  /** Parts of `recovery`, as the coordinator has them. */
  readonly phases: Readonly<Record<string, number>>;
  /** From the signal to the coordinator's word that a worker is lost. */
  readonly detection: number;
  /** From there to the first new step. */
  readonly recovery: number;
  /** CPU time from the signal to the first new step: of all that goes on, and of the process that is started anew. */
  readonly cpu: number;
  readonly replacement: number;
  /** Cores that other processes of the machine took meanwhile. */
  readonly others: number;
}

/** All that was measured, also by earlier calls. */
interface Measured {
  /** What was measured: only the same can be added. */
  readonly of: string;
  readonly expected: Outcome;
  parameters: number;
  runs: number;
  kills: number;
  hangs: number;
  /** Runs whose bits are not the undisturbed run's. */
  wrong: number;
  /** Of the steps of each run, the median in milliseconds. */
  readonly stepMs: number[];
  readonly recoveries: Recovery[];
}

/** What the file has, or a new beginning with the bits of the undisturbed run. */
async function begin(): Promise<Measured> {
  const { seed: _, kills: __, into, seconds: ___, verbose: ____, ...settings } = values;
  const of = JSON.stringify(settings);
  if (into !== undefined && existsSync(into)) {
    const known = JSON.parse(readFileSync(into, 'utf8')) as Measured;
    if (known.of !== of) throw new Error(`${into} is of ${known.of}, not of ${of}: give another file`);
    return known;
  }
  const expected = await reference();
  return { of, expected, parameters: 0, runs: 0, kills: 0, hangs: 0, wrong: 0, stepMs: [], recoveries: [] };
}

function keep(measured: Measured): void {
  if (values.into !== undefined) writeFileSync(values.into, `${JSON.stringify(measured, null, 1)}\n`);
}

async function reference(): Promise<Outcome> {
  const alone = await Cluster.start({ nats: null });
  try {
    const config = alone.config({ ...options, parallel: {}, sections: {} });
    return await alone.train(config, { url: null }).outcome(300_000);
  } finally {
    await alone.close();
  }
}

let random = generator(0);

/** Agents of the newest generation. */
function members(run: Training): string[] {
  const newest = run.of('generation').at(-1)?.members as readonly { readonly agent: string }[] | undefined;
  return (newest ?? []).map(({ agent }) => agent);
}

/** The id that a worker goes by, which it says when it joins. */
const agentOf = (worker: Proc): string | undefined =>
  worker.lines.flatMap((text) => / (\S+) is a worker of job/.exec(text)?.[1] ?? [])[0];

/** CPU time of the whole machine since it was started, in milliseconds (Linux). */
function busyMs(): number {
  const [, user, nice, system, , , irq, softirq] = readFileSync('/proc/stat', 'utf8').split(/\s+/, 8);
  return [user, nice, system, irq, softirq].reduce((sum, ticks) => sum + Number(ticks) * 10, 0);
}

/**
 * Waits until as many workers as at the beginning are there, and the spare ones have compiled what they need: the next
 * kill is to find a whole mesh again. (`--early` kills while they still do.)
 * @param known how many lines each worker had printed when the run began
 * @returns false if the run ended first
 */
async function whole(
  on: Cluster,
  run: Training,
  running: () => readonly Proc[],
  known: ReadonlyMap<Proc, number>,
): Promise<boolean> {
  const found = await on.processes.until('as many workers as at the beginning', HANG_MS, () => {
    if (!run.proc.running) return { whole: false };
    const ranked = members(run);
    const joined = new Set(run.of('joined').map(({ agent }) => agent));
    const ready = running().filter((worker) => {
      const agent = agentOf(worker);
      if (agent === undefined || ranked.includes(agent)) return agent !== undefined;
      const said = worker.lines.slice(known.get(worker) ?? 0);
      return joined.has(agent) && (values.early || said.some((line) => line.includes('has compiled what it needs')));
    });
    return ready.length >= world + spares && { whole: true };
  });
  return found.whole;
}

/** Kills somebody who takes part, and waits for the next step. */
async function killOne(on: Cluster, run: Training, running: readonly Proc[], measured: Measured): Promise<void> {
  const taking = running.filter((worker) => members(run).includes(agentOf(worker) ?? ''));
  const victim = taking[Math.floor(random() * taking.length)];
  if (!victim) throw new Error('nobody is left to kill');
  const before = run.events.length;
  const from = run.step;
  const going = on.processes.all.filter((proc) => proc.running && proc !== victim);
  const cpuOf = (procs: readonly Proc[]) => procs.reduce((sum, proc) => sum + proc.cpu(), 0);
  const [cpuBefore, busyBefore] = [cpuOf(going), busyMs()];
  const killedAt = performance.now();
  victim.signal('SIGKILL');
  const since = (type: string, after: number) =>
    run.events.slice(before).find((event) => event.type === type && event.at > after);
  try {
    const recovered = await on.processes.until('the first new step', HANG_MS, () => {
      if (!run.proc.running) return null;
      const lost = since('lost', killedAt);
      return lost && since('step', lost.at);
    });
    // Killed when it had done its part: then nobody missed it.
    if (!recovered) return;
    const lost = since('lost', killedAt) as Event;
    const detection = lost.at - killedAt;
    const recovery = recovered.at - lost.at;
    const cpu = cpuOf(going) - cpuBefore;
    const replacement = cpuOf(on.processes.all.filter((proc) => proc.running && !going.includes(proc)));
    const others = (busyMs() - busyBefore - cpu - replacement) / (performance.now() - killedAt);
    const phases = (since('recovered', lost.at)?.phases ?? {}) as Recovery['phases'];
    measured.recoveries.push({ detection, recovery, phases, cpu, replacement, others });
    if (!values.verbose) return;
    const parts = Object.entries(phases).map(([name, ms]) => `${name} ${ms.toFixed(0)}`);
    console.log(
      `  at step ${from}: ${detection.toFixed(0)} ms until '${lost.reason}', ${recovery.toFixed(0)} until the first step: ${parts.join(', ')}; ` +
        `CPU ${cpu} ms and ${replacement} ms of the one that is started anew, others take ${others.toFixed(1)} cores`,
    );
    const more = run.events.slice(before).filter(({ type, at }) => type === 'generation' && at < recovered.at);
    for (const { reason, at } of more.slice(1))
      console.log(`    ${(at - killedAt).toFixed(0)} ms: again, because ${reason}`);
  } catch (error) {
    measured.hangs += 1;
    console.log((error as Error).message);
  }
}

const measured = await begin();
keep(measured);
random = generator(Number(values.seed) + measured.kills);
const until = values.into === undefined ? Number.POSITIVE_INFINITY : performance.now() + Number(values.seconds) * 1000;
const on = await Cluster.start();
try {
  const kept = on.keep(world + spares);
  while (measured.kills < kills && measured.hangs === 0 && performance.now() < until) {
    const known = new Map(kept.running().map((worker) => [worker, worker.lines.length]));
    const run = on.train(on.config(options), { args: ['--min-workers', '1'] });
    await run.reached(3, 120_000);
    measured.parameters = run.of('started')[0]?.parameters as number;
    const steps = () => median(run.of('step').map(({ stepMs }) => stepMs as number));
    while (measured.kills < kills && measured.hangs === 0) {
      if (!(await whole(on, run, kept.running, known))) break;
      await delay(random() * 4 * steps());
      if (!run.proc.running || run.step > LAST_KILL) break;
      await killOne(on, run, kept.running(), measured);
      measured.kills += 1;
    }
    const outcome = await run.outcome(120_000);
    measured.runs += 1;
    measured.stepMs.push(steps());
    if (!sameOutcome(outcome, measured.expected)) measured.wrong += 1;
    keep(measured);
    console.log(
      `run ${measured.runs}: ${measured.kills} of ${kills} kills so far, ${measured.recoveries.length} recoveries, ${measured.wrong} runs with other bits`,
    );
  }
  kept.stop();
} finally {
  keep(measured);
  await on.close();
}

const { recoveries, hangs, wrong, runs } = measured;
const line = (name: string, of: (recovery: Recovery) => number) => {
  const sorted = recoveries.map(of).sort((a, b) => a - b);
  const at = (share: number) =>
    `${(sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? Number.NaN).toFixed(0)} ms`;
  console.log(
    `${name.padEnd(12)} median ${at(0.5).padStart(9)}   90 % ${at(0.9).padStart(9)}   worst ${at(1).padStart(9)}`,
  );
};
console.log(
  `\n${(measured.parameters / 1e6).toFixed(1)} M parameters, ${world} workers and ${spares} spares, links ${values.links}; a step takes ${median(measured.stepMs).toFixed(0)} ms`,
);
line('detection', ({ detection }) => detection);
line('recovery', ({ recovery }) => recovery);
for (const phase of Object.keys(recoveries[0]?.phases ?? {})) line(`  ${phase}`, ({ phases }) => phases[phase] ?? 0);
line('together', ({ detection, recovery }) => detection + recovery);
line('CPU', ({ cpu }) => cpu);
line('  one anew', ({ replacement }) => replacement);
console.log(
  `others took ${median(recoveries.map(({ others }) => others)).toFixed(1)} cores at the median while recoveries went on`,
);
console.log(`target: together at most 1000 ms at the median (torchrun on such a machine: 3.3 s, and 4 hangs in 10)`);
console.log(
  `${measured.kills} kills: ${hangs} hangs, ${wrong} of ${runs} runs with other bits than the undisturbed one`,
);
if (hangs > 0 || wrong > 0) process.exitCode = 1;
