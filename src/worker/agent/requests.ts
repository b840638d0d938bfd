import type { AgentReply, AgentRequest } from './protocol.ts';
import { AgentRefusal } from './refusal.ts';

/** Answers that are kept for requests that come again. */
const ANSWERS_KEPT = 256;

/** What requests are answered with. */
export interface RequestHooks {
  /** Why the agent ends, when it does: then it refuses everything. */
  over(): string | null;
  /** Does what is asked. @throws AgentRefusal, or whatever goes wrong: both become the answer */
  answer(request: AgentRequest): Promise<AgentReply>;
  readonly log: (line: string) => void;
}

/** What coordinators ask an agent: each request is answered once, and none that comes too late is done. */
export class Requests {
  readonly #agent: string;
  readonly #hooks: RequestHooks;
  readonly #answers = new Map<string, Promise<AgentReply>>();
  #term = 0;
  #generation = -1;

  constructor(agent: string, hooks: RequestHooks) {
    this.#agent = agent;
    this.#hooks = hooks;
  }

  /** Whether the agent still does what is asked. */
  get open(): boolean {
    return this.#hooks.over() === null;
  }

  /** Requests about generations before this one come too late. */
  get generation(): number {
    return this.#generation;
  }

  /** This generation is the agent's own, or has begun without it. */
  reached(generation: number): void {
    this.#generation = Math.max(this.#generation, generation);
  }

  /** Answers a request once; one that comes again (also from another connection of the same leader) gets the same answer. */
  serve(request: AgentRequest): Promise<AgentReply> {
    const key = `${request.term}/${request.seq}`;
    const known = this.#answers.get(key);
    if (known) return known;
    const answer = this.#answer(request).catch((error: Error): AgentReply => {
      if (!(error instanceof AgentRefusal)) this.#hooks.log(`could not ${request.type}: ${error.message}`);
      return { ok: false, stale: false, message: `agent ${this.#agent}: ${error.message}` };
    });
    this.#answers.set(key, answer);
    for (const old of [...this.#answers.keys()].slice(0, -ANSWERS_KEPT)) this.#answers.delete(old);
    return answer;
  }

  async #answer(request: AgentRequest): Promise<AgentReply> {
    const over = this.#hooks.over();
    if (over !== null) throw new AgentRefusal(`it ends: ${over}`);
    const stale = this.#staleness(request);
    if (stale !== null) return { ok: false, stale: true, message: stale };
    // (Another leader counts its generations from where it likes.)
    if (request.term > this.#term) this.#generation = -1;
    this.#term = request.term;
    return this.#hooks.answer(request);
  }

  /** Why a request comes too late, or null. */
  #staleness({ type, term, generation }: AgentRequest): string | null {
    if (term < this.#term)
      return `agent ${this.#agent} follows the leader of term ${this.#term}, not the one of term ${term}`;
    const bound = type !== 'probe' && type !== 'debug' && type !== 'stop';
    if (bound && term === this.#term && generation < this.#generation)
      return `agent ${this.#agent} is in generation ${this.#generation}; ${type} of generation ${generation} comes too late`;
    return null;
  }
}
