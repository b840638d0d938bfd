import { stripVTControlCharacters } from 'node:util';
import type { Stretch, Underway } from '../coordinator/index.ts';
import { formatCount, formatDuration, isInteractive, painter, type Streams, truncate } from './terminal.ts';

/** What is shown of a run while it goes on. Losses in nats. */
export interface ProgressStep {
  /** Steps done so far, counting this one. */
  readonly done: number;
  readonly steps: number;
  readonly loss: number;
  /** Tokens (or examples) a second of this step. */
  readonly rate: number;
  readonly stepMs: number;
  /** Each expert's share of the tokens, 1 = an even share; empty without experts. */
  readonly balance: readonly number[];
  /** Who takes part, for runs on several machines; empty otherwise. */
  readonly cluster?: string;
  /** What the step is part of; absent where all steps are alike. */
  readonly stretch?: Stretch | undefined;
  /** Simulated seconds so far, where clients are simulated. */
  readonly simulated?: number;
}

/** How much of a round is done. */
export interface ProgressUnderway extends Underway {
  /** Completed rounds. */
  readonly step: number;
  readonly steps: number;
}

/** What a line calls its figures. */
export interface ProgressWords {
  /** What a step is. */
  readonly step: 'step' | 'round' | 'version';
  /** What the rate counts. */
  readonly unit: 'tok' | 'ex' | 'clients';
}

/** Eighths of a block, for bars one character wide. */
const EIGHTHS = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/** A tiny bar per expert: half height is an even share, full height twice that or more. */
export function balanceBars(shares: readonly number[]): string {
  return shares
    .map((share) => EIGHTHS[Math.max(0, Math.min(7, Math.round((Number.isFinite(share) ? share : 0) * 4) - 1))])
    .join('');
}

/** A bar of `width` characters with half-character resolution. */
export function progressBar(fraction: number, width: number): string {
  const halves = Math.round(Math.max(0, Math.min(1, fraction)) * width * 2);
  const full = Math.floor(halves / 2);
  return '━'.repeat(full) + (halves % 2 ? '╸' : '') + '·'.repeat(Math.max(0, width - full - (halves % 2)));
}

/** Seconds between lines where nobody watches a terminal. */
const PLAIN_INTERVAL_MS = 3_000;
/** Seconds between lines of one round. */
const PLAIN_UNDERWAY_MS = 15_000;
/** Parts of a line besides step and loss. */
type Part = 'bar' | 'val' | 'rate' | 'eta' | 'simulated' | 'cluster' | 'experts';
/** What a live line shows, the fullest first: a narrow window gets what fits whole. */
const LAYOUTS: readonly (readonly Part[])[] = [
  ['bar', 'val', 'rate', 'eta', 'simulated', 'cluster', 'experts'],
  ['val', 'rate', 'eta', 'simulated', 'cluster', 'experts'],
  ['val', 'rate', 'eta', 'simulated', 'cluster'],
  ['val', 'rate', 'eta'],
  ['val', 'eta'],
  [],
];
/** Milliseconds between redraws of the live line. */
const LIVE_INTERVAL_MS = 100;

/**
 * Shows the progress of a run on standard error: one line redrawn in place on a terminal, otherwise a plain line every
 * few seconds. Messages may be printed in between.
 */
export class ProgressLine {
  readonly #stream: Streams['err'];
  readonly #live: boolean;
  readonly #quiet: boolean;
  readonly #words: ProgressWords;
  #last: ProgressStep | null = null;
  #underway: ProgressUnderway | null = null;
  #valLoss: number | null = null;
  #accuracy: number | null = null;
  #shownAt = Number.NEGATIVE_INFINITY;
  #shownStep = -1;
  #drawn = false;
  /** Smoothed step time and rate, so that the figures can be read. */
  #stepMs = 0;
  #rate = 0;

  constructor(stream: Streams['err'], words: ProgressWords['unit'] | ProgressWords, quiet = false) {
    this.#stream = stream;
    this.#live = isInteractive(stream);
    this.#words = typeof words === 'string' ? { step: 'step', unit: words } : words;
    this.#quiet = quiet;
  }

