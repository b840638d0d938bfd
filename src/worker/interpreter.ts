import { formatInstruction, type Instruction, instructionsOf } from '../plan/index.ts';
import { backward, backwardInput, backwardWeight } from './handlers/backward.ts';
import { exchangeTokens } from './handlers/exchange.ts';
import { forward } from './handlers/forward.ts';
import { loadBatch } from './handlers/load-batch.ts';
import { recv, send } from './handlers/messages.ts';
import { gather } from './handlers/norms.ts';
import { optimize } from './handlers/optimize.ts';
import { allReduce, reduceScatter } from './handlers/reduce.ts';
import { barrier, free } from './handlers/synchronise.ts';
import type { Position } from './position.ts';
import type { Handler, ProgramRun } from './program-run.ts';
import type { TraceRecorder } from './trace.ts';

const HANDLERS: { readonly [Op in Instruction['op']]: Handler<Op> } = {
  LoadBatch: loadBatch,
  Forward: forward,
  Backward: backward,
  BackwardInput: backwardInput,
  BackwardWeight: backwardWeight,
  Send: send,
  Recv: recv,
  AllToAll: exchangeTokens,
  AllReduce: allReduce,
  ReduceScatter: reduceScatter,
  AllGather: gather,
  Optimize: optimize,
  Barrier: barrier,
  Free: free,
};

/** Instructions whose time is spent waiting for or moving tensors. */
const COMMUNICATION: ReadonlySet<Instruction['op']> = new Set<Instruction['op']>([
  'Send',
  'Recv',
  'AllToAll',
  'AllReduce',
  'ReduceScatter',
  'AllGather',
  'Barrier',
]);

/**
 * Executes a program's instructions one after another. Returns the milliseconds spent in communication. If one fails,
 * `position` tells which.
 */
export async function interpret(run: ProgramRun, position: Position, trace: TraceRecorder | null): Promise<number> {
  const { instructions } = run.program;
  let communication = 0;
  const end = run.training ? instructionsOf(run.program, run.step) : instructions.length;
  for (let index = 0; index < end; index++) {
    const instruction = instructions[index] as Instruction;
    position.begin(run, index);
    const start = performance.now();
    const waited = run.waitedMs;
    // The table pairs each kind with its own handler, which the type of a looked-up entry cannot say.
    const done = (HANDLERS[instruction.op] as Handler<Instruction['op']>)(run, instruction);
    if (done) await done;
    const ms = performance.now() - start;
    if (COMMUNICATION.has(instruction.op)) communication += ms;
    trace?.add(formatInstruction(instruction), instruction.op, start, ms, {
      ...(run.training ? { step: run.step } : { round: run.step }),
      // (What an instruction that computes has waited for other ranks' tokens.)
      ...(run.waitedMs > waited ? { waited_ms: run.waitedMs - waited } : {}),
    });
  }
  position.end(run);
  return communication + run.waitedMs;
}
