// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from 'vitest'
import * as C from '../../../server/smmu/cd.ts'
import { describeEvent } from '../../../server/smmu/events.ts'
import { decodeFeatures, type IdRegisters } from '../../../server/smmu/features.ts'
import * as P from '../../../server/smmu/pagetable.ts'
import * as R from '../../../server/smmu/registers.ts'
import * as S from '../../../server/smmu/ste.ts'
import { describeOutcome, type Outcome, type Transaction } from '../../../server/smmu/transaction.ts'
import { Walker, type WalkRegisters } from '../../../server/smmu/walker.ts'
import { describeStep, type WalkStep } from '../../../server/smmu/walkSteps.ts'
import {
  Builder,
  type CdFields,
  FlatMemory,
  idRegisters,
  linearRegisters,
  RAM_BASE,
  S1_RW,
  S2_RW,
  type SteFields,
  transaction,
} from './support.ts'

const SID = 5
const { STRTAB_STE_0_CFG_BYPASS, STRTAB_STE_0_CFG_S1_TRANS, STRTAB_STE_0_CFG_S2_TRANS, STRTAB_STE_0_CFG_NESTED } = S

/** An outcome in words: `pa=0x40000000 shift=12 rw`, `abort`, or the event, with what becomes of it if that is unusual. */
function say(outcome: Outcome): string {
  if (outcome.kind === 'abort') return 'abort'
  if (outcome.kind === 'translated') {
    const perm = `${outcome.read ? 'r' : ''}${outcome.write ? 'w' : ''}${outcome.execute ? 'x' : ''}`
    return `${outcome.bypass ? 'bypass ' : ''}pa=0x${outcome.pa.toString(16)} shift=${outcome.shift} ${perm}`
  }
  const extra = `${outcome.record ? '' : ' unrecorded'}${outcome.response === 'abort' ? '' : ` ${outcome.response}`}`
  return describeEvent(outcome.event).replace(` sid=0x${SID}`, '') + extra
}

/** A stream table with one stream, and whatever the test puts behind it. */
class Rig extends Builder {
  readonly strtab = this.alloc(64 * 16)
  id: IdRegisters = idRegisters()
  registers: Partial<WalkRegisters> = {}

  constructor() {
    super(new FlatMemory(0x80_0000))
  }

  stream(fields: SteFields): this {
    this.ste(fields, this.strtab + 64 * SID)
    return this
  }

  stage1(fields: CdFields, ste: Partial<SteFields> = {}): this {
    return this.stream({ config: STRTAB_STE_0_CFG_S1_TRANS, cd: this.cd(fields), ...ste })
  }

  outcome(address: bigint, more: Partial<Transaction> = {}): Outcome {
    const walker = new Walker(decodeFeatures(this.id), this.memory)
    walker.setRegisters(linearRegisters(this.strtab, 4, this.registers))
    return walker.translate(transaction(SID, address, more))
  }

  go(address: bigint, more: Partial<Transaction> = {}): string {
    return say(this.outcome(address, more))
  }

  steps(address: bigint, more: Partial<Transaction> = {}): WalkStep[] {
    const steps: WalkStep[] = []
    const walker = new Walker(decodeFeatures(this.id), this.memory)
    walker.setRegisters(linearRegisters(this.strtab, 4, this.registers))
    walker.translate(transaction(SID, address, more), step => steps.push(step))
    return steps
  }
}

const PA = 0x4055_5000n

describe('SMMU disabled (IHI 0070 sections 3.4, 6.3.14)', () => {
  it.each([
    [0n, 0, 'bypass pa=0x0 shift=44 rwx'],
    [0xfff_ffff_ffffn, 0, 'bypass pa=0xfffffffffff shift=44 rwx'],
    [0x1000_0000_0000n, 0, 'abort'],
    [0n, R.GBPA_ABORT, 'abort'],
  ])('address %x, GBPA %i: %s', (address, gbpa, expected) => {
    const rig = new Rig()
    rig.registers = { cr0: 0, gbpa }
    expect(rig.go(address)).toBe(expected)
  })
})

describe('stream table (IHI 0070 sections 3.3.1, 7.3.3, 7.3.4)', () => {
  it('takes C_BAD_STREAMID for a StreamID out of range, recorded with RECINVSID only', () => {
    const rig = new Rig()
    rig.registers = { strtabBaseCfg: 2 }
    expect(rig.go(0n)).toBe('C_BAD_STREAMID')
    rig.registers = { strtabBaseCfg: 2, cr2: 0 }
    expect(rig.go(0n)).toBe('C_BAD_STREAMID unrecorded')
  })

  it('takes F_STE_FETCH for a table that is not memory or beyond OAS', () => {
    const rig = new Rig()
    rig.registers = { strtabBaseLo: 0x1000 }
    expect(rig.go(0n)).toBe('F_STE_FETCH fetch=0x1140')
    rig.registers = { strtabBaseHi: 0x8000 }
    expect(rig.go(0n)).toBe(`F_STE_FETCH fetch=0x8000${(rig.strtab + 0x140).toString(16)}`)
  })

  const TWO_LEVEL = (split: number, log2size: number) => (1 << 16) | (split << 6) | log2size
  it.each([
    // span, split, StreamID, expected
    [9n, 8, 0x1ff, 'ok'],
    [8n, 8, 0x17f, 'ok'],
    [8n, 8, 0x180, 'C_BAD_STREAMID sid=0x180'],
    [0n, 8, 0x100, 'C_BAD_STREAMID sid=0x100'],
    [10n, 8, 0x100, 'C_BAD_STREAMID sid=0x100'],
    [12n, 10, 0x401, 'C_BAD_STREAMID sid=0x401'],
    [11n, 10, 0x7ff, 'ok'],
    [7n, 6, 0x7f, 'ok'],
  ])('2-level: span %i, split %i, StreamID %i: %s', (span, split, sid, expected) => {
    const rig = new Rig()
    const l1 = rig.alloc(8 * 1024)
    const l2 = rig.alloc(64 * 1024)
    rig.memory.set64(l1 + 8, BigInt(l2) | span)
    rig.ste({ config: STRTAB_STE_0_CFG_BYPASS }, l2 + 64 * (sid & ((1 << split) - 1)))
    const walker = new Walker(decodeFeatures(rig.id), rig.memory)
    walker.setRegisters(linearRegisters(l1, 0, { strtabBaseCfg: TWO_LEVEL(split, 16) }))
    const said = say(walker.translate(transaction(sid, 0x1000n)))
    expect(said).toBe(expected === 'ok' ? 'bypass pa=0x1000 shift=44 rwx' : expected)
  })

  it('takes F_STE_FETCH for a level 1 descriptor that cannot be read', () => {
    const rig = new Rig()
    rig.registers = { strtabBaseLo: 0x1000, strtabBaseCfg: TWO_LEVEL(8, 16) }
    expect(rig.go(0n)).toBe('F_STE_FETCH fetch=0x1000')
  })
})

