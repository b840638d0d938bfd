// Worker threads and child processes that tests start run what the build made: make it once, before the tests.
import { ensureBuild } from './setup.mjs';

export function setup() {
  ensureBuild();
}
