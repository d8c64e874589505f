// SPDX-License-Identifier: Apache-2.0
/**
 * What a device reaches, decided by walking the hypervisor's tables and the host's as an SMMU does: stream × target ×
 * direction, and every granule and output size of the idmap.
 */

import { beforeEach, describe, expect, test } from 'vitest'
import { OK } from '../../../../server/policy/result.ts'
import { fieldPrep, fieldPrep64 } from '../../../../server/smmu/bits.ts'
import * as c from '../../../../server/smmu/cd.ts'
import * as E from '../../../../server/smmu/events.ts'
import { decodeFeatures, QEMU_NESTED_ID_REGISTERS as QEMU } from '../../../../server/smmu/features.ts'
import * as P from '../../../../server/smmu/pagetable.ts'
import * as r from '../../../../server/smmu/registers.ts'
import { NO_SSID, type Outcome } from '../../../../server/smmu/transaction.ts'
import { Walker } from '../../../../server/smmu/walker.ts'
import { CONFIG, ste } from '../../smmu/fields.ts'
import { Bench, CARVEOUT_BASE, CARVEOUT_SIZE, Host, MiB, RAM_BASE, type SetUp, SMMU_BASE, STE } from './support.ts'

const CD = RAM_BASE + 10 * MiB
const TABLES = RAM_BASE + 11 * MiB
const OWNED = RAM_BASE + 9 * MiB
const DONATED = RAM_BASE + 12 * MiB
const DEVICE = 0x0900_0000
/** Virtual address of a page through stage 1. */
const IOVA = 0x12_3456_7000

let bench: Bench
let host: Host
function start(setUp: SetUp = {}): void {
  bench = new Bench(setUp)
  bench.hyp.reset()
  host = new Host(bench).boot()
}
beforeEach(() => start())

/** The host maps IOVA to an address in a stage 1 of its own: 39 bits, 4 KiB. */
function mapStage1(target: number): void {
  const { memory } = bench
  const [l1, l2, l3] = [TABLES, TABLES + 4096, TABLES + 8192]
  memory.poke64(l1 + 8 * Math.floor(IOVA / 2 ** 30), BigInt(l2 + 3))
  memory.poke64(l2 + 8 * (Math.floor(IOVA / 2 ** 21) % 512), BigInt(l3 + 3))
  const leaf =
    P.ARM_LPAE_PTE_TYPE_PAGE | P.ARM_LPAE_PTE_AF | P.ARM_LPAE_PTE_SH_IS | P.ARM_LPAE_PTE_AP_UNPRIV | P.ARM_LPAE_PTE_nG
  memory.poke64(l3 + 8 * (Math.floor(IOVA / 2 ** 12) % 512), BigInt(target - (target % 4096)) | BigInt(leaf))
}

function stage1(context = CD, table = TABLES): readonly bigint[] {
  bench.memory.poke64(
    CD,
    fieldPrep64(c.CTXDESC_CD_0_TCR_T0SZ, 25) |
      fieldPrep64(c.CTXDESC_CD_0_TCR_IRGN0, 1) |
      fieldPrep64(c.CTXDESC_CD_0_TCR_ORGN0, 1) |
      fieldPrep64(c.CTXDESC_CD_0_TCR_SH0, 3) |
      fieldPrep64(c.CTXDESC_CD_0_TCR_IPS, 4) |
      c.CTXDESC_CD_0_TCR_EPD1 |
      c.CTXDESC_CD_0_V |
      c.CTXDESC_CD_0_AA64 |
      c.CTXDESC_CD_0_R |
      c.CTXDESC_CD_0_A |
      c.CTXDESC_CD_0_ASET |
      fieldPrep64(c.CTXDESC_CD_0_ASID, 1),
    BigInt(table),
    0n,
    0xffn,
  )
  return ste({ config: CONFIG.s1, s1ContextPtr: context, s1Cir: 1, s1Cor: 1, s1Csh: 3, shCfg: 1 })
}

