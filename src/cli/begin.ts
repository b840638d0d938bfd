// What `plexus train` does before it loads the rest of itself.
export { startFirstThread } from '../coordinator/index.ts';
