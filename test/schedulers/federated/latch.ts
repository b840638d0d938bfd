/** A gate that is opened once: what a test holds a client back with. */
export interface Latch {
  /** Resolves when it is open. */
  readonly opened: Promise<void>;
  open(): void;
}

/** A latch that is closed. */
export function latch(): Latch {
  let open: () => void = () => undefined;
  const opened = new Promise<void>((resolve) => {
    open = resolve;
  });
  return { opened, open: () => open() };
}