describe('STE (IHI 0070 sections 5.2, 5.2.2)', () => {
  it.each([
    [0, 'abort'],
    [1, 'abort'],
    [3, 'abort'],
    [STRTAB_STE_0_CFG_BYPASS, 'bypass pa=0x1234 shift=44 rwx'],
  ])('Config %i: %s', (config, expected) => expect(new Rig().stream({ config }).go(0x1234n)).toBe(expected))

  it('V = 0 is C_BAD_STE', () => expect(new Rig().go(0n)).toBe('C_BAD_STE'))

  it('bypass checks the address against OAS', () =>
    expect(new Rig().stream({ config: STRTAB_STE_0_CFG_BYPASS }).go(0x1000_0000_0000n, { write: true })).toBe(
      'F_ADDR_SIZE write S1 IN input=0x100000000000',
    ))

  const VTCR = (mask: bigint) => mask << 32n
  type Case = [string, number, Partial<SteFields>, Partial<IdRegisters>, boolean]
  it.each<Case>([
    ['S2 without S2P', 6, {}, { idr0: R.IDR0_S2P }, true],
    ['S1 without S1P', 5, {}, { idr0: R.IDR0_S1P }, true],
    ['S2AA64 = 0', 6, { clear: { 2: S.STRTAB_STE_2_S2AA64 } }, {}, true],
    ['S2HA without HTTU', 6, { set: { 2: S.STRTAB_STE_2_S2HA } }, {}, true],
    ['S2HD without HTTU', 6, { set: { 2: S.STRTAB_STE_2_S2HD } }, {}, true],
    ['S2S without the stall model', 6, { set: { 2: S.STRTAB_STE_2_S2S } }, {}, true],
    ['S2ENDI big on a little-endian SMMU', 6, { set: { 2: S.STRTAB_STE_2_S2ENDI } }, {}, true],
    ['S2TG Reserved', 6, { set: { 2: VTCR(S.STRTAB_STE_2_VTCR_S2TG) } }, {}, true],
    ['S2TG not implemented', 6, {}, { idr5: R.IDR5_GRAN4K }, true],
    ['S2SL0 Reserved', 6, { set: { 2: VTCR(S.STRTAB_STE_2_VTCR_S2SL0) } }, {}, true],
    ['S2T0SZ above 39', 6, { fields: { s2T0sz: 40 } }, {}, true],
    ['S2T0SZ below 64 - IAS', 6, { fields: { s2T0sz: 19 } }, {}, true],
    ['S2T0SZ too small for S2SL0 = 1', 6, { fields: { s2Sl0: 1 } }, {}, true],
    ['S2T0SZ too large for S2SL0 = 2', 6, { fields: { s2T0sz: 25 } }, {}, true],
    ['S2T0SZ that leaves one bit to level 0', 6, { fields: { s2T0sz: 24 } }, {}, false],
    ['S2TTB beyond S2PS', 6, { ps: R.IDR5_OAS_32_BIT, set: { 3: 1n << 32n } }, {}, true],
    ['S2TTB beyond OAS', 6, { ps: R.IDR5_OAS_52_BIT, set: { 3: 1n << 44n } }, {}, true],
    ['S2 fields without stage 2', 5, { set: { 2: 0xffff_ffff_0000_0000n } }, {}, false],
    ['S1STALLD without the stall model', 5, { set: { 1: S.STRTAB_STE_1_S1STALLD } }, {}, true],
    ['S1STALLD without stage 1', 6, { set: { 1: S.STRTAB_STE_1_S1STALLD } }, {}, false],
    ['S1CDMax without SubstreamIDs', 5, { fields: { s1CdMax: 5 } }, {}, false],
    ['S1CDMax without stage 1', 6, { fields: { s1CdMax: 5 } }, {}, false],
    ['S1ContextPtr beyond OAS', 5, { set: { 0: 1n << 44n } }, {}, true],
    ['S1ContextPtr beyond OAS without stage 1', 6, { set: { 0: 1n << 44n } }, {}, false],
    ['a VMID of 16 bits without VMID16', 6, { vmid: 0x100 }, { idr0: R.IDR0_VMID16 }, true],
    ['a VMID of 16 bits in bypass', 4, { vmid: 0x100 }, { idr0: R.IDR0_VMID16 }, false],
    ['STRW without HYP', 5, { set: { 1: S.STRTAB_STE_1_STRW } }, {}, false],
    ['EATS without ATS', 5, { fields: { eats: 2 } }, {}, false],
    ['words 4 to 7', 5, { set: { 4: -1n & 0xffff_ffff_ffff_ffffn, 7: 1n } }, {}, false],
  ])('%s', (_, config, fields, clear, illegal) => {
    const rig = new Rig()
    rig.id = idRegisters({}, clear)
    const t0 = rig.stage(false, 40)
    const stage2 = rig.stage(true, 44)
    rig.map(t0, 0x1000n, PA)
    rig.map(stage2, 0x1000n, PA)
    rig.map(stage2, 0x1000n, PA)
    rig.stream({ config, cd: rig.cd({ t0 }), stage2, ...fields })
    if (illegal) expect(rig.go(0x1000n)).toBe('C_BAD_STE')
    else expect(rig.go(0x1000n)).not.toBe('C_BAD_STE')
  })

  it.each([
    ['01', { fields: { strw: 1 } }, 'C_BAD_STE'],
    ['11', { fields: { strw: 3 } }, 'C_BAD_STE'],
    ['10', { fields: { strw: 2 } }, 'pa=0x40555000 shift=12 rwx'],
  ])('STRW 0b%s with HYP', (_, fields, expected) => {
    const rig = new Rig()
    rig.id = idRegisters({ idr0: R.IDR0_HYP })
    const t0 = rig.stage(false, 48)
    rig.map(t0, 0x1000n, PA)
    expect(rig.stage1({ t0 }, fields).go(0x1000n)).toBe(expected)
  })

  it('STRW EL2: TTB0 alone, EPD0 and ASID ignored, AP[1] counts as 1', () => {
    const rig = new Rig()
    rig.id = idRegisters({ idr0: R.IDR0_HYP }, { idr0: R.IDR0_ASID16 })
    const t0 = rig.stage(false, 48)
    rig.map(t0, 0x1000n, PA, BigInt(P.ARM_LPAE_PTE_AF))
    rig.stage1({ t0, asid: 0x1234, set: { 0: C.CTXDESC_CD_0_TCR_EPD0 } }, { fields: { strw: 2 } })
    expect(rig.go(0x1000n, { write: true })).toBe('pa=0x40555000 shift=12 rwx')
    expect(rig.go(0xffff_0000_0000_1000n)).toBe('F_TRANSLATION read S1 IN input=0xffff000000001000')
    rig.registers = { cr2: R.CR2_E2H }
    expect(rig.go(0x1000n)).toBe('C_BAD_CD')
  })

  it('PRIVCFG and INSTCFG override the device where ATTR_PERMS_OVR says so', () => {
    const rig = new Rig()
    const t0 = rig.stage(false, 48)
    rig.map(t0, 0x1000n, PA, BigInt(P.ARM_LPAE_PTE_AF) | (BigInt(P.ARM_LPAE_PTE_HI_PXN) << 32n))
    rig.stage1({ t0 }, { fields: { privCfg: 3, instCfg: 3 } })
    expect(rig.go(0x1000n)).toBe('F_PERMISSION read S1 IN input=0x1000')
    rig.id = idRegisters({ idr1: R.IDR1_ATTR_PERMS_OVR })
    expect(rig.go(0x1000n)).toBe('F_PERMISSION read instruction privileged S1 IN input=0x1000')
    expect(rig.go(0x1000n, { write: true })).toBe('pa=0x40555000 shift=12 rw')
    rig.stage1({ t0 }, { fields: { privCfg: 2, instCfg: 2 } })
    expect(rig.go(0x1000n, { privileged: true, instruction: true })).toBe('F_PERMISSION read S1 IN input=0x1000')
  })
})

