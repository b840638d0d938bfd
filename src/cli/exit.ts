/**
 * What a command's exit code means. Documented in docs/debug.md; scripts may rely on them.
 *
 * | code | meaning |
 * | --- | --- |
 * | 0 | done |
 * | 1 | the run failed: a worker threw, the loss was not finite, a wait ran out |
 * | 2 | wrong usage or config: nothing was started |
 * | 3 | a dataset, checkpoint or run folder is missing, unreadable or does not fit |
 * | 4 | `doctor` found something without which Plexus cannot train |
 * | 5 | the NATS server is not there, refuses the login, or cannot be started |
 * | 70 | an error inside Plexus that no other code describes: please report it |
 * | 130 | interrupted by Ctrl-C (SIGINT), with a checkpoint |
 * | 143 | interrupted by SIGTERM or `plexus stop`, or its output was closed (`| head`), with a checkpoint |
 */
export const exitCodes = {
  ok: 0,
  runFailed: 1,
  usage: 2,
  data: 3,
  unfit: 4,
  unreachable: 5,
  internal: 70,
  interrupted: 130,
  terminated: 143,
} as const;

/** One of the exit codes. */
export type ExitCode = (typeof exitCodes)[keyof typeof exitCodes];

/** Wrong usage of a command: shown as one message, without a stack. */
export class UsageError extends Error {
  override readonly name = 'UsageError';
}
