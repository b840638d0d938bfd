import { randomBytes } from 'node:crypto';
import type { LinkKind } from '../../comm/index.ts';
import { onHosts } from '../../plan/index.ts';
import {
  CLUSTER_PROTOCOL_VERSION,
  clusterKeys,
  type GenerationRecord,
  type MemberRecord,
  PLEXUS_VERSION,
  type RemoteJob,
  type SlotAddresses,
} from '../../worker/index.ts';
import { AgentRefused, AgentSilent, type Agents } from './agents.ts';
import { chooseLinks, type LinkChoice, type LinkEnd, pairsToProbe } from './choose-links.ts';
import { chooseRestore, type HeldSnapshot, type Restore } from './choose-restore.ts';
import { chooseSeats, type Seat } from './choose-seats.ts';
import { ClusterError } from './errors.ts';
import type { MeshPlan } from './mesh-plans.ts';
import type { Reachability } from './reachability.ts';
import type { Records } from './records.ts';
import { replicaPlan } from './replica-plan.ts';

/** How long agents may take to answer, in milliseconds: their main threads do nothing that takes long. */
const PREPARE_MS = 2000;
const ASSIGN_MS = 5000;

/** What forming a generation needs of the run. */
export interface FormingTools {
  readonly agents: Agents;
  readonly records: Records;
  readonly ways: Reachability;
  readonly links: LinkChoice;
  readonly snapshotEvery: number;
  readonly replicas: boolean;
  /** Snapshots of generations before this one are of another run. */
  readonly firstGeneration: number;
  /** The newest whole checkpoint of at most `limit` steps, offered to agents with the generation's secret; or null. */
  checkpoint(limit: number): Promise<HeldSnapshot | null>;
  /** A phase of the forming is over. */
  readonly mark: (phase: 'wait' | 'prepare' | 'plan' | 'assign') => void;
  /** Blobs are given only to those who know this. */
  useSecret(secret: string): void;
}

/** What is decided before. */
export interface FormingRequest {
  readonly generation: number;
  readonly reason: string;
  readonly plan: MeshPlan;
  /** All agents that take part: also those that run nothing but may have snapshots, or keep copies. */
  readonly members: readonly MemberRecord[];
  /** Those that may be given ranks. */
  readonly seatable: ReadonlySet<string>;
  readonly before: readonly Seat[];
  /** Names of tensors in each agent's memory, as far as is known. */
  readonly holds: ReadonlyMap<string, ReadonlySet<string>>;
  /** Completed steps that must not be exceeded. */
  readonly limit: number;
}

/** A generation whose ranks have been told to begin. */
export interface Formed {
  readonly generation: number;
  readonly plan: MeshPlan;
  /** By rank. */
  readonly seats: readonly Seat[];
  readonly links: readonly (readonly (LinkKind | '-')[])[];
  readonly fromStep: number;
  /** Agents that take part, with ranks or without. */
  readonly members: ReadonlySet<string>;
  /** Agents that keep copies of others' snapshots. */
  readonly replicaHosts: ReadonlySet<string>;
  readonly record: GenerationRecord;
}

/** Some agents could not take part: the generation did not come about. */
export class FormingFailed extends ClusterError {
  override readonly name = 'FormingFailed';
  readonly silent: readonly AgentSilent[];
  readonly refused: readonly AgentRefused[];

  constructor(problems: readonly (AgentSilent | AgentRefused)[]) {
    super(problems.map(({ message }) => message).join('; '));
    this.silent = problems.filter((problem) => problem instanceof AgentSilent);
    this.refused = problems.filter((problem) => problem instanceof AgentRefused);
  }
}

/**
 * Begins a generation: seats, addresses, links, where the tensors come from, who keeps copies, then the ranks' jobs.
 * @throws FormingFailed if an agent does not answer or refuses; ClusterError if two ranks cannot be linked as configured
 */