describe('SubstreamIDs (IHI 0070 sections 5.2, 7.3.7, 7.3.9)', () => {
  const substreams = (id = idRegisters({ idr1: 8 << 6, idr0: R.IDR0_CD2L })) => {
    const rig = new Rig()
    rig.id = id
    return rig
  }
  /** A table of CDs of which number `n` maps 0x1000 to PA + n pages. */
  const table = (rig: Rig, cds: readonly number[], at: (n: number) => number) => {
    for (const n of cds) {
      const t0 = rig.stage(false, 39)
      rig.map(t0, 0x1000n, PA + BigInt(n) * 0x1000n)
      rig.cd({ t0, asid: n }, at(n))
    }
  }
  const pa = (n: number) => `pa=0x${(PA + BigInt(n) * 0x1000n).toString(16)} shift=12 rwx`

  it.each([
    // S1DSS, SubstreamID, expected
    [0n, -1, 'F_STREAM_DISABLED'],
    [3n, -1, 'F_STREAM_DISABLED'],
    [1n, -1, 'bypass pa=0x1000 shift=44 rwx'],
    [2n, -1, pa(0)],
    [0n, 0, pa(0)],
    [1n, 0, pa(0)],
    [2n, 0, 'F_STREAM_DISABLED'],
    [2n, 3, pa(3)],
    [0n, 15, 'C_BAD_CD ssid=0xf'],
    [0n, 16, 'C_BAD_SUBSTREAMID ssid=0x10'],
  ])('linear table of 16, S1DSS %i, SubstreamID %i: %s', (dss, ssid, expected) => {
    const rig = substreams()
    const cd = rig.alloc(64 * 16)
    table(rig, [0, 3], n => cd + 64 * n)
    rig.stream({ config: 5, cd, fields: { s1CdMax: 4, s1Dss: dss } })
    expect(rig.go(0x1000n, { ssid })).toBe(expected)
  })

  it.each([
    // S1Fmt, log2 of CDs in a leaf table, SubstreamID, expected
    [1n, 6, 3, pa(3)],
    [1n, 6, 67, pa(67)],
    [1n, 6, 130, 'C_BAD_SUBSTREAMID ssid=0x82'],
    [2n, 10, 67, pa(67)],
    [3n, 0, 3, pa(3)],
  ])('S1Fmt %i, leaf tables of 2^%i, SubstreamID %i: %s', (fmt, bits, ssid, expected) => {
    const rig = substreams()
    const l1 = rig.alloc(64 * 256)
    if (bits) {
      const l2 = [0, 1].map(() => rig.alloc(64 << bits))
      l2.forEach((address, i) => {
        rig.memory.set64(l1 + 8 * i, BigInt(address) | 1n)
      })
      table(rig, [3, 67], n => l2[n >> bits] + 64 * (n & ((1 << bits) - 1)))
    } else table(rig, [3], n => l1 + 64 * n)
    rig.stream({ config: 5, cd: l1, fields: { s1CdMax: 8, s1Fmt: fmt } })
    expect(rig.go(0x1000n, { ssid })).toBe(expected)
  })

  it('needs CD2L for two levels, and S1CDMax within SSIDSIZE', () => {
    const rig = substreams(idRegisters({ idr1: 8 << 6 }))
    rig.stream({ config: 5, cd: RAM_BASE, fields: { s1CdMax: 8, s1Fmt: 1 } })
    expect(rig.go(0n)).toBe('C_BAD_STE')
    rig.stream({ config: 5, cd: RAM_BASE, fields: { s1CdMax: 9 } })
    expect(rig.go(0n)).toBe('C_BAD_STE')
  })

  it.each([
    ['stage 2 only', 6],
    ['bypass', 4],
  ])('a SubstreamID and %s: C_BAD_SUBSTREAMID', (_, config) => {
    const rig = substreams()
    rig.stream({ config, stage2: rig.stage(true, 44) })
    expect(rig.go(0n, { ssid: 0 })).toBe('C_BAD_SUBSTREAMID ssid=0x0')
  })

  it('a SubstreamID and one CD, or no SubstreamIDs in the SMMU', () => {
    const rig = substreams()
    rig.stage1({ t0: rig.stage(false, 39) })
    expect(rig.go(0n, { ssid: 0 })).toBe('C_BAD_SUBSTREAMID ssid=0x0')
    rig.id = idRegisters()
    expect(rig.go(0n, { ssid: 0 })).toBe('C_BAD_SUBSTREAMID ssid=0x0')
  })

  it('a SubstreamID and Config 0b000 abort silently', () =>
    expect(substreams().stream({ config: 0 }).go(0n, { ssid: 1 })).toBe('abort'))

  it('a level 1 descriptor that cannot be read, or points beyond OAS', () => {
    const rig = substreams()
    rig.stream({ config: 5, cd: 0x1000, fields: { s1CdMax: 8, s1Fmt: 1 } })
    expect(rig.go(0n, { ssid: 70 })).toBe('F_CD_FETCH ssid=0x46 fetch=0x1008')
    const l1 = rig.alloc(4096)
    rig.memory.set64(l1, (1n << 44n) | 1n)
    rig.stream({ config: 5, cd: l1, fields: { s1CdMax: 8, s1Fmt: 1 } })
    expect(rig.go(0n, { ssid: 5 })).toBe('C_BAD_SUBSTREAMID ssid=0x5')
  })
})

