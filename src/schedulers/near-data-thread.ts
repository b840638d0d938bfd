// The module that worker threads run whose steps are changed by a scheduler: what it needs, then what every worker thread does.
import './continual/near-data.ts';
import { runWorkerThread } from '../worker/index.ts';

await runWorkerThread();
