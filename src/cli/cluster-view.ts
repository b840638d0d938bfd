import type { ClusterEvent } from '../coordinator/index.ts';

/** `0.35 s`, `12 s`. */
export function seconds(ms: number): string {
  const value = ms / 1000;
  return `${value < 9.95 ? value.toFixed(value < 0.995 ? 2 : 1) : Math.round(value)} s`;
}

const count = (n: number, what: string): string => `${n} ${what}${n === 1 ? '' : 's'}`;

/** How many links there are of each kind: `2 host, 4 tcp`. Pairs count once. */
export function linkCounts(links: readonly (readonly string[])[]): string {
  const counts = new Map<string, number>();
  links.forEach((row, from) => {
    row.forEach((kind, to) => {
      if (from < to && kind !== '-') counts.set(kind, (counts.get(kind) ?? 0) + 1);
    });
  });
  return [...counts].map(([kind, n]) => `${n} ${kind}`).join(', ');
}

/**
 * Turns what happens to the membership of a run into lines for people: one for each recovery, saying who was lost, what was
 * done about it and how long it took, and one for each other change.
 */
export class ClusterNarrator {
  /** The command that lets another machine join, shown while workers are missing. */
  readonly #join: string;
  #waiting = '';
  #lost: Extract<ClusterEvent, { type: 'lost' }>[] = [];
  #joined: Extract<ClusterEvent, { type: 'joined' }>[] = [];
  #generation: Extract<ClusterEvent, { type: 'generation' }> | null = null;
  #recoveries = 0;

  constructor(join: string) {
    this.#join = join;
  }

  /** For the progress line: workers, generation and recoveries; empty before there is a generation. */
  get state(): string {
    if (!this.#generation) return '';
    const parts = [`${count(this.#generation.members.length, 'worker')} gen ${this.#generation.generation}`];
    if (this.#recoveries > 0) parts.push(count(this.#recoveries, 'recovery').replace('recoverys', 'recoveries'));
    return parts.join(' ');
  }

  /** What to print now. */
  lines(event: ClusterEvent): string[] {
    switch (event.type) {
      case 'waiting': {
        const text = `waiting for ${event.what ?? 'workers'}: ${event.have} of ${event.need}`;
        if (text === this.#waiting) return [];
        const first = this.#waiting === '';
        this.#waiting = text;
        return [first && event.have < event.need ? `${text}; start more with: ${this.#join}` : text];
      }
      case 'client': {
        const { client, what, reason } = event;
        if (what === 'joined') return [`+ client ${client} joined with ${reason}`];
        return [
          what === 'gone' ? `- client ${client} is gone: ${reason}` : `! client ${client} is quarantined: ${reason}`,
        ];
      }
      case 'joined':
        this.#joined.push(event);
        return [`+ worker ${event.agent} joined with ${count(event.slots, 'slot')}`];
      case 'lost':
        this.#lost.push(event);
        return [];
      case 'generation': {
        const before = this.#generation;
        this.#generation = event;
        this.#waiting = '';
        // The line of the recovery says it all when it is complete.
        if (this.#lost.length > 0) return [];
        this.#joined = [];
        const how = before ? `, from step ${event.fromStep}: ${event.reason}` : '';
        return [`generation ${event.generation}: ${describeGeneration(event)}${how}`];
      }
      case 'recovered': {
        this.#recoveries += 1;
        const who =
          this.#lost.length > 0
            ? this.#lost.map(describeLoss).join('; ')
            : (this.#generation?.reason ?? 'membership changed');
        this.#lost = [];
        const now = this.#generation ? `; now ${describeGeneration(this.#generation)}` : '';
        return [
          `! ${who}${now}, on from step ${event.step} (noticed after ${seconds(event.detectionMs)}, recovered in ${seconds(event.recoveryMs)})`,
        ];
      }
    }
  }
}

function describeLoss({ agent, ranks, reason }: Extract<ClusterEvent, { type: 'lost' }>): string {
  const held = ranks.length === 0 ? '' : ` (rank${ranks.length > 1 ? 's' : ''} ${ranks.join(', ')})`;
  return `worker ${agent}${held} lost: ${reason}`;
}

function describeGeneration({ mesh, members, links }: Extract<ClusterEvent, { type: 'generation' }>): string {
  const agents = new Set(members.map(({ agent }) => agent)).size;
  const kinds = linkCounts(links);
  return (
    `data ${mesh.data} × pipeline ${mesh.pipeline}, expert ${mesh.expert} on ${count(agents, 'process').replace('processs', 'processes')}` +
    (kinds === '' ? '' : `, links ${kinds}`)
  );
}
