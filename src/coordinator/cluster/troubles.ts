import type { FailureReport } from '../../worker/index.ts';

/** A sign that something is wrong with a generation. `at` is `performance.now()` of the last sign of life before it. */
export type Trouble =
  /** An agent is gone: its lease ran out, it left, it was started anew, or does not answer. */
  | { readonly kind: 'gone'; readonly agent: string; readonly reason: string; readonly at: number }
  /** The link between two ranks ended. */
  | {
      readonly kind: 'link';
      readonly rank: number;
      readonly peer: number;
      readonly reason: string;
      readonly at: number;
    }
  /** A rank has failed. */
  | {
      readonly kind: 'failed';
      readonly rank: number;
      readonly agent: string;
      readonly report: FailureReport;
      readonly at: number;
    }
  /** A command was not answered. */
  | { readonly kind: 'silent'; readonly agent: string; readonly reason: string; readonly at: number };

/** Failures that may come of what others do, or of the machine: the run goes on unless one comes twice in a row. */
const MAY_PASS = new Set([
  'CommTimeout',
  'CommClosed',
  'CommProtocolError',
  'LinkError',
  'BlobError',
  'RunAborted',
  'Hang',
  'WorkerExit',
]);

/** Whether a failure is the program's own, so that doing the step again would not help. */
export function isOwn({ secondary, name, step }: FailureReport): boolean {
  if (secondary || MAY_PASS.has(name)) return false;
  // Before the first step a plain error may be about a source of tensors that has gone meanwhile.
  return !(name === 'Error' && step === null);
}

/** Whether a failure may be its rank's own fault: so if the rank fails in the same way at the same step again. */
export function looksOwn({ secondary, name }: FailureReport): boolean {
  return !secondary && name !== 'RunAborted';
}

/** The same for failures that are alike. */
export function failureKey({ rank, step, name }: FailureReport): string {
  return `rank ${rank} step ${step} ${name}`;
}

/** The pair and kind of a link that could not be made, from the report of a rank; null if it is about something else. */
export function unmadeLink({ name, message }: FailureReport): { rank: number; peer: number; kind: string } | null {
  if (name !== 'LinkError') return null;
  const match = /rank (\d+) could not be linked to rank (\d+) over (\w+)/.exec(message);
  return match ? { rank: Number(match[1]), peer: Number(match[2]), kind: match[3] as string } : null;
}

/** Who waited for whom until a deadline passed, from the report of a rank; null if it is about something else. */
export function waitedFor({ name, message }: FailureReport): { rank: number; peer: number } | null {
  if (name !== 'CommTimeout') return null;
  const match = /rank (\d+) waited \d+ ms for (?:message ".*" from )?rank (\d+)/.exec(message);
  return match ? { rank: Number(match[1]), peer: Number(match[2]) } : null;
}

/** In a few words, for events and records. */
export function describeTrouble(trouble: Trouble): string {
  switch (trouble.kind) {
    case 'gone':
    case 'silent':
      return `agent ${trouble.agent}: ${trouble.reason}`;
    case 'link':
      return `the link between ranks ${trouble.rank} and ${trouble.peer} ended: ${trouble.reason}`;
    case 'failed':
      return `rank ${trouble.rank} on agent ${trouble.agent}: ${trouble.report.name}: ${trouble.report.message.split('\n')[0]}`;
  }
}

/** Signs of trouble that are kept of one generation. */
const KEPT = 256;

/** The signs of one generation. */
export class Troubles {
  #all: Trouble[] = [];

  add(trouble: Trouble): void {
    if (this.#all.length < KEPT) this.#all.push(trouble);
  }

  /** Another generation begins. */
  clear(): void {
    this.#all = [];
  }

  get all(): readonly Trouble[] {
    return this.#all;
  }

  /** Reports of ranks. */
  get failed(): readonly Extract<Trouble, { kind: 'failed' }>[] {
    return this.#all.filter((trouble) => trouble.kind === 'failed');
  }

  /** When the first of them was seen. */
  get firstAt(): number {
    return Math.min(...this.#all.map(({ at }) => at));
  }
}
