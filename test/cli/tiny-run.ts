import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** A config that trains in a second: a mixture of experts on a few kilobytes of made-up text, on two workers. */
export const tinyConfig = `name: tiny
seed: 7
model:
  name: transformer-lm
  args: { layers: 2, dim: 16, heads: 2, moe: { experts: 2, top_k: 1, every: 2 } }
data: { name: text, path: corpus.txt, context: 16, tokenizer: { kind: char } }
batch: { global: 8, micro: 2 }
optim: { name: adamw, lr: 0.003, clip_norm: 1 }
parallel: { data: 2, expert: 2 }
engine: { threads: 1 }
train: { steps: 6, eval_every: 3, eval_microbatches: 2, checkpoint_every: 3 }
generate: { characters: 20 }
`;

/** Text with some structure: numbered sentences over a small vocabulary, the same every time. */
function corpus(): string {
  const words = ['the', 'whale', 'ship', 'sea', 'old', 'white', 'sails', 'sleeps', 'and', 'rises'];
  let state = 12345;
  const next = (): number => {
    state = (state * 1103515245 + 12345) % 2 ** 31;
    return Math.floor((state / 2 ** 31) * words.length);
  };
  const sentence = (): string => `${Array.from({ length: 6 }, () => words[next()]).join(' ')}.\n`;
  return Array.from({ length: 200 }, sentence).join('');
}

/** A fresh folder with `config.yaml` and its corpus. */
export function tinyProject(config = tinyConfig): string {
  const folder = mkdtempSync(join(tmpdir(), 'plexus-cli-'));
  writeFileSync(join(folder, 'corpus.txt'), corpus());
  writeFileSync(join(folder, 'config.yaml'), config);
  return folder;
}