  step(step: ProgressStep): void {
    const weight = this.#last === null ? 1 : 0.1;
    this.#stepMs += weight * (step.stepMs - this.#stepMs);
    this.#rate += weight * (step.rate - this.#rate);
    this.#last = step;
    this.#underway = null;
    if (this.#quiet) return;
    const now = performance.now();
    const due = now - this.#shownAt >= (this.#live ? LIVE_INTERVAL_MS : PLAIN_INTERVAL_MS);
    // (The last round is followed by an evaluation, whose accuracy its line is to have.)
    if (due || (step.done === step.steps && this.#words.step === 'step')) this.#show(now);
  }

  /** How much is done of the round that follows. */
  underway(round: ProgressUnderway): void {
    this.#underway = round;
    if (this.#quiet) return;
    const now = performance.now();
    if (now - this.#shownAt >= (this.#live ? LIVE_INTERVAL_MS : PLAIN_UNDERWAY_MS)) this.#show(now);
  }

  /** A new validation loss and, where there are classes, the share of examples that were told right. */
  evaluated(loss: number, accuracy: number | null = null): void {
    this.#valLoss = loss;
    this.#accuracy = accuracy;
    if (!this.#quiet && this.#last && (this.#live || this.#shownStep !== this.#last.done))
      this.#show(performance.now());
  }

  /** Prints a line of its own, above the live line. */
  message(text: string): void {
    if (this.#quiet) return;
    this.#erase();
    this.#stream.write(`${text}\n`);
    if (this.#live && this.#last) this.#show(performance.now());
  }

  /** Leaves the last state standing and ends the line. */
  end(): void {
    if (!this.#quiet && this.#last && this.#shownStep !== this.#last.done) this.#show(performance.now());
    if (this.#drawn) this.#stream.write('\n');
    this.#drawn = false;
  }

  #erase(): void {
    if (this.#drawn) this.#stream.write('\r\x1b[2K');
    this.#drawn = false;
  }

  #show(now: number): void {
    const step = this.#last;
    if (!step) {
      this.#showFirst(now);
      return;
    }
    this.#shownAt = now;
    this.#shownStep = step.done;
    if (!this.#live) {
      this.#stream.write(`${this.#text(step, LAYOUTS[1] as readonly Part[])}\n`);
      return;
    }
    this.#erase();
    // (A terminal without a size says 0.)
    const columns = (this.#stream.columns || 80) - 1;
    const texts = LAYOUTS.map((layout) => this.#text(step, layout));
    const fitting = texts.find((text) => stripVTControlCharacters(text).length <= columns);
    this.#stream.write(fitting ?? truncate(texts[texts.length - 1] as string, columns));
    this.#drawn = true;
  }

  /** The first round, while nothing else is known. */
  #showFirst(now: number): void {
    const round = this.#underway;
    if (!round) return;
    this.#shownAt = now;
    const text = [this.#place(round.step, round.steps), ...this.#within()].join('  ');
    this.#erase();
    this.#stream.write(this.#live ? truncate(text, (this.#stream.columns ?? 80) - 1) : `${text}\n`);
    this.#drawn = this.#live;
  }

  #place(done: number, steps: number): string {
    return `${this.#words.step} ${String(done).padStart(String(steps).length)}/${steps}`;
  }

  /** How far the round that follows is. */
  #within(): string[] {
    return this.#underway ? [`next: ${this.#underway.done} of ${this.#underway.of} clients`] : [];
  }

  #text(step: ProgressStep, layout: readonly Part[]): string {
    const paint = painter(this.#live);
    const eta = ((step.steps - step.done) * this.#stepMs) / 1000;
    const { step: word, unit } = this.#words;
    const parts = [this.#place(step.done, step.steps)];
    if (layout.includes('bar')) parts.push(paint('cyan', progressBar(step.done / step.steps, 16)));
    parts.push(...this.#within());
    if (step.stretch) parts.push(step.stretch.text);
    if (step.stretch?.observes) parts.push('looking at gradients');
    // (Clients whose updates are under noise tell none.)
    else if (!Number.isNaN(step.loss)) parts.push(`loss ${step.loss.toFixed(4)}`);
    if (layout.includes('val') && this.#valLoss !== null)
      // Of clients, who differ, people ask how often the model is right.
      parts.push(
        word !== 'step' && this.#accuracy !== null
          ? `accuracy ${(this.#accuracy * 100).toFixed(2)} %`
          : `val ${this.#valLoss.toFixed(4)}`,
      );
    if (layout.includes('rate')) parts.push(`${formatCount(this.#rate)} ${unit}/s`);
    if (layout.includes('rate') && word !== 'step') parts.push(`${formatCount(1000 / this.#stepMs)} ${word}s/s`);
    if (layout.includes('eta')) parts.push(`ETA ${formatDuration(eta)}`);
    if (layout.includes('simulated') && step.simulated !== undefined)
      parts.push(`simulated ${formatDuration(step.simulated)}`);
    if (layout.includes('cluster') && step.cluster) parts.push(step.cluster);
    if (layout.includes('experts') && step.balance.length > 0) parts.push(`experts ${balanceBars(step.balance)}`);
    return parts.join('  ');
  }
}
