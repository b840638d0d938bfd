import { hostname } from 'node:os';
import { hostId } from '../../comm/index.ts';
import { processorKind } from '../../engine/index.ts';
import type { ResolvedAgentOptions } from './options.ts';
import { CLUSTER_PROTOCOL_VERSION, type MemberRecord } from './protocol.ts';
import { PLEXUS_VERSION } from './version.ts';

/** What an agent says of itself in the job's bucket, besides what it does at present. */
export function memberRecord(
  id: string,
  life: string,
  { devices, slots, leaseMs }: ResolvedAgentOptions,
): Omit<MemberRecord, 'generation' | 'ranks' | 'beat'> {
  return {
    id,
    life,
    version: PLEXUS_VERSION,
    protocol: CLUSTER_PROTOCOL_VERSION,
    host: hostname(),
    hostId: hostId(),
    pid: process.pid,
    runtime: 'Deno' in globalThis ? 'deno' : `node ${process.versions.node}`,
    processor: processorKind(),
    device: [...new Set(devices.map((device) => device ?? 'as the job says'))].join(', '),
    slots,
    leaseMs,
  };
}