/** A device's access, translated by the tables that the hardware's registers lead to. */
function dma(sid: number, address: number, write: boolean): Outcome {
  const { hw, memory } = bench
  const features = decodeFeatures({
    idr0: hw.get(r.ARM_SMMU_IDR0),
    idr1: hw.get(r.ARM_SMMU_IDR1),
    idr3: hw.get(r.ARM_SMMU_IDR3),
    idr5: hw.get(r.ARM_SMMU_IDR5),
  })
  const walker = new Walker(features, {
    ram: memory.ram,
    read: (at, target, offset, length) => {
      if (at < RAM_BASE) return false
      memory.peek(at, target, offset, length)
      return true
    },
    write: () => false,
  })
  walker.setRegisters({
    cr0: hw.get(r.ARM_SMMU_CR0),
    cr2: hw.get(r.ARM_SMMU_CR2),
    gbpa: hw.get(r.ARM_SMMU_GBPA),
    strtabBaseLo: hw.get(r.ARM_SMMU_STRTAB_BASE),
    strtabBaseHi: hw.get(r.ARM_SMMU_STRTAB_BASE + 4),
    strtabBaseCfg: hw.get(r.ARM_SMMU_STRTAB_BASE_CFG),
  })
  return walker.translate({
    sid,
    ssid: NO_SSID,
    lo: address % 2 ** 32,
    hi: Math.floor(address / 2 ** 32),
    write,
    privileged: false,
    instruction: false,
  })
}

function eventOf(outcome: Outcome) {
  if (outcome.kind !== 'fault') throw new Error(`not a fault but ${outcome.kind}`)
  const { id, s2, class: kind, ipa } = outcome.event
  return { id, s2, class: kind, ipa, record: outcome.record }
}

const SID = 8
const targets: [name: string, address: number, reachable: boolean][] = [
  ['memory of the host', OWNED, true],
  ['shared memory: the command queue', RAM_BASE + MiB, true],
  ['a device', DEVICE, true],
  ['hypervisor memory', CARVEOUT_BASE, false],
  ['the last page of hypervisor memory', CARVEOUT_BASE + CARVEOUT_SIZE - 4096, false],
  ['a donated page', DONATED, false],
  ['the SMMU', SMMU_BASE, false],
  ['page 1 of the SMMU', SMMU_BASE + 0x1_0000, false],
]
const rows = targets.flatMap(([name, address, reachable]) =>
  [false, true].map(write => ({ name, address, reachable, write })),
)

describe('a bypass stream', () => {
  beforeEach(() => {
    expect(bench.hyp.donate(DONATED, 4096, 1)).toBe(OK)
    host.attach(SID, STE.bypass)
  })
  test.each(rows)('$name, write $write: reached $reachable', ({ address, reachable, write }) => {
    const outcome = dma(SID, address + 0x123, write)
    if (reachable) expect(outcome).toMatchObject({ kind: 'translated', pa: address + 0x123, read: true, write: true })
    else {
      expect(eventOf(outcome)).toEqual({
        id: E.EVT_ID_TRANSLATION_FAULT,
        s2: true,
        class: E.EVTQ_1_CLASS_IN,
        ipa: address,
        record: true,
      })
    }
  })
})

describe('a stage 1 stream', () => {
  beforeEach(() => {
    expect(bench.hyp.donate(DONATED, 4096, 1)).toBe(OK)
    host.attach(SID, stage1())
  })
  test.each(rows)('$name, write $write: reached $reachable', ({ address, reachable, write }) => {
    mapStage1(address)
    const outcome = dma(SID, IOVA + 0x123, write)
    if (reachable) expect(outcome).toMatchObject({ kind: 'translated', pa: address + 0x123 })
    else {
      expect(eventOf(outcome)).toEqual({
        id: E.EVT_ID_TRANSLATION_FAULT,
        s2: true,
        class: E.EVTQ_1_CLASS_IN,
        ipa: address,
        record: true,
      })
    }
  })

  test('what stage 1 does not map is a fault of stage 1', () => {
    mapStage1(OWNED)
    expect(eventOf(dma(SID, IOVA + 0x1000, false))).toMatchObject({ id: E.EVT_ID_TRANSLATION_FAULT, s2: false })
  })

  const unreachable = targets.filter(([, , reachable]) => !reachable)
  test.each(unreachable)('page tables in %s', (_, address) => {
    host.attach(SID, stage1(CD, address))
    expect(eventOf(dma(SID, IOVA, false))).toMatchObject({
      id: E.EVT_ID_TRANSLATION_FAULT,
      s2: true,
      class: E.EVTQ_1_CLASS_TT,
      ipa: address,
    })
  })

  test.each(unreachable)('a context descriptor in %s', (_, address) => {
    host.attach(SID, stage1(address))
    expect(eventOf(dma(SID, IOVA, false))).toMatchObject({
      id: E.EVT_ID_TRANSLATION_FAULT,
      s2: true,
      class: E.EVTQ_1_CLASS_CD,
      ipa: address,
    })
  })

  test('page tables on a device: S2PTW', () => {
    host.attach(SID, stage1(CD, DEVICE))
    expect(eventOf(dma(SID, IOVA, false))).toMatchObject({ id: E.EVT_ID_PERMISSION_FAULT, s2: true })
  })
})

