// SPDX-License-Identifier: Apache-2.0
/** The policy `partition` as its README has it, against an SMMU in software. */

import { readFileSync } from 'node:fs'
import fc from 'fast-check'
import { beforeEach, describe, expect, test } from 'vitest'
import { description, guestOnly } from '../../../../server/hypervisor/partition/policy.ts'
import { WARNINGS } from '../../../../server/hypervisor/partition/smmu.ts'
import { HypFatal } from '../../../../server/policy/policy.ts'
import * as r from '../../../../server/smmu/registers.ts'
import type { Lag } from '../../../../server/smmu/soft/options.ts'
import * as S from '../../../../server/smmu/ste.ts'
import { headings, ROOT } from '../../docs/markdown.ts'
import { cfgiSte } from '../../smmu/fields.ts'
import { CARVEOUT_BASE, CARVEOUT_SIZE, HOST_L2, MiB, RAM_BASE, SMMU_BASE, STE } from '../pkvm/support.ts'
import { FOREIGN, GUEST, GUEST_TOO, NOBODY, NOWHERE, PartitionBench, two, VAULT } from './support.ts'

let bench: PartitionBench
beforeEach(() => {
  bench = new PartitionBench().boot()
})

const PAGE_RAM = RAM_BASE + 10 * MiB
/** Where no stream of the guest may get, each for a reason of its own. */
const OUTSIDE = [VAULT.base, CARVEOUT_BASE, CARVEOUT_BASE + CARVEOUT_SIZE - 4096, SMMU_BASE, 0x0800_0000, 0]

const reaches = (sid: number, address: number): boolean => {
  const outcome = bench.translate(sid, address)
  if (outcome.kind === 'translated') expect(outcome.pa).toBe(address)
  return outcome.kind === 'translated'
}

