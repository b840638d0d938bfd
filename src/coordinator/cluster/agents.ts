import type { NatsConnection } from '@nats-io/transport-node';
import { ControlRequester, connectionUp, EventReceiver } from '../../comm/index.ts';
import { type AgentEvent, type AgentReply, type AgentRequest, clusterSubjects } from '../../worker/index.ts';
import { ClusterError } from './errors.ts';

/** A request without what all of them carry. */
export type AgentAsk = AgentRequest extends infer R
  ? R extends AgentRequest
    ? Omit<R, 'term' | 'generation' | 'seq'>
    : never
  : never;

/** How long an agent that is let go may take to say so, in milliseconds. */
export const RELEASE_MS = 2000;

/** An answer that is not a refusal. */
export type AgentAnswer = Extract<AgentReply, { ok: true }>;

/** An agent has refused what it was asked. `stale`: because another leader, or a later generation, was there before. */
export class AgentRefused extends ClusterError {
  override readonly name = 'AgentRefused';
  readonly agent: string;
  readonly stale: boolean;

  constructor(agent: string, stale: boolean, message: string) {
    super(message);
    this.agent = agent;
    this.stale = stale;
  }
}

/** An agent did not answer. */
export class AgentSilent extends ClusterError {
  override readonly name = 'AgentSilent';
  readonly agent: string;

  constructor(agent: string, message: string, cause: unknown) {
    super(message, { cause });
    this.agent = agent;
  }
}

/** Talks to the agents of a job: requests that are repeated until they are answered, and their events, each once and in order. */
export class Agents {
  readonly #connection: NatsConnection;
  readonly #job: string;
  readonly #term: number;
  readonly #requester: ControlRequester;
  readonly #receiver: EventReceiver;
  readonly #outbox = new Map<string, Promise<unknown>>();
  readonly #lastSeq = new Map<string, { readonly life: string; seq: number }>();
  #seq = 0;

  constructor(
    connection: NatsConnection,
    job: string,
    term: number,
    onEvent: (event: AgentEvent) => void,
    onError: (error: Error) => void,
  ) {
    this.#connection = connection;
    this.#job = job;
    this.#term = term;
    this.#requester = new ControlRequester(connection, { repeatMs: 100 });
    this.#receiver = new EventReceiver(
      connection,
      clusterSubjects(job).events,
      (event) => {
        if (this.#isNew(event as AgentEvent)) onEvent(event as AgentEvent);
      },
      onError,
    );
  }

  /**
   * Asks one agent.
   * @throws AgentSilent, AgentRefused
   */
  async ask(agent: string, generation: number, ask: AgentAsk, deadlineMs: number): Promise<AgentAnswer> {
    const request = { ...ask, term: this.#term, generation, seq: this.#seq++ } as AgentRequest;
    const subject = clusterSubjects(this.#job).agent(agent);
    const reply = await this.#requester.request<AgentReply>(subject, request, { deadlineMs }).catch((error: Error) => {
      throw new AgentSilent(agent, `agent ${agent} did not answer (${ask.type}): ${error.message}`, error);
    });
    if (reply.ok) return reply;
    throw new AgentRefused(agent, reply.stale, reply.message);
  }

  /** Asks one agent after it has answered everything that was asked in this way before: for commands, whose order matters. */
  inOrder(agent: string, generation: number, ask: AgentAsk, deadlineMs: number): Promise<AgentAnswer> {
    const before = this.#outbox.get(agent) ?? Promise.resolve();
    const next = before.catch(() => undefined).then(() => this.ask(agent, generation, ask, deadlineMs));
    this.#outbox.set(agent, next);
    next.catch(() => undefined);
    return next;
  }

  /**
   * Whether an agent's main thread answers within a short time. Where nobody listens to its subject any more, the server
   * says so at once.
   * @param trustServer false where this process or the server has just reconnected: agents may be about to
   */
  async answers(agent: string, generation: number, deadlineMs: number, trustServer: boolean): Promise<boolean> {
    const asked = this.ask(agent, generation, { type: 'probe', addresses: [] }, deadlineMs).then(
      () => true,
      // A refusal is a sign of life.
      (error: unknown) => error instanceof AgentRefused,
    );
    if (!trustServer || !connectionUp(this.#connection)) return asked;
    return Promise.race([asked, this.#deserted(agent, deadlineMs)]);
  }

  /** Lets an agent go; resolves when it has answered, or will not. */
  async release(agent: string, generation: number, reason: string, deadlineMs: number): Promise<void> {
    const told = this.ask(agent, generation, { type: 'release', reason }, deadlineMs);
    // One that is gone needs no telling, and one that follows another leader takes no orders.
    await Promise.race([told.catch(() => undefined), this.#deserted(agent, deadlineMs)]);
  }

  /** Resolves with false when the server knows nobody who listens to an agent's subject; otherwise never. */
  async #deserted(agent: string, deadlineMs: number): Promise<false> {
    try {
      await this.#connection.request(clusterSubjects(this.#job).agent(agent), new Uint8Array(0), {
        timeout: deadlineMs,
      });
    } catch (error) {
      if (/no responders/i.test((error as Error).message)) return false;
    }
    return new Promise<false>(() => undefined);
  }

  #isNew({ agent, life, seq }: AgentEvent): boolean {
    const known = this.#lastSeq.get(agent);
    if (known?.life === life && seq <= known.seq) return false;
    this.#lastSeq.set(agent, { life, seq });
    return true;
  }

  close(): void {
    this.#requester.close();
    this.#receiver.close();
  }
}
