// SPDX-License-Identifier: Apache-2.0
/** Tables that do not agree are found, whatever the hypervisor believes of them. */
import { beforeEach, describe, expect, test } from 'vitest'
import {
  compare,
  describeDisagreement,
  idmapReach,
  type Reach,
  streamReaches,
} from '../../../server/oracle/agreement.ts'
import { annotated } from '../../../server/oracle/hostStage2.ts'
import type { TableRegisters } from '../../../server/smmu/reach.ts'
import { El2Oracle } from '../../../server/trap/el2Oracle.ts'
import {
  ANNOTATION_EL2,
  ANNOTATION_VM,
  descriptor,
  El2Bench,
  L2,
  L3,
  PAGE,
  REGION,
  registers,
} from '../hypervisor/pkvm/el2Support.ts'
import { CARVEOUT_BASE, CARVEOUT_SIZE, MiB, RAM_BASE, RAM_SIZE, TestMemory } from '../hypervisor/pkvm/support.ts'

let bench: El2Bench

beforeEach(() => {
  bench = new El2Bench()
})

const stage2 = (): Reach[] => {
  const { idmap } = bench.hyp
  if (idmap === null) throw new Error('there is no idmap')
  const { granuleShift, startLevel, outputBits } = idmap.geometry
  const table = { root: idmap.root, granuleShift, startLevel, outputBits, bigEndian: idmap.bigEndian }
  return [idmapReach(bench.memory, table)]
}
const carveout = { base: CARVEOUT_BASE, size: CARVEOUT_SIZE }
const check = () => compare(bench.memory, registers, stage2(), carveout)

describe('a hypervisor that follows EL2', () => {
  test('agrees on every page of RAM', () => {
    bench.store(PAGE, ANNOTATION_VM)
    bench.store(PAGE + 4096, ANNOTATION_EL2)
    expect(check()).toEqual({
      pages: RAM_SIZE / 4096,
      kept: 2,
      hypervisor: CARVEOUT_SIZE / 4096,
      untouched: 0,
      disagreements: [],
      wrong: 0,
    })
  })

  test('and that a page came back', () => {
    bench.store(PAGE, ANNOTATION_VM)
    bench.store(PAGE, 0n)
    expect(check()).toMatchObject({ kept: 0, wrong: 0 })
  })
})

test('a second stage that is EL2’s lacks what EL2 has not mapped, and nothing else', () => {
  const reach = (base: number, size: number): Reach => ({ whole: 'mapped', leaves: leaf => leaf(base, size, base) })
  const all = RAM_SIZE / 4096 - CARVEOUT_SIZE / 4096
  // EL2 has mapped one page.
  bench.memory.poke64(descriptor(PAGE), BigInt(PAGE) | 0x7ffn)
  expect(compare(bench.memory, registers, [reach(PAGE, 4096)], carveout)).toMatchObject({
    untouched: all - 1,
    wrong: 0,
  })
  expect(compare(bench.memory, registers, [reach(PAGE + 4096, 4096)], carveout)).toMatchObject({
    untouched: all - 2,
    wrong: 1,
    disagreements: [{ base: PAGE, size: 4096, what: 'lost' }],
  })
})

