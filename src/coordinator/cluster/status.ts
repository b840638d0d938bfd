import { randomInt } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { ControlRequester, connectNats } from '../../comm/index.ts';
import {
  type AgentReply,
  type AgentRequest,
  clusterKeys,
  clusterSubjects,
  type GenerationRecord,
  type LeaderRecord,
  type MemberRecord,
  type RankState,
} from '../../worker/index.ts';
import type { JobEntry, PositionEntry } from './cluster-run.ts';
import { ClusterError } from './errors.ts';
import { type JobPlace, leaderSubject } from './lead.ts';
import type { LeaderEntry } from './leader-lock.ts';
import { Records } from './records.ts';

/** How long the server, the leader or an agent may take to answer, in milliseconds. */
const ANSWER_MS = 5000;
/** How long a run may take to end after it was asked to: the step, its checkpoint. */
const STOP_MS = 120_000;

/** A job as its records and the leases of its members show it. */
export interface ClusterStatus {
  readonly job: string;
  /** `ageMs`: since the lock was last renewed. Null where nobody leads. */
  readonly leader: (LeaderRecord & { readonly since: string; readonly ageMs: number }) | null;
  readonly record: JobEntry | null;
  readonly generation: GenerationRecord | null;
  readonly position: PositionEntry | null;
  /** Agents whose lease has not run out; `ageMs`: since each was last heard of. */
  readonly members: readonly (MemberRecord & { readonly ageMs: number })[];
}

/** What each agent of a job answered when it was asked what its ranks do. */
export interface DebugReport {
  readonly ranks: readonly (RankState & { readonly agent: string })[];
  /** Agents that did not answer. */
  readonly silent: readonly { readonly agent: string; readonly reason: string }[];
}

/** What there is to know of a job without disturbing it. @throws NatsConnectError; ClusterError without JetStream */
export function clusterStatus(place: JobPlace): Promise<ClusterStatus> {
  return visiting(place, ({ records }) => readStatus(records));
}

/** Asks every agent of a job what each of its ranks is doing, and since when. */
export function debugJob(place: JobPlace): Promise<DebugReport> {
  return visiting(place, async ({ records, requester, job }) => {
    const { members } = await readStatus(records);
    const about = await visitorAbout(records);
    const silent: { agent: string; reason: string }[] = [];
    const states = await Promise.all(
      members.map(async ({ id }) => {
        const request: AgentRequest = { ...about, type: 'debug' };
        try {
          const subject = clusterSubjects(job).agent(id);
          const reply = await requester.request<AgentReply>(subject, request, { deadlineMs: ANSWER_MS });
          if (reply.ok && reply.type === 'debug') return reply.ranks.map((state) => ({ ...state, agent: id }));
          silent.push({ agent: id, reason: reply.ok ? `it answered '${reply.type}'` : reply.message });
        } catch (error) {
          silent.push({ agent: id, reason: (error as Error).message });
        }
        return [];
      }),
    );
    return { ranks: states.flat().sort((a, b) => a.rank - b.rank), silent };
  });
}

/** What `stopJob` did. */
export interface StopResult {
  /** The run that has ended, or null if none was going on. */
  readonly run: string | null;
  /** Agents that were told to end. */
  readonly workers: number;
}

/**
 * Ends a job's run: its coordinator finishes the step, writes a checkpoint, and lets the agents go; resolves when it has
 * ended. A run whose coordinator is gone is given up, so that the next one is a new one. With `workers` the agents end too.
 * @throws ClusterError if the run does not end in time
 */
export function stopJob(place: JobPlace, options: { readonly workers?: boolean } = {}): Promise<StopResult> {
  return visiting(place, async (visit) => {
    const run = await stopRun(visit);
    if (!options.workers) return { run, workers: 0 };
    const { members } = await readStatus(visit.records);
    const about = await visitorAbout(visit.records);
    const told = await Promise.allSettled(
      members.map(({ id }) => {
        const request: AgentRequest = {
          ...about,
          type: 'stop',
          reason: 'plexus stop --workers',
        };
        return visit.requester.request(clusterSubjects(visit.job).agent(id), request, { deadlineMs: ANSWER_MS });
      }),
    );
    return { run, workers: told.filter(({ status }) => status === 'fulfilled').length };
  });
}

