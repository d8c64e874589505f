// SPDX-License-Identifier: Apache-2.0
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { fieldPrep64 } from '../../../../server/smmu/bits.ts'
import { describeEvent } from '../../../../server/smmu/events.ts'
import * as P from '../../../../server/smmu/pagetable.ts'
import { Atc } from '../../../../server/smmu/soft/atc.ts'
import type { Completion, TranslationRequest } from '../../../../server/smmu/soft/ats.ts'
import type { SoftSmmuOptions } from '../../../../server/smmu/soft/options.ts'
import * as S from '../../../../server/smmu/ste.ts'
import { NO_SSID, type Outcome } from '../../../../server/smmu/transaction.ts'
import { C, R } from '../driver.ts'
import { idRegisters, S1_RW, S2_RW, transaction } from '../support.ts'
import { EVERYTHING, Everything, SID } from './world.ts'

const ON = R.CR0_SMMUEN | R.CR0_CMDQEN | R.CR0_EVTQEN
const CHECKED = ON | R.CR0_ATSCHK
const { STRTAB_STE_1_EATS_ABT: ABT, STRTAB_STE_1_EATS_TRANS: FULL, STRTAB_STE_1_EATS_S1CHK: SPLIT } = S
const DPT = S.STRTAB_STE_1_EATS_DPT

function completion(c: Completion): string {
  if (c.status !== 'success') return c.status === 'unsupported-request' ? 'UR' : 'CA'
  const permissions = `${c.read ? 'r' : '-'}${c.write ? 'w' : '-'}${c.execute ? 'x' : '-'}`
  return permissions === '---' ? `denied ${c.shift}` : `${c.address.toString(16)} ${permissions} ${c.shift}`
}

function outcome(o: Outcome): string {
  if (o.kind === 'translated') return o.pa.toString(16)
  if (o.kind === 'abort') return 'abort'
  return `${describeEvent(o.event).split(' ')[0]}${o.record ? '' : ', not recorded'}`
}

class AtsWorld extends Everything {
  /** Everything is set up for `eats`, with CR0 and further bits of CR2. */
  constructor(eats: number, cr0 = CHECKED, cr2 = 0, options: SoftSmmuOptions = {}) {
    super(options)
    this.eats(eats)
    this.on(0)
    this.write(R.ARM_SMMU_CR2, R.CR2_RECINVSID | cr2)
    this.write(R.ARM_SMMU_CR0, cr0)
  }

  request(sid: number, address: bigint, more: Partial<TranslationRequest> = {}): string {
    const { lo, hi } = transaction(sid, address)
    const request = { sid, ssid: NO_SSID, lo, hi, noWrite: false, execute: false, privileged: false, ...more }
    return completion(this.smmu.translationRequest(request))
  }

  translated(sid: number, address: bigint, write = false): string {
    const { lo, hi } = transaction(sid, address)
    return outcome(this.smmu.translatedTransaction({ sid, lo, hi, write }))
  }
}

const w = new AtsWorld(FULL)
const PA = w.target.toString(16)
const IPA = w.ipa.toString(16)
const BAD = (sid: number, address: string) => [`F_BAD_ATS_TREQ sid=0x${sid} input=${address}`]

