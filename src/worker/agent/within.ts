/** Waits for something, or until the time is up. @throws what it rejects with */
export async function within(wait: Promise<unknown>, ms: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, ms);
  });
  await Promise.race([wait, late]).finally(() => clearTimeout(timer));
}
