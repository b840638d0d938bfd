/** A dataset or tokenizer that cannot be read or used as configured. The message says where, what was found and what to do. */
export class DataError extends Error {
  override readonly name = 'DataError';
}
