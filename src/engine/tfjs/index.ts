export { isInstalled, type TfjsBackend, tfjsBackends } from './backends.ts';
export { createTfjsEngine, type TfjsEngine } from './engine.ts';
export { type Interpretation, interpret, prepare } from './interpret.ts';
export { TfjsTensor } from './tensor.ts';