describe('CD (IHI 0070 sections 5.4, 5.4.2)', () => {
  const TCR = (tsz: bigint) => tsz
  it.each<[string, CdFields, Partial<IdRegisters>, string]>([
    ['valid', {}, {}, 'pa'],
    ['V = 0', { clear: { 0: C.CTXDESC_CD_0_V } }, {}, 'C_BAD_CD'],
    ['AA64 = 0', { clear: { 0: C.CTXDESC_CD_0_AA64 } }, {}, 'C_BAD_CD'],
    ['A = 0 with TERM_MODEL', { clear: { 0: C.CTXDESC_CD_0_A } }, {}, 'C_BAD_CD'],
    ['S without the stall model', { set: { 0: C.CTXDESC_CD_0_S } }, {}, 'C_BAD_CD'],
    ['HA without HTTU', { set: { 0: C.CTXDESC_CD_0_TCR_HA } }, {}, 'C_BAD_CD'],
    ['HD without HTTU', { set: { 0: C.CTXDESC_CD_0_TCR_HD } }, {}, 'C_BAD_CD'],
    ['ENDI big on a little-endian SMMU', { set: { 0: C.CTXDESC_CD_0_ENDI } }, {}, 'C_BAD_CD'],
    ['T0SZ below 16', { clear: { 0: 0x3fn }, set: { 0: TCR(15n) } }, {}, 'C_BAD_CD'],
    ['T0SZ above 39', { clear: { 0: 0x3fn }, set: { 0: TCR(40n) } }, {}, 'C_BAD_CD'],
    ['TG0 Reserved', { set: { 0: C.CTXDESC_CD_0_TCR_TG0 } }, {}, 'C_BAD_CD'],
    ['TG0 not implemented', {}, { idr5: R.IDR5_GRAN4K }, 'C_BAD_CD'],
    ['TTB0 beyond IPS', { ips: R.IDR5_OAS_32_BIT, set: { 1: 1n << 32n } }, {}, 'C_BAD_CD'],
    ['TTB0 beyond OAS', { ips: R.IDR5_OAS_52_BIT, set: { 1: 1n << 44n } }, {}, 'C_BAD_CD'],
    ['T1SZ wrong while EPD1', { fields: { t1sz: 0x3f, ttb1: 2 ** 44 } }, {}, 'pa'],
    ['T1SZ wrong while not EPD1', { clear: { 0: C.CTXDESC_CD_0_TCR_EPD1 } }, {}, 'C_BAD_CD'],
    ['an ASID of 16 bits without ASID16', { asid: 0x100 }, { idr0: R.IDR0_ASID16 }, 'C_BAD_CD'],
    ['IPS above OAS', { ips: 7 }, {}, 'pa'],
  ])('%s', (_, fields, clear, expected) => {
    const rig = new Rig()
    rig.id = idRegisters({}, clear)
    const t0 = rig.stage(false, 48)
    rig.map(t0, 0x1000n, PA)
    const said = rig.stage1({ t0, ...fields }).go(0x1000n)
    expect(said.slice(0, expected.length)).toBe(expected)
  })

  it('both EPD set: ENDI does not matter and every address is a Translation fault', () => {
    const rig = new Rig().stage1({ set: { 0: C.CTXDESC_CD_0_ENDI } })
    expect(rig.go(0x1000n)).toBe('F_TRANSLATION read S1 IN input=0x1000')
    expect(rig.go(0xffff_ffff_ffff_f000n)).toBe('F_TRANSLATION read S1 IN input=0xfffffffffffff000')
  })

  it('a CD that cannot be read', () =>
    expect(new Rig().stream({ config: 5, cd: 0x1000 }).go(0n)).toBe('F_CD_FETCH fetch=0x1000'))

  it('big-endian tables', () => {
    const rig = new Rig()
    rig.id = idRegisters({}, { idr0: R.IDR0_TTENDIAN })
    const t0 = rig.stage(false, 25)
    const swapped = new DataView(new ArrayBuffer(8))
    for (const [level, value] of [
      [2, BigInt(rig.alloc(4096)) | 3n],
      [3, PA | S1_RW | 3n],
    ] as const) {
      const address = level === 2 ? t0.root : Number(rig.memory.get64(t0.root) & 0n) + RAM_BASE + 0x3000
      swapped.setBigUint64(0, value, false)
      rig.memory.set64(address, swapped.getBigUint64(0, true))
      if (level === 2) {
        swapped.setBigUint64(0, BigInt(RAM_BASE + 0x3000) | 3n, false)
        rig.memory.set64(address, swapped.getBigUint64(0, true))
      }
    }
    rig.stage1({ t0, set: { 0: C.CTXDESC_CD_0_ENDI } })
    expect(rig.go(0n)).toBe('pa=0x40555000 shift=12 rwx')
  })
})

