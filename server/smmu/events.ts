// SPDX-License-Identifier: Apache-2.0
/**
 * Event records (IHI 0070 section 7.3): 32 bytes, little-endian, handled as eight 32-bit words of a `Uint32Array`. Field
 * positions are those of the specification's figures, bits 255 to 0.
 */
import { addressOf, field, getField, hex, hex64, setField } from './bits.ts'

/** Words of a record. */
export const EVTQ_ENT_WORDS = 8

export const EVT_ID_F_UUT = 0x01
export const EVT_ID_BAD_STREAMID_CONFIG = 0x02
export const EVT_ID_STE_FETCH_FAULT = 0x03
export const EVT_ID_BAD_STE_CONFIG = 0x04
export const EVT_ID_BAD_ATS_TREQ = 0x05
export const EVT_ID_STREAM_DISABLED_FAULT = 0x06
export const EVT_ID_TRANSL_FORBIDDEN = 0x07
export const EVT_ID_BAD_SUBSTREAMID_CONFIG = 0x08
export const EVT_ID_CD_FETCH_FAULT = 0x09
export const EVT_ID_BAD_CD_CONFIG = 0x0a
export const EVT_ID_WALK_EABT = 0x0b
export const EVT_ID_TRANSLATION_FAULT = 0x10
export const EVT_ID_ADDR_SIZE_FAULT = 0x11
export const EVT_ID_ACCESS_FAULT = 0x12
export const EVT_ID_PERMISSION_FAULT = 0x13
export const EVT_ID_TLB_CONFLICT = 0x20
export const EVT_ID_CFG_CONFLICT = 0x21
export const EVT_ID_PAGE_REQUEST = 0x24
export const EVT_ID_VMS_FETCH_FAULT = 0x25

export const EVTQ_0_ID = field(7, 0)
export const EVTQ_0_SSV = field(11)
export const EVTQ_0_SSID = field(31, 12)
export const EVTQ_0_SID = field(63, 32)
export const EVTQ_1_STAG = field(79, 64)
/** Implementation defined cause, in the place of STAG. */
export const EVTQ_1_REASON = field(79, 64)
/** The external abort was a granule protection check fault. */
export const EVTQ_1_GPCF = field(80)
export const EVTQ_1_STALL = field(95)
export const EVTQ_1_PnU = field(97)
export const EVTQ_1_InD = field(98)
export const EVTQ_1_RnW = field(99)
export const EVTQ_1_S2 = field(103)
export const EVTQ_1_CLASS = field(105, 104)
export const EVTQ_1_CLASS_CD = 0
export const EVTQ_1_CLASS_TT = 1
export const EVTQ_1_CLASS_IN = 2
/** TTRnW of F_PERMISSION: which access of a stage 1 walk stage 2 refused; 1 is a read. */
export const EVTQ_1_TT_READ = field(108)

const NAMES: Readonly<Record<number, string>> = {
  [EVT_ID_F_UUT]: 'F_UUT',
  [EVT_ID_BAD_STREAMID_CONFIG]: 'C_BAD_STREAMID',
  [EVT_ID_STE_FETCH_FAULT]: 'F_STE_FETCH',
  [EVT_ID_BAD_STE_CONFIG]: 'C_BAD_STE',
  [EVT_ID_BAD_ATS_TREQ]: 'F_BAD_ATS_TREQ',
  [EVT_ID_STREAM_DISABLED_FAULT]: 'F_STREAM_DISABLED',
  [EVT_ID_TRANSL_FORBIDDEN]: 'F_TRANSL_FORBIDDEN',
  [EVT_ID_BAD_SUBSTREAMID_CONFIG]: 'C_BAD_SUBSTREAMID',
  [EVT_ID_CD_FETCH_FAULT]: 'F_CD_FETCH',
  [EVT_ID_BAD_CD_CONFIG]: 'C_BAD_CD',
  [EVT_ID_WALK_EABT]: 'F_WALK_EABT',
  [EVT_ID_TRANSLATION_FAULT]: 'F_TRANSLATION',
  [EVT_ID_ADDR_SIZE_FAULT]: 'F_ADDR_SIZE',
  [EVT_ID_ACCESS_FAULT]: 'F_ACCESS',
  [EVT_ID_PERMISSION_FAULT]: 'F_PERMISSION',
  [EVT_ID_TLB_CONFLICT]: 'F_TLB_CONFLICT',
  [EVT_ID_CFG_CONFLICT]: 'F_CFG_CONFLICT',
  [EVT_ID_PAGE_REQUEST]: 'E_PAGE_REQUEST',
  [EVT_ID_VMS_FETCH_FAULT]: 'F_VMS_FETCH',
}

/** The specification's name; `event 0x..` for an unknown id. */
export function eventName(id: number): string {
  return NAMES[id] ?? (id >= 0xe0 && id <= 0xef ? `IMPDEF_EVENT${id - 0xe0}` : `event ${hex(id)}`)
}

