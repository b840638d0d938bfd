// The module that a worker thread runs.
import { runWorkerThread } from './run-thread.ts';

await runWorkerThread();
