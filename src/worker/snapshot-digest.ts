/** Of FNV, 32 bits. */
const BASIS = 0x811c9dc5;
const PRIME = 0x01000193;

/**
 * A digest of a tensor's bits, by which ranks that should hold the same can be compared without moving what they hold: four FNV-1a
 * hashes of 32 bits (Fowler, Noll, Vo; IETF draft), each of every fourth word. Any one word that differs shows. Four, because they do
 * not wait for each other: it takes as long as reading the memory, which is what training waits for.
 */
export function digestOf(tensor: Float32Array): string {
  const words = new Uint32Array(tensor.buffer, tensor.byteOffset, tensor.length);
  let [a, b, c, d] = [BASIS, BASIS, BASIS, BASIS];
  const whole = words.length - (words.length % 4);
  let i = 0;
  for (; i < whole; i += 4) {
    a = Math.imul(a ^ (words[i] as number), PRIME);
    b = Math.imul(b ^ (words[i + 1] as number), PRIME);
    c = Math.imul(c ^ (words[i + 2] as number), PRIME);
    d = Math.imul(d ^ (words[i + 3] as number), PRIME);
  }
  for (; i < words.length; i++) a = Math.imul(a ^ (words[i] as number), PRIME);
  return [a, b, c, d].map((hash) => (hash >>> 0).toString(16).padStart(8, '0')).join('');
}
