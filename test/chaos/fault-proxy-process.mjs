// A TCP proxy that does to a link what bad networks do; a process of its own, so that it neither disturbs nor is
// disturbed by the test that commands it. The first argument is its settings as JSON: { target: {host, port}, listen }.
// Lines of JSON on standard input change them, each is answered by one line.
import { createConnection, createServer } from 'node:net';
import { createInterface } from 'node:readline';

const { target, listen } = JSON.parse(process.argv[2]);
const settings = { delayMs: 0, bytesPerSecond: 0, blackHole: false, refuse: false, cutEveryMs: 0 };
const counts = { connections: 0, bytes: 0, cuts: 0 };
const pairs = new Set();
let cutting = null;

/** Bytes of one direction on their way. More than this, and the sender is asked to wait. */
const WINDOW = 4 << 20;

/** Forwards one direction: every chunk leaves `delayMs` after it came, no quicker than the bandwidth allows. */
class Direction {
  constructor(from, to) {
    this.from = from;
    this.to = to;
    this.queue = [];
    this.queued = 0;
    this.free = 0;
    this.timer = null;
    from.on('data', (chunk) => this.take(chunk));
    from.on('end', () => this.take(null));
    to.on('drain', () => this.pump());
  }

  take(chunk) {
    const now = performance.now();
    const size = chunk?.length ?? 0;
    const start = Math.max(now, this.free);
    this.free = start + (settings.bytesPerSecond > 0 ? (size / settings.bytesPerSecond) * 1000 : 0);
    this.queue.push({ chunk, due: this.free + settings.delayMs });
    this.queued += size;
    if (this.queued > WINDOW) this.from.pause();
    this.pump();
  }

  pump() {
    clearTimeout(this.timer);
    this.timer = null;
    while (this.queue.length > 0) {
      // Like packets that are lost and sent again: nothing arrives, and when it heals the stream goes on.
      if (settings.blackHole || this.to.destroyed) return;
      if (this.to.writableNeedDrain) return;
      const [{ chunk, due }] = this.queue;
      const wait = due - performance.now();
      if (wait > 0) {
        this.timer = setTimeout(() => this.pump(), Math.ceil(wait));
        return;
      }
      this.queue.shift();
      if (chunk === null) this.to.end();
      else {
        this.queued -= chunk.length;
        counts.bytes += chunk.length;
        this.to.write(chunk);
      }
    }
    if (this.queued < WINDOW / 2) this.from.resume();
  }

  end() {
    clearTimeout(this.timer);
    this.queue.length = 0;
  }
}

/** Ends all connections at once, with a reset: what is on its way is lost. */
function cut(some = [...pairs]) {
  for (const pair of some) pair.cut();
  counts.cuts += some.length > 0 ? 1 : 0;
}

const server = createServer({ allowHalfOpen: true }, (near) => {
  if (settings.refuse) {
    near.resetAndDestroy();
    return;
  }
  counts.connections++;
  near.setNoDelay(true);
  const far = createConnection({ ...target, allowHalfOpen: true });
  far.setNoDelay(true);
  const directions = [new Direction(near, far), new Direction(far, near)];
  const pair = {
    directions,
    cut: () => {
      pairs.delete(pair);
      for (const direction of directions) direction.end();
      for (const socket of [near, far]) if (!socket.destroyed) socket.resetAndDestroy();
    },
  };
  pairs.add(pair);
  for (const socket of [near, far]) {
    socket.on('error', () => undefined);
    // A graceful end has gone through both directions by now; anything else ends the other half too, but a black hole
    // does not tell it.
    socket.on('close', () => {
      if (!settings.blackHole || (near.destroyed && far.destroyed)) pair.cut();
    });
  }
});

server.listen(listen?.port ?? 0, listen?.host ?? '127.0.0.1', () => {
  console.log(JSON.stringify({ listening: server.address() }));
});

createInterface({ input: process.stdin })
  .on('line', (line) => {
    const { id, command, ...change } = JSON.parse(line);
    const wasHole = settings.blackHole;
    Object.assign(settings, change);
    if (command === 'cut') cut();
    if (wasHole && !settings.blackHole)
      for (const pair of [...pairs])
        if (pair.directions.some(({ from }) => from.destroyed)) pair.cut();
        else for (const direction of pair.directions) direction.pump();
    clearInterval(cutting);
    cutting = settings.cutEveryMs > 0 ? setInterval(() => cut(), settings.cutEveryMs) : null;
    console.log(JSON.stringify({ id, counts: { ...counts, open: pairs.size } }));
  })
  // Its test has ended.
  .on('close', () => process.exit(0));