describe('what is found', () => {
  test('a change of which nobody told', () => {
    bench.memory.poke64(descriptor(PAGE), ANNOTATION_VM)
    expect(check()).toMatchObject({ wrong: 1, disagreements: [{ base: PAGE, size: 4096, what: 'reached' }] })
  })

  test('a page that came back and nobody told', () => {
    bench.store(PAGE, ANNOTATION_VM)
    bench.memory.poke64(descriptor(PAGE), BigInt(PAGE) | 0x7ffn)
    expect(check()).toMatchObject({ wrong: 1, disagreements: [{ base: PAGE, size: 4096, what: 'lost' }] })
  })

  test('a change of another page than the one that was told', () => {
    bench.memory.poke64(descriptor(PAGE), ANNOTATION_VM)
    bench.changed(false, [L2])
    expect(check().disagreements).toEqual([{ base: PAGE, size: 4096, what: 'reached' }])
  })

  test('a whole block', () => {
    bench.memory.poke64(L2 + 8 * ((REGION / 2 ** 21) % 512), ANNOTATION_EL2)
    expect(check()).toMatchObject({ wrong: 512, disagreements: [{ base: REGION, size: 2 * MiB, what: 'reached' }] })
  })

  test('a descriptor of the second stage that leads to another page', () => {
    bench.store(PAGE, ANNOTATION_VM)
    const { idmap } = bench.hyp
    if (idmap === null) throw new Error('there is no idmap')
    idmap.map(PAGE, 4096)
    // The one place in hypervisor memory that maps PAGE.
    let found = 0
    for (let at = CARVEOUT_BASE; at < CARVEOUT_BASE + CARVEOUT_SIZE; at += 8) {
      if ((bench.memory.peek64(at) & 0xffff_ffff_f003n) === (BigInt(PAGE) | 3n)) found = at
    }
    bench.memory.poke64(found, (bench.memory.peek64(found) & 0xfffn) | BigInt(PAGE + 8192))
    expect(check().disagreements).toEqual([
      { base: PAGE, size: 4096, what: 'elsewhere' },
      { base: PAGE + 8192, size: 4096, what: 'elsewhere' },
    ])
  })

  test('hypervisor memory, which EL2 thinks is the host’s', () => {
    bench.hyp.idmap?.map(CARVEOUT_BASE + 4096, 4096)
    expect(check()).toMatchObject({ disagreements: [{ base: CARVEOUT_BASE + 4096, size: 4096, what: 'reached' }] })
  })

  test('in words', () => {
    bench.memory.poke64(descriptor(PAGE), ANNOTATION_VM)
    expect(check().disagreements.map(describeDisagreement)).toEqual([
      'devices reach 1 page at 0x40805000, which EL2 or the server keeps from the host',
    ])
  })

  test('tables that lead out of RAM say nothing', () => {
    bench.memory.poke64(L2, 0x1000n | 3n)
    expect(check).toThrow('the table at 0x1000 is not in RAM')
  })
})

describe('the second stage', () => {
  const root = RAM_BASE
  const table = { root, granuleShift: 12, startLevel: 2, outputBits: 30, bigEndian: false }
  const leaves = (memory: TestMemory, of = table) => {
    const found: number[][] = []
    idmapReach(memory, of).leaves((...leaf) => found.push(leaf))
    return found
  }
  const BLOCK = 1n | (3n << 6n)

  test('reaches what its descriptors map, with a permission', () => {
    const memory = new TestMemory()
    memory.poke64(root, BLOCK, BigInt(2 * MiB) | 1n, BigInt(2 * MiB) | BLOCK)
    expect(leaves(memory)).toEqual([
      [0, 2 * MiB, 0],
      [4 * MiB, 2 * MiB, 2 * MiB],
    ])
  })

  test('in the other byte order', () => {
    const memory = new TestMemory()
    memory.poke64(root + 8, BigInt(2 * MiB) | BLOCK)
    const bytes = new Uint8Array(8)
    memory.read(root + 8, bytes, 0, 8)
    memory.poke(root + 8, bytes.reverse())
    expect(leaves(memory, { ...table, bigEndian: true })).toEqual([[2 * MiB, 2 * MiB, 2 * MiB]])
    expect(leaves(memory)).toEqual([])
  })

  test('that leads into itself says nothing', () => {
    const memory = new TestMemory()
    for (let i = 0; i < 512; i++) memory.poke64(root + 8 * i, BigInt(root) | 3n)
    expect(() => leaves(memory, { ...table, startLevel: 0, outputBits: 48 })).toThrow(
      'the second stage leads into itself',
    )
  })
})

