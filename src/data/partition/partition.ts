/** Which training examples belong to which client. Made once; asking costs nothing but the client's own examples. */
export interface Partition {
  readonly clients: number;
  /** Number of a client's examples. @throws RangeError for a client that does not exist */
  size(client: number): number;
  /** Indices of a client's examples. @throws RangeError for a client that does not exist */
  examples(client: number): Int32Array;
  /** What the clients are called, where they are more than numbers. */
  readonly names?: readonly string[];
}

/** What a partitioner is told about the data. */
export interface PartitionSource {
  /** Examples of the training split. */
  readonly examples: number;
  /** Class of each example; null where the data has none. */
  readonly labels: ArrayLike<number> | null;
  /** Whose each example is, where the data knows. */
  readonly keys?: readonly string[];
}

/** A partition from a list for each client, kept as one array and the places where clients begin. */
export function partitionOf(lists: readonly ArrayLike<number>[]): Partition {
  const starts = new Int32Array(lists.length + 1);
  lists.forEach((list, client) => {
    starts[client + 1] = (starts[client] as number) + list.length;
  });
  const order = new Int32Array(starts[lists.length] as number);
  lists.forEach((list, client) => {
    order.set(list as Int32Array, starts[client] as number);
  });
  return {
    clients: lists.length,
    size: (client) => {
      checkClient(client, lists.length);
      return (starts[client + 1] as number) - (starts[client] as number);
    },
    examples: (client) => {
      checkClient(client, lists.length);
      return order.subarray(starts[client], starts[client + 1]);
    },
  };
}

/** @throws RangeError naming the client and how many there are */
export function checkClient(client: number, clients: number): void {
  if (!Number.isInteger(client) || client < 0 || client >= clients)
    throw new RangeError(`there is no client ${client}; there are ${clients}, counted from 0`);
}

/** Examples by class, in order of the examples. @throws DataError-like RangeError if the data has no labels */
export function byClass({ labels }: PartitionSource, partitioner: string): Map<number, number[]> {
  if (labels === null)
    throw new RangeError(
      `the partitioner "${partitioner}" goes by class, but the dataset has no class labels; use iid, quantity or natural`,
    );
  const classes = new Map<number, number[]>();
  for (let i = 0; i < labels.length; i++) {
    const label = labels[i] as number;
    const known = classes.get(label);
    if (known) known.push(i);
    else classes.set(label, [i]);
  }
  return new Map([...classes].sort((a, b) => a[0] - b[0]));
}

/** Cuts a list into parts in the given proportions (which sum to 1), rounding where parts meet. */
export function cutByShares<T>(list: readonly T[], shares: readonly number[]): T[][] {
  let sum = 0;
  let start = 0;
  return shares.map((share, i) => {
    sum += share;
    const end = i === shares.length - 1 ? list.length : Math.min(list.length, Math.round(sum * list.length));
    const part = list.slice(start, Math.max(start, end));
    start = Math.max(start, end);
    return part;
  });
}
