import { type MeshShape, worldSize } from '../../plan/index.ts';
import { CLUSTER_PROTOCOL_VERSION, type MemberRecord, PLEXUS_VERSION } from '../../worker/index.ts';
import { chooseMesh } from './choose-mesh.ts';
import type { Membership } from './membership.ts';

/** Why an agent is not used, until it is started anew. */
interface Ban {
  readonly life: string;
  readonly reason: string;
}

/** Who of those that are there can be used, and for which mesh. */
export class Roster {
  readonly #membership: Membership;
  readonly #wanted: MeshShape;
  readonly #maxWorkers: number;
  readonly #fits: (mesh: MeshShape) => boolean;
  readonly #bans = new Map<string, Ban>();
  readonly #leaving = new Map<string, string>();

  constructor(membership: Membership, wanted: MeshShape, maxWorkers: number, fits: (mesh: MeshShape) => boolean) {
    this.#membership = membership;
    this.#wanted = wanted;
    this.#maxWorkers = maxWorkers;
    this.#fits = fits;
  }

  /** Ranks of the largest mesh that this run may have. */
  get wantedWorld(): number {
    return Math.min(worldSize(this.#wanted), this.#maxWorkers);
  }

  /** An agent cannot be used until it is started anew. */
  ban(member: MemberRecord, reason: string): void {
    this.#bans.set(member.id, { life: member.life, reason });
  }

  /** An agent is about to leave: it gets no ranks any more. */
  leaves(id: string): void {
    this.#leaving.set(id, this.#membership.get(id)?.life ?? '');
  }

  /** Agents that are about to leave and are still there. */
  leaving(): MemberRecord[] {
    return this.usable().filter(({ id, life }) => this.#leaving.get(id) === life);
  }

  /** Agents that can take part, in order of ids: those that are about to leave can still give what they hold. */
  usable(): MemberRecord[] {
    return this.#membership.here().filter((member) => this.refusal(member) === null);
  }

  /** Agents that can be given ranks. */
  seatable(): MemberRecord[] {
    return this.usable().filter(({ id, life, slots }) => slots > 0 && this.#leaving.get(id) !== life);
  }

  /** Why an agent is not used; null if it can be. */
  refusal(member: MemberRecord): string | null {
    const ban = this.#bans.get(member.id);
    if (ban?.life === member.life) return ban.reason;
    if (member.protocol !== CLUSTER_PROTOCOL_VERSION || member.version !== PLEXUS_VERSION)
      return (
        `it is plexus ${member.version} (protocol ${member.protocol}), and the coordinator is plexus ${PLEXUS_VERSION} ` +
        `(protocol ${CLUSTER_PROTOCOL_VERSION}): install the same version on both`
      );
    return null;
  }

  /** Ranks that those who are there could run. */
  slots(): number {
    const all = this.seatable().reduce((sum, { slots }) => sum + slots, 0);
    return Math.min(all, this.#maxWorkers);
  }

  /** The largest mesh that they could make; null if none. */
  mesh(): MeshShape | null {
    return chooseMesh(this.#wanted, this.slots(), this.#fits);
  }

  /** Who is there, for an error message. */
  describe(): string {
    const lines = this.#membership.here().map((member) => {
      const refusal = this.refusal(member);
      const { id, host, slots } = member;
      return `  ${id} on ${host}, ${slots} ${slots === 1 ? 'slot' : 'slots'}${refusal === null ? '' : ` (not used: ${refusal})`}`;
    });
    return lines.length === 0 ? '  nobody is there' : lines.join('\n');
  }
}