describe('other streams', () => {
  test.each([
    ['abort', STE.abort],
    ['abort with other words set', [1n, 0n, (1n << 64n) - 1n, (1n << 64n) - 1n]],
  ])('%s: terminated without a record', (_, words) => {
    host.attach(SID, words)
    expect(dma(SID, OWNED, false)).toEqual({ kind: 'abort' })
  })

  test('V = 0: C_BAD_STE', () => {
    host.attach(SID, STE.invalid)
    expect(eventOf(dma(SID, OWNED, false)).id).toBe(E.EVT_ID_BAD_STE_CONFIG)
  })

  test('never attached: C_BAD_STREAMID, whatever the host wrote to its own table', () => {
    host.l1(SID)
    host.ste(SID, STE.bypass)
    expect(eventOf(dma(SID, OWNED, false)).id).toBe(E.EVT_ID_BAD_STREAMID_CONFIG)
    host.attach(9, STE.bypass)
    expect(eventOf(dma(SID, OWNED, false)).id).toBe(E.EVT_ID_BAD_STE_CONFIG)
  })

  test('SMMU off: everything is aborted', () => {
    host.attach(SID, STE.bypass)
    bench.write(r.ARM_SMMU_CR0, r.CR0_CMDQEN | r.CR0_EVTQEN)
    bench.write(r.ARM_SMMU_GBPA, r.GBPA_UPDATE)
    expect(dma(SID, OWNED, false)).toEqual({ kind: 'abort' })
  })

  test('before the host came: everything is aborted', () => {
    bench = new Bench()
    bench.hyp.reset()
    expect(dma(SID, OWNED, false)).toEqual({ kind: 'abort' })
  })
})

test('a page that is donated and reclaimed', () => {
  host.attach(SID, STE.bypass)
  expect(dma(SID, OWNED, true).kind).toBe('translated')
  bench.hyp.donate(OWNED, 8192, 7)
  expect(dma(SID, OWNED, true).kind).toBe('fault')
  expect(dma(SID, OWNED + 0x1fff, true).kind).toBe('fault')
  expect(dma(SID, OWNED + 0x2000, true).kind).toBe('translated')
  bench.hyp.reclaim(OWNED, 4096, 7)
  expect(dma(SID, OWNED, true).kind).toBe('translated')
  expect(dma(SID, OWNED + 0x1000, true).kind).toBe('fault')
})

describe('every granule and output size is one that the architecture accepts', () => {
  const granules = [
    [4096, r.IDR5_GRAN4K],
    [16384, r.IDR5_GRAN16K],
    [65536, r.IDR5_GRAN64K],
  ] as const
  const rows = granules.flatMap(([granule, bit]) => [0, 1, 2, 3, 4, 5, 6].map(oas => ({ granule, bit, oas })))
  test.each(rows)('granule $granule, OAS encoding $oas', ({ granule, bit, oas }) => {
    start({ options: { granule }, ids: [{ idr5: oas | bit | r.IDR5_GRAN4K }] })
    host.attach(SID, STE.bypass)
    host.attach(9, stage1())
    mapStage1(OWNED)
    expect(bench.report.take()).toEqual([])
    expect(dma(SID, OWNED + 8, true)).toMatchObject({ kind: 'translated', pa: OWNED + 8 })
    expect(dma(SID, DEVICE, true)).toMatchObject({ kind: 'translated', pa: DEVICE })
    expect(dma(9, IOVA, true)).toMatchObject({ kind: 'translated', pa: OWNED })
    for (const address of [CARVEOUT_BASE, SMMU_BASE]) {
      expect(eventOf(dma(SID, address, true))).toMatchObject({ id: E.EVT_ID_TRANSLATION_FAULT, s2: true })
    }
  })

  test('big-endian', () => {
    start({ ids: [{ idr0: (QEMU.idr0 & ~r.IDR0_TTENDIAN) | fieldPrep(r.IDR0_TTENDIAN, r.IDR0_TTENDIAN_BE) }] })
    host.attach(SID, STE.bypass)
    const outcome = dma(SID, OWNED, true)
    // The model of the walker may be little-endian only: then the entry is refused, which isolates as well.
    if (outcome.kind === 'fault') expect(outcome.event.id).toBe(E.EVT_ID_BAD_STE_CONFIG)
    else expect(outcome).toMatchObject({ kind: 'translated', pa: OWNED })
  })
})