describe('stage 1 (DDI 0487 D8)', () => {
  it.each([
    // granule, input bits, level, output, shift
    [12, 48, 3, 0x4055_5000n, 12],
    [12, 48, 2, 0x4060_0000n, 21],
    [12, 48, 1, 0x8000_0000n, 30],
    [12, 39, 3, 0x4055_5000n, 12],
    [12, 30, 3, 0x4055_5000n, 12],
    [12, 25, 3, 0x4055_5000n, 12],
    [14, 48, 3, 0x4055_4000n, 14],
    [14, 47, 2, 0x4200_0000n, 25],
    [14, 25, 3, 0x4055_4000n, 14],
    [16, 48, 3, 0x4055_0000n, 16],
    [16, 42, 2, 0x6000_0000n, 29],
    [16, 29, 3, 0x4055_0000n, 16],
  ])('granule 2^%i, %i bits, leaf at level %i', (granule, bits, level, output, shift) => {
    const rig = new Rig()
    const input = BigInt.asUintN(bits, 0xabcd_1234_5678n & ~(2n ** BigInt(shift) - 1n))
    const t0 = rig.stage(false, bits, granule)
    const t1 = rig.stage(false, bits, granule)
    rig.map(t0, input, output, S1_RW, level)
    rig.map(t1, input, output + 2n ** 40n, S1_RW, level)
    rig.stage1({ t0, t1 })
    const offset = 0x123n
    expect(rig.go(input + offset)).toBe(`pa=0x${(output + offset).toString(16)} shift=${shift} rwx`)
    const upper = BigInt.asUintN(64, -1n << BigInt(bits)) | input
    expect(rig.go(upper + offset)).toBe(`pa=0x${(output + 2n ** 40n + offset).toString(16)} shift=${shift} rwx`)
    // One beyond the range of TTB0, and one below that of TTB1.
    const beyond = 2n ** BigInt(bits)
    for (const address of [beyond, BigInt.asUintN(64, -beyond - 1n)]) {
      expect(rig.go(address)).toBe(`F_TRANSLATION read S1 IN input=0x${address.toString(16)}`)
    }
  })

  it.each([
    // address, TBI0, TBI1, translates
    [0x0000_0000_0000_1000n, false, false, true],
    [0x5500_0000_0000_1000n, false, true, false],
    [0x5500_0000_0000_1000n, true, false, true],
    [0x5501_0000_0000_1000n, true, false, false],
    [0xffff_ffff_ffff_f000n, false, false, true],
    [0x55ff_ffff_ffff_f000n, true, false, false],
    [0x55ff_ffff_ffff_f000n, false, true, true],
    [0x557f_ffff_ffff_f000n, true, true, false],
  ])('%x with TBI0 %s, TBI1 %s: %s', (address, tbi0, tbi1, translates) => {
    const rig = new Rig()
    const t0 = rig.stage(false, 48)
    const t1 = rig.stage(false, 48)
    rig.map(t0, 0x1000n, PA)
    rig.map(t1, 0xffff_ffff_f000n, PA)
    rig.stage1({ t0, t1, set: { 0: (tbi0 ? C.CTXDESC_CD_0_TCR_TBI0 : 0n) | (tbi1 ? C.CTXDESC_CD_0_TCR_TBI1 : 0n) } })
    const input = `0x${address.toString(16)}`
    expect(rig.go(address)).toBe(translates ? 'pa=0x40555000 shift=12 rwx' : `F_TRANSLATION read S1 IN input=${input}`)
  })

  const one = (attributes: bigint, fields: CdFields = {}, level = 3, granule = 12) => {
    const rig = new Rig()
    const t0 = rig.stage(false, granule === 12 ? 48 : 47, granule)
    rig.map(t0, 0n, level === 3 ? PA & ~0xffffn : 0n, attributes, level)
    return rig.stage1({ t0, ...fields })
  }
  const AF = BigInt(P.ARM_LPAE_PTE_AF)
  const UNPRIV = AF | BigInt(P.ARM_LPAE_PTE_AP_UNPRIV)
  const RO = BigInt(P.ARM_LPAE_PTE_AP_RDONLY)
  const PXN = BigInt(P.ARM_LPAE_PTE_HI_PXN) << 32n
  const UXN = BigInt(P.ARM_LPAE_PTE_HI_UXN) << 32n

  it.each<[string, bigint, CdFields, string, string]>([
    // AP[2:1] and the rest; what unprivileged and privileged may do
    ['AP 00', AF, {}, 'x', 'rwx'],
    ['AP 01', UNPRIV, {}, 'rwx', 'rw'],
    ['AP 10', AF | RO, {}, 'x', 'rx'],
    ['AP 11', UNPRIV | RO, {}, 'rx', 'rx'],
    ['AP 00 UXN', AF | UXN, {}, '', 'rwx'],
    ['AP 00 PXN', AF | PXN, {}, 'x', 'rw'],
    ['AP 11 PXN UXN', UNPRIV | RO | PXN | UXN, {}, 'r', 'r'],
    ['AP 01 WXN', UNPRIV, { set: { 0: C.CTXDESC_CD_0_WXN } }, 'rw', 'rw'],
    ['AP 00 WXN', AF, { set: { 0: C.CTXDESC_CD_0_WXN } }, 'x', 'rw'],
    ['AP 11 WXN', UNPRIV | RO, { set: { 0: C.CTXDESC_CD_0_WXN } }, 'rx', 'rx'],
    ['AP 11 PAN', UNPRIV | RO, { set: { 0: C.CTXDESC_CD_0_PAN } }, 'rx', 'x'],
    ['AP 00 PAN', AF, { set: { 0: C.CTXDESC_CD_0_PAN } }, 'x', 'rwx'],
  ])('%s', (_, attributes, fields, unprivileged, privileged) => {
    const rig = one(attributes, fields)
    for (const [allowed, isPrivileged] of [
      [unprivileged, false],
      [privileged, true],
    ] as const) {
      const who = isPrivileged ? 'privileged ' : ''
      const text = { r: 'read ', w: 'write ', x: 'read instruction ' }
      for (const access of ['r', 'w', 'x'] as const) {
        const said = rig.go(0n, { write: access === 'w', instruction: access === 'x', privileged: isPrivileged })
        if (allowed.includes(access)) expect(said).toBe(`pa=0x40550000 shift=12 ${allowed}`)
        else expect(said).toBe(`F_PERMISSION ${text[access]}${who}S1 IN input=0x0`)
      }
    }
  })

  it('EPAN: PAN also where EL0 may only execute', () => {
    const rig = one(AF, { set: { 0: C.CTXDESC_CD_0_PAN, 1: C.CTXDESC_CD_1_EPAN } })
    rig.id = idRegisters({ idr3: R.IDR3_EPAN })
    expect(rig.go(0n, { privileged: true })).toBe('F_PERMISSION read privileged S1 IN input=0x0')
  })

  it('a write is data whatever the device says', () =>
    expect(one(UNPRIV | RO).go(0n, { write: true, instruction: true })).toBe('F_PERMISSION write S1 IN input=0x0'))

  it.each<[string, number, bigint, string, string]>([
    ['APTable 01', P.ARM_LPAE_PTE_HI_APTABLE_PRIV, UNPRIV, 'x', 'rwx'],
    ['APTable 10', P.ARM_LPAE_PTE_HI_APTABLE_RDONLY, UNPRIV, 'rx', 'rx'],
    ['UXNTable', P.ARM_LPAE_PTE_HI_UXNTABLE, UNPRIV | RO, 'r', 'rx'],
    ['PXNTable', P.ARM_LPAE_PTE_HI_PXNTABLE, UNPRIV | RO, 'rx', 'r'],
  ])('%s limits what is below, unless HAD', (_, limit, attributes, unprivileged, privileged) => {
    for (const level of [0, 1, 2]) {
      const rig = one(attributes)
      const { root } = { root: Number(rig.memory.get64(rig.strtab + 64 * SID) & 0xffff_ffff_ffc0n) }
      const table = Number(rig.memory.get64(root + 8) & 0xffff_ffff_f000n)
      const entry = rig.entry({ stage2: false, root: table, inputBits: 48, granule: 12, startLevel: 0 }, 0n, level)
      rig.memory.set64(entry, rig.memory.get64(entry) | (BigInt(limit) << 32n))
      const can = (isPrivileged: boolean) =>
        (['r', 'w', 'x'] as const)
          .filter(a =>
            rig.go(0n, { write: a === 'w', instruction: a === 'x', privileged: isPrivileged }).startsWith('pa'),
          )
          .join('')
      expect([can(false), can(true)]).toEqual([unprivileged, privileged])
      rig.memory.set64(root + 8, rig.memory.get64(root + 8) | C.CTXDESC_CD_1_HAD0)
      const free = attributes & RO ? ['rx', 'rx'] : ['rwx', 'rw']
      expect([can(false), can(true)]).toEqual(free)
      rig.id = idRegisters({}, { idr3: R.IDR3_HAD })
      expect([can(false), can(true)]).toEqual([unprivileged, privileged])
    }
  })

  it('E0PD: unprivileged accesses fault whatever the tables say', () => {
    const rig = one(UNPRIV, { set: { 1: C.CTXDESC_CD_1_E0PD0 } })
    expect(rig.go(0n)).toContain('pa=')
    rig.id = idRegisters({ idr3: R.IDR3_E0PD })
    expect(rig.go(0n)).toBe('F_TRANSLATION read S1 IN input=0x0')
    expect(rig.go(0n, { privileged: true })).toContain('pa=')
  })

  it.each<[string, bigint, CdFields, string]>([
    ['AF = 0', UNPRIV & ~AF, {}, 'F_ACCESS read S1 IN input=0x0'],
    ['AF = 0 comes before permission', 0n, {}, 'F_ACCESS read S1 IN input=0x0'],
    ['AFFD', UNPRIV & ~AF, { set: { 0: C.CTXDESC_CD_0_AFFD } }, 'pa=0x40550000 shift=12 rwx'],
    ['output beyond IPS', UNPRIV | (1n << 36n), { ips: 1 }, 'F_ADDR_SIZE read S1 IN input=0x0'],
    ['output beyond IPS comes before AF', 1n << 36n, { ips: 1 }, 'F_ADDR_SIZE read S1 IN input=0x0'],
    ['output at the end of IPS', UNPRIV | (1n << 35n), { ips: 1 }, 'pa=0x840550000 shift=12 rwx'],
    ['output beyond OAS', UNPRIV | (1n << 44n), { ips: 5 }, 'F_ADDR_SIZE read S1 IN input=0x0'],
    ['bits [51:48] of a 4 KiB descriptor are RES0', UNPRIV | (1n << 49n), {}, 'pa=0x40550000 shift=12 rwx'],
    ['DBM, contiguous and software bits', UNPRIV | (0xf18n << 48n), {}, 'pa=0x40550000 shift=12 rwx'],
  ])('%s', (_, attributes, fields, expected) => expect(one(attributes, fields).go(0n)).toBe(expected))

  it.each([
    // granule, level, may hold a block
    [12, 0, false],
    [12, 1, true],
    [12, 2, true],
    [14, 1, false],
    [14, 2, true],
    [16, 1, false],
    [16, 2, true],
  ])('granule 2^%i: a block at level %i: %s', (granule, level, allowed) => {
    const said = one(UNPRIV, {}, level, granule).go(0n)
    expect(said.startsWith(allowed ? 'pa=0x0' : 'F_TRANSLATION read S1 IN')).toBe(true)
  })

  it.each([
    [0n, 3],
    [1n, 3],
    [2n, 3],
    [2n, 2],
    [0n, 0],
  ])('descriptor type %i at level %i is invalid', (type, level) => {
    const rig = new Rig()
    const t0 = rig.stage(false, 48)
    rig.memory.set64(rig.entry(t0, 0n, level), PA | S1_RW | type)
    expect(rig.stage1({ t0 }).go(0n)).toBe('F_TRANSLATION read S1 IN input=0x0')
  })

  it('a table beyond IPS, a table that is not memory', () => {
    const rig = new Rig()
    const t0 = rig.stage(false, 48)
    const entry = rig.entry(t0, 0x1000n, 1)
    rig.memory.set64(entry, (1n << 44n) | 3n)
    rig.stage1({ t0 })
    expect(rig.go(0x1000n)).toBe('F_ADDR_SIZE read S1 IN input=0x1000')
    rig.memory.set64(entry, 0x1000n | 3n)
    expect(rig.go(0x1000n, { write: true })).toBe('F_WALK_EABT write S1 TT input=0x1000 fetch=0x1000')
  })

  it.each([
    ['A = 0', 0n, C.CTXDESC_CD_0_A, 'F_TRANSLATION read S1 IN input=0x0 raz-wi'],
    ['R = 0', 0n, C.CTXDESC_CD_0_R, 'F_TRANSLATION read S1 IN input=0x0 unrecorded'],
    ['S = 1', C.CTXDESC_CD_0_S, C.CTXDESC_CD_0_R, 'F_TRANSLATION read S1 IN stalled stag=0x0 input=0x0 stall'],
  ])('%s (IHI 0070 section 5.5)', (_, set, clear, expected) => {
    const rig = new Rig()
    rig.id = idRegisters({}, { idr0: R.IDR0_STALL_MODEL | R.IDR0_TERM_MODEL })
    expect(rig.stage1({ t0: rig.stage(false, 48), set: { 0: set }, clear: { 0: clear } }).go(0n)).toBe(expected)
  })

  it('stalls forbidden for the stream, and forced by the SMMU', () => {
    const rig = new Rig()
    rig.id = idRegisters({}, { idr0: R.IDR0_STALL_MODEL })
    const t0 = rig.stage(false, 48)
    rig.stage1({ t0, set: { 0: C.CTXDESC_CD_0_S } }, { set: { 1: S.STRTAB_STE_1_S1STALLD } })
    expect(rig.go(0n)).toBe('C_BAD_CD')
    rig.id = idRegisters({ idr0: 2 << 24 }, { idr0: R.IDR0_STALL_MODEL })
    rig.stage1({ t0 })
    expect(rig.go(0n)).toBe('C_BAD_CD')
  })

  it('52 bits: with the 64 KiB granule, in and out', () => {
    const rig = new Rig()
    rig.id = idRegisters({ idr5: R.IDR5_OAS_52_BIT | (1 << 10) })
    const t0 = rig.stage(false, 52, 16)
    const input = 0xf_abcd_0000_0000n
    rig.map(t0, input, 0x1234_0000n | (0xan << 12n))
    rig.stage1({ t0, ips: R.IDR5_OAS_52_BIT })
    expect(rig.go(input + 5n)).toBe('pa=0xa000012340005 shift=16 rwx')
    rig.stage1({ t0, ips: R.IDR5_OAS_48_BIT })
    expect(rig.go(input)).toBe(`F_ADDR_SIZE read S1 IN input=0x${input.toString(16)}`)
    rig.map(t0, 0n, 0x400_0000_0000n, S1_RW, 1)
    expect(rig.go(5n)).toBe('pa=0x40000000005 shift=42 rwx')
  })

  it('reports the memory attributes', () => {
    const rig = one(UNPRIV | (1n << 2n))
    expect(rig.outcome(0n)).toMatchObject({ mair: 0x44, memAttr: -1 })
    expect(one(UNPRIV | (2n << 2n)).outcome(0n)).toMatchObject({ mair: 0xff })
  })
})

