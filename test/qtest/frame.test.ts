// SPDX-License-Identifier: Apache-2.0
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { REGISTERS } from '../../server/smmu/registers.ts'
import type { RecordOf } from '../../server/trace/records.ts'
import { QtestMachine, SMMU } from './machine.ts'

let machine: QtestMachine
beforeEach(() => {
  machine = new QtestMachine()
})
afterEach(() => machine.dispose())

/** Resolves with all traps once there are `count`; the server records a trap after it has replied. */
async function traps(count: number): Promise<RecordOf<'trap'>[]> {
  const list: RecordOf<'trap'>[] = []
  const { ring } = machine
  await expect
    .poll(() => {
      ring?.drain((layout, at) => {
        if (layout.name === 'trap') list.push(ring.decode(layout, at) as RecordOf<'trap'>)
      })
      return list.length
    })
    .toBeGreaterThanOrEqual(count)
  return list
}

describe('the register frame through the server', () => {
  test('every register reads as it does without the server', async () => {
    const baseline = new QtestMachine()
    try {
      await baseline.start({ socket: null })
      await machine.serve('passthrough')
      await machine.start()
      for (const { offset, name, bits } of REGISTERS) {
        const size = bits === 64 ? 8 : 4
        const [expected, got] = await Promise.all([
          baseline.qtest.read(SMMU + offset, size),
          machine.qtest.read(SMMU + offset, size),
        ])
        expect(got, name).toBe(expected)
      }
      expect(await traps(REGISTERS.length)).toHaveLength(REGISTERS.length)
    } finally {
      await baseline.dispose()
    }
  })

  test('what is written is there for the next read, in both widths', async () => {
    await machine.serve('passthrough')
    await machine.start()
    await machine.qtest.write(SMMU + 0x80, 8, 0x4000_0000_1234_5000n)
    expect(await machine.qtest.read(SMMU + 0x80, 8)).toBe(0x4000_0000_1234_5000n)
    await machine.qtest.write(SMMU + 0x88, 4, 0x10)
    expect(await machine.qtest.read(SMMU + 0x88, 4)).toBe(0x10n)
    expect((await traps(4)).map(({ write, offset, size, lo, hi }) => ({ write, offset, size, lo, hi }))).toEqual([
      { write: 1, offset: 0x80, size: 8, lo: 0x1234_5000, hi: 0x4000_0000 },
      { write: 0, offset: 0x80, size: 8, lo: 0x1234_5000, hi: 0x4000_0000 },
      { write: 1, offset: 0x88, size: 4, lo: 0x10, hi: 0 },
      { write: 0, offset: 0x88, size: 4, lo: 0x10, hi: 0 },
    ])
  })

  test.each([
    [0x0, 1],
    [0x1, 1],
    [0x2, 2],
    [0x3, 2],
    [0x4, 4],
    [0x5, 4],
    [0x80, 8],
    [0x83, 8],
    [0xffc, 8],
    [0x1_fffc, 4],
    [0x1_ffff, 1],
    [0x1_fff8, 8],
    [0x1_fffa, 4],
  ] as const)('an access at 0x%s of %i bytes reaches the server as it was made', async (offset, size) => {
    await machine.serve('passthrough')
    await machine.start()
    await machine.qtest.read(SMMU + offset, size)
    await machine.qtest.write(SMMU + offset, size, 0x5a)
    expect((await traps(2)).map(t => [t.write, t.offset, t.size, t.cpu])).toEqual([
      [0, offset, size, 0xffff],
      [1, offset, size, 0xffff],
    ])
  })
})
