// SPDX-License-Identifier: Apache-2.0
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import {
  decodePageRequest,
  describePageRequest,
  encodePageRequest,
  isStopMarker,
  type PageRequest,
} from '../../../../server/smmu/pageRequest.ts'
import type { PrgResponse, SoftSmmuOptions } from '../../../../server/smmu/soft/options.ts'
import { PRG_FAILURE, PRG_INVALID_REQUEST, PRG_SUCCESS } from '../../../../server/smmu/soft/pri.ts'
import * as S from '../../../../server/smmu/ste.ts'
import { NO_SSID } from '../../../../server/smmu/transaction.ts'
import { C, R } from '../driver.ts'
import { EVERYTHING, Everything, PRIQ_LOG2, pageRequest, SID } from './world.ts'

const ON = R.CR0_SMMUEN | R.CR0_CMDQEN | R.CR0_EVTQEN | R.CR0_PRIQEN

class Pri extends Everything {
  readonly responses: PrgResponse[]
  constructor(options: SoftSmmuOptions = {}) {
    const responses: PrgResponse[] = []
    super({ onPrgResponse: response => responses.push(response), ...options })
    this.responses = responses
    this.on()
    this.write(R.ARM_SMMU_IRQ_CTRL, 7)
  }

  /** What was answered since the last call, as `code` or `code pasid`. */
  taken(): string[] {
    return this.responses
      .splice(0)
      .map(
        ({ code, ssid, automatic }) => `${code}${ssid === NO_SSID ? '' : ` ${ssid}`}${automatic ? '' : ' by command'}`,
      )
  }

  queued(index: number): PageRequest {
    const words = new Uint32Array(4)
    this.memory.read(this.priq + 16 * index, new Uint8Array(words.buffer), 0, 16)
    return decodePageRequest(words)
  }

  fill(): this {
    for (let i = 0; i < 1 << PRIQ_LOG2; i++) this.smmu.pageRequest(pageRequest({ last: false }))
    return this
  }
}

describe('an entry (chapter 8)', () => {
  it.each<[Partial<PageRequest>, number[], string]>([
    [{}, [3, 0x5000_0000, 0x1005, 0], 'page request sid=0x3 group=5 read last page=0x1000'],
    [
      {
        ssid: 9,
        write: true,
        execute: true,
        privileged: true,
        last: false,
        prgIndex: 0x1ff,
        lo: 0xffff_ffff,
        hi: 0x1234,
      },
      [3, 0xbc00_0009, 0xffff_f1ff, 0x1234],
      'page request sid=0x3 ssid=0x9 group=511 read write execute privileged page=0x1234fffff000',
    ],
    [{ ssid: 9, read: false }, [3, 0xc000_0009, 0x1005, 0], 'stop marker sid=0x3 ssid=0x9 group=5 last page=0x1000'],
    // Without a PASID, Execute and Privileged are 0.
    [
      { execute: true, privileged: true },
      [3, 0x5000_0000, 0x1005, 0],
      'page request sid=0x3 group=5 read execute privileged last page=0x1000',
    ],
  ])('%o', (more, words, text) => {
    const encoded = new Uint32Array(4)
    encodePageRequest(pageRequest(more), encoded)
    expect([...encoded]).toEqual(words)
    expect(describePageRequest(pageRequest(more))).toBe(text)
  })

  it('property: decode is the inverse of encode', () => {
    const request = fc
      .record({
        sid: fc.nat(0xffff_ffff),
        ssid: fc.oneof(fc.constant(NO_SSID), fc.nat(0xf_ffff)),
        lo: fc.nat(0xf_ffff).map(page => (page << 12) >>> 0),
        hi: fc.nat(0xffff_ffff),
        prgIndex: fc.nat(511),
        last: fc.boolean(),
        read: fc.boolean(),
        write: fc.boolean(),
        execute: fc.boolean(),
        privileged: fc.boolean(),
      })
      .map(r => (r.ssid === NO_SSID ? { ...r, execute: false, privileged: false } : r))
    fc.assert(
      fc.property(request, r => {
        const words = new Uint32Array(6).fill(0xffff_ffff)
        encodePageRequest(r, words, 1)
        expect(decodePageRequest(words, 1)).toEqual(r)
        expect([words[0], words[5]]).toEqual([0xffff_ffff, 0xffff_ffff])
      }),
    )
  })
})

