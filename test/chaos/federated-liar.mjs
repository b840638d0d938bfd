// A federated client that follows the protocol and answers what no honest one would: `node federated-liar.mjs URL FOLDER KIND`.
import { Packr } from 'msgpackr';
import { CLIENT_INBOX, ClientState, connectNats, defaultAllowList, FederatedClient } from '../../dist/index.js';

const [url, folder, kind] = process.argv.slice(2);
const params = 12_730;
const updates = {
  nan: () => new Float32Array(params).fill(Number.NaN),
  huge: () => new Float32Array(params).fill(1e6),
  short: () => new Float32Array(params - 1),
  round: () => new Float32Array(params),
  // (Says that it is there all the same.)
  silent: () => new Promise(() => undefined),
};
const packr = new Packr({ useRecords: false, moreTypes: false });

/** What a packed message says; null if it is not one, as chunks of an update are not. */
function unpacked(bytes) {
  try {
    return packr.unpack(bytes);
  } catch {
    return null;
  }
}

/** An answer to a fit, as if it were of the round after; whatever else is sent, as it is. */
function ofAnotherRound(data) {
  const part = unpacked(data);
  const answer = Array.isArray(part) && unpacked(part[6]);
  if (!answer?.ok?.update) return data;
  answer.ok.round += 1;
  part[6] = Uint8Array.from(packr.pack(answer));
  return Uint8Array.from(packr.pack(part));
}

const state = await ClientState.open(folder);
const nats = await connectNats({ servers: url, inboxPrefix: CLIENT_INBOX });
if (kind === 'round') {
  const publish = nats.publish.bind(nats);
  nats.publish = (subject, data, options) => publish(subject, ofAnotherRound(data), options);
}
await new FederatedClient({
  ...{ nats, job: 'default', name: `liar-${kind}`, state, allow: defaultAllowList() },
  // One of them has the number of a part; it comes before those that have none.
  part: kind === 'nan' ? { index: 4, of: 5 } : null,
  ...{ once: true, log: (line) => console.error(line), signal: new AbortController().signal },
  compute: async () => ({
    ...{ examples: 400, paramsSize: params, stateSize: 0 },
    fit: async () => ({
      update: await updates[kind](),
      report: { client: 4, examples: 400, steps: 1, weight: 1, loss: 1, norm: 1, kept: {}, ms: 1, problem: null },
    }),
    ask: async () => null,
    loss: async () => ({ loss: 1, examples: 1, correct: null }),
    close: async () => undefined,
  }),
}).run();
await nats.close();
await state.close();
