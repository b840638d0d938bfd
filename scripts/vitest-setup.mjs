// Worker threads and child processes that tests start run what the build made: make it once, before the tests. Type
// errors do not stop them; `npm test` has a stage of its own for those.
import { ensureBuild } from './setup.mjs';

export function setup() {
  ensureBuild({ lenient: true });
}
