// SPDX-License-Identifier: Apache-2.0
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { decodeRecord, sizeAt } from '../../../server/trace/layout.ts'
import { type FieldType, kinds, type TraceRecord } from '../../../server/trace/records.ts'
import { putRecord } from '../../../server/trace/recordWords.ts'

const WORDS = 1 << 10
const u32 = fc.oneof(fc.nat(300), fc.nat(2 ** 31), fc.constant(2 ** 32 - 1))
const field: Record<FieldType, fc.Arbitrary<number | string | Uint8Array>> = {
  u32,
  flag: fc.nat(1),
  f64: fc.oneof(u32, fc.maxSafeNat(), fc.constant(-1), fc.double({ noNaN: true })),
  bytes: fc.uint8Array({ maxLength: 300 }),
  text: fc.string({ unit: 'grapheme', maxLength: 60 }),
}

const anyRecord = fc.oneof(
  ...Object.entries(kinds).map(([kind, { fields }]) => {
    const values = Object.entries(fields).map(([name, type]) => [name, field[type]] as const)
    return fc.record({ kind: fc.constant(kind), ...Object.fromEntries(values) }) as unknown as fc.Arbitrary<TraceRecord>
  }),
)

function views(words: number) {
  const buffer = new ArrayBuffer(words * 4)
  return { words: new Uint32Array(buffer), doubles: new Float64Array(buffer), bytes: new Uint8Array(buffer) }
}

test('a record in words is read again as it was, wherever it stands', () => {
  fc.assert(
    fc.property(anyRecord, fc.nat(40), (record, place) => {
      const where = views(WORDS)
      const at = 2 * place
      const layout = putRecord(where, at, record)
      if (layout === undefined) throw new Error('no room')
      expect(layout.name).toBe(record.kind)
      expect(decodeRecord(where, layout, at)).toEqual(record)
      expect(sizeAt(where.words, at) % 2).toBe(0)
      // What follows it is left alone.
      expect(where.words.subarray(at + sizeAt(where.words, at)).every(word => word === 0)).toBe(true)
    }),
  )
})

test('one that has no room is refused', () => {
  fc.assert(
    fc.property(anyRecord, fc.nat(40), (record, words) => {
      const where = views(2 * words)
      const layout = putRecord(where, 0, record)
      if (layout !== undefined) expect(sizeAt(where.words, 0)).toBeLessThanOrEqual(2 * words)
    }),
  )
})
