/** Ends of links that are no loss: a transport that was closed in good order, a generation that was given up. */
const GOODBYE = /closed its transport|^good-bye: /;

/** The reason that peers are told when a generation is given up. */
export function goodbye(reason: string): string {
  return `good-bye: ${reason}`;
}

/** Whether a link ended in good order. */
export function isGoodbye(reason: string): boolean {
  return GOODBYE.test(reason);
}