describe('the queue', () => {
  it('takes requests, and interrupts when it becomes non-empty', () => {
    const p = new Pri()
    p.smmu.pageRequest(pageRequest({ last: false }))
    p.smmu.pageRequest(pageRequest({ ssid: 4, hi: 0xabc }))
    expect(p.read(R.ARM_SMMU_PRIQ_PROD)).toBe(2)
    expect(p.queued(1)).toEqual(pageRequest({ ssid: 4, hi: 0xabc }))
    expect(p.irqs).toEqual(['priq'])
    expect(p.taken()).toEqual([])
  })

  it('with PRIQ_IRQ_CFG2.LO interrupts for each Last instead, also for one that overflow discards', () => {
    const p = new Pri()
    p.write(R.ARM_SMMU_IRQ_CTRL, 0)
    p.write(R.ARM_SMMU_PRIQ_IRQ_CFG2, R.PRIQ_IRQ_CFG2_LO)
    p.write(R.ARM_SMMU_IRQ_CTRL, 7)
    p.smmu.pageRequest(pageRequest({ last: false }))
    expect(p.irqs).toEqual([])
    p.smmu.pageRequest(pageRequest())
    expect(p.irqs).toEqual(['priq'])
    p.smmu.pageRequest(pageRequest({ last: false }))
    p.smmu.pageRequest(pageRequest())
    expect(p.irqs).toEqual(['priq', 'priq'])
  })

  it('has no PASID where the SMMU knows none', () => {
    const p = new Pri({ id: { ...EVERYTHING, idr1: EVERYTHING.idr1 & ~R.IDR1_SSIDSIZE } })
    p.smmu.pageRequest(pageRequest({ ssid: 4 }))
    expect(p.queued(0).ssid).toBe(NO_SSID)
  })
})

const IDR3_PPS = { ...EVERYTHING, idr3: EVERYTHING.idr3 | R.IDR3_PPS }

describe('overflow (IHI 0070 section 8.1)', () => {
  it.each<[string, Partial<PageRequest>, { ppar?: boolean; sid?: number; id?: typeof EVERYTHING }, string[]]>([
    ['no PASID', {}, {}, [`${PRG_SUCCESS}`]],
    ['not the last', { last: false }, {}, []],
    ['PASID, PPAR = 0', { ssid: 4 }, {}, [`${PRG_SUCCESS}`]],
    ['PASID, PPAR = 1', { ssid: 4 }, { ppar: true }, [`${PRG_SUCCESS} 4`]],
    ['PASID, no valid STE', { ssid: 4, sid: SID.invalid }, { ppar: true }, [`${PRG_FAILURE}`]],
    ['PASID, StreamID out of range', { ssid: 4, sid: 0x99 }, { ppar: true }, [`${PRG_FAILURE}`]],
    ['PASID, PPS', { ssid: 4, sid: SID.invalid }, { id: IDR3_PPS }, [`${PRG_SUCCESS} 4`]],
    ['a Stop Marker', { ssid: 4, read: false }, { ppar: true }, []],
    ['no PASID and no valid STE', { sid: SID.invalid }, {}, [`${PRG_SUCCESS}`]],
  ])('%s', (_, more, { ppar = false, id = EVERYTHING }, answers) => {
    const p = new Pri({ id })
    p.streams(ppar ? S.STRTAB_STE_1_PPAR : 0n)
    p.fill()
    p.smmu.pageRequest(pageRequest(more))
    expect(p.read(R.ARM_SMMU_PRIQ_PROD)).toBe((R.Q_OVERFLOW_FLAG | 2) >>> 0)
    expect(p.taken()).toEqual(answers)
  })

  it('lasts until it is acknowledged, room or not', () => {
    const p = new Pri().fill()
    p.smmu.pageRequest(pageRequest())
    p.taken()
    p.write(R.ARM_SMMU_PRIQ_CONS, 2)
    p.smmu.pageRequest(pageRequest())
    expect(p.read(R.ARM_SMMU_PRIQ_PROD)).toBe((R.Q_OVERFLOW_FLAG | 2) >>> 0)
    expect(p.taken()).toEqual([`${PRG_SUCCESS}`])
    p.write(R.ARM_SMMU_PRIQ_CONS, (R.Q_OVERFLOW_FLAG | 2) >>> 0)
    p.smmu.pageRequest(pageRequest())
    expect(p.read(R.ARM_SMMU_PRIQ_PROD)).toBe((R.Q_OVERFLOW_FLAG | 3) >>> 0)
    expect(p.taken()).toEqual([])
  })

  it.each([
    ['REC_CFG_ATS', R.CR2_REC_CFG_ATS, SID.invalid, ['C_BAD_STE sid=0x0 ssid=0x4']],
    ['neither', 0, SID.invalid, []],
    ['REC_CFG_ATS without RECINVSID', R.CR2_REC_CFG_ATS, 0x99, []],
    ['both', R.CR2_REC_CFG_ATS | R.CR2_RECINVSID, 0x99, ['C_BAD_STREAMID sid=0x99 ssid=0x4']],
  ])('what the look-up of PPAR meets is an event with %s', (_, cr2, sid, events) => {
    const p = new Pri()
    p.write(R.ARM_SMMU_CR0, 0)
    p.write(R.ARM_SMMU_CR2, cr2)
    p.write(R.ARM_SMMU_CR0, ON)
    p.fill()
    p.smmu.pageRequest(pageRequest({ ssid: 4, sid }))
    expect(p.events()).toEqual(events)
  })
})

