// Writes docs/config.md from the schemas that configs are checked against, so that it cannot be wrong. `--check` only
// tells whether the file is fresh (the suite runs it).
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import { root, setup } from './setup.mjs';

const code = (text) => `\`${text}\``;
const cell = (text) => String(text).replaceAll('|', '\\|').replaceAll('\n', ' ');

/** How a type reads: `whole number ≥ 1`, `exact / fast`, `text or null`. */
function typeText(schema) {
  if ('const' in schema) return schema.const === null ? 'null' : code(schema.const);
  if (schema.enum) return schema.enum.map(code).join(' / ');
  const options = schema.anyOf ?? schema.oneOf;
  if (options) return [...new Set(options.map(typeText))].join(' or ');
  if (Array.isArray(schema.type)) return schema.type.map((type) => typeText({ ...schema, type })).join(' or ');
  const { minimum, maximum, exclusiveMinimum, exclusiveMaximum } = schema;
  const bounds = [
    minimum !== undefined && minimum > Number.MIN_SAFE_INTEGER ? `≥ ${minimum}` : '',
    exclusiveMinimum !== undefined ? `> ${exclusiveMinimum}` : '',
    maximum !== undefined && maximum < Number.MAX_SAFE_INTEGER ? `≤ ${maximum}` : '',
    exclusiveMaximum !== undefined && exclusiveMaximum < Number.MAX_SAFE_INTEGER ? `< ${exclusiveMaximum}` : '',
  ].filter(Boolean);
  const numeric = (name) => [name, bounds.join(', ')].filter(Boolean).join(' ');
  switch (schema.type) {
    case 'integer':
      return numeric('whole number');
    case 'number':
      return numeric('number');
    case 'string':
      return 'text';
    case 'boolean':
      return 'true / false';
    case 'null':
      return 'null';
    case 'array':
      if (schema.prefixItems) return `[${schema.prefixItems.map(typeText).join(', ')}]`;
      return `list of ${schema.items ? typeText(schema.items) : 'anything'}`;
    case 'object':
      return schema.properties
        ? 'section'
        : `mapping to ${schema.additionalProperties ? typeText(schema.additionalProperties) : 'anything'}`;
    default:
      return 'anything';
  }
}

const isSection = (schema) =>
  schema.type === 'object' && schema.properties && Object.keys(schema.properties).length > 0;
/** A key that an alternative must not have. */
const isAbsent = (schema) => 'not' in schema || Object.keys(schema).length === 0;
/** The alternatives of a union that are sections, e.g. the datasets; null if there are none. */
function variants(schema) {
  const options = (schema.anyOf ?? schema.oneOf ?? []).filter(isSection);
  return options.length > 0 ? options : null;
}
/** The key whose fixed value tells alternatives apart, e.g. `name`. */
const discriminator = (option) => Object.keys(option.properties).find((key) => 'const' in option.properties[key]);

function defaultText(schema, required) {
  if (schema.default === undefined) return required ? '**required**' : '';
  if (typeof schema.default === 'object' && schema.default !== null && !Array.isArray(schema.default)) return '';
  return code(JSON.stringify(schema.default));
}

function table(section, prefix) {
  const rows = [];
  const walk = (schema, path) => {
    for (const [key, value] of Object.entries(schema.properties)) {
      if (isAbsent(value)) continue;
      const full = path ? `${path}.${key}` : key;
      const nested = isSection(value) ? [value] : variants(value);
      if ('const' in value && nested === null) continue;
      const optional = variants(value) && typeText(value).includes('null');
      const type = nested ? `section${optional ? ' or null' : ''}` : typeText(value);
      rows.push(
        `| ${code(full)} | ${cell(type)} | ${cell(defaultText(value, schema.required?.includes(key)))} | ${cell(value.description ?? '')} |`,
      );
      if (value.items && isSection(value.items)) walk(value.items, `${full}[]`);
      for (const option of nested ?? []) {
        const key = nested.length > 1 ? discriminator(option) : undefined;
        const fixed = option.properties[key];
        if (fixed) rows.push(`| ${code(`${full}.${key}: ${fixed.const}`)} | | | ${cell(fixed.description ?? '')} |`);
        walk(option, full);
      }
    }
  };
  walk(section, prefix);
  return rows.length === 0 ? [] : ['| key | type | default | |', '| --- | --- | --- | --- |', ...rows, ''];
}

/** The whole page for a config schema. */
function render(schema) {
  const json = z.toJSONSchema(schema, { io: 'input', unrepresentable: 'any' });
  const lines = [
    '# Config',
    '',
    '<!-- Made by `npm run docs:config` from the schemas. Do not edit. -->',
    '',
    'One YAML file describes a run. Every key has a default unless it says otherwise, and any key can be set on the command',
    'line: `--set parallel.data=2` (the value is YAML). Mistakes are shown all at once, each with its line and the nearest key.',
    '',
  ];
  const simple = Object.entries(json.properties).filter(([, value]) => !isSection(value) && !variants(value));
  lines.push('## Top level', '', ...table({ properties: Object.fromEntries(simple), required: json.required }, ''));
  for (const [name, section] of Object.entries(json.properties)) {
    if (!isSection(section) && !variants(section)) continue;
    lines.push(`## ${code(name)}`, '', section.description ? `${capital(section.description)}.` : '', '');
    const options = variants(section);
    if (!options) {
      lines.push(...table(section, name));
      continue;
    }
    for (const option of options) {
      const key = discriminator(option);
      const fixed = key ? option.properties[key] : null;
      const title = fixed
        ? `${name}.${key}: ${fixed.const}`
        : `${name}.${Object.keys(option.properties).find((name) => !isAbsent(option.properties[name]))}`;
      const about = option.description ?? fixed?.description;
      lines.push(`### ${code(title)}`, '', ...(about ? [`${capital(about)}.`, ''] : []), ...table(option, name));
    }
  }
  return `${lines
    .join('\n')
    .replace(/\n{3,}/g, '\n\n')
    .trimEnd()}\n`;
}

const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

setup();
await import('../dist/schedulers/index.js');
const { configSchema } = await import('../dist/coordinator/index.js');
const page = render(configSchema());
const path = join(root, 'docs', 'config.md');
if (!process.argv.includes('--check')) writeFileSync(path, page);
else if (readFileSync(path, 'utf8') !== page) {
  process.stderr.write('docs/config.md is out of date: run `npm run docs:config`\n');
  process.exit(1);
}
