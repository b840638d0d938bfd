import { registerScheduler } from '../coordinator/index.ts';
import { continual } from './continual/index.ts';
import { registerFederated } from './federated/index.ts';
import { localSgd } from './local-sgd.ts';
import { sync } from './sync.ts';

export type { Scheduler, Session } from '../coordinator/index.ts';
export { registerScheduler, schedulerNamed, schedulerNames } from '../coordinator/index.ts';
export * from './continual/index.ts';
export * from './federated/index.ts';
export * from './local/index.ts';
export * from './local-sgd.ts';
export * from './steps.ts';
export * from './sync.ts';

// A new strategy is one file and one line here.
registerScheduler(sync);
registerScheduler(localSgd);
registerScheduler(continual);
registerFederated();