describe('streams', () => {
  test('of the guest: nothing until it is configured, then its memory and nothing else', () => {
    expect([GUEST, GUEST_TOO].map(sid => bench.translate(sid, PAGE_RAM))).toEqual([
      { kind: 'abort' },
      { kind: 'abort' },
    ])
    bench.host.attach(GUEST, STE.bypass)
    expect(reaches(GUEST, PAGE_RAM)).toBe(true)
    expect(reaches(GUEST, 0x0809_0040)).toBe(true)
    expect(OUTSIDE.filter(address => reaches(GUEST, address))).toEqual([])
    expect(bench.translate(GUEST_TOO, PAGE_RAM)).toEqual({ kind: 'abort' })
    expect(bench.report.take()).toEqual([])
  })

  test('of another partition: its memory from the beginning, whatever the guest says', () => {
    expect(reaches(FOREIGN, VAULT.base)).toBe(true)
    expect(reaches(FOREIGN, PAGE_RAM)).toBe(false)
    bench.host.attach(FOREIGN, STE.abort)
    expect(bench.report.take()).toEqual(['PART_STREAM'])
    expect(reaches(FOREIGN, VAULT.base)).toBe(true)
    bench.host.commands([0x04, 0, 31, 0])
    expect(reaches(FOREIGN, VAULT.base)).toBe(true)
    expect(reaches(FOREIGN, PAGE_RAM)).toBe(false)
  })

  test('of nobody: stopped, by an entry that aborts or by having none', () => {
    for (const sid of [NOBODY, NOWHERE]) {
      bench.host.attach(sid, STE.bypass)
      expect(bench.report.take()).toEqual(['PART_STREAM'])
    }
    expect(bench.translate(NOBODY, PAGE_RAM)).toEqual({ kind: 'abort' })
    expect(bench.translate(NOWHERE, PAGE_RAM)).toMatchObject({ kind: 'fault', event: { id: 0x02 } })
  })

  test.each([
    ['invalid', STE.invalid, [0n]],
    ['abort', STE.abort, [S.STRTAB_STE_0_V]],
    ['bypass', STE.bypass, [S.STRTAB_STE_0_V | (6n << 1n), 1n << 44n]],
    ['s1', STE.s1, [S.STRTAB_STE_0_V | (7n << 1n) | 0x4140_0000n, 0xd4n | (1n << 44n)]],
  ] as const)('an entry that says %s', (_name, host, [word0, word1]) => {
    bench.host.attach(GUEST, host)
    const [stream] = bench.policy.inspect?.streams() ?? []
    expect(stream?.shadow[0]).toBe(word0)
    if (word1 !== undefined) expect(stream?.shadow[1]).toBe(word1)
    // What is said of it stands where the hardware finds it.
    const l1 = bench.memory.peek64(bench.hw(r.ARM_SMMU_STRTAB_BASE) + 8 * (GUEST >>> 8))
    expect(bench.memory.peekWords(Number(l1 & ~0x3fn) + 64 * (GUEST & 0xff), 8)).toEqual([...(stream?.shadow ?? [])])
    expect(stream?.host[0]).toBe(host[0])
    expect(bench.policy.inspect?.verify()).toEqual([])
    expect(bench.report.take()).toEqual([])
  })

  test.each([
    ['s2', STE.s2],
    ['nested', STE.nested],
  ])('an entry that asks for a second stage, %s: the stream aborts', (_name, host) => {
    bench.host.attach(GUEST, STE.bypass)
    bench.host.attach(GUEST, host)
    expect(bench.report.warnings).toMatchObject([{ code: 'PART_STREAM', values: [GUEST, host === STE.s2 ? 6 : 7] }])
    expect(bench.translate(GUEST, PAGE_RAM)).toEqual({ kind: 'abort' })
  })

  test('CFGI_ALL takes over all that the guest has, and CFGI_STE_RANGE those in it', () => {
    for (const sid of [GUEST, GUEST_TOO]) bench.host.l1(sid)
    bench.host.ste(GUEST, STE.bypass)
    bench.host.ste(GUEST_TOO, STE.bypass)
    bench.host.commands([0x04, GUEST, 1, 0])
    expect([GUEST, GUEST_TOO].map(sid => reaches(sid, PAGE_RAM))).toEqual([true, false])
    bench.host.commands([0x04, 0, 31, 0])
    expect([GUEST, GUEST_TOO].map(sid => reaches(sid, PAGE_RAM))).toEqual([true, true])
  })

  test("tables of the guest in somebody else's memory are nobody's", () => {
    bench.memory.poke64(VAULT.base + 64 * GUEST, ...STE.bypass)
    bench.host.l1(GUEST, VAULT.base)
    bench.host.cfgiSte(GUEST)
    expect(bench.report.take()).toEqual(['PART_STREAM'])
    bench.write64(r.ARM_SMMU_STRTAB_BASE, CARVEOUT_BASE)
    bench.host.cfgiSte(GUEST)
    expect(bench.report.take()).toEqual(['PART_STREAM'])
    expect(bench.translate(GUEST, PAGE_RAM)).toEqual({ kind: 'abort' })
  })

  test('whatever the guest writes into its entries, stage 2 is its own or nothing gets through', () => {
    const words = fc.array(fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), { minLength: 8, maxLength: 8 })
    fc.assert(
      fc.property(
        words,
        fc.constantFrom(GUEST, GUEST_TOO, FOREIGN, NOBODY),
        fc.constantFrom(...OUTSIDE),
        (ste, sid, address) => {
          bench.host.attach(sid, ste)
          expect(bench.policy.inspect?.verify()).toEqual([])
          if (sid !== FOREIGN || address !== VAULT.base)
            expect(bench.translate(sid, address).kind).not.toBe('translated')
        },
      ),
    )
  })
})

