/** A wait for a message or for credit ran past its deadline. Names who waited for what, from whom and for how long. */
export class CommTimeout extends Error {
  override readonly name = 'CommTimeout';
  readonly rank: number;
  readonly peer: number;
  readonly tag: string;
  readonly waitedMs: number;

  constructor(rank: number, peer: number, tag: string, waitedMs: number, kind: 'message' | 'credit', note: string) {
    const what =
      kind === 'message'
        ? `waited ${Math.round(waitedMs)} ms for message "${tag}" from rank ${peer}`
        : `waited ${Math.round(waitedMs)} ms for rank ${peer} to take messages before sending "${tag}" to it`;
    super(`rank ${rank} ${what}${note ? `; ${note}` : ''}`);
    this.rank = rank;
    this.peer = peer;
    this.tag = tag;
    this.waitedMs = waitedMs;
  }
}

/** The peer, or this transport itself, was closed while (or before) something was waited for. */
export class CommClosed extends Error {
  override readonly name = 'CommClosed';
  readonly rank: number;
  /** The peer that went away, or this transport's own rank if it was closed here. */
  readonly peer: number;
  readonly tag: string;

  constructor(rank: number, peer: number, tag: string, reason: string) {
    const who = peer === rank ? `rank ${rank}'s transport is closed` : `rank ${peer} closed its link to rank ${rank}`;
    super(`${who} (${reason}) while "${tag}" was under way`);
    this.rank = rank;
    this.peer = peer;
    this.tag = tag;
  }
}

/** A peer broke the rules of the transport: sent without credit, or something that is no frame. */
export class CommProtocolError extends Error {
  override readonly name = 'CommProtocolError';
}
