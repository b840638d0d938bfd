// What threads that train clients need of this folder; the rest is for whoever runs the rounds.
export { clientModel } from './objective.ts';
export { TaskClients } from './task-client.ts';