describe('automatic failure (IHI 0070 section 8.2)', () => {
  it.each([
    ['PRIQEN = 0', R.CR0_SMMUEN | R.CR0_CMDQEN],
    ['SMMUEN = 0, though PRIQEN = 1', R.CR0_PRIQEN | R.CR0_CMDQEN],
  ])('%s: every request, Last or not, without PASID', (_, cr0) => {
    const p = new Pri()
    p.write(R.ARM_SMMU_CR0, cr0)
    p.smmu.pageRequest(pageRequest({ ssid: 4 }))
    p.smmu.pageRequest(pageRequest({ last: false }))
    p.smmu.pageRequest(pageRequest({ ssid: 4, read: false }))
    expect(p.taken()).toEqual([`${PRG_FAILURE}`, `${PRG_FAILURE}`])
    expect(p.read(R.ARM_SMMU_PRIQ_PROD)).toBe(0)
  })

  it('PRIQ_ABT_ERR: the request that met it, and all until it is acknowledged', () => {
    const p = new Pri()
    p.write(R.ARM_SMMU_CR0, 0)
    p.write64(R.ARM_SMMU_PRIQ_BASE, 0x1000)
    p.write(R.ARM_SMMU_CR0, ON)
    p.smmu.pageRequest(pageRequest())
    expect(p.read(R.ARM_SMMU_GERROR)).toBe(R.GERROR_PRIQ_ABT_ERR)
    expect(p.taken()).toEqual([`${PRG_FAILURE}`])
    p.write(R.ARM_SMMU_CR0, R.CR0_SMMUEN)
    p.write64(R.ARM_SMMU_PRIQ_BASE, p.priq)
    p.write(R.ARM_SMMU_CR0, ON)
    p.smmu.pageRequest(pageRequest())
    expect(p.taken()).toEqual([`${PRG_FAILURE}`])
    p.write(R.ARM_SMMU_GERRORN, R.GERROR_PRIQ_ABT_ERR)
    p.smmu.pageRequest(pageRequest())
    expect(p.taken()).toEqual([])
  })
})

describe('CMD_PRI_RESP (IHI 0070 section 4.5.2)', () => {
  it.each([
    [C.CMDQ_PRI_1_RESP_DENY, PRG_FAILURE],
    [C.CMDQ_PRI_1_RESP_FAIL, PRG_INVALID_REQUEST],
    [C.CMDQ_PRI_1_RESP_SUCC, PRG_SUCCESS],
  ])('Resp %i is ResponseCode %i', (resp, code) => {
    const p = new Pri()
    p.command(
      C.CMDQ_OP_PRI_RESP,
      [C.CMDQ_PRI_0_SID, SID.s1],
      [C.CMDQ_0_SSV, 1],
      [C.CMDQ_PRI_0_SSID, 7],
      [C.CMDQ_PRI_1_GRPID, 0x155],
      [C.CMDQ_PRI_1_RESP, resp],
    )
    expect(p.responses).toEqual([{ sid: SID.s1, ssid: 7, prgIndex: 0x155, code, automatic: false }])
  })

  it('is ignored while the SMMU is off', () => {
    const p = new Pri()
    p.write(R.ARM_SMMU_CR0, R.CR0_CMDQEN)
    p.command(C.CMDQ_OP_PRI_RESP, [C.CMDQ_PRI_1_RESP, C.CMDQ_PRI_1_RESP_SUCC])
    expect(p.responses).toEqual([])
    expect(p.read(R.ARM_SMMU_CMDQ_CONS)).toBe(1)
  })
})

it('property: every group gets a response from the SMMU, or its Last is in the queue', () => {
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.boolean(), fc.constantFrom(NO_SSID, 4), fc.boolean(), fc.nat(9)), { maxLength: 40 }),
      steps => {
        const p = new Pri()
        let group = 0
        for (const [last, ssid, read, action] of steps) {
          const request = pageRequest({ last, ssid, read, prgIndex: group++ % 512 })
          const before = p.read(R.ARM_SMMU_PRIQ_PROD) & 3
          p.smmu.pageRequest(request)
          const queued = (p.read(R.ARM_SMMU_PRIQ_PROD) & 3) !== before
          const answered = p.responses.splice(0)
          if (queued) expect(p.queued(before & 1)).toEqual(request)
          const owed = last && !queued && !isStopMarker(request)
          expect(answered.map(({ prgIndex }) => prgIndex)).toEqual(owed ? [request.prgIndex] : [])
          // Software takes everything, and acknowledges.
          if (action === 0) p.write(R.ARM_SMMU_PRIQ_CONS, p.read(R.ARM_SMMU_PRIQ_PROD))
        }
      },
    ),
  )
})
