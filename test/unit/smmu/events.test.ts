// SPDX-License-Identifier: Apache-2.0
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { field } from '../../../server/smmu/bits.ts'
import * as e from '../../../server/smmu/events.ts'

describe('event records (IHI 0070 section 7.3)', () => {
  it.each([
    [0x01, 'F_UUT'],
    [0x02, 'C_BAD_STREAMID'],
    [0x03, 'F_STE_FETCH'],
    [0x04, 'C_BAD_STE'],
    [0x05, 'F_BAD_ATS_TREQ'],
    [0x06, 'F_STREAM_DISABLED'],
    [0x07, 'F_TRANSL_FORBIDDEN'],
    [0x08, 'C_BAD_SUBSTREAMID'],
    [0x09, 'F_CD_FETCH'],
    [0x0a, 'C_BAD_CD'],
    [0x0b, 'F_WALK_EABT'],
    [0x10, 'F_TRANSLATION'],
    [0x11, 'F_ADDR_SIZE'],
    [0x12, 'F_ACCESS'],
    [0x13, 'F_PERMISSION'],
    [0x20, 'F_TLB_CONFLICT'],
    [0x21, 'F_CFG_CONFLICT'],
    [0x24, 'E_PAGE_REQUEST'],
    [0x25, 'F_VMS_FETCH'],
    [0xe3, 'IMPDEF_EVENT3'],
    [0x99, 'event 0x99'],
  ])('%i is %s', (id, name) => expect(e.eventName(id)).toBe(name))

  it.each([
    ['EVTQ_0_ID', 7, 0],
    ['EVTQ_0_SSV', 11, 11],
    ['EVTQ_0_SSID', 31, 12],
    ['EVTQ_0_SID', 63, 32],
    ['EVTQ_1_STAG', 79, 64],
    ['EVTQ_1_REASON', 79, 64],
    ['EVTQ_1_GPCF', 80, 80],
    ['EVTQ_1_STALL', 95, 95],
    ['EVTQ_1_PnU', 97, 97],
    ['EVTQ_1_InD', 98, 98],
    ['EVTQ_1_RnW', 99, 99],
    ['EVTQ_1_S2', 103, 103],
    ['EVTQ_1_CLASS', 105, 104],
    ['EVTQ_1_TT_READ', 108, 108],
  ])('%s is [%i:%i]', (name, hi, lo) => expect((e as unknown as Record<string, unknown>)[name]).toEqual(field(hi, lo)))

  const fault = (id: number, fields: Partial<e.EventRecord>) => ({ ...e.emptyEvent(id, 0x108), ...fields })
  it.each([
    [
      fault(e.EVT_ID_TRANSLATION_FAULT, { class: e.EVTQ_1_CLASS_IN, inputLo: 0xffff0123, inputHi: 0xffff0000 }),
      [0x108_0000_0010n, 0x0000_0200_0000_0000n, 0xffff_0000_ffff_0123n, 0n],
      'F_TRANSLATION sid=0x108 write S1 IN input=0xffff0000ffff0123',
    ],
    [
      fault(e.EVT_ID_PERMISSION_FAULT, {
        rnw: true,
        s2: true,
        class: e.EVTQ_1_CLASS_TT,
        ttRead: true,
        ssv: true,
        substreamId: 5,
        ipa: 0x8_1234_5000,
      }),
      [0x108_0000_5813n, 0x0000_1188_0000_0000n, 0n, 0x8_1234_5000n],
      'F_PERMISSION sid=0x108 ssid=0x5 read S2 TT input=0x0 ipa=0x812345000',
    ],
    [
      fault(e.EVT_ID_ACCESS_FAULT, { stall: true, stag: 0x1234, pnu: true, ind: true, rnw: true, class: 2 }),
      [0x108_0000_0012n, 0x0000_020e_8000_1234n, 0n, 0n],
      'F_ACCESS sid=0x108 read instruction privileged S1 IN stalled stag=0x1234 input=0x0',
    ],
    [
      fault(e.EVT_ID_STE_FETCH_FAULT, { fetchAddr: 0x1_2345_6788, reason: 3 }),
      [0x108_0000_0003n, 3n, 0n, 0x1_2345_6788n],
      'F_STE_FETCH sid=0x108 fetch=0x123456788 reason=0x3',
    ],
    [
      fault(e.EVT_ID_WALK_EABT, { class: 1, inputLo: 0x1000, fetchAddr: 0x1008 }),
      [0x108_0000_000bn, 0x0000_0100_0000_0000n, 0x1000n, 0x1008n],
      'F_WALK_EABT sid=0x108 write S1 TT input=0x1000 fetch=0x1008',
    ],
    [
      fault(e.EVT_ID_BAD_SUBSTREAMID_CONFIG, { substreamId: 7 }),
      [0x108_0000_7008n, 0n, 0n, 0n],
      'C_BAD_SUBSTREAMID sid=0x108 ssid=0x7',
    ],
    [fault(e.EVT_ID_BAD_STE_CONFIG, {}), [0x108_0000_0004n, 0n, 0n, 0n], 'C_BAD_STE sid=0x108'],
    [fault(e.EVT_ID_STREAM_DISABLED_FAULT, {}), [0x108_0000_0006n, 0n, 0n, 0n], 'F_STREAM_DISABLED sid=0x108'],
    [
      fault(e.EVT_ID_TRANSL_FORBIDDEN, { rnw: true, inputLo: 0x2000 }),
      [0x108_0000_0007n, 0x0000_0008_0000_0000n, 0x2000n, 0n],
      'F_TRANSL_FORBIDDEN sid=0x108 read input=0x2000',
    ],
  ])('%j', (event, dwords, text) => {
    const record = new BigUint64Array(5).fill(0x5555n)
    const words = new Uint32Array(record.buffer)
    e.encodeEvent(event, words, 2)
    expect([...record]).toEqual([0x5555n, ...dwords])
    expect(e.decodeEvent(words, 2)).toEqual(event)
    expect(e.describeEvent(event)).toBe(text)
  })

  it('drops what the layout of a record does not have', () => {
    const words = new Uint32Array(8)
    e.encodeEvent(
      fault(e.EVT_ID_BAD_CD_CONFIG, { inputLo: 1, ipa: 0x1000, s2: true, stall: true, substreamId: 3 }),
      words,
    )
    expect([...words]).toEqual([0x0a, 0x108, 0, 0, 0, 0, 0, 0])
  })

  it('decodes and describes anything; encoding again keeps every defined bit', () => {
    fc.assert(
      fc.property(fc.uint32Array({ minLength: 8, maxLength: 8 }), words => {
        const event = e.decodeEvent(words)
        expect(e.describeEvent(event)).toContain('sid=')
        const again = new Uint32Array(8)
        e.encodeEvent(event, again)
        expect(e.decodeEvent(again)).toEqual(event)
      }),
    )
  })

  it('knows the faults that R and S govern', () => {
    expect([0x0b, 0x10, 0x11, 0x12, 0x13, 0x14].map(e.isTranslationRelated)).toEqual([
      false,
      true,
      true,
      true,
      true,
      false,
    ])
  })
})