test('of several ways each is compared with all of RAM, and has ranges of its own', () => {
  const whole = { base: RAM_BASE, size: RAM_SIZE }
  const way = (who: string, from: number): Reach => ({ who, whole: false, leaves: leaf => leaf(from, 4096, from) })
  const ways = [way('a', CARVEOUT_BASE), way('b', CARVEOUT_BASE + 4096)]
  expect(compare(bench.memory, registers, ways, whole)).toMatchObject({
    pages: RAM_SIZE / 4096,
    hypervisor: RAM_SIZE / 4096,
    wrong: 2,
    disagreements: [
      { who: 'a', base: CARVEOUT_BASE, size: 4096 },
      { who: 'b', base: CARVEOUT_BASE + 4096, size: 4096 },
    ],
  })
})

describe('what EL2 itself programs into the SMMU', () => {
  const STRTAB = RAM_BASE + 6 * MiB
  const SID = 8
  /** A linear table of 64 entries. */
  const smmu: TableRegisters = {
    strtabBaseLo: STRTAB,
    strtabBaseHi: 0,
    strtabBaseCfg: 6,
    sidSize: 16,
    twoLevel: false,
    oas: 44,
    enabled: true,
    aborts: true,
  }
  const found = (registersOf: TableRegisters = smmu) =>
    compare(bench.memory, registers, streamReaches(bench.memory, [registersOf]), { base: 0, size: 0 })
  /** The entry that the shadow has for a stream in bypass: a second stage and nothing else. */
  const entry = () => {
    const [stream] = bench.hyp.streams()
    if (stream === undefined) throw new Error('no stream is shadowed')
    return stream.shadow
  }
  const put = (words: Iterable<bigint>) => bench.memory.poke64(STRTAB + 64 * SID, ...words)

  test('a second stage that follows its own tables', () => {
    put(entry())
    bench.store(PAGE, ANNOTATION_VM)
    expect(found()).toMatchObject({ kept: 1, wrong: 0 })
  })

  test('and leaves out more than it has to: nothing is wrong with that', () => {
    put(entry())
    bench.hyp.idmap?.unmap(PAGE, 4096)
    expect(found()).toMatchObject({ kept: 0, wrong: 0 })
  })

  test('a second stage that was not told', () => {
    put(entry())
    bench.memory.poke64(descriptor(PAGE), ANNOTATION_VM)
    expect(found().disagreements.map(describeDisagreement)).toEqual([
      'StreamID 0x8 of SMMU 0 reaches 1 page at 0x40805000, which EL2 or the server keeps from the host',
    ])
  })

  test('a second stage that leads into itself says nothing: there is no agreement', () => {
    const words = [...entry()]
    words[3] = BigInt(PAGE)
    put(words)
    for (let i = 0; i < 64; i++) bench.memory.poke64(PAGE + 8 * i, BigInt(PAGE) | 3n)
    expect(found).toThrow('more than 4128 tables, or leads into itself')
  })

  test.each([
    ['bypass', 1n | (4n << 1n)],
    ['stage 1 alone', 1n | (5n << 1n)],
  ])('a stream without a second stage: %s', (_, word) => {
    put([word, 0n, 0n, 0n, 0n, 0n, 0n, 0n])
    bench.memory.poke64(descriptor(PAGE), ANNOTATION_VM)
    expect(found().disagreements.map(describeDisagreement)).toEqual([
      'StreamID 0x8 of SMMU 0, which has no second stage, reaches 1 page at 0x40805000, which EL2 or the server keeps from the host',
    ])
  })

  test.each([
    ['an entry that aborts', [1n, 0n, 0n, 0n, 0n, 0n, 0n, 0n], smmu],
    ['an entry that is not valid', [4n << 1n, 0n, 0n, 0n, 0n, 0n, 0n, 0n], smmu],
    ['an SMMU that is off', [1n | (4n << 1n), 0n, 0n, 0n, 0n, 0n, 0n, 0n], { ...smmu, enabled: false }],
  ])('nothing is said of %s', (_, words, of) => {
    put(words)
    bench.memory.poke64(descriptor(PAGE), ANNOTATION_VM)
    expect(streamReaches(bench.memory, [of])).toEqual([])
  })
})

