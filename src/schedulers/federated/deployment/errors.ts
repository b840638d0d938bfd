/** Rounds cannot go on: too few clients, or none that answers. What was aggregated before is kept. */
export class RoundsFailed extends Error {
  override readonly name = 'RoundsFailed';
}

/** A client will not, or cannot, do what it is asked. */
export class ClientRefusal extends Error {
  override readonly name = 'ClientRefusal';
}
