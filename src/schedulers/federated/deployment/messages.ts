import * as z from 'zod';
import { SEALED_BYTES } from '../privacy/index.ts';

/*
 * What a federated server and its clients tell each other, over NATS request and reply (`ControlRequester`). Only plain data
 * travels: numbers, names, sections of a config, vectors. Vectors that are too large for a message go as blobs, which the
 * receiver fetches in chunks.
 */

/** Version of the messages; both ends must have the same. */
export const FEDERATED_PROTOCOL = 4;

/** Where clients tell the server that they are there. (Five parts: the subjects of workers have no more than four.) */
export const serverSubject = (job: string): string => `plexus.${job}.fed.server.in`;

/** Where a client is asked. An administrator can give each client's login its own name. */
export const clientSubject = (job: string, name: string, id: string): string =>
  `plexus.${job}.fed.client.${name}.${id}`;

/** Beginning of the subjects of answers to clients: they need not hear what the server is answered. */
export const CLIENT_INBOX = '_CLIENT';

/** Owner of a client's blobs, as `fetchBlob` names it. */
export const clientOwner = (id: string): string => `fed-${id}`;

const name = z.string().regex(/^[\w-]{1,64}$/, 'must be 1 to 64 letters, digits, - and _');
const id = z.string().regex(/^[0-9a-f-]{36}$/);
const whole = z.int().min(0);
const bytes = z.custom<Uint8Array>((value) => value instanceof Uint8Array);
const bytesOfLength = (length: number) =>
  z.custom<Uint8Array>((value) => value instanceof Uint8Array && value.length === length, `must be ${length} bytes`);

/** Bytes that travel in a message, or what is needed to fetch them. */
export const parcelSchema = z.union([
  z.object({ bytes }),
  z.object({
    blob: z.string().max(128),
    owner: z.string().max(128),
    length: whole,
    /** SHA-256 of all bytes, hexadecimal. */
    sha256: z.string().length(64),
  }),
]);

/** Bytes that travel in a message, or what is needed to fetch them. */
export type Parcel = z.output<typeof parcelSchema>;

/** Vectors one behind another in a parcel, as float32. */
export const vectorsSchema = z.array(z.object({ name: z.string().max(128), length: whole })).max(64);

/** Names and lengths of vectors in a parcel. */
export type VectorList = z.output<typeof vectorsSchema>;

const own = { id, token: z.string().length(64), name };

/** What clients tell the server. */
export const toServerSchema = z.discriminatedUnion('type', [
  /** Wants to take part; is answered with a `Welcome`. `part`: the part of the job's own partition that it trains on. */
  z.object({
    type: z.literal('join'),
    ...own,
    protocol: z.int(),
    version: z.string().max(64),
    part: z.object({ index: whole, of: whole }).nullable(),
  }),
  /** Has its data and its model ready. `secret`: proves to its blobs that it is the server that asks. */
  z.object({
    type: z.literal('ready'),
    ...own,
    session: id,
    examples: z.int().min(1).max(1e12),
    params: whole,
    state: whole,
    secret: z.string().length(64),
  }),
  /** Will not do what the job asks of it. */
  z.object({ type: z.literal('refuse'), ...own, session: id, reason: z.string().max(2000) }),
  /** Is still there. */
  z.object({ type: z.literal('beat'), ...own, session: id }),
  z.object({ type: z.literal('leave'), ...own, session: id, reason: z.string().max(2000) }),
]);

/** What clients tell the server. */
export type ToServer = z.output<typeof toServerSchema>;

/** What all clients of a run are told: sections of its config, and how data becomes numbers. */
export const jobSchema = z.object({
  seed: whole,
  model: z.object({ name: z.string().max(128), args: z.record(z.string(), z.unknown()) }),
  optim: z.unknown(),
  objective: z.object({ name: z.string().max(128), config: z.unknown() }),
  /** Examples of a local step; null for all that a client has. */
  batch: z.int().min(1).nullable(),
  engine: z.enum(['onnx', 'tfjs']),
  data: z.object({ section: z.unknown(), encoding: z.unknown() }),
  /** Updates leave their clients under masks only (secure aggregation). */
  secure: z.boolean(),
  /** For clients that take a part of the job's own data. */
  partition: z.unknown(),
  /** Settings of fits that are not of any one fit, as threads of a simulation are given them. */
  more: z.record(z.string(), z.unknown()),
});

/** What all clients of a run are told. */
export type JobDescription = z.output<typeof jobSchema>;

/** The answer to `join`. */
export const welcomeSchema = z.object({
  session: id,
  run: z.string().max(256),
  job: jobSchema,
  /** Proves to the server's blobs that it is a client that asks. */
  secret: z.string().length(64),
  beatMs: z.number().positive(),
});

/** The answer to `join`. */
export type Welcome = z.output<typeof welcomeSchema>;

const asked = {
  session: id,
  round: whole,
  /** The client's number in this run. */
  client: whole,
  /** Version of the parameters; the same number in a session is the same parameters. */
  version: whole,
  start: parcelSchema,
  /** Vectors in the parcel: `params`, `state`, and the objective's `round` tensors. */
  vectors: vectorsSchema,
  /**
   * Where a codec has written some places of the parameters: `bytes` of that are first in the parcel, `runs` are the places
   * [from, to), and `params` has the others only.
   */
  encoded: z.object({ bytes: whole, runs: z.array(z.tuple([whole, whole])).max(4096) }).nullable(),
};