describe('Translation Requests (IHI 0070 section 3.9.1.2)', () => {
  it.each<[string, number, number, number, bigint, string, string[]]>([
    // what, EATS, CR0, stream, address, completion, events
    ['stage 1', FULL, CHECKED, SID.s1, 0x1234n, `${IPA} rw- 12`, []],
    ['stage 2', FULL, CHECKED, SID.s2, BigInt(w.ipa) + 8n, `${PA} rw- 12`, []],
    ['nested', FULL, CHECKED, SID.nested, 0x1234n, `${PA} rw- 12`, []],
    ['nested without ATSCHK', FULL, ON, SID.nested, 0x1234n, `${PA} rw- 12`, []],
    ['nested, split-stage: the IPA', SPLIT, CHECKED, SID.nested, 0x1234n, `${IPA} rw- 12`, []],
    ['split-stage without ATSCHK is ATS disabled', SPLIT, ON, SID.nested, 0x1234n, 'UR', BAD(SID.nested, '0x1000')],
    ['DPT is Reserved', DPT, CHECKED, SID.nested, 0x1234n, 'UR', BAD(SID.nested, '0x1000')],
    ['EATS = 0', ABT, CHECKED, SID.s1, 0x1234n, 'UR', BAD(SID.s1, '0x1000')],
    ['SMMUEN = 0', FULL, ON & ~R.CR0_SMMUEN, SID.s1, 0x1234n, 'UR', BAD(SID.s1, '0x1000')],
    ['abort', FULL, CHECKED, SID.abort, 0x1234n, 'UR', []],
    ['bypass', FULL, CHECKED, SID.bypass, 0x1234n, 'UR', BAD(SID.bypass, '0x1000')],
    ['no STE', FULL, CHECKED, SID.invalid, 0n, 'CA', []],
    ['StreamID out of range', FULL, CHECKED, 99, 0n, 'CA', []],
    ['stage 1 fault', FULL, CHECKED, SID.nested, 0x9000n, 'denied 12', []],
    ['stage 2 fault', FULL, CHECKED, SID.s2, 0x9000n, 'denied 12', []],
    ['beyond IAS', FULL, CHECKED, SID.s2, 1n << 50n, 'denied 12', []],
  ])('%s', (_, eats, cr0, sid, address, answer, events) => {
    const a = new AtsWorld(eats, cr0)
    expect(a.request(sid, address)).toBe(answer)
    expect(a.events()).toEqual(events)
  })

  it.each([
    // stream, address, CR2, event
    [SID.invalid, 0n, R.CR2_REC_CFG_ATS, ['C_BAD_STE sid=0x0']],
    [99, 0n, R.CR2_REC_CFG_ATS, ['C_BAD_STREAMID sid=0x63']],
    [SID.s1, 0x9000n, R.CR2_REC_CFG_ATS, []],
  ])('with REC_CFG_ATS configuration errors are recorded, faults are not: %i', (sid, address, cr2, events) => {
    const a = new AtsWorld(FULL, CHECKED, cr2)
    a.request(sid, address)
    expect(a.events()).toEqual(events)
  })

  const RO1 = BigInt(P.ARM_LPAE_PTE_AP_RDONLY)
  const READ2 = BigInt(P.ARM_LPAE_PTE_HAP_READ)
  const WRITE2 = BigInt(P.ARM_LPAE_PTE_HAP_WRITE)
  it.each<[string, bigint, bigint, Partial<TranslationRequest>, string]>([
    // stage 1 attributes, stage 2 attributes, request, permissions
    ['all', S1_RW, S2_RW, {}, 'rw-'],
    ['NW', S1_RW, S2_RW, { noWrite: true }, 'r--'],
    ['read-only in stage 1', S1_RW | RO1, S2_RW, {}, 'r--'],
    ['read-only in stage 2', S1_RW, S2_RW & ~WRITE2, {}, 'r--'],
    ['write-only in stage 2', S1_RW, S2_RW & ~READ2, {}, '-w-'],
    ['write-only in stage 2 and NW', S1_RW, S2_RW & ~READ2, { noWrite: true }, '---'],
    ['nothing in common', S1_RW | RO1, S2_RW & ~READ2, {}, '---'],
    ['execute without a PASID', S1_RW | RO1, S2_RW, { execute: true }, 'r--'],
    ['not for user space', S1_RW & ~BigInt(P.ARM_LPAE_PTE_AP_UNPRIV), S2_RW, {}, '---'],
  ])('permissions: %s', (_, stage1, stage2, more, permissions) => {
    const a = new AtsWorld(FULL)
    a.map(a.t0, a.va, BigInt(a.ipa), stage1)
    a.map(a.t2, BigInt(a.ipa), BigInt(a.target), stage2)
    const expected = permissions === '---' ? 'denied 12' : `${PA} ${permissions} 12`
    expect(a.request(SID.nested, a.va, more)).toBe(expected)
    expect(a.events()).toEqual([])
  })

  it('CD.S and CD.A have no say: nothing stalls', () => {
    const a = new AtsWorld(FULL)
    a.streams(fieldPrep64(S.STRTAB_STE_1_EATS, FULL), 0n, 1n << 44n)
    expect(a.request(SID.s1, 0x9000n)).toBe('denied 12')
    expect(a.events()).toEqual([])
  })

  it('S1DSS = bypass: an identity, or stage 2 alone', () => {
    const a = new AtsWorld(FULL)
    const dss = fieldPrep64(S.STRTAB_STE_1_S1DSS, S.STRTAB_STE_1_S1DSS_BYPASS)
    const cdMax = fieldPrep64(S.STRTAB_STE_0_S1CDMAX, 1)
    const ste1 = fieldPrep64(S.STRTAB_STE_1_EATS, FULL) | dss
    a.ste({ config: 5, cd: a.cd({ t0: a.t0 }), set: { 0: cdMax, 1: ste1 } }, a.strtab + 64 * SID.s1)
    a.ste({ config: 7, stage2: a.t2, set: { 0: cdMax, 1: ste1 } }, a.strtab + 64 * SID.nested)
    expect(a.request(SID.s1, 0x1_2345_6000n)).toBe('123456000 rw- 44')
    expect(a.request(SID.nested, BigInt(a.ipa))).toBe(`${PA} rw- 12`)
  })

  it('without IDR0.ATS there are none', () => {
    const a = new AtsWorld(FULL, ON, 0, { id: idRegisters() })
    expect(a.request(SID.bypass, 0n)).toBe('UR')
    expect(a.translated(SID.bypass, 0n)).toBe('abort')
    expect(a.events()).toEqual([])
  })
})