describe('registers', () => {
  test('what Linux does brings no warning, and the hardware what the guest says', () => {
    expect(bench.report.take()).toEqual([])
    expect(bench.hw(r.ARM_SMMU_CR0)).toBe(r.CR0_CMDQEN | r.CR0_EVTQEN | r.CR0_SMMUEN)
    expect(bench.read(r.ARM_SMMU_CR0ACK)).toBe(bench.hw(r.ARM_SMMU_CR0))
  })

  test.each([
    ['IDR2', r.ARM_SMMU_IDR2],
    ['IDR4', r.ARM_SMMU_IDR4],
    ['AIDR', r.ARM_SMMU_AIDR],
  ])('%s, which Linux reads for iommufd, is answered', (_name, offset) => {
    expect(bench.read(offset)).toBe(bench.hw(offset))
    expect(bench.report.take()).toEqual([])
  })

  test('tables and queues are fetched cacheable, whatever the guest writes to CR1', () => {
    bench.write(r.ARM_SMMU_CR1, 0)
    expect(bench.hw(r.ARM_SMMU_CR1)).toBe(0xd75)
  })

  test('IDR0 promises one stage, and CR0 takes no more', () => {
    const idr0 = bench.read(r.ARM_SMMU_IDR0)
    expect(idr0 & (r.IDR0_S2P | r.IDR0_HYP | r.IDR0_VMID16)).toBe(0)
    expect(idr0 & r.IDR0_S1P).toBe(r.IDR0_S1P)
    bench.write(r.ARM_SMMU_CR0, 0xffff_ffff)
    expect(bench.hw(r.ARM_SMMU_CR0)).toBe(r.CR0_CMDQEN | r.CR0_EVTQEN | r.CR0_SMMUEN)
  })

  test('with the SMMU off everything aborts, whatever the guest writes to GBPA', () => {
    bench.write(r.ARM_SMMU_GBPA, r.GBPA_UPDATE)
    expect(bench.read(r.ARM_SMMU_GBPA)).toBe(r.GBPA_ABORT)
    bench.write(r.ARM_SMMU_CR0, 0)
    for (const sid of [GUEST, FOREIGN, NOBODY, NOWHERE])
      expect(bench.translate(sid, PAGE_RAM)).toEqual({ kind: 'abort' })
  })

  test("the stream table's registers are the guest's own", () => {
    const base = bench.hw(r.ARM_SMMU_STRTAB_BASE)
    bench.write64(r.ARM_SMMU_STRTAB_BASE, RAM_BASE, 3)
    bench.write(r.ARM_SMMU_STRTAB_BASE_CFG, 5)
    expect(bench.trap(false, r.ARM_SMMU_STRTAB_BASE, 8)).toMatchObject({ lo: RAM_BASE, hi: 3 })
    expect(bench.read(r.ARM_SMMU_STRTAB_BASE_CFG)).toBe(5)
    expect(bench.hw(r.ARM_SMMU_STRTAB_BASE)).toBe(base)
    expect(bench.policy.inspect?.verify()).toEqual([])
  })

  test.each([
    ['CMDQ_BASE', r.ARM_SMMU_CMDQ_BASE],
    ['EVTQ_BASE', r.ARM_SMMU_EVTQ_BASE],
  ])('%s where the guest has no memory is not taken', (_name, offset) => {
    const before = bench.hw(offset)
    bench.write(r.ARM_SMMU_CR0, 0)
    for (const base of [VAULT.base, CARVEOUT_BASE, VAULT.base - 2048, 0]) {
      bench.write64(offset, base + 8)
      expect(bench.report.take()).toEqual(['PART_REGISTER'])
      expect(bench.hw(offset)).toBe(before)
    }
    // The last place there is: 256 entries.
    const last = VAULT.base - 256 * (offset === r.ARM_SMMU_EVTQ_BASE ? 32 : 16)
    bench.write64(offset, last + 8)
    expect(bench.hw(offset)).toBe(last + 8)
    expect(bench.report.take()).toEqual([])
  })

  test.each([
    ['a secure register', true, 0x8000, 4],
    ['PRIQ_BASE', true, r.ARM_SMMU_PRIQ_BASE, 8],
    ['GATOS_CTRL', true, r.ARM_SMMU_GATOS_CTRL, 4],
    ['half of CMDQ_BASE', true, r.ARM_SMMU_CMDQ_BASE, 4],
    ['IDR0, which is read-only', true, r.ARM_SMMU_IDR0, 4],
    ['a read beyond', false, 0x1_ffff_0000, 4],
  ])('%s: nothing but a warning', (_name, write, offset, size) => {
    const trap = bench.trap(write, offset, size, 0x1234, 0x5678)
    expect(trap.aborted).toBe(false)
    if (!write) expect(trap).toMatchObject({ lo: 0, hi: 0 })
    expect(bench.report.take()).toEqual(['PART_REGISTER'])
  })

  test('an SMMU that there is not: external abort', () => {
    const trap = { ...bench.trap(false, 0, 4), smmu: 3 }
    bench.policy.access(trap)
    expect(trap.aborted).toBe(true)
  })
})

