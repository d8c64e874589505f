// SPDX-License-Identifier: Apache-2.0
/**
 * The OpenAPI document in version 3.0.3, for generators whose support of 3.1 is not finished (openapi-generator says so with each
 * run). 3.0 has a dialect of JSON Schema of its own: no type `null`, no `const`, one `example`, bounds that are flags.
 */

type Json = null | boolean | number | string | readonly Json[] | JsonObject
interface JsonObject {
  readonly [key: string]: Json
}

/** @param document OpenAPI 3.1, as this server makes it */
export function openApi30(document: object): object {
  const { openapi: _, ...rest } = JSON.parse(JSON.stringify(document)) as JsonObject
  return { openapi: '3.0.3', ...(converted(rest) as JsonObject) }
}

function converted(value: Json): Json {
  if (Array.isArray(value)) return value.map(converted)
  if (typeof value !== 'object' || value === null) return value
  const object = Object.fromEntries(Object.entries(value).map(([key, part]) => [key, converted(part)]))
  return isSchema(value as JsonObject) ? schema(object) : object
}

/** `properties` and the like are maps by name, in which any of these may be a name. */
function isSchema({ type, anyOf, enum: values, $ref }: JsonObject): boolean {
  return typeof type === 'string' || Array.isArray(anyOf) || Array.isArray(values) || typeof $ref === 'string'
}

const NULL = { type: 'null' }
const isNull = (value: Json): boolean => JSON.stringify(value) === JSON.stringify(NULL)

function schema({ const: only, examples, patternProperties, $id: _, anyOf, ...rest }: JsonObject): JsonObject {
  const more: Record<string, Json> = {}
  // Generators go by the type, which in 3.1 an `enum` does without.
  const [value] = Array.isArray(rest.enum) ? rest.enum : []
  if (rest.type === undefined && value !== undefined) more.type = typeof value
  if (only !== undefined) more.enum = [only]
  if (Array.isArray(examples) && examples[0] !== undefined) more.example = examples[0]
  if (patternProperties !== undefined) {
    more.additionalProperties = Object.values(patternProperties as JsonObject)[0] ?? true
  }
  if (!Array.isArray(anyOf)) return { ...rest, ...more }
  const others = (anyOf as JsonObject[]).filter(part => !isNull(part))
  if (others.length < anyOf.length) more.nullable = true
  const [other] = others
  if (other === undefined) return { ...rest, ...more }
  const values = others.map(({ enum: values }) => values)
  if (values.every(Array.isArray)) return { ...rest, ...more, type: other.type ?? 'string', enum: values.flat() }
  if (others.length > 1) return { ...rest, anyOf: others, ...more }
  // Nothing counts beside a reference; all that have a name are objects.
  if (typeof other.$ref === 'string') return { ...rest, type: 'object', allOf: [other], ...more }
  return { ...other, ...rest, ...more }
}
