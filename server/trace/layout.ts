// SPDX-License-Identifier: Apache-2.0
/** Records where they lie, in the ring and in copies of it. */
import { makers } from './generated/records.ts'
import {
  type FieldLayout,
  type FieldType,
  fieldsOf,
  type KindName,
  kinds,
  type StoredType,
  type TraceRecord,
} from './records.ts'

/** A kind as ring and file use it. */
export interface Layout {
  readonly name: KindName
  readonly id: number
  readonly fields: readonly FieldLayout[]
  /** A record with these values for its fields, in order. */
  readonly make: (values: readonly unknown[]) => TraceRecord
}

/** Where records are, as words, as doubles and as bytes. */
export interface RecordViews {
  readonly words: Uint32Array
  readonly doubles: Float64Array
  readonly bytes: Uint8Array
}

const names = Object.keys(kinds) as KindName[]

/** By id; holes are ids that this version doesn't know. */
export const layouts: readonly (Layout | undefined)[] = (() => {
  const list: Layout[] = []
  for (const name of names) {
    const { id } = kinds[name]
    list[id] = { name, id, fields: fieldsOf(name).fields, make: makers[name] }
  }
  return list
})()

type Fields<K extends KindName> = (typeof kinds)[K]['fields']

/** A number for each field of a kind that is of one of these types. */
type Indices<K extends KindName, T extends FieldType> = {
  readonly [F in keyof Fields<K> as Fields<K>[F] extends T ? F : never]: number
}

function indices(type: StoredType, index: (word: number) => number) {
  const of = (name: KindName) =>
    Object.fromEntries(
      fieldsOf(name)
        .fields.filter(field => field.type === type)
        .map(field => [field.name, index(field.word)]),
    )
  return Object.fromEntries(names.map(name => [name, of(name)]))
}

/** For a record at word `at`: the field is `words[at + u32At.trap.offset]`. */
export const u32At = indices('u32', word => word) as { readonly [K in KindName]: Indices<K, 'u32' | 'flag'> }

/** For a record at word `at`: the field is `doubles[(at >> 1) + f64At.trap.start]`. */
export const f64At = indices('f64', word => word >> 1) as { readonly [K in KindName]: Indices<K, 'f64'> }

/** Kind of the record at word `at`; undefined: one that this version does not know, or filler. */
export function layoutAt(words: Uint32Array, at: number): Layout | undefined {
  return layouts[(words[at] ?? 0) & 0xff]
}

/** Words of the record at word `at`. */
export function sizeAt(words: Uint32Array, at: number): number {
  return (words[at] ?? 0) >>> 8
}

/** The bytes behind the length word at `at`, in place. */
export function payloadAt({ words, bytes }: RecordViews, at: number): Uint8Array {
  const start = (at + 1) << 2
  return bytes.subarray(start, start + (words[at] ?? 0))
}

/** Of the record being decoded. */
const values: unknown[] = []

/** Copies the record at word `at` into an object. */
export function decodeRecord(views: RecordViews, layout: Layout, at: number): TraceRecord {
  values.length = 0
  for (const { type, word } of layout.fields) {
    if (type === 'u32') values.push(views.words[at + word])
    else if (type === 'f64') values.push(views.doubles[(at + word) >> 1])
    else {
      const bytes = payloadAt(views, at + word)
      values.push(type === 'text' ? Buffer.from(bytes).toString() : new Uint8Array(bytes))
    }
  }
  return layout.make(values)
}
