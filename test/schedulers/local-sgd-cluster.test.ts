import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { type NatsServer, startNatsServer } from '../../src/comm/index.ts';
import { complete, type RunEvent, type RunSummary, train, trainCluster } from '../../src/coordinator/index.ts';
import '../../src/schedulers/index.ts';

const root = mkdtempSync(join(tmpdir(), 'plexus-local-cluster-'));
let server: NatsServer;
beforeAll(async () => {
  const words = ['the', 'whale', 'sea', 'ship', 'white', 'old', 'captain', 'sailed', 'and', 'sank'];
  const text = Array.from({ length: 1500 }, (_, i) => words[(i * i * 7 + i * 3) % words.length]).join(' ');
  writeFileSync(join(root, 'corpus.txt'), text);
  server = await startNatsServer({ storeDir: join(root, 'js') });
});
const agents: ChildProcess[] = [];
afterEach(() => {
  for (const child of agents.splice(0)) child.kill('SIGKILL');
});
afterAll(async () => {
  await server?.stop('kill');
  rmSync(root, { recursive: true, force: true });
});

function startAgent(job: string, name: string): ChildProcess {
  const options = { nats: { servers: server.url }, job, name, leaseMs: 2000 };
  const script = join('test', 'coordinator', 'fixtures', 'agent.mjs');
  const child = spawn(process.execPath, [script, JSON.stringify(options)], { stdio: 'ignore' });
  agents.push(child);
  return child;
}

const config = (id: string, more: object): Record<string, unknown> => ({
  name: 'tiny',
  model: { name: 'transformer-lm', args: { layers: 2, dim: 32, heads: 2 } },
  data: { name: 'text', path: join(root, 'corpus.txt'), context: 12, tokenizer: { kind: 'char' } },
  batch: { global: 8, micro: 2 },
  optim: { name: 'adamw', lr: 0.01, clip_norm: 1 },
  train: { steps: 20 },
  parallel: { data: 2, zero: 0 },
  engine: { threads: 1 },
  run: { dir: join(root, 'runs'), id },
  ...more,
});

describe('with replicas on agents', () => {
  it.each([
    ['local steps', { scheduler: { name: 'local-sgd', inner_steps: 5 }, comm: { compression: { gradients: 'int8' } } }],
    ['top-k with residuals', { comm: { compression: { gradients: 'topk', topk_ratio: 0.1 } } }],
  ])(
    '%s: an agent killed on the way is replaced, and the weights are those of an undisturbed run',
    async (name, more) => {
      const id = name.split(' ')[0] as string;
      const whole = await complete(train(config(`${id}-threads`, more)));
      const children = new Map(['one', 'two', 'spare'].map((agent) => [agent, startAgent(id, agent)]));
      const events: RunEvent[] = [];
      const finished = await complete(
        trainCluster(config(`${id}-agents`, more), { nats: { servers: server.url }, job: id, minWorkers: 2 }),
        (event) => {
          events.push(event);
          if (event.type !== 'step' || event.step !== 13) return;
          const generation = events.find((earlier) => earlier.type === 'generation');
          const victim = generation?.members[1]?.agent.replace(/-[0-9a-f]+$/, '') ?? '';
          children.get(victim)?.kill('SIGKILL');
        },
      );
      const { weights_sha256, losses_sha256, recoveries } = finished.summary as RunSummary;
      expect(recoveries).toBe(1);
      expect(losses_sha256).toBe(whole.summary?.losses_sha256);
      expect(weights_sha256).toBe(whole.summary?.weights_sha256);
    },
  );
});