test.each([
  ['MSIs', r.ARM_SMMU_IDR0, r.IDR0_MSI, 'MSIs, ATS, PRI or stalls'],
  ['ATS', r.ARM_SMMU_IDR0, r.IDR0_ATS, 'MSIs, ATS, PRI or stalls'],
  ['stalls', r.ARM_SMMU_IDR0, r.IDR0_STALL_MODEL, 'MSIs, ATS, PRI or stalls'],
  ['no second stage', r.ARM_SMMU_IDR0, r.IDR0_S2P, 'no stage 2 translation'],
  ['a linear stream table', r.ARM_SMMU_IDR0, r.IDR0_ST_LVL, 'its stream table is linear'],
  // Little-endian becomes big-endian.
  ['big-endian tables', r.ARM_SMMU_IDR0, 1 << 21, 'its tables are big-endian'],
  ['no 4 KiB granule', r.ARM_SMMU_IDR5, r.IDR5_GRAN4K, 'no 4 KiB granule'],
])('hardware with %s is refused at reset', (_name, register, flipped, why) => {
  const other = new PartitionBench()
  const port = {
    read(offset: number, size: number, into: { lo: number; hi: number }) {
      const ok = other.smmu.read(offset, size, into)
      if (offset === register) into.lo = (into.lo ^ flipped) >>> 0
      return ok
    },
    write: other.smmu.write.bind(other.smmu),
  }
  const reset = () => new PartitionBench(two, {}, port).policy.reset()
  expect(reset).toThrow(HypFatal)
  expect(reset).toThrow(`SMMU 0 cannot be shared out: ${why.startsWith('MSI') ? `with ${why}` : why}`)
})

