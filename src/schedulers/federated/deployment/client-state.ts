import { randomBytes, randomUUID } from 'node:crypto';
import { mkdir, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { lockRun, writeFileAtomically } from '../../../coordinator/index.ts';
import { float32, readSafetensors, writeSafetensors } from '../../../tensor/index.ts';
import { accountSchema, type ClientAccount, newAccount, withFit } from './client-account.ts';
import { ClientRefusal } from './errors.ts';

/** Who a client is: what its server knows it by again. */
export interface ClientIdentity {
  readonly id: string;
  /** Proves to the server that it is the same one; known to nobody else. */
  readonly token: string;
}

/** Runs whose vectors are kept at a time; those of older ones are deleted. */
const KEPT_RUNS = 8;
/** Milliseconds after which a count that can wait is on the disk. */
const SAVE_MS = 1000;

/**
 * What a client keeps on its own disk: its identity, an account of what it has answered, and for each run what its objective keeps (personal layers, control
 * variates). Of those there are up to three versions, by the round after which they count: the server says which of them is
 * good, since it may not have used the last answer, or may have come back to an older checkpoint.
 */
export class ClientState {
  readonly identity: ClientIdentity;
  readonly #folder: string;
  readonly #unlock: () => Promise<void>;
  #account: ClientAccount;
  #saving: Promise<void> = Promise.resolve();
  #later: NodeJS.Timeout | undefined;

  private constructor(folder: string, identity: ClientIdentity, account: ClientAccount, unlock: () => Promise<void>) {
    this.#folder = folder;
    this.identity = identity;
    this.#account = account;
    this.#unlock = unlock;
  }

  /**
   * Opens a state folder, which is made where there is none.
   * @throws ClientRefusal if another process uses it, or what is in it is none
   */
  static async open(folder: string): Promise<ClientState> {
    await mkdir(folder, { recursive: true, mode: 0o700 });
    const unlock = await lockRun(folder).catch((error: Error) => {
      throw new ClientRefusal(
        `another client uses the state folder ${folder}: give each client on this machine its own --name or --state`,
        { cause: error },
      );
    });
    try {
      return new ClientState(folder, await identityIn(folder), await accountIn(folder), unlock);
    } catch (error) {
      await unlock();
      throw error;
    }
  }

  /** What it has answered so far. */
  get account(): ClientAccount {
    return this.#account;
  }

  /**
   * Enters a fit that is about to be answered. What tells of the examples is on the disk before the answer can leave; how many fits
   * without noise there were, after the first one, within a second.
   * @param noise on its update, in multiples of the norm that it is clipped to; 0 for none
   */
  async spend(run: string, noise: number): Promise<void> {
    const wasBare = this.#account.bare > 0;
    this.#account = withFit(this.#account, run, noise);
    if (noise > 0 || !wasBare) return this.#saveAccount();
    this.#later ??= setTimeout(() => {
      // (An error shows when it is closed, or at the next fit that counts.)
      this.#saveAccount().catch(() => undefined);
    }, SAVE_MS).unref();
  }

  #saveAccount(): Promise<void> {
    clearTimeout(this.#later);
    this.#later = undefined;
    // One write after another.
    this.#saving = this.#saving
      .catch(() => undefined)
      .then(() => writeFileAtomically(accountFile(this.#folder), `${JSON.stringify(this.#account)}\n`));
    return this.#saving;
  }

  /** What was kept after a round of a run. @throws ClientRefusal if it is not there */
  async read(run: string, round: number): Promise<Record<string, Float32Array>> {
    const file = this.#file(run, round);
    const tensors = await readSafetensors(file).catch((error: Error) => {
      throw new ClientRefusal(
        `what it kept after round ${round} is not in its state folder any more; only a new client could go on: delete that folder`,
        { cause: error },
      );
    });
    return Object.fromEntries(
      Object.entries(tensors.tensors).map(([name, { data }]) => [name, Float32Array.from(data as Float32Array)]),
    );
  }

  /** Keeps vectors as of after a round, and forgets all versions of the run but that and those in `still`. */
  async write(
    run: string,
    round: number,
    kept: Readonly<Record<string, Float32Array>>,
    still: readonly (number | null)[],
  ): Promise<void> {
    if (Object.keys(kept).length === 0) return;
    const folder = this.#runFolder(run);
    await mkdir(folder, { recursive: true });
    const file = this.#file(run, round);
    const temporary = `${file}.${process.pid}.tmp`;
    const tensors = Object.fromEntries(
      Object.entries(kept).map(([name, values]) => [name, float32(values, [values.length])]),
    );
    await writeSafetensors(temporary, tensors);
    await rename(temporary, file);
    const wanted = new Set([round, ...still].map((each) => `kept-${each}.safetensors`));
    for (const name of await readdir(folder)) if (!wanted.has(name)) await rm(join(folder, name), { force: true });
    await this.#prune();
  }

  /** Lets others use the folder. @throws Error if the account cannot be written */
  async close(): Promise<void> {
    try {
      if (this.#later) await this.#saveAccount();
      await this.#saving;
    } finally {
      await this.#unlock();
    }
  }

  #runFolder(run: string): string {
    return join(this.#folder, 'runs', run.replace(/[^\w.-]/g, '-').replace(/^\.+/, '-'));
  }

  #file(run: string, round: number): string {
    return join(this.#runFolder(run), `kept-${round}.safetensors`);
  }

  async #prune(): Promise<void> {
    const runs = join(this.#folder, 'runs');
    const names = await readdir(runs);
    if (names.length <= KEPT_RUNS) return;
    const dated = await Promise.all(names.map(async (name) => ({ name, at: (await stat(join(runs, name))).mtimeMs })));
    const old = dated.sort((a, b) => b.at - a.at).slice(KEPT_RUNS);
    for (const { name } of old) await rm(join(runs, name), { recursive: true, force: true });
  }
}

const accountFile = (folder: string) => join(folder, 'account.json');

/** Reads what a client has answered. @throws ClientRefusal if the file is no account */
async function accountIn(folder: string): Promise<ClientAccount> {
  const file = accountFile(folder);
  const refused = (cause: unknown) =>
    new ClientRefusal(`${file} is not the account of what a client has answered: put it right, or delete the folder`, {
      cause,
    });
  const text = await readFile(file, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return null;
    throw error;
  });
  if (text === null) return newAccount();
  try {
    return accountSchema.parse(JSON.parse(text));
  } catch (error) {
    throw refused(error);
  }
}

/** Reads who a client is, or makes somebody new. */
async function identityIn(folder: string): Promise<ClientIdentity> {
  const file = join(folder, 'identity.json');
  try {
    const { id, token } = JSON.parse(await readFile(file, 'utf8')) as Partial<ClientIdentity>;
    if (typeof id === 'string' && /^[0-9a-f-]{36}$/.test(id) && typeof token === 'string' && token.length === 64)
      return { id, token };
    throw new ClientRefusal(`${file} is not the identity of a client: delete it to begin as a new one`);
  } catch (error) {
    if (error instanceof SyntaxError)
      throw new ClientRefusal(`${file} is not the identity of a client: delete it to begin as a new one`, {
        cause: error,
      });
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  }
  const identity: ClientIdentity = { id: randomUUID(), token: randomBytes(32).toString('hex') };
  const temporary = `${file}.${process.pid}.tmp`;
  await writeFile(temporary, `${JSON.stringify(identity)}\n`, { mode: 0o600 });
  await rename(temporary, file);
  return identity;
}
