import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { BlobServer, ControlRequester, ControlResponder } from '../../../comm/index.ts';
import { MissingColumns } from '../../../data/index.ts';
import { PLEXUS_VERSION } from '../../../worker/index.ts';
import type { ClientCompute } from './client-compute.ts';
import { answerRequest, type ClientSession, type Ending, type FederatedClientOptions } from './client-session.ts';
import { ClientRefusal } from './errors.ts';
import {
  CLIENT_INBOX,
  clientOwner,
  clientSubject,
  FEDERATED_PROTOCOL,
  type OmitFromEach,
  serverSubject,
  type ToServer,
  toClientSchema,
  type Welcome,
  welcomeSchema,
} from './messages.ts';
import { SecureMember } from './secure-member.ts';

/** Fits and questions that may wait for the one that is being computed. */
const MAX_QUEUED = 8;
/** How long a request may wait for this client to be in a session again, in milliseconds. */
const RETURN_MS = 30_000;
/** Pause between two sessions, in milliseconds. */
const PAUSE_MS = 200;

/**
 * A client of a federated run: has data that stays where they are, waits to be asked, and answers with updates. It goes on by
 * itself when the connection or the server was away, and when it was itself restarted: nothing of a run is only in its memory.
 */
export class FederatedClient {
  readonly #options: FederatedClientOptions;
  readonly #requester: ControlRequester;
  #session: ClientSession | null = null;
  /** Requests that wait for this client to be in a session again. */
  #returning = 0;
  /** What computes, for as long as runs ask for the same. */
  #compute: { readonly of: string; readonly compute: ClientCompute } | null = null;

  constructor(options: FederatedClientOptions) {
    this.#options = options;
    this.#requester = new ControlRequester(options.nats, { inboxPrefix: CLIENT_INBOX });
  }