describe('Translated transactions (IHI 0070 section 3.9.1.3)', () => {
  const FORBIDDEN = (sid: number) => [`F_TRANSL_FORBIDDEN sid=0x${sid} write input=0x1234`]
  it.each<[string, number, number, number, bigint, string, string[]]>([
    ['ATSCHK = 0: nothing is checked', ABT, ON, SID.invalid, 0x1234n, '1234', []],
    ['ATSCHK = 0 and abort', ABT, ON, SID.abort, 0x1234n, '1234', []],
    ['beyond OAS', FULL, ON, SID.s1, 1n << 44n, 'abort', []],
    ['SMMUEN = 0', FULL, ON & ~R.CR0_SMMUEN, SID.s1, 0x1234n, 'F_TRANSL_FORBIDDEN', FORBIDDEN(SID.s1)],
    ['full ATS', FULL, CHECKED, SID.nested, 0x1234n, '1234', []],
    ['full ATS beyond OAS', FULL, CHECKED, SID.nested, 1n << 44n, 'abort', []],
    ['EATS = 0', ABT, CHECKED, SID.nested, 0x1234n, 'F_TRANSL_FORBIDDEN', FORBIDDEN(SID.nested)],
    ['DPT is Reserved', DPT, CHECKED, SID.nested, 0x1234n, 'F_TRANSL_FORBIDDEN', FORBIDDEN(SID.nested)],
    ['bypass', FULL, CHECKED, SID.bypass, 0x1234n, 'F_TRANSL_FORBIDDEN', FORBIDDEN(SID.bypass)],
    ['abort', FULL, CHECKED, SID.abort, 0x1234n, 'abort', []],
    ['no STE', FULL, CHECKED, SID.invalid, 0x1234n, 'C_BAD_STE, not recorded', []],
    [
      'split-stage goes through stage 2',
      SPLIT,
      CHECKED,
      SID.nested,
      BigInt(w.ipa) + 4n,
      (w.target + 4).toString(16),
      [],
    ],
    [
      'split-stage faults like any other',
      SPLIT,
      CHECKED,
      SID.nested,
      0x1234n,
      'F_TRANSLATION',
      ['F_TRANSLATION sid=0x5 write S2 IN input=0x1234 ipa=0x1000'],
    ],
    [
      'split-stage beyond IAS is a stage 1 fault',
      SPLIT,
      CHECKED,
      SID.nested,
      1n << 44n,
      'F_ADDR_SIZE',
      ['F_ADDR_SIZE sid=0x5 write S1 IN input=0x100000000000'],
    ],
  ])('%s', (_, eats, cr0, sid, address, answer, events) => {
    const a = new AtsWorld(eats, cr0)
    expect(a.translated(sid, address, true)).toBe(answer)
    expect(a.events()).toEqual(events)
  })

  it.each([
    [SID.invalid, R.CR2_REC_CFG_ATS, ['C_BAD_STE sid=0x0']],
    [99, R.CR2_REC_CFG_ATS, ['C_BAD_STREAMID sid=0x63']],
    [99, 0, []],
  ])('stream %i with CR2 bits %i', (sid, cr2, events) => {
    const a = new AtsWorld(FULL, CHECKED, cr2)
    a.translated(sid, 0n)
    expect(a.events()).toEqual(events)
  })

  it('RECINVSID has no say', () => {
    const a = new AtsWorld(FULL, 0)
    a.write(R.ARM_SMMU_CR2, R.CR2_REC_CFG_ATS)
    a.write(R.ARM_SMMU_CR0, CHECKED)
    a.translated(99, 0n)
    expect(a.events()).toEqual(['C_BAD_STREAMID sid=0x63'])
  })
})