async function stopRun({ records, requester, job }: Visit): Promise<string | null> {
  const { leader, record } = await readStatus(records);
  const unfinished = record?.status === 'running' || record?.status === 'waiting';
  const asked = await requester
    .request(leaderSubject(job), { type: 'stop' }, { deadlineMs: leader ? ANSWER_MS : 500 })
    .then(() => true)
    .catch(() => false);
  if (!asked) {
    if (!unfinished || !record) return null;
    if (leader && leader.ageMs < leader.leaseMs)
      throw new ClusterError(
        `the coordinator of job '${job}' on ${leader.host} (pid ${leader.pid}) holds its lock but does not answer: end that process`,
      );
    await records.put(clusterKeys.job, { ...record, status: 'interrupted' } satisfies JobEntry);
    return record.runId;
  }
  const until = performance.now() + STOP_MS;
  for (;;) {
    const now = (await records.get<JobEntry>(clusterKeys.job))?.value;
    const held = (await records.get<LeaderEntry>(clusterKeys.leader))?.value;
    const over = now?.status !== 'running' && now?.status !== 'waiting';
    if (held?.leaseMs === 0 || (over && held?.id !== leader?.id)) return now?.runId ?? record?.runId ?? null;
    if (performance.now() > until)
      throw new ClusterError(`the run of job '${job}' was asked to stop, but has not ended after ${STOP_MS / 1000} s`);
    await sleep(100);
  }
}

interface Visit {
  readonly job: string;
  readonly records: Records;
  readonly requester: ControlRequester;
}

async function visiting<T>(place: JobPlace, visit: (visit: Visit) => Promise<T>): Promise<T> {
  const { job = 'default' } = place;
  const connection = await connectNats({ name: 'plexus visitor', ...place.nats });
  const ending = new AbortController();
  const records = new Records(connection, job, ANSWER_MS, ending.signal, 'look');
  const requester = new ControlRequester(connection);
  try {
    return await visit({ job, records, requester });
  } finally {
    requester.close();
    ending.abort(new ClusterError('the visit is over'));
    await connection.close();
  }
}

/** What a request of somebody who does not lead carries: a number that no leader uses, so that it is a request of its own. */
async function visitorAbout(records: Records) {
  const [leader, generation] = await Promise.all([
    records.get<LeaderEntry>(clusterKeys.leader),
    records.get<GenerationRecord>(clusterKeys.generation),
  ]);
  return {
    term: leader?.value.term ?? 0,
    generation: generation?.value.generation ?? 0,
    seq: -randomInt(1, 2 ** 47),
  };
}

async function readStatus(records: Records): Promise<ClusterStatus> {
  const [leader, record, generation, position, members] = await Promise.all([
    records.get<LeaderEntry>(clusterKeys.leader),
    records.get<JobEntry>(clusterKeys.job),
    records.get<GenerationRecord>(clusterKeys.generation),
    records.get<PositionEntry>(clusterKeys.position),
    records.members(),
  ]);
  // The server's clock runs on at least as far as the newest record.
  const times = [leader, record, generation, position, ...members].flatMap((entry) => (entry ? [entry.at] : []));
  const now = Math.max(Date.now(), ...times);
  const skewed = times.length > 0 && Math.max(...times) > Date.now() ? Math.max(...times) : now;
  return {
    job: records.job,
    leader: leader && leader.value.leaseMs > 0 ? { ...leader.value, ageMs: skewed - leader.at } : null,
    record: record?.value ?? null,
    generation: generation?.value ?? null,
    position: position?.value ?? null,
    members: members
      .map(({ value, at }) => ({ ...value, ageMs: skewed - at }))
      .filter(({ ageMs, leaseMs }) => ageMs <= leaseMs)
      .sort((a, b) => (a.id < b.id ? -1 : 1)),
  };
}
