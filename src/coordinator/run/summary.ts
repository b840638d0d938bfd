import { readFile } from 'node:fs/promises';
import type { TaskCost } from '../events.ts';
import { writeFileAtomically } from './atomic.ts';

/** `summary.json`: what a finished run came to. */
export interface RunSummary {
  /** Completed steps. */
  readonly steps: number;
  /** Training loss of the last step, nats. */
  readonly loss: number;
  /** Loss on the evaluation split at the end, nats; null without one. */
  readonly val_loss: number | null;
  /** Accuracy on the evaluation split, where the model reports one. */
  readonly accuracy?: number;
  /** Reference losses on the same split, e.g. unigram and bigram. */
  readonly baselines: Readonly<Record<string, number>>;
  /** Seconds of training, over interruptions. */
  readonly wall_s: number;
  /** Tokens (examples, where the data is not text) per second of training steps in this session. */
  readonly tokens_per_s: number;
  /** SHA-256 of all parameters in path order, little-endian float32. */
  readonly weights_sha256: string;
  /** SHA-256 of the float32 losses of all steps. */
  readonly losses_sha256: string;
  /** Training examples used so far, each step's global batch counted once. */
  readonly samples_seen: number;
  /** Times that the run went on after losing a worker. */
  readonly recoveries: number;
  /** Bytes of tensors that ranks sent each other in training steps, and bytes that codecs spared (without any, absent). */
  readonly comm_bytes?: number;
  readonly comm_bytes_saved?: number;
  /** With local steps: bytes that exchanging gradients in every step would have taken, without a codec. */
  readonly comm_bytes_synchronous?: number;
  /** Of a sequence of tasks: a row for each task learnt, a column for each task; and what was lost of them (a share). */
  readonly accuracy_matrix?: readonly (readonly number[])[];
  /** Of text: mean loss of a token likewise. */
  readonly loss_matrix?: readonly (readonly number[])[];
  readonly forgetting?: number;
  readonly backward_transfer?: number;
  readonly forward_transfer?: number;
  readonly intransigence?: number;
  /** What each of the tasks has cost. */
  readonly tasks?: readonly TaskCost[];
  /** Of simulated clients: seconds that their training would have taken. */
  readonly simulated_s?: number;
  /** Bytes that went to clients, and came from them. */
  readonly bytes_down?: number;
  readonly bytes_up?: number;
  /** Rounds that did not change the parameters, and why the last of them did not; absent where all counted. */
  readonly rounds_uncounted?: number;
  readonly uncounted?: string;
  /** How often clients were asked and are not part of a round, by reason, the most frequent first. */
  readonly left_out?: Readonly<Record<string, number>>;
  /** Accuracy that was aimed at, and the rounds until an evaluation reached it; null if none did. */
  readonly target_accuracy?: number;
  readonly rounds_to_target?: number | null;
  /** How the last evaluation's figures differ between clients, by name: `client_accuracy_mean`, `_p10` and so on. */
  readonly clients?: Readonly<Record<string, number>>;
  /** With differential privacy: what the run has given away, at this delta. */
  readonly epsilon?: number;
  readonly delta?: number;
}

/** Writes `summary.json`. */
export async function writeSummary(path: string, summary: RunSummary): Promise<void> {
  await writeFileAtomically(path, `${JSON.stringify(summary, null, 2)}\n`);
}

/** Reads `summary.json` of a finished run. */
export async function readSummary(path: string): Promise<RunSummary> {
  return JSON.parse(await readFile(path, 'utf8')) as RunSummary;
}
