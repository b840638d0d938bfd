import { createRng, permutation, type Rng } from '../../tensor/index.ts';
import { dirichletDraw } from './dirichlet-draw.ts';
import { byClass, checkClient, cutByShares, type Partition, type PartitionSource, partitionOf } from './partition.ts';

/** Equal parts of a random order of all examples. @throws RangeError if there are more clients than examples */
export function iid(source: PartitionSource, { clients, seed }: { clients: number; seed: number }): Partition {
  if (clients > source.examples)
    throw new RangeError(
      `${source.examples} examples are too few for ${clients} clients: take fewer clients, more data, or \`drawn\`, where clients share examples`,
    );
  const order = [...permutation(source.examples, createRng(seed).fork('partition', 'iid'))];
  return partitionOf(cutByShares(order, new Array<number>(clients).fill(1 / clients)));
}

/**
 * Each client has `size` examples drawn from all of them without repetition, whatever the others have: for more clients than
 * examples. Drawn when they are asked for, so that a million clients cost nothing.
 */
export function drawn(
  source: PartitionSource,
  { clients, size, seed }: { clients: number; size: number; seed: number },
): Partition {
  if (size > source.examples)
    throw new RangeError(`each client is to draw ${size} examples, but there are only ${source.examples}`);
  const root = createRng(seed).fork('partition', 'drawn');
  return {
    clients,
    size: (client) => {
      checkClient(client, clients);
      return size;
    },
    examples: (client) => {
      checkClient(client, clients);
      return distinct(root.fork(client), size, source.examples);
    },
  };
}

/**
 * Each class is shared out in proportions drawn from a Dirichlet distribution: the smaller alpha, the fewer classes a client
 * has (Hsu, Qi and Brown, Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification,
 * 2019; by class as in Yurochkin et al. 2019). Drawn again until every client has `min_size` examples.
 * @throws RangeError if a hundred draws did not
 */
export function dirichlet(
  source: PartitionSource,
  { clients, alpha, min_size, seed }: { clients: number; alpha: number; min_size: number; seed: number },
): Partition {
  const classes = byClass(source, 'dirichlet');
  if (clients * min_size > source.examples)
    throw new RangeError(
      `${clients} clients with at least ${min_size} examples each need more than ${source.examples}`,
    );
  const root = createRng(seed).fork('partition', 'dirichlet');
  let least = 0;
  for (let attempt = 0; attempt < 100; attempt++) {
    const lists: number[][] = Array.from({ length: clients }, () => []);
    for (const [label, members] of classes) {
      const rng = root.fork(attempt, label);
      const parts = cutByShares(shuffled(members, rng), dirichletDraw(rng, alpha, clients));
      parts.forEach((part, client) => {
        for (const example of part) lists[client]?.push(example);
      });
    }
    least = Math.min(...lists.map((list) => list.length));
    if (least >= min_size) return partitionOf(lists);
  }
  throw new RangeError(
    `in a hundred Dirichlet draws with alpha ${alpha} some of the ${clients} clients always had fewer than ${min_size} examples ` +
      `(${least} in the last): raise alpha, lower min_size, or take fewer clients`,
  );
}

/**
 * Examples sorted by class, cut into shards of equal size, `shards` dealt to each client: with two, most clients have two
 * classes (McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, 2017, section 3).
 */
export function shards(
  source: PartitionSource,
  { clients, shards: each, seed }: { clients: number; shards: number; seed: number },
): Partition {
  const rng = createRng(seed).fork('partition', 'shards');
  const total = clients * each;
  if (total > source.examples)
    throw new RangeError(`${clients} clients with ${each} shards each need more than ${source.examples} examples`);
  const sorted = [...byClass(source, 'shards')].flatMap(([label, members]) => shuffled(members, rng.fork(label)));
  const cut = cutByShares(sorted, new Array<number>(total).fill(1 / total));
  const deal = permutation(total, rng.fork('deal'));
  return partitionOf(
    Array.from({ length: clients }, (_, client) =>
      Array.from({ length: each }, (_, i) => cut[deal[client * each + i] as number] as number[]).flat(),
    ),
  );
}

/**
 * So many classes for each client, or the very ones that `classes` lists client by client; a class is shared out equally over those
 * who have it (the "k labels" of Li et al., Federated Learning on Non-IID Data Silos, 2022), and one that nobody has is left out.
 * @throws RangeError for more classes than the data has, for one that it does not have, or for lists that are not as many as clients
 */
