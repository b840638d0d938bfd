export type { ClientTasks, ContinualJob } from './job.ts';
export { prepareTasks, type TasksPlan } from './plan.ts';
export { refusedFederation } from './refusals.ts';
export { type ContinualSection, continualSection } from './schema.ts';
export { type TaskOver, TaskRounds } from './task-rounds.ts';
