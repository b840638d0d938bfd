// Loaded into worker processes by the tests (`--import`): does something at a chosen instruction, which nothing from
// outside can hit. `PLEXUS_AT` is JSON, [{ op, step?, mode?, nth?, afterMs?, once }, …]: ends the process with SIGKILL
// before the nth instruction of that kind, or some milliseconds later; `once` names a file that is made first, so that
// it happens once in all processes. [{ op, sleepMs }] makes every such instruction last longer, without computing.
// The interpreter's call is found in the text of the build: nothing in the product knows of this.
import { appendFileSync, closeSync, openSync } from 'node:fs';
import { register } from 'node:module';

const points = JSON.parse(process.env.PLEXUS_AT ?? '[]');
const seen = points.map(() => 0);
const asleep = new Int32Array(new SharedArrayBuffer(4));

/** Called by the interpreter before each instruction. */
globalThis.plexusAt = (run, index) => {
  const { op } = run.program.instructions[index];
  points.forEach((point, i) => {
    if (point.op !== op || (point.mode ?? 'train') !== run.program.mode) return;
    if (point.sleepMs !== undefined) {
      Atomics.wait(asleep, 0, 0, point.sleepMs);
      return;
    }
    // A rank that comes later than the step is killed at the first chance.
    if (point.step !== undefined && run.step < point.step) return;
    if (seen[i]++ < (point.nth ?? 0)) return;
    const kill = () => {
      try {
        closeSync(openSync(point.once, 'wx'));
      } catch {
        return;
      }
      appendFileSync(point.once, `rank ${run.program.rank} step ${run.step} ${op}\n`);
      process.kill(process.pid, 'SIGKILL');
    };
    if (point.afterMs === undefined) kill();
    else setTimeout(kill, point.afterMs);
  });
};

const CALL = String.raw`/\bposition\d*\.begin\((run\d*), (index\d*)\);/`;
const hooks = `
const CALL = ${CALL};
export async function load(url, context, next) {
  const loaded = await next(url, context);
  if (!/dist[\\\\/](bundle|worker)[\\\\/]/.test(url) || !loaded.source) return loaded;
  const source = typeof loaded.source === 'string' ? loaded.source : new TextDecoder().decode(loaded.source);
  if (!CALL.test(source)) return loaded;
  const replaced = source.replace(CALL, (call, run, index) => call + ' globalThis.plexusAt(' + run + ', ' + index + ');');
  return { ...loaded, source: replaced };
}`;
register(`data:text/javascript,${encodeURIComponent(hooks)}`);
