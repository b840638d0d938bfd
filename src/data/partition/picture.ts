import type { Partition, PartitionSource } from './partition.ts';

/** What a picture of a partition says besides the split. */
export interface PictureOptions {
  /** One line above it. */
  readonly title: string;
  /** What stands before each client's bar. Default: its number. */
  readonly names?: readonly string[];
  /** What stands behind a client's bar, besides how many examples it has. */
  readonly note?: (client: number) => string;
  /** Clients that are shown at most, evenly spaced among all. Default 60. */
  readonly most?: number;
}

/** Classes that have a colour of their own; the others share one. */
const COLOURS = [
  ...['#4e79a7', '#f28e2b', '#59a14f', '#e15759', '#76b7b2', '#edc948', '#b07aa1', '#9c755f', '#ff9da7', '#6b6ecf'],
  ...['#1b9e77', '#a6761d', '#7f3c8d', '#11a579', '#3969ac', '#cf1c90', '#80ba5a', '#e68310', '#008695', '#f97b72'],
];
const OTHERS = '#bab0ac';
const WIDTH = 900;
const MARGIN = 16;

/**
 * Who has which data, as an SVG image: a bar for each client, as long as it has examples, in the colours of their classes.
 * Only clients that are shown are asked for their examples.
 */
export function partitionPicture(partition: Partition, { labels }: PartitionSource, options: PictureOptions): string {
  const { clients } = partition;
  const shown = Math.min(clients, options.most ?? 60);
  const rows = Array.from({ length: shown }, (_, i) => {
    const client = Math.floor((i * clients) / shown);
    return { client, name: options.names?.[client] ?? String(client), counts: countsOf(partition, client, labels) };
  });
  const classes = classesOf(rows.map(({ counts }) => counts));
  const most = Math.max(1, ...rows.map(({ counts }) => total(counts)));
  const height = shown > 30 ? 11 : 17;
  const left = MARGIN + 6.2 * Math.min(28, Math.max(6, ...rows.map(({ name }) => name.length)));
  const right = WIDTH - MARGIN - (options.note ? 110 : 60);
  const legend = labels === null ? [] : legendOf(classes, left, 62);
  const top = 62 + (legend.length > 0 ? 18 * (1 + Math.floor((legend.length - 1) / PER_LINE)) : 0);
  const scale = (right - left) / most;
  const parts = [
    text(MARGIN, 24, options.title, 'font-size="15" font-weight="600"'),
    text(MARGIN, 44, summaryOf(partition, rows, most), 'fill="#555"'),
    ...legend,
  ];
  for (const [i, { client, name, counts }] of rows.entries()) {
    const y = top + i * height;
    let x = left;
    parts.push(text(left - 6, y + height - 3, cut(name, 28), 'text-anchor="end" fill="#333"'));
    for (const [label, count] of counts) {
      const width = count * scale;
      const what = labels === null ? `${count} examples` : `class ${label}: ${count}`;
      parts.push(
        `<rect x="${fixed(x)}" y="${y}" width="${fixed(width)}" height="${height - 2}" fill="${colourOf(classes, label)}"><title>client ${escaped(name)}, ${what}</title></rect>`,
      );
      x += width;
    }
    const note = options.note?.(client) ?? '';
    parts.push(text(x + 5, y + height - 3, `${total(counts)}${note === '' ? '' : `, ${note}`}`, 'fill="#777"'));
  }
  const end = top + shown * height + MARGIN;
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${end}" viewBox="0 0 ${WIDTH} ${end}" font-family="system-ui, sans-serif" font-size="${height > 12 ? 11 : 9}">`,
    `<title>${escaped(options.title)}</title>`,
    `<rect width="${WIDTH}" height="${end}" fill="#fff"/>`,
    ...parts,
    '</svg>',
    '',
  ].join('\n');
}

type Counts = ReadonlyMap<number, number>;

/** Examples of each class, in order of the classes; without labels all under one. */
function countsOf(partition: Partition, client: number, labels: ArrayLike<number> | null): Counts {
  const counts = new Map<number, number>();
  if (labels === null) return counts.set(0, partition.size(client));
  for (const example of partition.examples(client)) {
    const label = labels[example] as number;
    counts.set(label, (counts.get(label) ?? 0) + 1);
  }
  return new Map([...counts].sort(([a], [b]) => a - b));
}

const total = (counts: Counts) => [...counts.values()].reduce((sum, count) => sum + count, 0);

/** All classes that are seen. */
function classesOf(rows: readonly Counts[]): number[] {
  return [...new Set(rows.flatMap((counts) => [...counts.keys()]))].sort((a, b) => a - b);
}

function colourOf(classes: readonly number[], label: number): string {
  return COLOURS[classes.indexOf(label)] ?? OTHERS;
}

function summaryOf({ clients }: Partition, rows: readonly { readonly counts: Counts }[], most: number): string {
  const sizes = rows.map(({ counts }) => total(counts)).sort((a, b) => a - b);
  const number = (value: number) => value.toLocaleString('en');
  const of = rows.length < clients ? ` (${rows.length} of them shown, evenly spaced)` : '';
  const median = sizes[Math.floor(sizes.length / 2)] ?? 0;
  return `${number(clients)} clients${of}; examples of a client: ${number(sizes[0] ?? 0)} to ${number(most)}, median ${number(median)}`;
}

const PER_LINE = 10;

function legendOf(classes: readonly number[], left: number, y: number): string[] {
  const entries = classes
    .slice(0, COLOURS.length)
    .map((label) => ({ label: String(label), colour: colourOf(classes, label) }));
  if (classes.length > COLOURS.length)
    entries.push({ label: `${classes.length - COLOURS.length} more`, colour: OTHERS });
  return entries.map(({ label, colour }, i) => {
    const x = left + (i % PER_LINE) * 70;
    const top = y - 10 + 18 * Math.floor(i / PER_LINE);
    const caption = i === 0 ? `class ${label}` : label;
    return `<rect x="${fixed(x)}" y="${top}" width="10" height="10" fill="${colour}"/>${text(x + 14, top + 9, caption, 'font-size="11" fill="#333"')}`;
  });
}

function text(x: number, y: number, content: string, attributes: string): string {
  return `<text x="${fixed(x)}" y="${y}" ${attributes}>${escaped(content)}</text>`;
}

const fixed = (value: number) => String(Math.round(value * 100) / 100);
const cut = (value: string, length: number) => (value.length <= length ? value : `${value.slice(0, length - 1)}…`);
const escaped = (value: string) =>
  value.replace(/[&<>"]/g, (character) => `&${{ '&': 'amp', '<': 'lt', '>': 'gt', '"': 'quot' }[character]};`);
