// SPDX-License-Identifier: Apache-2.0
/** Records of a file as words, as the ring has them: the other way round of layout.ts. */
import { type Layout, layouts, type RecordViews } from './layout.ts'
import { fieldsOf, type KindName, kinds, type TraceRecord } from './records.ts'

const ENCODER = new TextEncoder()

const FIXED = new Map(
  (Object.keys(kinds) as KindName[]).map(name => [name, { layout: layouts[kinds[name].id], ...fieldsOf(name) }]),
)

/**
 * Writes a record at word `at`, an even one.
 * @returns its layout; undefined when it has no room, and nothing that counts was written
 */
export function putRecord({ words, doubles, bytes }: RecordViews, at: number, record: TraceRecord): Layout | undefined {
  const { layout, fields, words: fixed } = FIXED.get(record.kind) ?? {}
  if (layout === undefined || fields === undefined || fixed === undefined || at + fixed + 1 > words.length) {
    return undefined
  }
  const values = record as unknown as Readonly<Record<string, number | string | Uint8Array>>
  let end = at + fixed
  for (const { name, type, word } of fields) {
    const value = values[name]
    if (type === 'u32') words[at + word] = Number(value)
    else if (type === 'f64') doubles[(at + word) >> 1] = Number(value)
    else {
      const payload = typeof value === 'string' ? ENCODER.encode(value) : (value as Uint8Array)
      end = at + word + 1 + Math.ceil(payload.length / 4)
      if (end + 1 > words.length) return undefined
      words[at + word] = payload.length
      bytes.set(payload, (at + word + 1) << 2)
    }
  }
  const size = (end - at + 1) & ~1
  words[at] = layout.id | (size << 8)
  return layout
}
