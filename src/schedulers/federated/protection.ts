import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import type { Execution } from '../../coordinator/index.ts';
import { releaseLog } from './deployment/index.ts';
import {
  type PrivacyConfig,
  type PrivateServer,
  privacySchema,
  privateServer,
  type SecureAggregationConfig,
  secureAggregationSchema,
} from './privacy/index.ts';
import type { FederatedServer, ServerShape } from './strategy.ts';

/** Keys by which any strategy with rounds hides what single clients send. */
export const protectionShape = { secure_aggregation: secureAggregationSchema, privacy: privacySchema } as const;

/** Settings of what hides single clients. */
export interface ProtectionConfig {
  readonly secure_aggregation: SecureAggregationConfig | null;
  readonly privacy: PrivacyConfig | null;
}

/** What protects the clients of a run. */
export interface Protection {
  /** The strategy's server, with privacy if there is any. */
  readonly server: FederatedServer;
  /** The same server where it keeps account of what it gives away; null without privacy. */
  readonly account: PrivateServer | null;
}

/**
 * Puts what hides clients around a strategy's server.
 * @throws ConfigError if the strategy has to look at what is to be hidden, or the settings cannot be had together
 */
export function protect(
  { prepared: { config }, clients: deployed, folder }: Execution,
  strategy: string,
  inner: FederatedServer,
  settings: ProtectionConfig & { readonly cohort: number; readonly clients: number },
  shape: ServerShape,
): Protection {
  const { secure_aggregation: secure, privacy, cohort, clients } = settings;
  const refuse = (key: keyof ProtectionConfig, message: string): never => {
    throw config.origin.fail([{ path: ['scheduler', key], message: `scheduler.${key}: ${message}` }]);
  };
  const looks = inner.prepare ? 'asks clients about their data' : 'looks at what single clients send';
  if (secure && (inner.needs === 'each' || !inner.sees || inner.prepare))
    refuse('secure_aggregation', `${strategy} ${looks}, and the server is to see sums alone: use fedavg, for example`);
  if (!privacy) return { server: inner, account: null };
  if (inner.needs === 'each' || inner.sees !== 'sum' || inner.prepare)
    refuse('privacy', `${strategy} ${looks}, which noise on updates does not hide: use fedavg, for example`);
  if (shape.state.size > 0)
    refuse(
      'privacy',
      'the model has running statistics, which are neither clipped nor hidden by noise: use layer or group norm in place of batch norm',
    );
  if (secure && privacy.name === 'central-dp' && privacy.clipping === 'adaptive')
    refuse(
      'privacy',
      "an adaptive bound goes by each client's norm, which secure aggregation hides: set clipping: fixed",
    );
  try {
    // Real clients are told the seed, and must not be able to take the noise away again.
    const secret = deployed ? randomBytes(16).toString('hex') : '';
    // (There may be more of them than the config says.)
    const counted = deployed && privacy.name === 'local-dp' ? clients + 1 : clients;
    const releases = deployed ? { releases: releaseLog(join(folder.path, 'privacy.log')) } : {};
    const noise = { cohort, clients: counted, seed: shape.seed, secret, ...releases };
    const server = privateServer(inner, privacy, noise);
    return { server, account: server };
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    return refuse('privacy', error.message);
  }
}
