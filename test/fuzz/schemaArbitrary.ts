// SPDX-License-Identifier: Apache-2.0
/** Values that a JSON Schema describes, values at its borders, and values that it does not describe. */
import fc from 'fast-check'

export interface JsonSchema {
  readonly $ref?: string
  readonly type?: string
  readonly enum?: readonly unknown[]
  readonly const?: unknown
  readonly anyOf?: readonly JsonSchema[]
  readonly pattern?: string
  readonly minLength?: number
  readonly maxLength?: number
  readonly minimum?: number
  readonly maximum?: number
  readonly multipleOf?: number
  readonly items?: JsonSchema
  readonly maxItems?: number
  readonly required?: readonly string[]
  readonly properties?: Readonly<Record<string, JsonSchema>>
}

/** JSON as it is written: its grammar has more numbers than JavaScript has, and no limit of depth. */
export class Raw {
  readonly text: string

  constructor(text: string) {
    this.text = text
  }
}

const RAW_NUMBERS = ['1e400', '-1e400', '1e-400', '1E999', '-0', '0.0', '9007199254740993', '1.0000000000000001']

const JUNK_TEXT = [
  '',
  '0',
  '-1',
  '1e9',
  '1e400',
  '-1e400',
  'NaN',
  'Infinity',
  '-Infinity',
  '0x',
  '0xffffffffffffffff',
  '0x10000000000000000',
  '99999999999999999999',
  '0x1p3',
  '1_000',
  '١٢',
  ' 1 ',
  'true',
  'null',
  'undefined',
  '..',
  '%00',
  '\u0000',
  '\ud800',
  '__proto__',
  'constructor',
  'a'.repeat(300),
]

export const junkText = fc.oneof(
  fc.constantFrom(...JUNK_TEXT),
  fc.string({ maxLength: 40 }),
  fc.string({ unit: 'binary', maxLength: 20 }),
  fc.integer().map(String),
  fc.double().map(String),
)

export const junk: fc.Arbitrary<unknown> = fc.oneof(
  junkText,
  fc.constantFrom(...RAW_NUMBERS).map(text => new Raw(text)),
  fc.integer(),
  fc.double({ noNaN: true, noDefaultInfinity: true }),
  fc.boolean(),
  fc.constant(null),
  fc.array(junkText, { maxLength: 3 }),
  fc.jsonValue({ maxDepth: 3 }),
  fc.constantFrom(60, 2_000, 30_000).map(depth => new Raw('['.repeat(depth) + ']'.repeat(depth))),
  fc.constantFrom(60, 2_000, 10_000).map(depth => new Raw(`${'{"a":'.repeat(depth)}1${'}'.repeat(depth)}`)),
)

function numbers({ type, minimum, maximum, multipleOf = 1 }: JsonSchema): fc.Arbitrary<unknown> {
  const low = minimum ?? -(2 ** 53)
  const high = maximum ?? 2 ** 53
  const inside = fc
    .integer({
      min: Math.ceil(Math.max(low, -(2 ** 53)) / multipleOf),
      max: Math.floor(Math.min(high, 2 ** 53) / multipleOf),
    })
    .map(n => n * multipleOf)
  const small = fc
    .integer({ min: 0, max: 15 })
    .map(n => Math.max(0, Math.ceil(low / multipleOf)) * multipleOf + n * multipleOf)
  const borders = [low, high, low - 1, high + 1, 0, 1, -1, 0.5, 2 ** 31, 2 ** 32, 2 ** 53, 2 ** 64, 1e308]
  return fc.oneof(
    { weight: 4, arbitrary: inside },
    { weight: 8, arbitrary: small },
    { weight: 8, arbitrary: fc.constant(Math.max(0, low)) },
    { weight: 1, arbitrary: fc.constantFrom(...borders) },
    { weight: 1, arbitrary: fc.constantFrom(...RAW_NUMBERS).map(text => new Raw(text)) },
    ...(type === 'number' ? [fc.double({ noNaN: true, noDefaultInfinity: true })] : []),
  )
}

/** The document's schemas, and addresses of the machine. */
export interface Vocabulary {
  readonly named: Readonly<Record<string, JsonSchema>>
  readonly addresses: readonly string[]
}

function strings(schema: JsonSchema, { addresses }: Vocabulary): fc.Arbitrary<string> {
  const { pattern, minLength = 0, maxLength = 60 } = schema
  const usual =
    pattern === undefined
      ? fc.string({ minLength, maxLength: Math.min(maxLength, minLength + 40) })
      : fc.stringMatching(new RegExp(pattern))
  return fc.oneof(
    { weight: 6, arbitrary: usual },
    { weight: 1, arbitrary: fc.constant('x'.repeat(maxLength + 1)) },
    // What an address of the machine may be is no part of a schema.
    ...(pattern?.startsWith('^(0[xX]') ? [{ weight: 20, arbitrary: fc.constantFrom(...addresses) }] : []),
  )
}

export function arbitraryOf(schema: JsonSchema, words: Vocabulary): fc.Arbitrary<unknown> {
  const inner = described(schema, words)
  return fc.oneof({ weight: 40, arbitrary: inner }, { weight: 1, arbitrary: junk })
}

function described(schema: JsonSchema, words: Vocabulary): fc.Arbitrary<unknown> {
  const { $ref, type, anyOf, items, properties, required = [], maxItems = 5 } = schema
  if ($ref !== undefined) return arbitraryOf(words.named[$ref.split('/').at(-1) ?? ''] ?? {}, words)
  if (schema.enum !== undefined) return fc.constantFrom(...schema.enum)
  if (schema.const !== undefined) return fc.constant(schema.const)
  if (anyOf !== undefined) return fc.oneof(...anyOf.map(part => arbitraryOf(part, words)))
  switch (type) {
    case 'integer':
    case 'number':
      return numbers(schema)
    case 'string':
      return strings(schema, words)
    case 'boolean':
      return fc.boolean()
    case 'null':
      return fc.constant(null)
    case 'array':
      return fc.array(items === undefined ? junk : arbitraryOf(items, words), { maxLength: Math.min(maxItems + 1, 6) })
    case 'object': {
      const fields = Object.fromEntries(
        Object.entries(properties ?? {}).map(([name, part]) => [name, arbitraryOf(part, words)]),
      )
      const right = fc.record(fields, { requiredKeys: [...required] })
      const wrong = fc.tuple(fc.record(fields, { requiredKeys: [] }), fc.dictionary(junkText, junk, { maxKeys: 2 }))
      return fc.oneof(
        { weight: 5, arbitrary: right },
        { weight: 1, arbitrary: wrong.map(([a, b]) => ({ ...a, ...b })) },
      )
    }
    default:
      return junk
  }
}

/** JSON, with raw numbers as they are written. */
export function written(value: unknown): string {
  if (value instanceof Raw) return value.text
  if (Array.isArray(value)) return `[${value.map(written).join()}]`
  if (typeof value !== 'object' || value === null) return JSON.stringify(value) ?? 'null'
  return `{${Object.entries(value)
    .map(([name, part]) => `${JSON.stringify(name)}:${written(part)}`)
    .join()}}`
}

/** As text in a path or a query. */
export const asText = (value: unknown): string =>
  value instanceof Raw ? value.text : typeof value === 'object' ? JSON.stringify(value) : String(value)