describe('what a former owner left', () => {
  /** Firmware that lets a device through, by a table of its own in the guest's memory. */
  function used(on: boolean, lag?: Lag): PartitionBench {
    const other = new PartitionBench(two, {}, undefined, { caching: 'maximal', ...(lag && { lag }) })
    const table = RAM_BASE + 6 * MiB
    other.memory.poke64(table + 64 * GUEST, ...STE.bypass)
    other.smmu.write(r.ARM_SMMU_STRTAB_BASE, 8, table, 0)
    other.smmu.write(r.ARM_SMMU_STRTAB_BASE_CFG, 4, 8, 0)
    other.smmu.write(r.ARM_SMMU_CR0, 4, r.CR0_SMMUEN, 0)
    other.smmu.step()
    expect(other.translate(GUEST, CARVEOUT_BASE).kind).toBe('translated')
    if (!on) other.smmu.write(r.ARM_SMMU_CR0, 4, 0, 0)
    other.smmu.step()
    return other
  }

  test.each([
    ['on', true, undefined],
    ['off, with entries in its caches', false, undefined],
    ['on, late in what it does', true, { update: () => 7, early: () => false, command: () => 5 }],
  ])('an SMMU that is %s: taken, and nothing of it is used any more', (_name, on, lag) => {
    const other = used(on, lag)
    other.policy.reset()
    expect(other.translate(GUEST, CARVEOUT_BASE)).toEqual({ kind: 'abort' })
    other.host.boot()
    for (const sid of [GUEST, FOREIGN]) {
      expect(other.translate(sid, CARVEOUT_BASE).kind).not.toBe('translated')
      expect(other.translate(sid, PAGE_RAM).kind).not.toBe('translated')
    }
    expect(other.policy.inspect?.verify()).toEqual([])
    expect(other.report.take()).toEqual([])
  })

  test('GBPA has taken effect before the guest runs, or the machine is refused', () => {
    const late = new PartitionBench(two, {}, undefined, {
      lag: { update: () => 9, early: () => false, command: () => 0 },
    })
    late.policy.reset()
    expect(late.hw(r.ARM_SMMU_GBPA) & (r.GBPA_ABORT | r.GBPA_UPDATE)).toBe(r.GBPA_ABORT)
    expect(late.translate(GUEST, PAGE_RAM)).toEqual({ kind: 'abort' })
    const never = new PartitionBench(two, {}, undefined, {
      lag: { update: () => 1e9, early: () => false, command: () => 0 },
    })
    expect(() => never.policy.reset()).toThrow('SMMU 0 cannot be shared out: GBPA was not updated in time')
  })

  test('its caches are emptied, or the machine is refused', () => {
    const deaf = new PartitionBench(two, {}, undefined, {
      lag: { update: () => 0, early: () => false, command: () => 1e9 },
    })
    expect(() => deaf.policy.reset()).toThrow('it does not empty its caches in time')
  })

  test('EVTQ_BASE and CMDQ_BASE, when the guest does not write its own', () => {
    const other = new PartitionBench()
    other.smmu.write(r.ARM_SMMU_EVTQ_BASE, 8, CARVEOUT_BASE + 8, 0)
    other.smmu.write(r.ARM_SMMU_CMDQ_BASE, 8, VAULT.base + 8, 0)
    other.policy.reset()
    other.write(r.ARM_SMMU_CR0, r.CR0_CMDQEN | r.CR0_EVTQEN)
    expect(other.report.take()).toEqual(['PART_REGISTER', 'PART_REGISTER'])
    expect(other.hw(r.ARM_SMMU_CR0)).toBe(0)
  })
})

describe('another kernel', () => {
  test('finds nothing of the one before', () => {
    bench.host.attach(GUEST, STE.bypass)
    expect(reaches(GUEST, PAGE_RAM)).toBe(true)
    bench.host.boot()
    expect(bench.translate(GUEST, PAGE_RAM)).toMatchObject({ kind: 'fault', event: { id: 0x04 } })
    expect(bench.policy.inspect?.streams()).toEqual([])
    bench.host.attach(GUEST, STE.bypass)
    expect(reaches(GUEST, PAGE_RAM)).toBe(true)
    bench.memory.poke64(bench.host.strtab, 0n)
    bench.host.commands([0x04, 0, 31, 0])
    expect(bench.translate(GUEST, PAGE_RAM)).toMatchObject({ kind: 'fault', event: { id: 0x04 } })
    expect(bench.report.take()).toEqual([])
  })

  test('finds what it configured before SMMUEN, without a command', () => {
    bench.write(r.ARM_SMMU_CR0, r.CR0_CMDQEN)
    bench.host.l1(GUEST)
    bench.host.ste(GUEST, STE.bypass)
    expect(bench.translate(GUEST, PAGE_RAM)).toEqual({ kind: 'abort' })
    bench.write(r.ARM_SMMU_CR0, r.CR0_CMDQEN | r.CR0_SMMUEN)
    expect(reaches(GUEST, PAGE_RAM)).toBe(true)
  })

  test('is not warned about commands that the one before left in its queue', () => {
    bench.host.attach(GUEST, STE.bypass)
    bench.host.commands(...Array.from({ length: 5 }, () => [0x30, 0, 0, 0] as const))
    bench.host.boot()
    expect(bench.report.take()).toEqual([])
  })
})

