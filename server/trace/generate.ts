// SPDX-License-Identifier: Apache-2.0
/** Writes what is made from records.ts (`npm run generate`); a test fails when it is stale. Laid out as Biome does. */
import { mkdirSync, writeFileSync } from 'node:fs'
import { CONTROL_KINDS, type FieldType, fieldsOf, type Kind, type KindName, kinds, roots } from './records.ts'

const WIDTH = 120

const names = Object.keys(kinds) as KindName[]
const fields = (name: KindName) => Object.entries<FieldType>(kinds[name].fields)

const valueType = { u32: 'number', flag: 'boolean', f64: 'number', bytes: 'Uint8Array', text: 'string' } as const

/** Objects that fields come in, by the name of the parameter. */
function objects(name: KindName): [string, readonly string[]][] {
  const { from = {} }: Kind = kinds[name]
  return Object.entries(from)
}

const objectOf = (name: KindName, field: string) => objects(name).find(([, members]) => members.includes(field))?.[0]

/** Parameters of the writer of a kind, in the order of its fields; an object stands where its first field does. */
function parameters(name: KindName): string[] {
  const params = fields(name).map(([field, type]) => {
    const object = objectOf(name, field)
    if (object !== undefined) return `${object}: ${interfaceName(name, object)}`
    return `${field}: ${valueType[type]}${type === 'bytes' ? ', from: number, count: number' : ''}`
  })
  return [...new Set(params)].flatMap(param => param.split(/, (?=\w+: )/))
}

const interfaceName = (kind: string, object: string) =>
  `Recorded${kind === object ? '' : pascal(kind)}${pascal(object)}`

const pascal = (name: string) => name.replace(/^./, first => first.toUpperCase())

/** An object that fields come in. */
function object(name: KindName, parameter: string, members: readonly string[]): string {
  const lines = fields(name).filter(([field]) => members.includes(field))
  if (lines.length !== members.length) throw new Error(`${name}: ${parameter} has fields that are none`)
  return [
    `/** What a record \`${name}\` takes from one object. */`,
    `export interface ${interfaceName(name, parameter)} {`,
    ...lines.map(([field, type]) => `  readonly ${field}: ${valueType[type]}`),
    '}',
  ].join('\n')
}

function signature(head: string, params: readonly string[], tail: string, indent: string): string {
  const line = `${indent}${head}(${params.join(', ')})${tail}`
  if (line.length <= WIDTH) return line
  return `${indent}${head}(\n${params.map(param => `${indent}  ${param},\n`).join('')}${indent})${tail}`
}

/** A method that writes a record: every field is a parameter, so that none can be forgotten. */
function writer(name: KindName): string {
  const before: string[] = []
  const body: string[] = []
  const used = new Set<string>()
  let size = ''
  const { words, fields: list } = fieldsOf(name)
  for (const [i, { name: member, type, word }] of list.entries()) {
    const object = objectOf(name, member)
    const field = object === undefined ? member : `${object}.${member}`
    if (type === 'f64') {
      used.add('doubles')
      body.push(`doubles[(at + ${word}) >> 1] = ${field}`)
      continue
    }
    used.add('words')
    if (type === 'u32') {
      body.push(`words[at + ${word}] = ${fields(name)[i]?.[1] === 'flag' ? `${field} ? 1 : 0` : field}`)
      continue
    }
    if (type === 'text') before.push(`const count = this.encode(${field})`)
    size = 'used'
    before.push(`const used = (${words + 1} + ((count + 3) >> 2)) & ~1`)
    body.push(`words[at + ${word}] = count`)
    body.push(`this.copy((at + ${words}) << 2, ${type === 'text' ? 'this.encoded, 0' : `${field}, from`}, count)`)
  }
  size ||= String(words + (words & 1))
  const lines = [
    ...before,
    `const at = this.reserve(${kinds[name].id}, ${size})`,
    'if (at < 0) return',
    `const { ${[...used].sort().reverse().join(', ')} } = this`,
    ...body,
    `this.${roots.has(name) ? 'close' : 'publish'}(${size})`,
  ]
  return [signature(name, parameters(name), ': void {', '  '), ...lines.map(line => `    ${line}`), '  }'].join('\n')
}

/** A function that makes an object of values in order: a literal is made several times faster than an object that grows. */
function maker(name: KindName): string {
  const properties = fields(name).map(
    ([field, type], i) => `${field}: v[${i}] as ${type === 'flag' ? 'number' : valueType[type]}`,
  )
  const line = `  ${name}: v => ({ kind: '${name}', ${properties.join(', ')} }),`
  if (line.length <= WIDTH) return line
  return [`  ${name}: v => ({`, ...[`kind: '${name}'`, ...properties].map(text => `    ${text},`), '  }),'].join('\n')
}

/** Text of each generated file, by its path relative to this folder. */
export const outputs = (): Map<string, string> =>
  new Map([
    [
      'generated/records.ts',
      `// SPDX-License-Identifier: Apache-2.0
/** Generated from ../records.ts by ../generate.ts; do not edit. */
import type { KindName, RecordOf } from '../records.ts'

${names.flatMap(name => objects(name).map(([parameter, members]) => object(name, parameter, members))).join('\n\n')}

/** Writes records into the ring, field by field. */
export abstract class RecordWriter {
  protected abstract readonly words: Uint32Array
  protected abstract readonly doubles: Float64Array
  /** What \`encode\` made. */
  protected abstract readonly encoded: Uint8Array

  /** Finds room for a record of \`words\` words, an even number, and writes its header. @returns its index, -1: no room */
  protected abstract reserve(kind: number, words: number): number
  /** Hands over the record that was written since. */
  protected abstract publish(words: number): void
  /** The same with a record that closes the group of those before it. */
  protected abstract close(words: number): void
  /** Copies bytes to byte \`to\` of the ring. */
  protected abstract copy(to: number, source: Uint8Array, from: number, count: number): void
  /** Turns text into UTF-8. @returns its length, bytes */
  protected abstract encode(text: string): number

${names
  .filter(name => !CONTROL_KINDS.has(name))
  .map(writer)
  .join('\n\n')}
}

/** A record with these values for its fields, in order. */
export const makers: { readonly [K in KindName]: (v: readonly unknown[]) => RecordOf<K> } = {
${names.map(maker).join('\n')}
}
`,
    ],
  ])

if (import.meta.main) {
  mkdirSync(new URL('generated/', import.meta.url), { recursive: true })
  for (const [path, text] of outputs()) writeFileSync(new URL(path, import.meta.url), text)
}
