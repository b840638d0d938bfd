import { randomUUID } from 'node:crypto';
import { hostname } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { clusterKeys, type LeaderRecord } from '../../worker/index.ts';
import { LeaderLost, LeaderTaken } from './errors.ts';
import type { Records, Stored } from './records.ts';

/** The leader's record as coordinators write it. */
export interface LeaderEntry extends LeaderRecord {
  /** When it took the lock, ISO 8601. */
  readonly since: string;
  /** Which machine, as `hostId()` of the agents: there, whether the process lives can be looked up. */
  readonly hostId: string;
}

/** How to take the lock. */
export interface LockOptions {
  readonly leaseMs: number;
  readonly hostId: string;
  /** Wait for as long as another leads. */
  readonly standby: boolean;
  /** Called once when another leader is found and waited for. */
  readonly onWait?: (leader: LeaderEntry) => void;
  readonly signal: AbortSignal;
}

/**
 * The right to lead a job: a record that is taken and renewed by compare-and-set. It lasts for a lease after each renewal,
 * by the server's clock. While the server is away nobody can take it either, so it is still held if the record is the same
 * when the server is back.
 */
export class LeaderLock {
  readonly entry: LeaderEntry;
  /** Whether another leader was waited for or found dead. */
  readonly tookOver: boolean;
  /** Rejects with LeaderLost once another has taken the lock. */
  readonly lost: Promise<never>;
  readonly #records: Records;
  #revision: number;
  #freshUntil: number;
  #renewing: Promise<void> | null = null;
  #timer: NodeJS.Timeout | null = null;
  #rejectLost: (error: LeaderLost) => void = () => undefined;
  #gone: LeaderLost | null = null;

  private constructor(records: Records, entry: LeaderEntry, revision: number, asked: number, tookOver: boolean) {
    this.#records = records;
    this.entry = entry;
    this.tookOver = tookOver;
    this.#revision = revision;
    this.#freshUntil = asked + entry.leaseMs;
    this.lost = new Promise((_, reject) => {
      this.#rejectLost = reject;
    });
    this.lost.catch(() => undefined);
    this.#timer = setInterval(() => void this.#renew().catch(() => undefined), entry.leaseMs / 4);
    this.#timer.unref();
  }

  get term(): number {
    return this.entry.term;
  }

  /**
   * Takes the lock.
   * @throws LeaderTaken if another coordinator holds it and lives (unless `standby`)
   */
  static async take(records: Records, options: LockOptions): Promise<LeaderLock> {
    const { leaseMs, hostId, signal } = options;
    const id = randomUUID();
    let told = false;
    let tookOver = false;
    let first: Stored<LeaderEntry> | null = null;
    for (;;) {
      signal.throwIfAborted();
      const found = await records.get<LeaderEntry>(clusterKeys.leader);
      if (found && !(await isOver(records, found, hostId))) {
        tookOver = true;
        // A renewal seen with own eyes: it lives.
        const lives = first !== null && first.value.id === found.value.id && first.revision !== found.revision;
        if (lives && !options.standby) throw new LeaderTaken(records.job, found.value);
        if (!told && (lives || options.standby)) {
          told = true;
          options.onWait?.(found.value);
        }
        first ??= found;
        if (first.value.id !== found.value.id) first = found;
        await sleep(Math.min(500, found.value.leaseMs / 8), undefined, { signal });
        continue;
      }
      const entry: LeaderEntry = {
        id,
        term: (found?.value.term ?? 0) + 1,
        host: hostname(),
        pid: process.pid,
        leaseMs,
        since: new Date().toISOString(),
        hostId,
      };
      const asked = performance.now();
      const revision = await records.exchange(clusterKeys.leader, entry, found?.revision ?? null);
      if (revision !== null) return new LeaderLock(records, entry, revision, asked, tookOver);
    }
  }

  /** Makes sure that the lock is still held: at once if it was renewed within the lease. @throws LeaderLost */
  async confirm(): Promise<void> {
    if (this.#gone) throw this.#gone;
    if (performance.now() < this.#freshUntil) return;
    await this.#renew();
  }

  /** Another coordinator has shown that it leads. */
  giveUp(reason: string): LeaderLost {
    this.#gone ??= new LeaderLost(
      `this coordinator no longer leads job '${this.#records.job}' (${reason}): it stops; the run goes on under the other`,
    );
    this.#stopRenewing();
    this.#rejectLost(this.#gone);
    return this.#gone;
  }

  /** Lets the next coordinator in at once. */
  async release(): Promise<void> {
    this.#stopRenewing();
    await this.#renewing?.catch(() => undefined);
    if (this.#gone) return;
    await this.#records.exchange(clusterKeys.leader, { ...this.entry, leaseMs: 0 }, this.#revision);
  }

  #stopRenewing(): void {
    if (this.#timer) clearInterval(this.#timer);
    this.#timer = null;
  }

  #renew(): Promise<void> {
    this.#renewing ??= this.#exchange().finally(() => {
      this.#renewing = null;
    });
    return this.#renewing;
  }

  async #exchange(): Promise<void> {
    const asked = performance.now();
    const revision = await this.#records.exchange(clusterKeys.leader, this.entry, this.#revision);
    if (revision === null) {
      const found = await this.#records.get<LeaderEntry>(clusterKeys.leader);
      if (found && found.value.id !== this.entry.id)
        throw this.giveUp(`the one on ${found.value.host}, pid ${found.value.pid}, leads since ${found.value.since}`);
      // A bucket that was lost with its server has been made again.
      const again = await this.#records.exchange(clusterKeys.leader, this.entry, found?.revision ?? null);
      if (again === null) throw this.giveUp('its lock was taken');
      this.#revision = again;
      if (!found) await this.#records.restore();
    } else this.#revision = revision;
    this.#freshUntil = asked + this.entry.leaseMs;
  }
}

/** Whether a leader is gone: it has said so, its process is dead, or its lease has run out. */
async function isOver(records: Records, { value, at }: Stored<LeaderEntry>, hostId: string): Promise<boolean> {
  if (value.leaseMs === 0) return true;
  if (value.hostId === hostId && value.host === hostname() && value.pid !== process.pid && !isAlive(value.pid))
    return true;
  return (await records.serverNow()) - at > value.leaseMs;
}

function isAlive(pid: number): boolean {
  try {
    // Signal 0 only asks.
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}
