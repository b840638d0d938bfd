import type { WorkerJob } from '../protocol.ts';
import type { DataCache } from './data-cache.ts';
import { type ModelFolder, ownModel } from './model.ts';
import type { RemoteJob } from './protocol.ts';

/**
 * A rank's job with what this machine adds: the data from its own disk, the model file from its own disk, its device.
 * @param device the slot's, or null for the job's
 * @throws AgentRefusal if data or model are not the coordinator's; DataError if the data is not here
 */
export async function ownJob(
  remote: RemoteJob,
  device: string | null,
  data: DataCache,
  models: ModelFolder,
): Promise<WorkerJob> {
  const { data: _, tokenizer: __, dataSha256: ___, modelSha256, engine, ...rest } = remote;
  const [prepared, model] = await Promise.all([data.get(remote), ownModel(rest.model, modelSha256, models)]);
  return {
    ...rest,
    data: prepared,
    model,
    engine: device === null ? engine : { ...engine, device },
    checkpoint: null,
  };
}
