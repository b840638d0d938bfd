import {
  type DataConfig,
  type PreparedData,
  prepareData,
  preparedDigest,
  tokenizerFromJSON,
} from '../../data/index.ts';
import type { RemoteJob } from './protocol.ts';
import { AgentRefusal } from './refusal.ts';

/** Data sets that an agent keeps prepared: the one in use, and the one before. */
const KEPT = 2;

interface Entry {
  readonly data: PreparedData;
  readonly digest: string;
}

/**
 * The data that jobs are about, prepared from this machine's own disk: once for each data section and tokenizer, in
 * memory that all slots share.
 */
export class DataCache {
  readonly #entries = new Map<string, Promise<Entry>>();

  /**
   * The data of a job.
   * @throws AgentRefusal if what lies here is not what the coordinator trains on, with both digests; DataError if it is
   * not here at all
   */
  async get({ data: config, tokenizer, dataSha256 }: Pick<RemoteJob, 'data' | 'tokenizer' | 'dataSha256'>) {
    const key = JSON.stringify([config, tokenizer]);
    let entry = this.#entries.get(key);
    if (!entry) {
      entry = prepare(config, tokenizer);
      // A file that was missing may have been put there when the next generation comes.
      entry.catch(() => this.#entries.delete(key));
    }
    this.#entries.delete(key);
    this.#entries.set(key, entry);
    for (const old of [...this.#entries.keys()].slice(0, -KEPT)) this.#entries.delete(old);
    const { data, digest } = await entry;
    if (digest === dataSha256) return data;
    this.#entries.delete(key);
    throw new AgentRefusal(
      `the data '${config.name}'${'path' in config && config.path ? ` at ${config.path}` : ''} is not the coordinator's: its SHA-256 is ${digest} here and ${dataSha256} there; copy the same files to every machine`,
    );
  }
}

async function prepare(config: DataConfig, tokenizer: string | null): Promise<Entry> {
  const saved = tokenizer === null ? null : tokenizerFromJSON(JSON.parse(tokenizer), "the coordinator's tokenizer");
  const data = await prepareData(config, { tokenizer: saved });
  return { data, digest: preparedDigest(data) };
}
