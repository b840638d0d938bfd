import { batchStatistics } from './batch-statistics.ts';
import { registerClientTask } from './client-task.ts';
import { topGradients } from './top-gradients.ts';

export * from './batch-statistics.ts';
export * from './client-task.ts';
export * from './top-gradients.ts';

// A new task is one file and one line here.
registerClientTask(batchStatistics);
registerClientTask(topGradients);
