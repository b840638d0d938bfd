import { MessageChannel, type MessagePort } from 'node:worker_threads';

/** A port whose other end is closed; null until it is: before, messages would be kept for it. */
let nowhere: MessagePort | null = null;

const { port1, port2 } = new MessageChannel();
port1.once('close', () => {
  nowhere = port1;
});
port1.unref();
port2.close();

/**
 * Frees the memory of an array that is used up, now. A round's masks are a hundred megabytes of the ciphers' outputs, each new memory;
 * left to V8 they make it look through the whole heap again and again, on all cores, which took longer than the masks. What is
 * transferred in a message belongs to its receiver, and is gone with the message when there is none. The array is empty afterwards;
 * a part of other memory is left as it is, and so is everything before the event loop has turned once.
 */
export function discard({ buffer, byteLength }: ArrayBufferView): void {
  if (nowhere === null || !(buffer instanceof ArrayBuffer) || buffer.byteLength !== byteLength) return;
  nowhere.postMessage(null, [buffer]);
}