  /**
   * Takes part until the signal is raised, or (`once`) a run is over.
   * @throws ClientRefusal with `once`, where the run asks for what is not allowed
   */
  async run(): Promise<void> {
    const { nats, job, name, state, log, once, signal } = this.#options;
    const { id } = state.identity;
    const responder = new ControlResponder(nats, clientSubject(job, name, id), (message) => this.#asked(message));
    try {
      while (!signal.aborted) {
        const welcome = await this.#join();
        if (!welcome) return;
        const ending = await this.#takePart(welcome);
        if (signal.aborted) return;
        log(`${ending.reason}${once && ending.over ? '' : '; waiting for the server'}`);
        if (once && ending.over) return;
        await sleep(PAUSE_MS, undefined, { signal }).catch(() => undefined);
      }
    } finally {
      responder.close();
      this.#requester.close();
      await this.#compute?.compute.close();
    }
  }

  /** Asks to take part until a server answers; null if the signal came first. */
  async #join(): Promise<Welcome | null> {
    const { part, log, signal, answerMs = 5000 } = this.#options;
    let said = '';
    while (!signal.aborted) {
      try {
        const answer = await this.#tell(
          { type: 'join', protocol: FEDERATED_PROTOCOL, version: PLEXUS_VERSION, part },
          answerMs,
        );
        return welcomeSchema.parse(answer);
      } catch (error) {
        if (signal.aborted) return null;
        const { name, message } = error as Error;
        const text =
          name === 'ControlTimeout' ? `no server of job '${this.#options.job}' answers yet; waiting` : message;
        if (text !== said) log(text);
        said = text;
        await sleep(Math.min(1000, answerMs), undefined, { signal }).catch(() => undefined);
      }
    }
    return null;
  }

  /** Serves a session to its end. */
  async #takePart(welcome: Welcome): Promise<Ending> {
    const { nats, job, state, log, once, signal } = this.#options;
    const { session } = welcome;
    let compute: ClientCompute;
    try {
      compute = await this.#prepare(welcome);
    } catch (error) {
      const { message } = error as Error;
      if (signal.aborted) return { reason: 'interrupted', over: true };
      await this.#tell({ type: 'refuse', session, reason: toldOf(error as Error) }).catch(() => undefined);
      if (once || !(error instanceof ClientRefusal)) throw error;
      log(`refused: ${message}`);
      // It may be asked for something else by the next run.
      return this.#whileServed(session, new Promise(() => undefined));
    }
    const secret = randomBytes(32).toString('hex');
    const blobs = new BlobServer({ nats, job, owner: clientOwner(state.identity.id), secret, listen: null });
    try {
      const ended = new Promise<Ending>((resolve) => {
        this.#session = {
          welcome,
          compute,
          blobs,
          secure: new SecureMember(this.#options.allow, compute.paramsSize + compute.stateSize, welcome.job.seed),
          end: resolve,
          start: null,
          answer: null,
          queued: 0,
          last: Promise.resolve(),
        };
      });
      const { examples, paramsSize: params, stateSize } = compute;
      await this.#tell({ type: 'ready', session, examples, params, state: stateSize, secret });
      log(`takes part in run ${welcome.run} of job '${job}' with ${examples} examples`);
      return await this.#whileServed(session, ended);
    } catch (error) {
      if ((error as Error).name !== 'ControlTimeout' && (error as Error).name !== 'ControlError') throw error;
      return { reason: (error as Error).message, over: false };
    } finally {
      const last = (this.#session as ClientSession | null)?.last;
      this.#session = null;
      if (signal.aborted) {
        const reason = String((signal.reason as Error)?.message ?? 'it was stopped');
        await this.#tell({ type: 'leave', session, reason }, 1000).catch(() => undefined);
      }
      await last?.catch(() => undefined);
      await blobs.close();
    }
  }

  /** Tells the server time and again that this client is there, until either of them is done with the other. */
  async #whileServed(session: string, ended: Promise<Ending>): Promise<Ending> {
    const { log, signal } = this.#options;
    let over: Ending | null = null;
    const stop = new AbortController();
    const either = AbortSignal.any([signal, stop.signal]);
    void ended.then((ending) => {
      over = ending;
      stop.abort();
    });
    const beatMs = this.#session?.welcome.beatMs ?? 1000;
    let lost = false;
    while (!either.aborted) {
      await sleep(beatMs, undefined, { signal: either }).catch(() => undefined);
      if (either.aborted) break;
      try {
        const { known } = (await this.#tell({ type: 'beat', session }, 4 * beatMs, either)) as { known: boolean };
        if (!known) return { reason: 'the server does not know this client (any more)', over: false };
        if (lost) log('the server is there again');
        lost = false;
      } catch (error) {
        if (either.aborted) break;
        if (!lost) log(`the server is not heard (${(error as Error).message}); waiting`);
        lost = true;
      }
    }
    return over ?? { reason: 'interrupted', over: true };
  }

  async #prepare({ job }: Welcome): Promise<ClientCompute> {
    const of = JSON.stringify(job);
    if (this.#compute?.of === of) return this.#compute.compute;
    await this.#compute?.compute.close();
    this.#compute = null;
    const compute = await this.#options.compute(job);
    this.#compute = { of, compute };
    return compute;
  }

  #tell(
    message: OmitFromEach<ToServer, 'id' | 'token' | 'name'>,
    deadlineMs = 10_000,
    signal = this.#options.signal.aborted ? undefined : this.#options.signal,
  ): Promise<unknown> {
    const { job, name, state } = this.#options;
    const whole = { ...message, name, ...state.identity };
    return this.#requester.request(serverSubject(job), whole, { deadlineMs, ...(signal ? { signal } : {}) });
  }

  // ---- what the server asks

  async #asked(message: unknown): Promise<unknown> {
    const request = toClientSchema.parse(message);
    const session = await this.#sessionOf(request.session);
    if (request.type === 'end') {
      session.end({ reason: request.reason, over: true });
      return {};
    }
    if (session.queued >= MAX_QUEUED) throw new ClientRefusal(`it has ${session.queued} things to do already`);
    session.queued += 1;
    const done = session.last
      .then(() => {
        if (this.#session !== session) throw new ClientRefusal('it takes part in another session (any more)');
        return answerRequest(this.#options, session, request);
      })
      .catch((error: Error) => {
        // What the server gets to know of errors is only what is meant for it.
        this.#options.log(`${request.type} of round ${request.round}: ${error.message}`);
        throw error instanceof ClientRefusal ? error : new ClientRefusal('it failed; its own log says why');
      });
    session.last = done.catch(() => undefined);
    return done.finally(() => {
      session.queued -= 1;
    });
  }

  /** The session that a request is of. One that was just restarted is about to be in it again. */
  async #sessionOf(id: string): Promise<ClientSession> {
    const until = performance.now() + RETURN_MS;
    while (
      !this.#session &&
      performance.now() < until &&
      !this.#options.signal.aborted &&
      this.#returning <= MAX_QUEUED
    ) {
      this.#returning += 1;
      await sleep(50);
      this.#returning -= 1;
    }
    if (this.#session?.welcome.session === id) return this.#session;
    throw new ClientRefusal(`it takes part in ${this.#session ? 'another' : 'no'} session (any more)`);
  }
}

/** What a server gets to know of why a client takes no part: nothing that is in the client's data. */
function toldOf(error: Error): string {
  if (error instanceof ClientRefusal) return error.message.slice(0, 2000);
  // (These names are the server's own.)
  if (error instanceof MissingColumns)
    return `its data have no column ${error.missing.map((name) => `'${name}'`).join(', ')}`.slice(0, 2000);
  return 'its data do not fit; its own log says why';
}
