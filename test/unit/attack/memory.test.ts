// SPDX-License-Identifier: Apache-2.0
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { AttackMemory } from '../../../server/attack/memory.ts'

const RAM = [
  { base: 0x1000, size: 0x2000 },
  { base: 2 ** 32, size: 0x1000 },
]

/** Around the ends of both ranges. */
const address = fc
  .tuple(fc.constantFrom(0x1000, 0x2000, 0x3000, 2 ** 32, 2 ** 32 + 0x1000), fc.integer({ min: -80, max: 80 }))
  .map(([base, offset]) => base + offset)
const operation = fc.oneof(
  fc.record({ do: fc.constant('write' as const), address, bytes: fc.uint8Array({ minLength: 1, maxLength: 100 }) }),
  fc.record({ do: fc.constant('word' as const), address, value: fc.integer({ min: 0, max: 2 ** 32 - 1 }) }),
  fc.record({ do: fc.constant('fill' as const), page: fc.constantFrom(0x1000, 0x2000, 0x3000, 2 ** 32) }),
  fc.record({ do: fc.constant('clear' as const) }),
)

test('reads what was written last, whole or not at all', () => {
  fc.assert(
    fc.property(
      fc.array(operation, { maxLength: 40 }),
      address,
      fc.integer({ min: 1, max: 100 }),
      (ops, from, length) => {
        const memory = new AttackMemory(RAM)
        const model = new Map<number, number>()
        const isRam = (at: number, bytes: number) =>
          RAM.some(({ base, size }) => at >= base && at + bytes <= base + size)
        for (const op of ops) {
          if (op.do === 'clear') {
            memory.clear()
            model.clear()
          } else if (op.do === 'fill') {
            memory.fillPage(op.page, 0x0403_0201)
            if (isRam(op.page, 4096)) for (let i = 0; i < 4096; i++) model.set(op.page + i, (i % 4) + 1)
            expect(memory.contains(op.page, 0x0403_0201)).toBe(isRam(op.page, 4096))
          } else if (op.do === 'word') {
            const at = op.address - (op.address % 4)
            expect(memory.setWord(at, op.value)).toBe(isRam(at, 4))
            expect(memory.word(at)).toBe(isRam(at, 4) ? op.value : 0)
            if (isRam(at, 4)) for (let i = 0; i < 4; i++) model.set(at + i, (op.value >>> (8 * i)) & 0xff)
          } else {
            expect(memory.write(op.address, op.bytes, 0, op.bytes.length)).toBe(isRam(op.address, op.bytes.length))
            if (isRam(op.address, op.bytes.length))
              for (const [i, byte] of op.bytes.entries()) model.set(op.address + i, byte)
          }
        }
        const target = new Uint8Array(length + 2).fill(0xee)
        const ok = memory.read(from, target, 1, length)
        expect(ok).toBe(isRam(from, length))
        const expected = Array.from({ length }, (_, i) => (ok ? (model.get(from + i) ?? 0) : 0xee))
        expect([...target]).toEqual([0xee, ...expected, 0xee])
        expect(memory.isRam(from)).toBe(isRam(from, 1))
      },
    ),
  )
})