describe('ILLEGAL EATS (IHI 0070 section 5.2)', () => {
  it.each([
    // EATS, S2S, NS1ATS, stream, valid
    [SPLIT, false, false, SID.nested, true],
    [SPLIT, false, true, SID.nested, false],
    [SPLIT, true, false, SID.nested, false],
    [SPLIT, false, false, SID.s1, false],
    [SPLIT, false, false, SID.s2, false],
    [FULL, true, false, SID.s2, false],
    [FULL, true, false, SID.s1, true],
    [SPLIT, true, true, SID.bypass, true],
  ])('EATS %i, S2S %s, NS1ATS %s, stream %i: valid %s', (eats, s2s, ns1ats, sid, valid) => {
    const id = { ...EVERYTHING, idr0: EVERYTHING.idr0 | (ns1ats ? R.IDR0_NS1ATS : 0) }
    const a = new AtsWorld(eats, CHECKED, 0, { id })
    a.streams(fieldPrep64(S.STRTAB_STE_1_EATS, eats), s2s ? S.STRTAB_STE_2_S2S : 0n)
    const address = sid === SID.s2 ? BigInt(a.ipa) : a.va
    expect(a.to(sid, address).kind === 'translated').toBe(valid)
  })
})

it('ATSCHK is cached with the STE until that is invalidated (IHI 0070 section 3.9.2)', () => {
  const a = new AtsWorld(SPLIT, ON)
  expect(a.request(SID.nested, a.va)).toBe('UR')
  a.write(R.ARM_SMMU_CR0, CHECKED)
  expect(a.request(SID.nested, a.va)).toBe('UR')
  a.command(C.CMDQ_OP_CFGI_STE, [C.CMDQ_CFGI_0_SID, SID.nested], [C.CMDQ_CFGI_1_LEAF, 1])
  expect(a.request(SID.nested, a.va)).toBe(`${IPA} rw- 12`)
})

