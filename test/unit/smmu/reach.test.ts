// SPDX-License-Identifier: Apache-2.0
/** What the tables let streams reach, enumerated, against the walker that is asked address by address. */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { fieldPrep } from '../../../server/smmu/bits.ts'
import { decodeFeatures, QEMU_NESTED_ID_REGISTERS } from '../../../server/smmu/features.ts'
import * as P from '../../../server/smmu/pagetable.ts'
import { stage2Leaves, streamTable, type TableRegisters, TooManyTables } from '../../../server/smmu/reach.ts'
import * as R from '../../../server/smmu/registers.ts'
import { STRTAB_STE_0_CFG_BYPASS, STRTAB_STE_0_CFG_S2_TRANS } from '../../../server/smmu/ste.ts'
import { Walker } from '../../../server/smmu/walker.ts'
import { Builder, FlatMemory, linearRegisters, RAM_BASE, S2_RW, transaction } from './support.ts'

const OAS = 44
const LOG2_STES = 3

const registers = (strtab: number, cfg: number): TableRegisters => ({
  ...{ strtabBaseLo: strtab, strtabBaseHi: 0, strtabBaseCfg: cfg },
  ...{ sidSize: 16, twoLevel: true, oas: OAS, enabled: true, aborts: true },
})

/** Granule, input address bits, first level. */
const shape = fc.constantFrom(
  [12, 32, 1],
  [12, 40, 1],
  [12, 44, 0],
  [14, 36, 2],
  [14, 40, 1],
  [16, 40, 2],
  [16, 44, 1],
) satisfies fc.Arbitrary<number[]>

const leaf = fc.record({
  /** Fraction of the input range, and of the output range. */
  input: fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }),
  output: fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }),
  block: fc.boolean(),
  access: fc.constantFrom('rw', 'r', 'w', 'none'),
})

test('stage 2: a leaf for each address that can be reached, and nothing else', () => {
  fc.assert(
    fc.property(shape, fc.array(leaf, { minLength: 1, maxLength: 6 }), ([granule, inputBits, startLevel], leaves) => {
      const builder = new Builder(new FlatMemory(0x100_0000))
      const strtab = builder.alloc(64 << LOG2_STES)
      const stage2 = builder.stage(true, inputBits, granule, startLevel)
      const inputs: number[] = []
      const used = new Set<string>()
      for (const { input, output, block, access } of leaves) {
        const level = block && (granule !== 12 || startLevel <= 2) ? 2 : 3
        const size = 2 ** P.levelShift(level, granule)
        const at = Math.floor((input * 2 ** inputBits) / size) * size
        // A block where there is a table, or the other way round, would take it away again.
        const region = `${Math.floor(at / 2 ** P.levelShift(2, granule))}`
        if (used.has(region)) continue
        used.add(region)
        const target = Math.floor((output * 2 ** OAS) / size) * size
        const bits = BigInt(P.ARM_LPAE_PTE_HAP_READ | P.ARM_LPAE_PTE_HAP_WRITE)
        const rights = { rw: bits, r: BigInt(P.ARM_LPAE_PTE_HAP_READ), w: BigInt(P.ARM_LPAE_PTE_HAP_WRITE), none: 0n }
        builder.map(stage2, BigInt(at), BigInt(target), (S2_RW & ~bits) | rights[access], level)
        inputs.push(at, at + size - 1, at + size, Math.max(0, at - 1))
      }
      builder.ste({ config: STRTAB_STE_0_CFG_S2_TRANS, stage2 }, strtab + 64)

      const found: { base: number; size: number; target: number; writable: boolean }[] = []
      const ste = [...streamTable(builder.memory, registers(strtab, LOG2_STES))][1].ste
      stage2Leaves(builder.memory, ste, OAS, (base, size, target, writable) =>
        found.push({ base, size, target, writable }),
      )

      const walker = new Walker(decodeFeatures(QEMU_NESTED_ID_REGISTERS), builder.memory)
      walker.setRegisters(linearRegisters(strtab, LOG2_STES))
      const reach = (address: number, write: boolean) => {
        const outcome = walker.translate(transaction(1, BigInt(address), { write }))
        return outcome.kind === 'translated' ? outcome.pa : undefined
      }
      for (const address of inputs) {
        const here = found.find(({ base, size }) => address >= base && address < base + size)
        const pa = here && here.target + (address - here.base)
        const any = reach(address, false) ?? reach(address, true)
        expect(any).toBe(pa)
        expect(reach(address, true)).toBe(here?.writable ? pa : undefined)
      }
    }),
  )
})