/** The fields of all records together; a record has only those that its layout defines, the others are 0 or false. */
export interface EventRecord {
  id: number
  streamId: number
  /** SubstreamID valid. Not part of C_BAD_SUBSTREAMID, where `substreamId` is always valid. */
  ssv: boolean
  substreamId: number
  stall: boolean
  stag: number
  /** Implementation defined. */
  reason: number
  rnw: boolean
  ind: boolean
  pnu: boolean
  s2: boolean
  /** EVTQ_1_CLASS_*. */
  class: number
  /** TTRnW, of an F_PERMISSION with class TT. */
  ttRead: boolean
  /** InputAddr, all 64 bits, unsigned halves. */
  inputLo: number
  inputHi: number
  /** IPA[55:12] of a fault at stage 2; bits [11:0] are 0. */
  ipa: number
  /** FetchAddr[55:3] of a fetch that was aborted. */
  fetchAddr: number
}

/** A record of `id` with everything else 0. */
export function emptyEvent(id: number, streamId = 0): EventRecord {
  return {
    id,
    streamId,
    ssv: false,
    substreamId: 0,
    stall: false,
    stag: 0,
    reason: 0,
    rnw: false,
    ind: false,
    pnu: false,
    s2: false,
    class: 0,
    ttRead: false,
    inputLo: 0,
    inputHi: 0,
    ipa: 0,
    fetchAddr: 0,
  }
}

// What a record holds beside id and StreamID.
const SSID = 1 // SSV and SubstreamID
const REASON = 2
const STALL = 4 // Stall and STAG
const ACCESS = 8 // RnW, InD, PnU
const STAGE = 16 // S2, CLASS
const INPUT = 32 // InputAddr
const IPA = 64
const FETCH = 128 // FetchAddr
const RNW = 256 // RnW alone
const SSID_ALWAYS = 512 // SubstreamID without SSV
const PAGE = 1024 // InputAddr[63:12]
const FAULT = SSID | STALL | ACCESS | STAGE | INPUT | IPA

const LAYOUT: Readonly<Record<number, number>> = {
  [EVT_ID_F_UUT]: SSID | REASON | ACCESS | INPUT,
  [EVT_ID_BAD_STREAMID_CONFIG]: SSID,
  [EVT_ID_STE_FETCH_FAULT]: SSID | REASON | FETCH,
  [EVT_ID_BAD_STE_CONFIG]: SSID,
  // R, W, X, PRIV and Span are not modelled.
  [EVT_ID_BAD_ATS_TREQ]: SSID | PAGE,
  [EVT_ID_STREAM_DISABLED_FAULT]: 0,
  [EVT_ID_TRANSL_FORBIDDEN]: RNW | INPUT,
  [EVT_ID_BAD_SUBSTREAMID_CONFIG]: SSID_ALWAYS,
  [EVT_ID_CD_FETCH_FAULT]: SSID | REASON | FETCH,
  [EVT_ID_BAD_CD_CONFIG]: SSID,
  [EVT_ID_WALK_EABT]: SSID | REASON | ACCESS | STAGE | INPUT | FETCH,
  [EVT_ID_TRANSLATION_FAULT]: FAULT,
  [EVT_ID_ADDR_SIZE_FAULT]: FAULT,
  [EVT_ID_ACCESS_FAULT]: FAULT,
  [EVT_ID_PERMISSION_FAULT]: FAULT,
  [EVT_ID_CFG_CONFLICT]: SSID | REASON,
  [EVT_ID_VMS_FETCH_FAULT]: SSID | REASON | FETCH,
}

/** The id is one of the four faults that R suppresses and S stalls (IHI 0070 section 5.5). */
export function isTranslationRelated(id: number): boolean {
  return id >= EVT_ID_TRANSLATION_FAULT && id <= EVT_ID_PERMISSION_FAULT
}

