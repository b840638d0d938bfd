export * from './codec.ts';
export * from './compressed-transport.ts';
export * from './message.ts';
export * from './schema.ts';
export * from './sign.ts';
export * from './top-k.ts';
export * from './update-codec.ts';