describe('a device with an ATC', () => {
  function device(sid: number = SID.nested) {
    const atcs: Atc[] = []
    const a = new AtsWorld(FULL, ON, 0, { onAtcInvalidate: cmd => atcs.every(atc => atc.invalidate(cmd)) })
    const atc = new Atc(a.smmu, sid)
    atcs.push(atc)
    const access = (address: bigint, more = {}) => outcome(atc.access(transaction(sid, address, more)))
    const invalidate = (address: number, ...fields: Parameters<AtsWorld['post']>[1][]) => {
      a.postRaw(C.CMDQ_OP_ATC_INV, address, [C.CMDQ_ATC_0_SID, sid], ...fields).command(C.CMDQ_OP_CMD_SYNC)
      return a.read(R.ARM_SMMU_CMDQ_CONS) >>> 24
    }
    /** The page goes away in the tables, and in the SMMU's caches. */
    const unmap = () => {
      a.memory.set64(a.entry(a.t0, a.va), 0n)
      a.command(C.CMDQ_OP_TLBI_NSNH_ALL)
    }
    return { a, atc, access, invalidate, unmap }
  }

  it('goes on with what it was told until CMD_ATC_INV', () => {
    const { access, invalidate, unmap, a } = device()
    expect(access(a.va + 8n, { write: true })).toBe((a.target + 8).toString(16))
    unmap()
    expect(access(a.va + 16n)).toBe((a.target + 16).toString(16))
    expect(invalidate(0x1000)).toBe(R.CMDQ_ERR_CERROR_NONE_IDX)
    expect(access(a.va)).toBe('abort')
  })

  it.each([
    // address, size, matches
    [0x1000, 0, true],
    [0x2000, 0, false],
    [0x3000, 2, true],
    [0x3000, 1, false],
    [0xffff_f000, 52, true],
    [0xffff_f000, 51, true],
    [0xffff_f000, 20, true],
    [0xffff_f000, 19, false],
  ])('the invalidation of %i, size %i covers 0x1000: %s', (address, size, matches) => {
    const { access, invalidate, unmap, a } = device()
    access(a.va)
    unmap()
    invalidate(address, [C.CMDQ_ATC_1_SIZE, size])
    expect(access(a.va) === 'abort').toBe(matches)
  })

  it.each<[string, Parameters<AtsWorld['post']>[1][], boolean]>([
    ['no PASID', [], true],
    ['a PASID', [[C.CMDQ_0_SSV, 1]], false],
    [
      'all PASIDs',
      [
        [C.CMDQ_0_SSV, 1],
        [C.CMDQ_ATC_0_GLOBAL, 1],
      ],
      false,
    ],
    ['Global without SSV', [[C.CMDQ_ATC_0_GLOBAL, 1]], true],
  ])('an entry without PASID goes with %s: %s', (_, fields, matches) => {
    const { access, invalidate, unmap, a } = device()
    access(a.va)
    unmap()
    invalidate(0x1000, ...fields)
    expect(access(a.va) === 'abort').toBe(matches)
  })

  it('one that does not answer stops the CMD_SYNC (IHI 0070 section 3.9.1.4)', () => {
    const { access, invalidate, atc, a } = device()
    access(a.va)
    atc.answers = false
    expect(invalidate(0x1000)).toBe(R.CMDQ_ERR_CERROR_ATC_INV_IDX)
    expect(a.read(R.ARM_SMMU_GERROR) & R.GERROR_CMDQ_ERR).toBe(R.GERROR_CMDQ_ERR)
    // CONS stays at the CMD_SYNC, which completes when it is tried again.
    a.write(R.ARM_SMMU_GERRORN, R.GERROR_CMDQ_ERR)
    expect(a.read(R.ARM_SMMU_CMDQ_CONS)).toBe(2)
  })

  it('property: after TLBI, CMD_SYNC, ATC_INV, CMD_SYNC it reaches nothing that the tables do not map', () => {
    const PAGES = 6
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.nat(PAGES - 1), fc.nat(3)), { maxLength: 40 }), steps => {
        const { access, invalidate, a } = device()
        const pages = Array.from({ length: PAGES }, (_, i) => a.target + 4096 * i)
        for (const [i, pa] of pages.entries()) a.map(a.t2, BigInt(a.ipa) + 4096n * BigInt(i), BigInt(pa))
        const mapped = new Set<number>()
        for (const [i, what] of steps) {
          const va = a.va + 4096n * BigInt(i)
          if (what === 0) {
            a.map(a.t0, va, BigInt(a.ipa) + 4096n * BigInt(i))
            mapped.add(i)
            a.command(C.CMDQ_OP_TLBI_NSNH_ALL)
          } else if (what === 1) {
            a.memory.set64(a.entry(a.t0, va), 0n)
            mapped.delete(i)
            a.command(C.CMDQ_OP_TLBI_NSNH_ALL)
            invalidate(Number(va))
          } else if (i > 0 || mapped.has(0)) {
            expect(access(va, { write: what === 2 })).toBe(mapped.has(i) ? pages[i].toString(16) : 'abort')
          }
        }
      }),
    )
  })
})