test('a command that the guest put in place of one at which the hardware stopped', () => {
  bench.host.l1(GUEST)
  bench.host.ste(GUEST, STE.bypass)
  const place = bench.host.cmdq + 16 * bench.host.prod
  bench.host.commands([0x0b, 0, 0, 0])
  expect(bench.hw(r.ARM_SMMU_CMDQ_CONS) & r.CMDQ_CONS_ERR).not.toBe(0)
  bench.memory.poke(place, new Uint8Array(new Uint32Array(cfgiSte(GUEST)).buffer))
  bench.write(r.ARM_SMMU_GERRORN, bench.hw(r.ARM_SMMU_GERROR))
  expect(bench.hw(r.ARM_SMMU_CMDQ_CONS) & r.CMDQ_CONS_ERR).toBe(0)
  expect(reaches(GUEST, PAGE_RAM)).toBe(true)
})

test('a stream that is named often is taken over once, and a warning is one', () => {
  bench.host.l1(GUEST)
  bench.host.ste(GUEST, STE.bypass)
  bench.host.commands(cfgiSte(GUEST), cfgiSte(GUEST), cfgiSte(NOBODY), cfgiSte(FOREIGN), [0x04, 0, 31, 0])
  expect(bench.report.streams).toHaveLength(1)
  expect(bench.report.warnings).toMatchObject([{ code: 'PART_STREAM', values: [NOBODY, 0] }])
})

test('a carve-out that is too small is refused', () => {
  const small = new PartitionBench()
  Object.assign(small.machine.carveout, { size: 64 * 1024 })
  expect(() => small.policy.reset()).toThrow('the carve-out is too small')
})

test('a carve-out that vCPUs cannot be kept from is refused', () => {
  const open = new PartitionBench()
  open.guard.limit = 0
  expect(() => open.policy.reset()).toThrow('the carve-out cannot be kept from the vCPUs')
})

/** What a checkpoint holds, before it is checked. */
interface Saved {
  sizes?: unknown[]
  saved?: ({ own?: Record<string, unknown>; streams?: unknown[] } | null | undefined)[]
}

