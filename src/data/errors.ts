/** A dataset or tokenizer that cannot be read or used as configured. The message says where, what was found and what to do. */
export class DataError extends Error {
  override readonly name = 'DataError';
}

/** A table lacks columns that somebody else's table has. */
export class MissingColumns extends DataError {
  /** Their names, as whoever wants them calls them: what may be told to others, unlike the message. */
  readonly missing: readonly string[];

  constructor(message: string, missing: readonly string[]) {
    super(message);
    this.missing = missing;
  }
}
