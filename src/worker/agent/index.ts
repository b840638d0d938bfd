export { makeBucket } from './bucket.ts';
export * from './log-line.ts';
export { modelDigest } from './model.ts';
export type { AgentOptions } from './options.ts';
export * from './protocol.ts';
export * from './refusal.ts';
export * from './run-agent.ts';
export type { SlotPatience } from './slot.ts';
export * from './version.ts';
