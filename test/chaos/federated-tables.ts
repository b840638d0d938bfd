import {
  type DataConfig,
  encodingOf,
  type Partition,
  prepareData,
  prepareDataLike,
  type SharedArray,
  share,
  view,
} from '../../src/data/index.ts';
import type { PreparedTable } from '../../src/data/table-dataset.ts';

/**
 * The files of clients as one table in which each has its rows, so that a simulation can train on what no server has: their cells
 * are the numbers that the server's own table makes of them.
 */
export async function tablesTogether(
  server: DataConfig,
  files: readonly string[],
): Promise<{ readonly data: PreparedTable; readonly partition: Partition }> {
  const data = (await prepareData(server)) as PreparedTable;
  const like = encodingOf(data);
  const trains: PreparedTable['splits']['train'][] = [];
  const parts: Int32Array[] = [];
  let rows = 0;
  for (const path of files) {
    const own = (await prepareDataLike(
      { ...server, path, validation: 0, test: 0 } as DataConfig,
      like,
    )) as PreparedTable;
    const count = view(own.splits.train.labels, 'int32').length;
    parts.push(Int32Array.from({ length: count }, (_, i) => rows + i));
    rows += count;
    trains.push(own.splits.train);
  }
  const joined = (dtype: 'float32' | 'int32', arrays: readonly SharedArray[]) => {
    const numbers = arrays.flatMap((array) => [...view(array, dtype)]);
    return share(dtype, dtype === 'float32' ? Float32Array.from(numbers) : Int32Array.from(numbers));
  };
  const train = {
    features: joined(
      'float32',
      trains.map(({ features }) => features),
    ),
    labels: joined(
      'int32',
      trains.map(({ labels }) => labels),
    ),
  };
  const examples = (client: number) => parts[client] ?? new Int32Array(0);
  return {
    data: { ...data, splits: { ...data.splits, train } },
    partition: { clients: files.length, examples, size: (client) => examples(client).length },
  };
}