describe('another server goes on', () => {
  const kept = () => bench.policy.state?.checkpoint().slice() ?? new Uint8Array()
  const read = (state: Uint8Array) => JSON.parse(Buffer.from(state).toString())
  const streams = () => bench.policy.inspect?.streams()

  test('with registers, streams and tables as they are', () => {
    bench.host.attach(GUEST, STE.s1)
    bench.host.attach(GUEST_TOO, STE.bypass)
    const [state, before, generation] = [kept(), streams(), bench.policy.state?.generation]
    bench.guard.ranges = []
    bench.policy = bench.make()
    bench.policy.state?.restore(state)
    expect(bench.policy.state?.resume?.()).toEqual([])
    expect(bench.guard.ranges).toEqual([{ base: CARVEOUT_BASE, size: CARVEOUT_SIZE }])
    expect(streams()).toEqual(before)
    expect(read(kept())).toEqual(read(state))
    expect(generation).toBeGreaterThan(0)
    expect(bench.read(r.ARM_SMMU_STRTAB_BASE_CFG)).toBe((1 << 16) | (8 << 6) | 16)
    expect(reaches(GUEST_TOO, PAGE_RAM)).toBe(true)
    bench.host.attach(GUEST, STE.bypass)
    expect(reaches(GUEST, PAGE_RAM)).toBe(true)
    bench.smmu.reset()
    bench.policy.reset()
    expect(bench.translate(GUEST, PAGE_RAM)).toEqual({ kind: 'abort' })
  })

  test('not with another partition, and not with damaged tables', () => {
    const state = kept()
    const other = bench.make(guestOnly(bench.machine))
    expect(() => other.state?.restore(state)).toThrow('partitioned otherwise')
    for (const junk of ['', '{}', 'null', '[1']) {
      expect(() => bench.make().state?.restore(Buffer.from(junk)), junk).toThrow()
    }
    const { root = 0 } = bench.policy.inspect?.faults.stage2()[1] ?? {}
    bench.memory.poke64(root, 1n)
    const next = bench.make()
    next.state?.restore(state)
    expect(() => next.state?.resume?.()).toThrow(`the table at 0x${root.toString(16)} is damaged`)
  })

  test.each<[string, (state: Saved) => void]>([
    ['saved', state => delete state.saved],
    ['sizes', state => state.sizes?.pop()],
    ['sizes', state => state.sizes?.push([5, 16])],
    ['sizes', state => state.sizes?.splice(0, 1, [5])],
    ['OAS', state => state.sizes?.splice(0, 1, [8, 16])],
    ['OAS', state => state.sizes?.splice(0, 1, ['5', 16])],
    ['SIDSIZE', state => state.sizes?.splice(0, 1, [5, 60])],
    ['SIDSIZE', state => state.sizes?.splice(0, 1, [5, null])],
    ['saved', state => state.saved?.push({})],
    ['an SMMU', state => state.saved?.splice(0, 1, null)],
    ["the guest's registers", state => Object.assign(state.saved?.[0] ?? {}, { own: [1, 2, 3, 4] })],
    ['STRTAB_BASE', state => Object.assign(state.saved?.[0]?.own ?? {}, { baseLo: 2 ** 32 })],
    ['STRTAB_BASE_CFG', state => Object.assign(state.saved?.[0]?.own ?? {}, { cfg: -1 })],
    ['CR0', state => delete state.saved?.[0]?.own?.cr0],
    ['streams', state => Object.assign(state.saved?.[0] ?? {}, { streams: { length: 1 } })],
    ['a stream', state => state.saved?.[0]?.streams?.push(7)],
    ['the SMMU of a stream', state => Object.assign(state.saved?.[0]?.streams?.[0] ?? {}, { smmu: 1 })],
    ['a StreamID', state => Object.assign(state.saved?.[0]?.streams?.[0] ?? {}, { sid: 1.5 })],
    ['the trap of a stream', state => Object.assign(state.saved?.[0]?.streams?.[0] ?? {}, { trap: 2 ** 53 })],
    ['an STE', state => Object.assign(state.saved?.[0]?.streams?.[0] ?? {}, { host: ['0x1'] })],
    ['a word of an STE', state => Object.assign(state.saved?.[0]?.streams?.[0] ?? {}, { shadow: Array(8).fill(1) })],
    [
      'a word of an STE',
      state => Object.assign(state.saved?.[0]?.streams?.[0] ?? {}, { shadow: Array(8).fill('0x10000000000000000') }),
    ],
  ])('not with another shape of %s', (what, change) => {
    bench.host.attach(GUEST, STE.s1)
    const state: Saved = read(kept())
    change(state)
    const next = bench.make()
    expect(() => next.state?.restore(Buffer.from(JSON.stringify(state)))).toThrow(`the checkpoint is damaged: ${what}`)
    expect(next.inspect?.streams()).toEqual([])
  })

  test('not with a stream of another partition', () => {
    bench.host.attach(GUEST, STE.s1)
    const state: Saved = read(kept())
    Object.assign(state.saved?.[0]?.streams?.[0] ?? {}, { sid: FOREIGN })
    expect(() => bench.make().state?.restore(Buffer.from(JSON.stringify(state)))).toThrow("is not the guest's")
  })

  test('not where vCPUs cannot be kept from the carve-out', () => {
    const state = kept()
    bench.guard.ranges = []
    bench.guard.limit = 0
    const next = bench.make()
    next.state?.restore(state)
    expect(() => next.state?.resume?.()).toThrow('the carve-out cannot be kept from the vCPUs')
  })

  test('a state that has not changed has the same generation', () => {
    const generation = bench.policy.state?.generation
    bench.read(r.ARM_SMMU_CR0)
    bench.host.commands([0x46 | (2 << 12), 0, 0, 0])
    expect(bench.policy.state?.generation).toBe(generation)
    bench.host.attach(GUEST, STE.bypass)
    expect(bench.policy.state?.generation).toBeGreaterThan(generation ?? 0)
  })
})

