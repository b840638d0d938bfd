// A federated client that follows the protocol and sends what no honest one would: `node federated-liar.mjs URL FOLDER KIND`.
import { CLIENT_INBOX, ClientState, connectNats, defaultAllowList, FederatedClient } from '../../dist/index.js';

const [url, folder, kind] = process.argv.slice(2);
const params = 12_730;
const updates = {
  nan: () => new Float32Array(params).fill(Number.NaN),
  huge: () => new Float32Array(params).fill(1e6),
  short: () => new Float32Array(params - 1),
};
const state = await ClientState.open(folder);
const nats = await connectNats({ servers: url, inboxPrefix: CLIENT_INBOX });
await new FederatedClient({
  ...{ nats, job: 'default', name: `liar-${kind}`, state, allow: defaultAllowList(), part: { index: 4, of: 5 } },
  ...{ once: true, log: (line) => console.error(line), signal: new AbortController().signal },
  compute: async () => ({
    ...{ examples: 400, paramsSize: params, stateSize: 0 },
    fit: async () => ({
      update: updates[kind](),
      report: { client: 4, examples: 400, steps: 1, weight: 1, loss: 1, norm: 1, kept: {}, ms: 1, problem: null },
    }),
    ask: async () => null,
    loss: async () => ({ loss: 1, examples: 1, correct: null }),
    close: async () => undefined,
  }),
}).run();
await nats.close();
await state.close();
