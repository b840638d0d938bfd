/** The rooms, from the ground up: each may import from those before it. */
export const rooms: readonly string[];
/** Checks a source folder; returns one line of text for each violation of the import rule. */
export function checkImports(source: string): string[];
