export * from './layout.ts';
export * from './model-function.ts';
export * from './objective.ts';
export * from './objectives.ts';
export * from './registry.ts';
export * from './step-function.ts';
export * from './trainer.ts';