const SL0 = (sl0: number) => sl0 << 6
const TG0 = (tg: number) => tg << 14

describe("a walk of EL2's tables", () => {
  const at = RAM_BASE
  test.each([
    ['4 KiB, level 1', (64 - 39) | SL0(1), 0, 12, [1, 2, 3]],
    ['4 KiB, LPA2, level 0 with sixteen tables', (64 - 52) | SL0(2), 1, 12, [0, 1, 2, 3]],
    ['4 KiB, LPA2, level -1', (64 - 49) | SL0(0), 3, 12, [-1, 0, 1, 2, 3]],
    ['16 KiB, level 2 with sixteen tables', (64 - 40) | SL0(1) | TG0(2), 0, 14, [2, 3]],
    ['16 KiB, LPA2, level 1', (64 - 47) | SL0(2) | TG0(2), 1, 14, [1, 2, 3]],
    ['64 KiB, level 2', (64 - 42) | SL0(1) | TG0(1), 0, 16, [2, 3]],
  ])('%s', (_, vtcrLo, vtcrHi, granule, levels) => {
    const memory = new TestMemory()
    const page = RAM_BASE + 9 * 2 ** granule
    let table = at
    for (const level of levels) {
      const shift = granule + (3 - level) * (granule - 3)
      const index =
        level === levels[0] ? Math.floor(page / 2 ** shift) : Math.floor(page / 2 ** shift) % 2 ** (granule - 3)
      const next = at + (level + 4) * MiB
      memory.poke64(table + 8 * index, level === 3 ? ANNOTATION_EL2 : BigInt(next) | 3n)
      // Valid, and zero: the host's.
      memory.poke64(table + 8 * (index + 1), level === 3 ? BigInt(page) | 0x7ffn : 0n)
      table = next
    }
    expect(annotated(memory, { vttbrLo: at + 1, vttbrHi: 0, vtcrLo, vtcrHi })).toEqual([
      { base: page, size: 2 ** granule, descriptor: ANNOTATION_EL2 },
    ])
  })

  test('bits 51:50 of a table’s address, with LPA2', () => {
    const memory = new TestMemory()
    memory.poke64(at, BigInt(RAM_BASE) | 0x203n)
    expect(() => annotated(memory, { vttbrLo: at, vttbrHi: 0, vtcrLo: (64 - 48) | SL0(2), vtcrHi: 1 })).toThrow(
      'the table at 0x8000040000000 is not in RAM',
    )
  })

  test('a block is no table, whatever is in it', () => {
    bench.memory.poke64(L2 + 8 * ((REGION / 2 ** 21) % 512), BigInt(REGION) | 0x7fdn)
    bench.memory.poke64(REGION, ANNOTATION_EL2)
    expect(annotated(bench.memory, registers)).toEqual([])
  })

  test('bits 51:48 of a table’s address, with granules of 64 KiB', () => {
    const memory = new TestMemory()
    memory.poke64(at, BigInt(RAM_BASE) | 0x3000n | 3n)
    const vtcrLo = (64 - 42) | SL0(1) | TG0(1) | (6 << 16)
    expect(() => annotated(memory, { vttbrLo: at, vttbrHi: 0, vtcrLo, vtcrHi: 0 })).toThrow(
      'the table at 0x3000040000000 is not in RAM',
    )
  })

  test('tables that lead into themselves', () => {
    const memory = new TestMemory()
    for (let i = 0; i < 512; i++) memory.poke64(at + 8 * i, BigInt(at) | 3n)
    expect(() => annotated(memory, { vttbrLo: at, vttbrHi: 0, vtcrLo: (64 - 48) | SL0(2), vtcrHi: 0 })).toThrow(
      'the tables lead into themselves',
    )
  })
})