describe('stage 2 (DDI 0487 D8)', () => {
  it.each([
    // granule, input bits, start level, leaf level, output, shift
    [12, 44, 0, 3, 0x4055_5000n, 12],
    [12, 44, 0, 2, 0x4060_0000n, 21],
    [12, 40, 1, 3, 0x4055_5000n, 12],
    [12, 42, 1, 3, 0x4055_5000n, 12],
    [12, 43, 1, 1, 0x4000_0000n, 30],
    [12, 34, 2, 3, 0x4055_5000n, 12],
    [12, 32, 1, 3, 0x4055_5000n, 12],
    [14, 44, 1, 3, 0x4055_4000n, 14],
    [14, 40, 2, 3, 0x4055_4000n, 14],
    [14, 40, 2, 2, 0x4200_0000n, 25],
    [14, 29, 3, 3, 0x4055_4000n, 14],
    [16, 44, 2, 3, 0x4055_0000n, 16],
    [16, 44, 1, 2, 0x4000_0000n, 29],
    [16, 33, 3, 3, 0x4055_0000n, 16],
  ])('granule 2^%i, %i bits, from level %i, leaf at level %i', (granule, bits, start, level, output, shift) => {
    const rig = new Rig()
    const stage2 = rig.stage(true, bits, granule, start)
    // The highest address of the region, so that the last of the concatenated tables is used, and one of the first.
    const high = 2n ** BigInt(bits) - 2n ** BigInt(shift)
    rig.map(stage2, high, output, S2_RW, level)
    rig.map(stage2, 0n, output, S2_RW, level)
    rig.stream({ config: STRTAB_STE_0_CFG_S2_TRANS, stage2 })
    expect(rig.go(high + 0x123n)).toBe(`pa=0x${(output + 0x123n).toString(16)} shift=${shift} rwx`)
    expect(rig.go(0x123n)).toBe(`pa=0x${(output + 0x123n).toString(16)} shift=${shift} rwx`)
    if (bits < 44) {
      const beyond = `0x${(high + 2n ** BigInt(shift)).toString(16)}`
      expect(rig.go(BigInt(beyond))).toBe(`F_TRANSLATION read S2 IN input=${beyond} ipa=${beyond}`)
    }
  })

  const one = (attributes: bigint, fields: Partial<SteFields> = {}) => {
    const rig = new Rig()
    const stage2 = rig.stage(true, 44)
    rig.map(stage2, 0x1000n, PA, attributes)
    return rig.stream({ config: STRTAB_STE_0_CFG_S2_TRANS, stage2, ...fields })
  }
  const AF = BigInt(P.ARM_LPAE_PTE_AF)
  const MEM = AF | (0xfn << 2n)
  const XN = (xn: bigint) => xn << 53n

  it.each<[string, bigint, string, string]>([
    ['S2AP 00', MEM, 'x', 'x'],
    ['S2AP 01', MEM | (1n << 6n), 'rx', 'rx'],
    ['S2AP 10', MEM | (2n << 6n), 'wx', 'wx'],
    ['S2AP 11', MEM | (3n << 6n), 'rwx', 'rwx'],
    ['XN 01', MEM | (3n << 6n) | XN(1n), 'rwx', 'rw'],
    ['XN 10', MEM | (3n << 6n) | XN(2n), 'rw', 'rw'],
    ['XN 11', MEM | (3n << 6n) | XN(3n), 'rw', 'rwx'],
  ])('%s', (_, attributes, unprivileged, privileged) => {
    const rig = one(attributes)
    const can = (isPrivileged: boolean) =>
      (['r', 'w', 'x'] as const)
        .filter(a =>
          rig.go(0x1000n, { write: a === 'w', instruction: a === 'x', privileged: isPrivileged }).startsWith('pa'),
        )
        .join('')
    expect([can(false), can(true)]).toEqual([unprivileged, privileged])
    rig.id = idRegisters({}, { idr3: R.IDR3_XNX })
    const xn = attributes & XN(2n)
    expect([can(false).includes('x'), can(true).includes('x')]).toEqual([!xn, !xn])
  })

  it.each<[string, bigint, Partial<SteFields>, string]>([
    ['no write', MEM | (1n << 6n), {}, 'F_PERMISSION write S2 IN input=0x1234 ipa=0x1000'],
    ['AF = 0', (MEM & ~AF) | (1n << 6n), {}, 'F_ACCESS write S2 IN input=0x1234 ipa=0x1000'],
    ['S2AFFD', (MEM & ~AF) | (3n << 6n), { set: { 2: S.STRTAB_STE_2_S2AFFD } }, 'pa=0x40555234 shift=12 rwx'],
    ['beyond S2PS', S2_RW | (1n << 36n), { ps: 1 }, 'F_ADDR_SIZE write S2 IN input=0x1234 ipa=0x1000'],
    [
      'S2R = 0',
      MEM,
      { clear: { 2: S.STRTAB_STE_2_S2R } },
      'F_PERMISSION write S2 IN input=0x1234 ipa=0x1000 unrecorded',
    ],
    ['Device memory', AF | (3n << 6n), {}, 'pa=0x40555234 shift=12 rwx'],
  ])('%s', (_, attributes, fields, expected) =>
    expect(one(attributes, fields).go(0x1234n, { write: true })).toBe(expected),
  )

  it('a missing descriptor and a table that is not memory', () => {
    const rig = one(S2_RW)
    expect(rig.go(0x2fffn)).toBe('F_TRANSLATION read S2 IN input=0x2fff ipa=0x2000')
    const stage2 = rig.stage(true, 44)
    rig.memory.set64(stage2.root, 0x2000n | 3n)
    rig.stream({ config: 6, stage2, clear: { 2: S.STRTAB_STE_2_S2R } })
    expect(rig.go(0x1000n)).toBe('F_WALK_EABT read S2 IN input=0x1000 fetch=0x2000')
  })

  it('an input beyond IAS is an Address Size fault of stage 1, and recorded without S2R', () =>
    expect(one(S2_RW, { clear: { 2: S.STRTAB_STE_2_S2R } }).go(0x1000_0000_0000n)).toBe(
      'F_ADDR_SIZE read S1 IN input=0x100000000000',
    ))

  it('reports the memory attributes', () =>
    expect(one(S2_RW).outcome(0x1000n)).toMatchObject({ mair: -1, memAttr: 0xf }))
})

