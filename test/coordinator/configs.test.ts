import { readdirSync, readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { formatConfig, prepareQuietly, resolveConfig } from '../../src/coordinator/index.ts';
import '../../src/schedulers/index.ts';

const files = readdirSync('configs').filter((name) => name.endsWith('.yaml'));

describe('every config in configs/', () => {
  for (const file of files)
    it(`${file} says what it shows and how long it takes, resolves, and can be planned`, async () => {
      const text = readFileSync(`configs/${file}`, 'utf8');
      expect(text).toMatch(/^# .*\n/);
      expect(text).toMatch(/^# Shows: /m);
      expect(text).toMatch(new RegExp(`npx plexus train configs/${file}`));
      expect(text).toMatch(/^# Takes /m);
      const config = resolveConfig(`configs/${file}`);
      expect(formatConfig(config)).toContain(`name: ${config.name}`);
      const { plan, warnings } = await prepareQuietly(config);
      expect(plan.programs).toHaveLength(config.parallel.data * config.parallel.pipeline);
      expect(warnings).toEqual([]);
    });
});
