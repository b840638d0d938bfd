import type { Plan } from './compile.ts';
import { PlanError } from './errors.ts';
import { groupsOf } from './groups.ts';
import { paramsOfRank } from './placement.ts';
import type { Instruction, Program } from './program.ts';

/**
 * The plan of local steps (local SGD, DiLoCo): every data rank is a replica that takes optimizer steps of its own, over
 * its own share of the microbatches, and after every so many steps the changes of all replicas are averaged. So the
 * collectives over the data axis are left out, and each program ends with a part that only runs in the last step of a
 * round. All members of a group leave out the same collectives, and the pipelines of replicas have nothing in common
 * until the end, so programs that the verifier has passed still cannot hang. Each replica has all of the optimizer's
 * state, whatever the plan says.
 * @throws PlanError if experts are sharded: replicas would need each other in every step
 */
export function localPlan(plan: Plan, every: number): Plan {
  if (plan.mesh.expert > 1)
    throw new PlanError(
      `local steps need a whole model in each data rank, but parallel.expert ${plan.mesh.expert} shards experts over them: set parallel.expert to 1`,
      { key: 'parallel.expert' },
    );
  return { ...plan, zero: 0, programs: plan.programs.map((program) => localProgram(program, every)) };
}

function localProgram(program: Program, every: number): Program {
  const { data } = groupsOf(program.mesh, program.rank);
  const inner = program.instructions.filter((instruction) => !isOverData(instruction, data.id));
  const stages = program.stages.map(({ index }) => index);
  const outer: Instruction[] = [
    ...program.stages.map(
      ({ index: stage, layers }): Instruction => ({
        op: 'AllReduce',
        what: 'changes',
        group: data.id,
        stage,
        layers,
        tag: `outer/s${stage}`,
      }),
    ),
    { op: 'Optimize', stages, outer: true },
  ];
  const instructions = [...inner, ...outer];
  const used = new Set(instructions.flatMap((i) => ('group' in i ? [i.group] : [])));
  const groups = { ...program.groups, [data.id]: data };
  return {
    ...program,
    zero: 0,
    groups: Object.fromEntries(Object.entries(groups).filter(([id]) => used.has(id))),
    instructions,
    local: { every, from: inner.length },
  };
}

/** Whether an instruction combines what replicas have computed. */
function isOverData(i: Instruction, data: string): boolean {
  if (i.op === 'AllGather') return i.what === 'params' || i.group === data;
  return i.op === 'AllReduce' || i.op === 'ReduceScatter';
}

/**
 * Bytes that all ranks together send in a synchronous step to sum up their gradients: with d replicas each sends
 * 2 (d - 1) / d of what it holds.
 */
export function gradientExchangeBytes(plan: Plan): number {
  const { data } = plan.mesh;
  return plan.programs.reduce((sum, _, rank) => {
    const held = paramsOfRank(plan.summary, plan, rank).reduce((bytes, param) => bytes + param.bytes, 0);
    return sum + Math.round((2 * (data - 1) * held) / data);
  }, 0);
}

/** Instructions that a program executes in a step: all but, with local steps, those of the end of a round. */
export function instructionsOf({ instructions, local }: Program, step: number): number {
  return local && (step + 1) % local.every !== 0 ? local.from : instructions.length;
}

/** Microbatches whose mean a gradient is: those of the step, or with local steps those of this rank's replica. */
export function averagedMicrobatches({ local, share, microbatches }: Program): number {
  return local ? share.end - share.start : microbatches;
}