test.each([
  ['a few times', 8, true],
  ['more often than anybody can look', 64, false],
])('a table that leads into itself has an end, and who looks at it knows whether that was all: %s', (_, n, whole) => {
  const builder = new Builder()
  const strtab = builder.alloc(64)
  const stage2 = builder.stage(true, 44, 12, 0)
  for (let i = 0; i < n; i++) builder.memory.set64(stage2.root + 8 * i, BigInt(stage2.root) | S2_RW | 3n)
  builder.ste({ config: STRTAB_STE_0_CFG_S2_TRANS, stage2 }, strtab)
  const [{ ste }] = streamTable(builder.memory, registers(strtab, 0))
  let leaves = 0
  const walk = () => stage2Leaves(builder.memory, ste, OAS, () => leaves++)
  if (whole) expect(walk()).toBeUndefined()
  else expect(walk).toThrow(TooManyTables)
  expect(leaves).toBeGreaterThan(0)
})

test.each([
  ['it ends beyond RAM', RAM_BASE, 24, 0],
  ['it begins below RAM, and ends beyond', 0, 31, RAM_BASE / 64],
])('of a linear table that leaves RAM, the hardware uses what is in it: %s', (_, strtab, log2size, first) => {
  const builder = new Builder()
  const sids = [0, 1, 300, 0x20_0000 / 64 - 1].map(index => first + index)
  for (const sid of sids) builder.ste({ config: STRTAB_STE_0_CFG_BYPASS }, strtab + 64 * sid)
  // 2^31 entries: no array holds them.
  const all = streamTable(builder.memory, { ...registers(strtab, log2size), sidSize: 32, twoLevel: false })
  const valid = [...all].filter(({ ste }) => ste[0] & 1n).map(({ sid }) => sid)
  expect(valid).toEqual(sids)
})

test.each([
  ['linear', 0],
  ['2-level, SPLIT 6', 6],
  ['2-level, SPLIT 8', 8],
  ['2-level, SPLIT 10', 10],
])('the stream table that the hardware uses: %s', (_, split) => {
  fc.assert(
    fc.property(fc.uniqueArray(fc.nat(0xfff), { minLength: 1, maxLength: 8 }), fc.nat(10), (sids, span) => {
      const builder = new Builder(new FlatMemory(0x100_0000))
      const log2size = 12
      const entries = split === 0 ? 2 ** log2size : 2 ** (log2size - split)
      const strtab = builder.alloc(split === 0 ? 64 * entries : 8 * entries)
      const cfg =
        split === 0
          ? log2size
          : fieldPrep(R.STRTAB_BASE_CFG_FMT, R.STRTAB_BASE_CFG_FMT_2LVL) |
            fieldPrep(R.STRTAB_BASE_CFG_SPLIT, split) |
            log2size
      // Each L2 table covers no more than SPLIT allows, some less.
      const bits = split === 0 ? 0 : Math.min(span, split)
      for (const sid of sids) {
        let address = strtab + 64 * sid
        if (split > 0) {
          const descriptor = strtab + 8 * (sid >>> split)
          if (builder.memory.get64(descriptor) === 0n) {
            builder.memory.set64(descriptor, BigInt(builder.alloc(64 << bits)) | BigInt(bits + 1))
          }
          const index = sid & (2 ** split - 1)
          if (index >= 2 ** bits) continue
          address = Number(builder.memory.get64(descriptor) & ~0x3fn) + 64 * index
        }
        builder.ste({ config: STRTAB_STE_0_CFG_BYPASS }, address)
      }
      const valid = [...streamTable(builder.memory, registers(strtab, cfg))].filter(({ ste }) => ste[0] & 1n)
      const walker = new Walker(decodeFeatures(QEMU_NESTED_ID_REGISTERS), builder.memory)
      walker.setRegisters({ ...linearRegisters(strtab, 0), strtabBaseCfg: cfg })
      const reached = sids.filter(sid => walker.translate(transaction(sid, BigInt(RAM_BASE))).kind === 'translated')
      expect(valid.map(({ sid }) => sid).sort((a, b) => a - b)).toEqual(reached.sort((a, b) => a - b))
    }),
    { numRuns: 30 },
  )
})
