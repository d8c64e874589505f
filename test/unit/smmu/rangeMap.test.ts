// SPDX-License-Identifier: Apache-2.0
import { describe, expect, test } from 'vitest'
import { decodeFeatures, QEMU_NESTED_ID_REGISTERS } from '../../../server/smmu/features.ts'
import { type MappedRange, RangeMap } from '../../../server/smmu/rangeMap.ts'
import * as R from '../../../server/smmu/registers.ts'
import * as S from '../../../server/smmu/ste.ts'
import { Walker } from '../../../server/smmu/walker.ts'
import type { WalkStep } from '../../../server/smmu/walkSteps.ts'
import { FlatMemory, RAM_BASE, transaction } from './support.ts'

const GiB = 2 ** 30
const MiB = 2 ** 20
const STRTAB = RAM_BASE
const TABLES = RAM_BASE + 0x1_0000

/** A machine whose one stream has this second stage, and what was taken for it. */
function mapped(ranges: readonly MappedRange[], oas = R.IDR5_OAS_44_BIT) {
  const memory = new FlatMemory(16 * MiB)
  const taken: { address: number; bytes: number }[] = []
  let end = TABLES
  const map = new RangeMap(ranges, 3, oas, bytes => {
    const address = Math.ceil(end / bytes) * bytes
    end = address + bytes
    taken.push({ address, bytes })
    return address
  })
  map.write(memory)
  const config = BigInt(S.STRTAB_STE_0_CFG_S2_TRANS) << 1n
  for (const [i, word] of [S.STRTAB_STE_0_V | config, 1n << 44n, ...map.ste].entries())
    memory.set64(STRTAB + 8 * i, word)
  const ids = { ...QEMU_NESTED_ID_REGISTERS }
  const walker = new Walker(decodeFeatures({ ...ids, idr5: (ids.idr5 & ~R.IDR5_OAS) | oas }), memory)
  walker.setRegisters({
    cr0: R.CR0_SMMUEN,
    cr2: 0,
    gbpa: 0,
    strtabBaseLo: STRTAB,
    strtabBaseHi: 0,
    strtabBaseCfg: 1,
  })
  const steps: WalkStep[] = []
  const at = (address: number) => {
    steps.length = 0
    return walker.translate(transaction(0, BigInt(address), { write: true }), step => steps.push(step))
  }
  return { memory, map, taken, at, steps }
}

const RANGES: readonly MappedRange[] = [
  { base: 0x0809_0000, size: 0x1_0000, device: true },
  { base: 1 * GiB, size: GiB - 12 * MiB },
  { base: 2 * GiB, size: 0x3000 },
  { base: 3 * GiB + 4096, size: 2 * GiB },
]

describe.each([
  ['32 bits', R.IDR5_OAS_32_BIT, 32],
  ['36 bits', R.IDR5_OAS_36_BIT, 36],
  ['40 bits', R.IDR5_OAS_40_BIT, 40],
  ['42 bits', R.IDR5_OAS_42_BIT, 42],
  ['44 bits', R.IDR5_OAS_44_BIT, 44],
  ['48 bits', R.IDR5_OAS_48_BIT, 48],
])('%s', (_name, oas, bits) => {
  const { at, map, memory, taken } = mapped(RANGES, oas)
  const within = RANGES.filter(({ base }) => base < 2 ** bits)

  test('each range leads to itself, and its neighbours nowhere', () => {
    for (const { base, size } of within) {
      const end = Math.min(base + size, 2 ** bits)
      for (const address of [base, base + 8, end - 4096, end - 8])
        expect(at(address)).toMatchObject({ kind: 'translated', pa: address })
      for (const address of [base - 8, base + size].filter(address => address < 2 ** bits)) {
        expect(at(address)).toMatchObject({ kind: 'fault', event: { id: 0x10, s2: true } })
      }
    }
  })

  test('what it says of itself is what the entry says', () => {
    const vtcr = (map.ste[0] & S.STRTAB_STE_2_VTCR) >> 32n
    expect(Number(vtcr & S.STRTAB_STE_2_VTCR_S2T0SZ)).toBe(64 - bits)
    expect(map).toMatchObject({ outputBits: bits, granuleShift: 12, bigEndian: false, root: Number(map.ste[1]) })
    expect(map.ste[0] & S.STRTAB_STE_2_S2VMID).toBe(3n)
  })

  test('a table that is changed is found, whichever', () => {
    expect(map.damaged(memory)).toEqual([])
    for (const { address, bytes } of taken) {
      const last = address + bytes - 8
      const before = memory.get64(last)
      memory.set64(last, before ^ 1n)
      expect(map.damaged(memory)).toEqual([address])
      memory.set64(last, before)
    }
  })
})

test('the largest blocks that fit, and attributes of memory and of devices', () => {
  const { at, steps } = mapped(RANGES)
  const leaf = (address: number) => {
    at(address)
    const { level, words } = steps.at(-1) ?? {}
    return [level, Number((words?.[0] ?? 0n) & 0xfffn)]
  }
  const ram = 0xc0 | 0x3c | 0x300 | 0x400
  expect(leaf(1 * GiB)).toEqual([2, ram | 1])
  expect(leaf(2 * GiB)).toEqual([3, ram | 3])
  expect(leaf(4 * GiB)).toEqual([1, ram | 1])
  expect(leaf(3 * GiB + 4096)).toEqual([3, ram | 3])
  expect(leaf(0x0809_0000)).toEqual([3, 0xc0 | 4 | 0x200 | 0x400 | 3])
})
