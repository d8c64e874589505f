// SPDX-License-Identifier: Apache-2.0
/** Messages as the codec gives them, as the wire has them and as vectors show them; made from the definitions. */
import { readFileSync } from 'node:fs'
import fc from 'fast-check'
import { FrameReader, FrameWriter } from '../../../protocol/framing.ts'
import { encode, type Message } from '../../../protocol/generated/messages.ts'
import type { Fields, Value, Vectors } from '../../../protocol/generator/vectors.ts'
import { limit, messageList, recordFields } from '../../../protocol/generator/wire.ts'
import type { Field } from '../../../protocol/messages.ts'

export const vectors: Vectors = JSON.parse(
  readFileSync(new URL('../../../protocol/vectors.json', import.meta.url), 'utf8'),
)

/** The frames of README.md's example: the sender, the message, and all its bytes in hex. */
export function exampleFrames(): { from: string; message: string; frame: string }[] {
  const text = readFileSync(new URL('../../../protocol/README.md', import.meta.url), 'utf8')
  return Array.from(text.matchAll(/^```frame (\w+) (\w+)\n([\s\S]*?)^```$/gm), ([, from, message, lines]) => ({
    from,
    message,
    frame: lines.replaceAll(/#.*$/gm, '').replaceAll(/\s/g, ''),
  }))
}

/** A message or record as the codec gives it, for code that walks over all of them. */
export type Values = Record<string, unknown>

const hex = (value: number): string => value.toString(16).padStart(8, '0')

/** What a vector shows of a decoded message. */
export function toVector(fields: readonly Field[], values: Values): Fields {
  const show = ({ name, type }: Field): Value => {
    if (typeof type === 'object') {
      return (values[name] as Values[]).map(record => toVector(recordFields(type.list), record))
    }
    if (type === 'u64') return `0x${hex(values[`${name}Hi`] as number)}${hex(values[`${name}Lo`] as number)}`
    if (type === 'bin') return Buffer.from(values[name] as Uint8Array).toString('hex')
    return values[name] as Value
  }
  return Object.fromEntries(fields.map(field => [field.name, show(field)]))
}

/** Elements of the array that carries these fields, as a msgpack library gives them. */
export const toWire = (fields: readonly Field[], values: Values): unknown[] =>
  fields.flatMap(({ name, type }) => {
    if (typeof type === 'object') {
      return [(values[name] as Values[]).map(record => toWire(recordFields(type.list), record))]
    }
    return type === 'u64' ? [values[`${name}Hi`], values[`${name}Lo`]] : [values[name]]
  })

const EDGES = [0, 1, 0x7f, 0x80, 0xff, 0x100, 0xffff, 0x1_0000, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 2 ** 32]

const integer = (max: number): fc.Arbitrary<number> =>
  fc.oneof(fc.constantFrom(...EDGES.filter(edge => edge <= max), max), fc.integer({ min: 0, max }))

function fieldValues(field: Field): Record<string, fc.Arbitrary<unknown>> {
  const { name, type } = field
  if (typeof type === 'object') {
    return { [name]: fc.array(fc.record(allValues(recordFields(type.list))), { maxLength: 20 }) }
  }
  if (type === 'str')
    return { [name]: fc.string({ unit: 'binary', maxLength: 300 }).filter(text => !text.includes('\0')) }
  if (type === 'bin') return { [name]: fc.uint8Array({ maxLength: 300 }) }
  if (type === 'u64') return { [`${name}Hi`]: integer(0xffff_ffff), [`${name}Lo`]: integer(0xffff_ffff) }
  return { [name]: integer(limit(field)) }
}

const allValues = (fields: readonly Field[]): Record<string, fc.Arbitrary<unknown>> =>
  Object.assign({}, ...fields.map(fieldValues))

/** Any message of this name. */
export function anyMessage(name: string): fc.Arbitrary<Message & Values> {
  const message = messageList.find(([key]) => key === name)?.[1]
  if (message === undefined) throw new Error(`no message ${name}`)
  const seq = fc.oneof(fc.constantFrom(1, 0xffff_ffff), fc.integer({ min: 1, max: 0xffff_ffff }))
  return fc.record({ type: fc.constant(message.id), seq, ...allValues(message.fields) }) as unknown as fc.Arbitrary<
    Message & Values
  >
}

/** The frame of a message. */
export function frameOf(message: Message): Buffer {
  const out = new FrameWriter()
  encode(out, message)
  return Buffer.from(out.buffer.subarray(0, out.length))
}

/** Payloads of a byte stream that arrives in these chunks. */
export function payloads(chunks: Iterable<Uint8Array>): Buffer[] {
  const reader = new FrameReader()
  const found: Buffer[] = []
  for (const chunk of chunks) {
    reader.push(chunk)
    while (reader.next()) found.push(Buffer.from(reader.buffer.subarray(reader.start, reader.end)))
  }
  return found
}