describe('while the machine runs', () => {
  const oracle = (vcpus: number) => {
    const oracle = new El2Oracle(bench.memory, carveout, stage2, vcpus, true)
    oracle.registers = registers
    return oracle
  }
  const REACHED = /^devices reach 1 page at 0x40805000/

  test('a page of which nobody told stops it at the next change', () => {
    bench.memory.poke64(descriptor(PAGE), ANNOTATION_VM)
    expect(oracle(1).sample(1e9, true)).toMatch(REACHED)
  })

  test('nor do pages that were lost hide it, however many there are', () => {
    const pages = Array.from({ length: 30 }, (_, i) => REGION + 8192 * i)
    for (const page of pages) bench.store(page, ANNOTATION_VM)
    for (const page of pages) bench.memory.poke64(descriptor(page), 0n)
    const last = REGION + 8192 * 40
    bench.memory.poke64(descriptor(last), ANNOTATION_VM)
    expect(check()).toMatchObject({ wrong: 31 })
    expect(oracle(1).sample(1e9, true)).toMatch(/^devices reach 1 page at 0x40850000/)
  })

  test('tables that make no sense stop it at once, or when they still do a second later', () => {
    bench.memory.poke64(L2, 0x1000n | 3n)
    const PROBLEM = 'the table at 0x1000 is not in RAM'
    expect(oracle(1).sample(1e9, true)).toBe(PROBLEM)
    const two = oracle(2)
    expect(two.sample(1e9, true)).toBeUndefined()
    expect(two.report()).toMatchObject({ checks: 0, agreement: null, problem: PROBLEM })
    expect(two.sample(2e9, true)).toBe(PROBLEM)
    expect(two.report()).toMatchObject({ violation: PROBLEM })
    const reset = oracle(2)
    expect(reset.sample(1e9, true)).toBeUndefined()
    reset.forget()
    reset.registers = registers
    expect(reset.sample(2e9, true)).toBeUndefined()
  })

  test('nothing stops it while both agree', () => {
    const one = oracle(1)
    bench.store(PAGE, ANNOTATION_VM)
    expect(one.sample(1e9, true)).toBeUndefined()
    expect(one.report()).toMatchObject({ checks: 1, agreement: { wrong: 0, kept: 1 } })
  })

  test('another vCPU may be in the middle of a change: what stands a second later is none', () => {
    const two = oracle(2)
    bench.memory.poke64(descriptor(PAGE), ANNOTATION_VM)
    expect(two.sample(1e9, true)).toBeUndefined()
    expect(two.sample(1.5e9, true)).toBeUndefined()
    expect(two.sample(2e9, true)).toMatch(REACHED)
  })

  test('and one that is told meanwhile is one', () => {
    const two = oracle(2)
    bench.memory.poke64(descriptor(PAGE), ANNOTATION_VM)
    expect(two.sample(1e9, true)).toBeUndefined()
    bench.changed(false, [L3])
    expect(two.sample(2e9, true)).toBeUndefined()
    expect(two.sample(3e9, true)).toBeUndefined()
    expect(two.report().violation).toBeUndefined()
  })

  test('a report says it of the end, sampled or not', () => {
    const unsampled = new El2Oracle(bench.memory, carveout, stage2, 1, false)
    unsampled.registers = registers
    bench.memory.poke64(descriptor(PAGE), ANNOTATION_VM)
    expect(unsampled.sample(1e9, true)).toBeUndefined()
    expect(unsampled.report()).toMatchObject({ checks: 0, agreement: { wrong: 1 } })
  })

  test('there is nothing to say of a machine without a second stage, or before EL2 has tables', () => {
    const none = new El2Oracle(bench.memory, carveout, () => [], 1, true)
    none.registers = registers
    expect(none.report().agreement).toBeNull()
    expect(new El2Oracle(bench.memory, carveout, stage2, 1, true).report()).toMatchObject({
      registers: null,
      agreement: null,
    })
  })
})