export async function formGeneration(tools: FormingTools, request: FormingRequest): Promise<Formed> {
  const { agents, records, ways } = tools;
  const { generation, plan, members, reason } = request;
  const hosts = new Map(members.map(({ id, hostId }) => [id, hostId]));
  const candidates = members
    .filter(({ id }) => request.seatable.has(id))
    .map(({ id, hostId, slots }) => ({ agent: id, hostId, slots, holds: request.holds.get(id) ?? new Set<string>() }));
  const seats = chooseSeats(plan.needs, candidates, request.before);
  const secret = randomBytes(32).toString('hex');
  tools.useSecret(secret);

  const prepared = await prepareAll(tools, request, seats, secret);
  tools.mark('prepare');
  const addresses = seats.map(({ agent, slot }) => {
    const found = prepared.get(agent)?.addresses.find((address) => address.slot === slot);
    if (!found) throw new ClusterError(`agent ${agent} opened no address for its slot ${slot}: is it of this version?`);
    return found;
  });
  const ends: LinkEnd[] = seats.map(({ agent }, rank) => ({ agent, address: addresses[rank] as SlotAddresses }));
  await ways.probe(agents, generation, pairsToProbe(ends, tools.links, ways));
  const links = chooseLinks(ends, tools.links, ways);
  const restore = await restoreFrom(tools, request, seats, hosts, prepared);
  const fromStep = restore?.step ?? 0;
  const replicaHosts = members.filter(({ id }) => prepared.has(id) && request.seatable.has(id));
  const replicas = tools.replicas
    ? replicaPlan(
        plan.needs,
        seats,
        inMeshFirst(replicaHosts, seats).map(({ id, hostId }) => ({ agent: id, hostId })),
      )
    : seats.map(() => null);

  const record: GenerationRecord = { generation, mesh: plan.mesh, members: seats, links, fromStep, reason };
  // Known before anything begins, so that no later coordinator uses the number again.
  await records.put(clusterKeys.generation, record);
  tools.mark('plan');
  const hostOfRank = seats.map(({ agent }) => hosts.get(agent) ?? agent);
  const jobs = seats.map(({ agent, slot }, rank) => ({
    agent,
    assignment: {
      slot,
      job: jobOnHosts(plan.jobs[rank] as RemoteJob, hostOfRank),
      links: links[rank] as readonly (LinkKind | '-')[],
      restore: restore ? { step: restore.step, sources: restore.sources[rank] ?? [] } : null,
      replicate: replicas[rank] ?? null,
    },
  }));
  await allAnswer(
    [...new Set(seats.map(({ agent }) => agent))].map((agent) =>
      agents.ask(
        agent,
        generation,
        {
          type: 'assign',
          ranks: jobs.filter((job) => job.agent === agent).map(({ assignment }) => assignment),
          addresses,
          members: seats,
          snapshotEvery: tools.snapshotEvery,
        },
        ASSIGN_MS,
      ),
    ),
  );
  tools.mark('assign');
  return {
    generation,
    plan,
    seats,
    links,
    fromStep,
    members: new Set(prepared.keys()),
    replicaHosts: new Set(replicas.flatMap((replica) => (replica ? [replica.to] : []))),
    record,
  };
}

interface Prepared {
  readonly addresses: readonly SlotAddresses[];
  readonly snapshots: readonly HeldSnapshot[];
}

/** Ends the generation before everywhere, and opens addresses for this one. By agent. */
async function prepareAll(
  { agents, firstGeneration }: FormingTools,
  { generation, members, plan }: FormingRequest,
  seats: readonly Seat[],
  secret: string,
): Promise<Map<string, Prepared>> {
  const answers = await allAnswer(
    members.map(async ({ id, hostId }) => {
      const ranks = [...seats.keys()].filter((rank) => seats[rank]?.agent === id);
      const answer = await agents.ask(
        id,
        generation,
        {
          type: 'prepare',
          version: PLEXUS_VERSION,
          protocol: CLUSTER_PROTOCOL_VERSION,
          slots: ranks.map((rank) => (seats[rank] as Seat).slot),
          ranks,
          secret,
          world: plan.needs.length,
        },
        PREPARE_MS,
      );
      if (answer.type !== 'prepared')
        throw new AgentRefused(id, false, `agent ${id} answered '${answer.type}' to 'prepare'`);
      const snapshots = answer.snapshots
        .filter((snapshot) => snapshot.generation >= firstGeneration)
        .map((snapshot) => ({ owner: id, hostId, snapshot }));
      return [id, { addresses: answer.addresses, snapshots }] as const;
    }),
  );
  return new Map(answers);
}

/** The newest state that is there: in the agents' memory, else in a checkpoint; null begins from the seed. */
async function restoreFrom(
  tools: FormingTools,
  { plan, limit }: FormingRequest,
  seats: readonly Seat[],
  hosts: ReadonlyMap<string, string>,
  prepared: ReadonlyMap<string, Prepared>,
): Promise<Restore | null> {
  const snapshots = [...prepared.values()].flatMap((agent) => agent.snapshots);
  const inMemory = chooseRestore(plan.needs, seats, hosts, snapshots, limit);
  if (inMemory) return inMemory;
  const checkpoint = await tools.checkpoint(limit);
  if (!checkpoint) return null;
  const onDisk = chooseRestore(plan.needs, seats, hosts, [...snapshots, checkpoint], limit);
  if (onDisk) return onDisk;
  throw new ClusterError(
    `the checkpoint of step ${checkpoint.snapshot.step} lacks tensors that the model needs: it is of another model or optimizer`,
  );
}

/** Copies go to agents that have ranks; those without are given some only where there is nobody else. */
function inMeshFirst(members: readonly MemberRecord[], seats: readonly Seat[]): readonly MemberRecord[] {
  const seated = members.filter(({ id }) => seats.some(({ agent }) => agent === id));
  return seated.length > 1 ? seated : members;
}

/** Waits for all, also when some fail. @throws FormingFailed with all that failed */
async function allAnswer<T>(asked: readonly Promise<T>[]): Promise<T[]> {
  const outcomes = await Promise.allSettled(asked);
  const failures = outcomes.flatMap((outcome) => (outcome.status === 'rejected' ? [outcome.reason as unknown] : []));
  const problems = failures.filter((error) => error instanceof AgentSilent || error instanceof AgentRefused);
  const other = failures.find((error) => !(error instanceof AgentSilent || error instanceof AgentRefused));
  if (other) throw other;
  if (problems.length > 0) throw new FormingFailed(problems);
  return outcomes.flatMap((outcome) => (outcome.status === 'fulfilled' ? [outcome.value] : []));
}

/** A job whose collectives know which ranks share a machine. */
function jobOnHosts(job: RemoteJob, hostOfRank: readonly string[]): RemoteJob {
  return { ...job, train: onHosts(job.train, hostOfRank), evaluate: onHosts(job.evaluate, hostOfRank) };
}