/** Others that a client shares masks with, at most: as many as a secret has shares. */
const MOST_NEIGHBOURS = 254;
const neighbour = {
  client: whole,
  /** X25519 public keys: one that shares are sealed with, one that masks come from. */
  cipher: bytesOfLength(32),
  mask: bytesOfLength(32),
};
/** Of a message about one secure aggregation; each has a name of its own. */
const secret = { session: id, round: whole, client: whole, aggregation: z.string().max(128) };

/** How an update is to be masked. */
export const maskingSchema = z.object({
  aggregation: secret.aggregation,
  /** What neighbours have shared with this client, sealed for it. */
  shares: z.array(z.object({ from: whole, sealed: bytesOfLength(SEALED_BYTES) })).max(MOST_NEIGHBOURS),
  /** Clients whose updates may be in the sum. */
  members: z.int().min(2).max(1e6),
  /** Changes beyond it cannot be sent. */
  range: z.number().positive(),
  /** What the update is multiplied by: its weight as a part of the largest one. */
  share: z.number().positive().max(1),
  /** Norm above which it is not to be sent; null for no bound. */
  maxNorm: z.number().positive().nullable(),
});

/** How an update is to be masked. */
export type Masking = z.output<typeof maskingSchema>;

/** What the server asks of a client. */
export const toClientSchema = z.discriminatedUnion('type', [
  z.object({
    type: z.literal('fit'),
    ...asked,
    epochs: z.int().min(1),
    maxSteps: z.int().min(1).nullable(),
    firstStep: whole,
    clipNorm: z.number().positive().nullable(),
    /** Further settings of the fit: plain data, as threads of a simulation are given it. */
    more: z.record(z.string(), z.unknown()),
    /** Round after which what the client kept counts; null: it begins anew. */
    kept: whole.nullable(),
    /** The same as of the newest checkpoint, to which the server may come back. */
    durable: whole.nullable(),
    /** Names of what it keeps that the server wants to see. */
    wanted: z.array(z.string().max(128)).max(16),
    /** How the update is to be masked; null: it goes as it is. */
    masking: maskingSchema.nullable(),
  }),
  /** Secure aggregation: the client's public keys are wanted. */
  z.object({ type: z.literal('keys'), ...secret }),
  /** Shares of its secrets are wanted, sealed for each of these. */
  z.object({
    type: z.literal('shares'),
    ...secret,
    threshold: z.int().min(1),
    neighbours: z.array(z.object(neighbour)).max(MOST_NEIGHBOURS),
  }),
  /** What takes masks off is wanted; `survivors` have sent their vectors. */
  z.object({ type: z.literal('unmask'), ...secret, survivors: z.array(whole).max(65_536) }),
  z.object({ type: z.literal('ask'), ...asked, task: z.string().max(128), config: z.unknown() }),
  /** How parameters do on its own examples: those it trains on, or those that it has held out. */
  z.object({ type: z.literal('loss'), ...asked, held: z.boolean() }),
  /** The server ends its session. */
  z.object({ type: z.literal('end'), session: id, reason: z.string().max(2000) }),
]);

/** What the server asks of a client. */
export type ToClient = z.output<typeof toClientSchema>;

/** What a client answers with more than that it has heard. */
export type ClientRequest = Exclude<ToClient, { readonly type: 'end' }>;

/** A fit, as a client is asked for it. */
export type FitRequest = Extract<ToClient, { type: 'fit' }>;

/** The answer to `keys`. */
export const keysSchema = z.object({ cipher: neighbour.cipher, mask: neighbour.mask });

/** The answer to `shares`. */
export const sharesSchema = z.array(z.object({ to: whole, sealed: bytesOfLength(SEALED_BYTES) })).max(MOST_NEIGHBOURS);

/** The answer to `unmask`. */
export const unmaskingSchema = z
  .array(z.object({ of: whole, what: z.enum(['seed', 'key']), x: z.int().min(1).max(255), share: bytesOfLength(32) }))
  .max(MOST_NEIGHBOURS);

/** The answer to `loss`: sums over the client's examples. */
export const lossSchema = z
  .object({ loss: z.number(), examples: z.int().min(1), correct: whole.nullable() })
  .refine(({ correct, examples }) => correct === null || correct <= examples, 'more are right than there are');

/** The answer to `fit`. */
export const fitAnswerSchema = z.object({
  session: id,
  round: whole,
  version: whole,
  steps: whole,
  /** Of its local steps; null where its update is under noise, and so is not to be seen through it. */
  loss: z.number().nullable(),
  lr: z.number().optional(),
  ms: z.number(),
  /** Whether the norm of its update was above the bound that it was told; absent where there is none, or the update is hidden. */
  clipped: z.boolean().optional(),
  /** Whether it keeps something of this round for its next one. */
  keeps: z.boolean(),
  /** Why there is no update. */
  problem: z.string().max(2000).nullable(),
  /** Neighbours who have sealed shares for it that it cannot read. */
  accused: z.array(whole).max(254).optional(),
  /**
   * `update`, then vectors that are sent (`sent/NAME`) and kept ones that are wanted (`kept/NAME`); or `masked` alone, integers in
   * the memory of float32 numbers. `encoded`: bytes of the parameters as the job's codec wrote them, first in the parcel; then
   * `update` is that of the module state alone. Null with a problem.
   */
  update: z.object({ parcel: parcelSchema, vectors: vectorsSchema, encoded: whole.nullable() }).nullable(),
});

/** The answer to `fit`. */
export type FitAnswer = z.output<typeof fitAnswerSchema>;

/** Each kind of message of a union without some of its keys. */
export type OmitFromEach<T, K extends string> = T extends unknown ? Omit<T, K> : never;