/** Writes the record into eight words from `base` on: the fields of its layout, zero elsewhere. */
export function encodeEvent(event: EventRecord, words: Uint32Array, base = 0): void {
  const layout = LAYOUT[event.id] ?? 0
  words.fill(0, base, base + EVTQ_ENT_WORDS)
  setField(words, EVTQ_0_ID, event.id, base)
  setField(words, EVTQ_0_SID, event.streamId, base)
  if (layout & SSID && event.ssv) {
    setField(words, EVTQ_0_SSV, 1, base)
    setField(words, EVTQ_0_SSID, event.substreamId, base)
  }
  if (layout & SSID_ALWAYS) setField(words, EVTQ_0_SSID, event.substreamId, base)
  if (layout & REASON) setField(words, EVTQ_1_REASON, event.reason, base)
  if (layout & STALL && event.stall) {
    setField(words, EVTQ_1_STALL, 1, base)
    setField(words, EVTQ_1_STAG, event.stag, base)
  }
  if (layout & ACCESS) {
    setField(words, EVTQ_1_InD, event.ind ? 1 : 0, base)
    setField(words, EVTQ_1_PnU, event.pnu ? 1 : 0, base)
  }
  if (layout & (ACCESS | RNW)) setField(words, EVTQ_1_RnW, event.rnw ? 1 : 0, base)
  if (layout & STAGE) {
    setField(words, EVTQ_1_S2, event.s2 ? 1 : 0, base)
    setField(words, EVTQ_1_CLASS, event.class, base)
  }
  if (event.id === EVT_ID_PERMISSION_FAULT) setField(words, EVTQ_1_TT_READ, event.ttRead ? 1 : 0, base)
  if (layout & (INPUT | PAGE)) {
    words[base + 4] = layout & PAGE ? event.inputLo & 0xffff_f000 : event.inputLo
    words[base + 5] = event.inputHi
  }
  if (layout & (IPA | FETCH)) {
    const address = layout & IPA ? event.ipa : event.fetchAddr
    words[base + 6] = address & (layout & IPA ? 0xffff_f000 : 0xffff_fff8)
    words[base + 7] = Math.floor(address / 2 ** 32) & 0x00ff_ffff
  }
}

/** Reads eight words from `base` on; fields that the record's layout lacks are 0, those of an unknown id as well. */
export function decodeEvent(words: Uint32Array, base = 0): EventRecord {
  const event = emptyEvent(getField(words, EVTQ_0_ID, base), getField(words, EVTQ_0_SID, base))
  const layout = LAYOUT[event.id] ?? 0
  if (layout & SSID && getField(words, EVTQ_0_SSV, base)) {
    event.ssv = true
    event.substreamId = getField(words, EVTQ_0_SSID, base)
  }
  if (layout & SSID_ALWAYS) event.substreamId = getField(words, EVTQ_0_SSID, base)
  if (layout & REASON) event.reason = getField(words, EVTQ_1_REASON, base)
  if (layout & STALL && getField(words, EVTQ_1_STALL, base)) {
    event.stall = true
    event.stag = getField(words, EVTQ_1_STAG, base)
  }
  if (layout & ACCESS) {
    event.ind = getField(words, EVTQ_1_InD, base) === 1
    event.pnu = getField(words, EVTQ_1_PnU, base) === 1
  }
  if (layout & (ACCESS | RNW)) event.rnw = getField(words, EVTQ_1_RnW, base) === 1
  if (layout & STAGE) {
    event.s2 = getField(words, EVTQ_1_S2, base) === 1
    event.class = getField(words, EVTQ_1_CLASS, base)
  }
  if (event.id === EVT_ID_PERMISSION_FAULT) event.ttRead = getField(words, EVTQ_1_TT_READ, base) === 1
  if (layout & (INPUT | PAGE)) {
    event.inputLo = layout & PAGE ? (words[base + 4] & 0xffff_f000) >>> 0 : words[base + 4]
    event.inputHi = words[base + 5]
  }
  if (layout & IPA) event.ipa = addressOf((words[base + 6] & 0xffff_f000) >>> 0, words[base + 7] & 0x00ff_ffff)
  if (layout & FETCH) event.fetchAddr = addressOf((words[base + 6] & 0xffff_fff8) >>> 0, words[base + 7] & 0x00ff_ffff)
  return event
}

const CLASS_NAMES = ['CD', 'TT', 'IN', 'reserved']

/** An event in one line, for example `F_TRANSLATION sid=0x8 write S1 IN input=0xffff0000`. */
export function describeEvent(event: EventRecord): string {
  const layout = LAYOUT[event.id] ?? 0
  const out = [eventName(event.id), `sid=${hex(event.streamId)}`]
  if (layout & SSID_ALWAYS || (layout & SSID && event.ssv)) out.push(`ssid=${hex(event.substreamId)}`)
  if (layout & (ACCESS | RNW)) out.push(event.rnw ? 'read' : 'write')
  if (layout & ACCESS && event.ind) out.push('instruction')
  if (layout & ACCESS && event.pnu) out.push('privileged')
  if (layout & STAGE) out.push(event.s2 ? 'S2' : 'S1', CLASS_NAMES[event.class & 3])
  if (layout & STALL && event.stall) out.push(`stalled stag=${hex(event.stag)}`)
  if (layout & (INPUT | PAGE)) out.push(`input=${hex64(event.inputLo, event.inputHi)}`)
  if (layout & IPA && event.s2) out.push(`ipa=${hex(event.ipa)}`)
  if (layout & FETCH) out.push(`fetch=${hex(event.fetchAddr)}`)
  if (layout & REASON && event.reason) out.push(`reason=${hex(event.reason)}`)
  return out.join(' ')
}
