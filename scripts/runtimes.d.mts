/** Names of the runtimes known here. */
export const runtimeNames: readonly string[];
/** Path of a runtime's program, installing it first if need be. @throws Error where that is not possible. */
export function runtime(name: string): string;
