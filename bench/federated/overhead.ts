// What a round costs the coordinator: 10 clients × 100 parameters, fits that compute nothing.
//   node bench/run.mjs federated/overhead [--rounds=N]
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  CLIENT_INBOX,
  type ClientFit,
  type ClientReport,
  ClientState,
  ClientStore,
  connectNats,
  defaultAllowList,
  FederatedClient,
  type Fitters,
  federatedStrategies,
  type JobDescription,
  NatsClients,
  partitionOf,
  Roster,
  RoundSimulation,
  RunningTreeSum,
  type SharedStart,
  startNatsServer,
  vectorLayout,
} from '../../src/index.ts';

const CLIENTS = 10;
const PARAMS = 100;
const EXAMPLES = 50;
const ROUNDS = Number(/--rounds=(\d+)/.exec(process.argv.join(' '))?.[1] ?? 300);
const WARM = 100;

const shared = (values: Float32Array) => {
  const buffer = new SharedArrayBuffer(values.byteLength);
  new Float32Array(buffer).set(values);
  return buffer;
};
let version = 0;
const publish = (params: Float32Array, state: Float32Array): SharedStart => {
  version += 1;
  return { version, params: shared(params), state: shared(state), round: {} };
};
const reportOf = ({ client, weight }: Pick<ClientFit, 'client' | 'weight'>): ClientReport => {
  return { client, examples: EXAMPLES, steps: 5, weight, loss: 1, norm: 0, kept: {}, ms: 0, problem: null };
};
const sizes = { paramsSize: PARAMS, stateSize: 0, receivedSize: PARAMS, sentSize: PARAMS };
const unused = () => {
  throw new Error('the benchmark does not ask for this');
};

/** Clients in this process, whose fits cost nothing. */
const empty: Fitters = {
  ...sizes,
  trained: 0,
  publish,
  sum: async (_start, cohort) => {
    const sum = new RunningTreeSum(cohort.length);
    cohort.forEach((_, i) => {
      sum.add(i + 1, new Float32Array(PARAMS));
    });
    return { sum: sum.total(), reports: cohort.map(reportOf) };
  },
  each: unused,
  add: unused,
  ask: unused,
  evaluate: unused,
};

/** Milliseconds of each round, smallest first. */
async function measure(pool: Fitters, before: () => void): Promise<number[]> {
  const strategy = federatedStrategies().get('fedavg');
  if (!strategy) throw new Error('there is no fedavg');
  const layout = vectorLayout([{ path: 'w', spec: { shape: [PARAMS], init: { kind: 'zeros' } } } as never]);
  const shape = { params: layout, state: vectorLayout([]), clients: CLIENTS, seed: 1 };
  const simulation = new RoundSimulation(
    {
      pool,
      partition: partitionOf(Array.from({ length: CLIENTS }, () => new Int32Array(EXAMPLES))),
      server: strategy.server({} as never, shape),
      behaviour: { available: () => true, leaves: () => false, speed: () => 1, seconds: () => 0 },
      store: new ClientStore(),
      ...{
        seed: 1,
        cohort: CLIENTS,
        quorum: CLIENTS,
        local: { epochs: 1, batch: 10 },
        deadlineSeconds: null,
        maxNorm: null,
      },
    },
    new Float32Array(PARAMS),
    new Float32Array(0),
  );
  const times: number[] = [];
  for (let round = 0; round < WARM + ROUNDS; round++) {
    before();
    const began = performance.now();
    const { counted } = await simulation.next();
    if (!counted) throw new Error('a round did not count');
    if (round >= WARM) times.push(performance.now() - began);
  }
  return times.sort((a, b) => a - b);
}

function print(name: string, times: readonly number[], bound: number): void {
  const at = (share: number) => (times[Math.floor(share * (times.length - 1))] as number).toFixed(3);
  console.log(`${name.padEnd(24)} ms a round: median ${at(0.5)}, fastest ${at(0)}, 90 % ${at(0.9)} (bound ${bound})`);
}

console.log(`${CLIENTS} clients, ${PARAMS} parameters, ${ROUNDS} rounds, fits that compute nothing`);
print('in process', await measure(empty, () => undefined), 0.2);

const folder = mkdtempSync(join(tmpdir(), 'plexus-overhead-'));
const server = await startNatsServer();
const nats = await connectNats({ servers: server.url });
const roster = await Roster.open({ file: join(folder, 'clients.json'), leaseMs: 10_000, news: () => undefined });
const description: JobDescription = {
  ...{ seed: 1, model: { name: 'mlp', args: {} }, optim: {}, objective: { name: 'none', config: {} }, batch: 10 },
  ...{ engine: 'onnx', data: { section: {}, encoding: {} }, secure: false, partition: {}, more: {} },
};
const clients = new NatsClients({
  ...{ nats, job: 'bench', run: 'bench', roster, description, deadlineMs: 10_000, beatMs: 1000, maxNorm: null },
  local: { ...sizes, publish, add: unused, evaluate: unused },
  ...{ wanted: [], kept: () => ({ now: null, durable: null }), warn: console.error },
});
const stop = new AbortController();
const update = new Float32Array(PARAMS);
// One process for all: their work is counted too.
const running = Array.from({ length: CLIENTS }, async (_, i) => {
  const state = await ClientState.open(join(folder, String(i)));
  const own = await connectNats({ servers: server.url, inboxPrefix: CLIENT_INBOX });
  const client = new FederatedClient({
    ...{ nats: own, job: 'bench', name: `c${i}`, state, allow: defaultAllowList(), part: null, once: false },
    ...{ log: () => undefined, signal: stop.signal },
    compute: async () => ({
      ...{ examples: EXAMPLES, paramsSize: PARAMS, stateSize: 0 },
      fit: async (_start, { client: number }) => ({ update, report: reportOf({ client: number, weight: 1 }) }),
      ...{ mask: unused, ask: unused, loss: unused, close: async () => undefined },
    }),
  });
  await client.run();
  await state.close();
  await own.close();
});
await roster.enough(CLIENTS, 30_000, AbortSignal.timeout(30_000), () => undefined);
roster.numbers();
print('over NATS', await measure(clients, () => clients.begin()), 2.5);
stop.abort(new Error('the benchmark is over'));
await Promise.all(running);
await clients.close('the benchmark is over');
await roster.close();
await nats.close();
await server.stop();
rmSync(folder, { recursive: true, force: true });
