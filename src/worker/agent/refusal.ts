/** An agent does not do what it was asked, and says why and what would help. */
export class AgentRefusal extends Error {
  override readonly name = 'AgentRefusal';
}
