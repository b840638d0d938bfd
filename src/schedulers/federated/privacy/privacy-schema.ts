import * as z from 'zod';
import type { FederatedServer } from '../strategy.ts';
import { centralDpSchema, centralPrivacy, type NoiseShape, type PrivateServer } from './central-dp.ts';
import { localDpSchema, localPrivacy } from './local-dp.ts';

/** The `privacy` section. */
export const privacySchema = z
  .discriminatedUnion('name', [centralDpSchema, localDpSchema])
  .nullable()
  .default(null)
  .describe('differential privacy for clients; null for none');

/** Settings of differential privacy. */
export type PrivacyConfig = NonNullable<z.output<typeof privacySchema>>;

/** A strategy's server with differential privacy. @throws RangeError if the settings cannot be had together */
export function privateServer(inner: FederatedServer, config: PrivacyConfig, shape: NoiseShape): PrivateServer {
  return config.name === 'central-dp' ? centralPrivacy(inner, config, shape) : localPrivacy(inner, config, shape);
}