describe('what it shows', () => {
  test('RAM by partition', () => {
    expect(bench.policy.inspect?.pages?.ranges()).toEqual([
      { base: RAM_BASE, size: 16 * MiB, state: 'owned', vm: 0 },
      { ...VAULT, state: 'vm', vm: 1 },
      {
        base: VAULT.base + VAULT.size,
        size: CARVEOUT_BASE + CARVEOUT_SIZE - VAULT.base - VAULT.size,
        state: 'hyp',
        vm: 0,
      },
    ])
    expect(bench.policy.inspect?.pages?.ranges(VAULT.base, VAULT.base + 4096)).toEqual([
      { ...VAULT, state: 'vm', vm: 1 },
    ])
    expect(bench.policy.inspect?.pages?.donate).toBeUndefined()
  })

  test('what was configured, and what is damaged', () => {
    bench.host.attach(GUEST, STE.s1)
    expect(bench.policy.inspect?.streams()).toMatchObject([{ smmu: 0, sid: GUEST }])
    expect(bench.report.streams.at(-1)).toEqual({ smmu: 0, sid: GUEST, host: 5, shadow: 7 })
    expect(bench.policy.inspect?.stateLines()).toHaveLength(1)
    bench.smmu.write(r.ARM_SMMU_CR0, 4, 0, 0)
    bench.smmu.write(r.ARM_SMMU_STRTAB_BASE, 8, HOST_L2, 0)
    expect(bench.policy.inspect?.verify().join()).toContain('STRTAB_BASE')
  })

  test('its facilities and warnings, before there is a machine and with one', () => {
    expect([...(bench.policy.inspect?.facilities ?? [])]).toEqual(description.facilities({}))
    expect(bench.policy.inspect?.warnings).toBe(description.warnings)
  })

  test.each(WARNINGS.map(({ code, section }) => ({ code, section })))('$code has its section', ({ code, section }) => {
    const [file = '', anchor = ''] = section.split('#')
    const text = readFileSync(`${ROOT}/${file}`, 'utf8')
    expect(headings(text).map(({ anchor }) => anchor)).toContain(anchor)
    expect(text).toContain(code)
  })
})

test('RAM on both sides of the carve-out, and beyond, is the guest’s', () => {
  const [GiB, carveout] = [2 ** 30, { base: 2 ** 30 + MiB, size: 2 * MiB }]
  const ram = [
    { base: 0, size: MiB },
    { base: GiB, size: 8 * MiB },
    { base: 8 * GiB, size: 4 * MiB },
  ]
  const memory = { ...bench.machine.memory, ram }
  expect(guestOnly({ ...bench.machine, memory, carveout })[0].ranges).toEqual([
    { base: 0, size: MiB },
    { base: GiB, size: MiB },
    { base: GiB + 3 * MiB, size: 5 * MiB },
    { base: 8 * GiB, size: 4 * MiB },
    { base: 0x0809_0000, size: 0x1_0000, device: true },
  ])
})

test('by default the guest has everything but the carve-out', () => {
  expect(guestOnly(bench.machine)).toMatchObject([
    {
      name: 'guest',
      streams: [GUEST, GUEST_TOO, FOREIGN].map(sid => ({ smmu: 0, sid })),
      ranges: [{ base: RAM_BASE, size: CARVEOUT_BASE - RAM_BASE }, { device: true }],
    },
  ])
})