describe('nested (IHI 0070 section 7.3.22)', () => {
  /** Tables of stage 1 and the CD are at IPA = PA + OFFSET; the leaf leads to IPA `DATA`, and that to PA. */
  const OFFSET = 0x10_0000_0000n
  const DATA = 0x7_0000_0000n
  class Nested extends Rig {
    readonly s2 = this.stage(true, 44)
    readonly s1 = this.stage(false, 48)
    readonly tables: number[] = []
    cdAddress = 0

    ready(fields: Partial<SteFields> = {}, cd: CdFields = {}): this {
      const leaf = this.map(this.s1, 0x1234_5000n, DATA)
      // Rewrite the table addresses of stage 1 as IPAs, and map them.
      let address = this.s1.root
      for (let level = 0; level < 3; level++) {
        const index = Math.floor(0x1234_5000 / 2 ** P.levelShift(level, 12)) % 512
        this.tables.push(address)
        const entry = address + 8 * index
        const next = Number(this.memory.get64(entry) & 0xffff_ffff_f000n)
        this.memory.set64(entry, BigInt(next) + OFFSET + 3n)
        address = next
      }
      this.tables.push(leaf - (leaf % 4096))
      this.cdAddress = this.cd({ t0: { ...this.s1, root: Number(BigInt(this.s1.root) + OFFSET) }, ...cd })
      for (const page of [this.cdAddress, ...this.tables]) {
        const pa = BigInt(page - (page % 4096))
        this.map(this.s2, pa + OFFSET, pa)
      }
      this.map(this.s2, DATA, PA)
      return this.stream({
        config: STRTAB_STE_0_CFG_NESTED,
        cd: Number(BigInt(this.cdAddress) + OFFSET),
        stage2: this.s2,
        ...fields,
      })
    }

    /** Replaces the stage 2 leaf of an address of a table, of the CD, or of the data. */
    leaf(address: number | bigint, value: bigint): this {
      const input = typeof address === 'bigint' ? address : BigInt(address) + OFFSET
      this.memory.set64(this.entry(this.s2, input), value)
      return this
    }
  }
  const VA = 0x1234_5678n
  const ipa = (address: number) => `0x${(BigInt(address - (address % 4096)) + OFFSET).toString(16)}`

  it('translates through both', () => {
    expect(new Nested().ready().go(VA)).toBe('pa=0x40555678 shift=12 rwx')
    const outcome = new Nested().ready().outcome(VA)
    expect(outcome).toMatchObject({ mair: 4, memAttr: 0xf })
    expect(describeOutcome(outcome)).toBe('0x40555678 rwx 4 KiB MAIR=0x4 MemAttr=0xf')
  })

  it('takes the smaller of both leaves', () => {
    const rig = new Nested()
    rig.map(rig.s1, 0x4000_0000n, DATA, S1_RW, 2)
    rig.ready()
    for (let page = 0n; page < 4n; page++) rig.map(rig.s2, DATA + page * 0x1000n, PA + page * 0x10000n)
    // The block is at level 2 of a table that `ready` did not turn into an IPA: reach it with an identity mapping.
    const table = BigInt(rig.entry(rig.s1, 0n, 1)) & ~0xfffn
    expect(table).toBeGreaterThan(0n)
    const big = new Nested()
    const s2 = big.stage(true, 44)
    big.map(s2, 0x4000_0000n, 0x4000_0000n, S2_RW, 1)
    big.map(s2, DATA + 0x3000n, 0x4077_7000n)
    const s1 = big.stage(false, 48)
    big.map(s1, 0x4000_0000n, DATA, S1_RW, 2)
    big.stream({ config: 7, cd: big.cd({ t0: s1 }), stage2: s2 })
    expect(big.go(0x4000_3456n)).toBe('pa=0x40777456 shift=12 rwx')
    const small = new Nested()
    const t2 = small.stage(true, 44)
    small.map(t2, 0x4000_0000n, 0x4000_0000n, S2_RW, 1)
    const t1 = small.stage(false, 48)
    small.map(t1, 0x3000n, 0x4012_3000n)
    small.stream({ config: 7, cd: small.cd({ t0: t1 }), stage2: t2 })
    expect(small.go(0x3456n)).toBe('pa=0x40123456 shift=12 rwx')
  })

  it('reports a stage 2 fault on the CD with class CD', () => {
    const rig = new Nested().ready()
    rig.leaf(rig.cdAddress, 0n)
    const fault = (name: string) => `${name} write S2 CD input=0x12345678 ipa=${ipa(rig.cdAddress)}`
    expect(rig.go(VA, { write: true })).toBe(fault('F_TRANSLATION'))
    rig.leaf(rig.cdAddress, BigInt(RAM_BASE) | (S2_RW & ~(1n << 10n)) | 3n)
    expect(rig.go(VA, { write: true })).toBe(fault('F_ACCESS'))
    rig.leaf(rig.cdAddress, BigInt(RAM_BASE) | (S2_RW & ~(1n << 6n)) | 3n)
    expect(rig.go(VA, { write: true })).toBe(fault('F_PERMISSION'))
    rig.leaf(rig.cdAddress, (1n << 44n) | S2_RW | 3n)
    expect(rig.go(VA, { write: true })).toBe(fault('F_ADDR_SIZE'))
    rig.leaf(rig.cdAddress, 0x1000n | S2_RW | 3n)
    expect(rig.go(VA)).toBe(`F_CD_FETCH fetch=0x${(0x1000 + (rig.cdAddress % 4096)).toString(16)}`)
  })

  it.each([0, 1, 2, 3])('reports a stage 2 fault on the stage 1 descriptor of level %i with class TT', level => {
    const rig = new Nested().ready()
    const table = rig.tables[level]
    rig.leaf(table, 0n)
    expect(rig.go(VA, { write: true })).toBe(`F_TRANSLATION write S2 TT input=0x12345678 ipa=${ipa(table)}`)
    rig.leaf(table, BigInt(table) | (S2_RW & ~(1n << 6n)) | 3n)
    expect(rig.go(VA, { write: true })).toBe(`F_PERMISSION write S2 TT input=0x12345678 ipa=${ipa(table)}`)
    expect(rig.outcome(VA)).toMatchObject({ event: { ttRead: true } })
    rig.leaf(table, 0x2000n | S2_RW | 3n)
    expect(rig.go(VA)).toMatch(/^F_WALK_EABT read S1 TT input=0x12345678 fetch=0x2[0-9a-f]{3}$/)
  })

  it('S2PTW refuses CDs and tables in Device memory (IHI 0070 section 5.2)', () => {
    const device = S2_RW & ~(0xfn << 2n)
    const rig = new Nested().ready()
    rig.leaf(rig.tables[2], BigInt(rig.tables[2]) | device | 3n)
    expect(rig.go(VA)).toBe(`F_PERMISSION read S2 TT input=0x12345678 ipa=${ipa(rig.tables[2])}`)
    const page = rig.cdAddress - (rig.cdAddress % 4096)
    rig.leaf(rig.cdAddress, BigInt(page) | device | 3n)
    expect(rig.go(VA)).toBe(`F_PERMISSION read S2 CD input=0x12345678 ipa=${ipa(rig.cdAddress)}`)
    const free = new Nested().ready({ clear: { 2: S.STRTAB_STE_2_S2PTW } })
    free.leaf(free.tables[2], BigInt(free.tables[2]) | device | 3n)
    expect(free.go(VA)).toBe('pa=0x40555678 shift=12 rwx')
    free.leaf(DATA, PA | device | 3n)
    expect(free.go(VA)).toBe('pa=0x40555678 shift=12 rwx')
  })

  it.each([
    ['missing', 0n, 'F_TRANSLATION write S2 IN input=0x12345678 ipa=0x700000000'],
    ['read-only', PA | (S2_RW & ~(2n << 6n)) | 3n, 'F_PERMISSION write S2 IN input=0x12345678 ipa=0x700000000'],
    ['beyond S2PS', (1n << 44n) | S2_RW | 3n, 'F_ADDR_SIZE write S2 IN input=0x12345678 ipa=0x700000000'],
  ])('reports a stage 2 fault on the output of stage 1, %s, with class IN', (_, leaf, expected) =>
    expect(new Nested().ready().leaf(DATA, leaf).go(VA, { write: true })).toBe(expected),
  )

  it('checks stage 1 before it walks stage 2 for the output', () => {
    const rig = new Nested().ready().leaf(DATA, 0n)
    const leaf = rig.tables[3] + 8 * 0x145
    rig.memory.set64(leaf, rig.memory.get64(leaf) | BigInt(P.ARM_LPAE_PTE_AP_RDONLY))
    expect(rig.go(VA, { write: true })).toBe('F_PERMISSION write S1 IN input=0x12345678')
    expect(rig.go(VA)).toBe('F_TRANSLATION read S2 IN input=0x12345678 ipa=0x700000000')
  })

  it('an IPA beyond the input size of stage 2', () => {
    const rig = new Nested()
    const s2 = rig.stage(true, 40, 12, 1)
    rig.map(s2, 0x4000_0000n, 0x4000_0000n, S2_RW, 1)
    const s1 = rig.stage(false, 48)
    rig.map(s1, 0n, 0x100_0000_0000n)
    rig.stream({ config: 7, cd: rig.cd({ t0: s1 }), stage2: s2 })
    expect(rig.go(0x10n)).toBe('F_TRANSLATION read S2 IN input=0x10 ipa=0x10000000000')
    rig.stream({ config: 7, cd: 0x100_0000_0040, stage2: s2 })
    expect(rig.go(0x10n)).toBe('F_TRANSLATION read S2 CD input=0x10 ipa=0x10000000000')
  })

  it('bypasses stage 1 by S1DSS but not stage 2', () => {
    const rig = new Nested().ready({ fields: { s1CdMax: 4, s1Dss: 1 } })
    rig.id = idRegisters({ idr1: 8 << 6 })
    expect(rig.go(DATA + 5n)).toBe('pa=0x40555005 shift=12 rwx')
  })

  it('tells every fetch in order', () => {
    const rig = new Nested().ready()
    const steps = rig.steps(VA)
    const shape = (s: WalkStep) =>
      `${s.what}${s.level ?? ''}${s.class === undefined ? '' : ['CD', 'TT', 'IN'][s.class]}`
    const s2 = (why: string) => [0, 1, 2, 3].map(level => `S2${level}${why}`)
    expect(steps.map(shape)).toEqual([
      'STE',
      ...s2('CD'),
      'CD',
      ...[0, 1, 2, 3].flatMap(level => [...s2('TT'), `S1${level}`]),
      ...s2('IN'),
    ])
    expect(steps[0].text).toMatch(/^V nested S1ContextPtr=0x/)
    expect(steps[0].words).toHaveLength(8)
    const leaf = steps.filter(step => step.what === 'S1').at(-1)
    expect(leaf).toMatchObject({
      level: 3,
      address: rig.tables[3] + 8 * 0x145,
      text: 'page 0x700000000 AP=1 AttrIndx=0 nG SH=3 AF',
    })
    expect(leaf?.ipa).toBe(Number(BigInt(rig.tables[3] + 8 * 0x145) + OFFSET))
    expect(steps.at(-1)?.text).toBe('page 0x40555000 S2AP=3 MemAttr=0xf SH=3 AF')
    expect(describeStep(steps[steps.length - 1])).toMatch(
      /^S2 level 3 for IN 0x[0-9a-f]+ = 0x405557ff: page 0x40555000 S2AP=3 MemAttr=0xf SH=3 AF$/,
    )
    expect(leaf && describeStep(leaf)).toMatch(
      /^S1 level 3 0x[0-9a-f]+ \(IPA 0x10[0-9a-f]+\) = 0x700000f43: page 0x700000000 /,
    )
    rig.leaf(DATA, 0n)
    expect(rig.steps(VA).at(-1)?.text).toBe('invalid')
    expect(describeOutcome(rig.outcome(VA))).toBe('F_TRANSLATION sid=0x5 read S2 IN input=0x12345678 ipa=0x700000000')
    const lost = new Rig().stream({ config: 5, cd: 0x1000 })
    expect(lost.steps(0n).at(-1)).toMatchObject({
      what: 'CD',
      address: 0x1000,
      words: undefined,
      text: 'external abort',
    })
  })
})