export function pathological(
  source: PartitionSource,
  { clients, classes, seed }: { clients: number; classes: number | readonly (readonly number[])[]; seed: number },
): Partition {
  const byLabel = byClass(source, 'pathological');
  const groups = [...byLabel.values()];
  const rng = createRng(seed).fork('partition', 'pathological');
  const wanted =
    typeof classes === 'number'
      ? drawnClasses(groups.length, clients, classes, rng)
      : listedClasses([...byLabel.keys()], clients, classes);
  const owners: number[][] = groups.map(() => []);
  wanted.forEach((own, client) => {
    for (const group of own) owners[group]?.push(client);
  });
  const lists: number[][] = Array.from({ length: clients }, () => []);
  groups.forEach((members, group) => {
    const own = owners[group] as number[];
    if (own.length === 0) return;
    const parts = cutByShares(
      shuffled(members, rng.fork('class', group)),
      own.map(() => 1 / own.length),
    );
    own.forEach((client, i) => {
      for (const example of parts[i] as number[]) lists[client]?.push(example);
    });
  });
  return partitionOf(lists);
}

/** `each` of the groups for every client: one by turns, so that no class is left out; the others at random. */
function drawnClasses(groups: number, clients: number, each: number, rng: Rng): number[][] {
  if (each > groups) throw new RangeError(`each client is to have ${each} classes, but the data has only ${groups}`);
  return Array.from({ length: clients }, (_, client) => {
    const first = client % groups;
    const others = [...permutation(groups, rng.fork(client))].filter((group) => group !== first);
    return [first, ...others.slice(0, each - 1)];
  });
}

/** The groups of the classes that each client is to have. */
function listedClasses(labels: readonly number[], clients: number, lists: readonly (readonly number[])[]): number[][] {
  if (lists.length !== clients)
    throw new RangeError(
      `classes are listed for ${lists.length} clients, but there are ${clients}: give a list for each`,
    );
  return lists.map((list, client) =>
    [...new Set(list)].map((label) => {
      const group = labels.indexOf(label);
      if (group < 0)
        throw new RangeError(
          `client ${client} is to have class ${label}, but the data's classes are ${labels.join(', ')}`,
        );
      return group;
    }),
  );
}

/** All clients have the same mix, but sizes drawn from a Dirichlet distribution, at least one example each. */
export function quantity(
  source: PartitionSource,
  { clients, alpha, seed }: { clients: number; alpha: number; seed: number },
): Partition {
  if (clients > source.examples)
    throw new RangeError(`${clients} clients cannot have an example each of ${source.examples}`);
  const rng = createRng(seed).fork('partition', 'quantity');
  const order = [...permutation(source.examples, rng.fork('order'))];
  const firsts = order.splice(0, clients);
  const parts = cutByShares(order, dirichletDraw(rng, alpha, clients));
  return partitionOf(parts.map((part, client) => [firsts[client] as number, ...part]));
}

/**
 * One client for each distinct key, in order of the keys: by writer, president, or any column. Keys with fewer than `min_size`
 * examples are left out.
 * @throws RangeError if the data has no keys, or none is left
 */
export function natural(
  { keys }: Pick<PartitionSource, 'keys'>,
  { min_size = 1 }: { readonly min_size?: number } = {},
): Partition & { readonly names: readonly string[] } {
  if (!keys) throw new RangeError('the partitioner "natural" goes by a key, but the data has none');
  const lists = new Map<string, number[]>();
  keys.forEach((key, example) => {
    const known = lists.get(key);
    if (known) known.push(example);
    else lists.set(key, [example]);
  });
  const names = [...lists.keys()]
    .filter((name) => (lists.get(name) as number[]).length >= min_size)
    .sort((a, b) => (a < b ? -1 : a > b ? 1 : 0));
  if (names.length === 0) {
    const largest = Math.max(0, ...[...lists.values()].map(({ length }) => length));
    throw new RangeError(
      `none of the ${lists.size} keys has ${min_size} examples, the largest has ${largest}: lower min_size`,
    );
  }
  return { ...partitionOf(names.map((name) => lists.get(name) as number[])), names };
}

function shuffled(list: readonly number[], rng: Rng): number[] {
  return [...permutation(list.length, rng.fork('shuffle'))].map((i) => list[i] as number);
}

/**
 * `count` different numbers below `bound` in random order, at a cost that does not grow with `bound`: Floyd's algorithm
 * (Bentley and Floyd, A Sample of Brilliance, 1987), then a shuffle.
 */
export function distinct(rng: Rng, count: number, bound: number): Int32Array {
  if (count > bound) throw new RangeError(`there are no ${count} different numbers below ${bound}`);
  const list = new Int32Array(count);
  // Numbers that were chosen, plus one, where their low bits say or behind: a set for each client was most of what drawing a cohort took.
  const last = 2 ** Math.ceil(Math.log2(4 * count + 1)) - 1;
  const table = new Int32Array(last + 1);
  const isNew = (number: number): boolean => {
    let at = number & last;
    while (table[at] !== 0) {
      if (table[at] === number + 1) return false;
      at = (at + 1) & last;
    }
    table[at] = number + 1;
    return true;
  };
  for (let i = 0; i < count; i++) {
    const top = bound - count + i;
    const number = rng.integer(top + 1);
    if (isNew(number)) list[i] = number;
    else {
      isNew(top);
      list[i] = top;
    }
  }
  return permutation(count, rng).map((i) => list[i] as number);
}
