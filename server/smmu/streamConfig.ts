// SPDX-License-Identifier: Apache-2.0
/**
 * What an STE and a CD mean, and when they are ILLEGAL (IHI 0070 sections 5.2.2 and 5.4.2), for the Non-secure stream table of
 * an SMMU of version 3.1 or later. An invalid and an ILLEGAL structure are the same to a transaction: C_BAD_STE, C_BAD_CD.
 */
import { addressOf, dwordField, getField } from './bits.ts'
import * as C from './cd.ts'
import type { Features } from './features.ts'
import {
  levelShift,
  stage1StartLevel,
  stage2StartLevel,
  stage2StartLevelFits,
  startTableBytes,
  tg0GranuleShift,
  tg1GranuleShift,
} from './pagetable.ts'
import {
  IDR0_STALL_MODEL_FORCE,
  IDR0_STALL_MODEL_NONE,
  IDR0_STALL_MODEL_STALL,
  IDR0_TTENDIAN_BE,
  IDR0_TTENDIAN_LE,
  oasBits,
} from './registers.ts'
import * as S from './ste.ts'

/** StreamWorld: the translation regime that tags TLB entries (IHI 0070 section 5.2, STRW). */
export const WORLD_NS_EL1 = 0
export const WORLD_EL2 = 1
export const WORLD_EL2_E2H = 2

/** Stage 2 of an STE. */
export interface Stage2 {
  /** Address of the table, or of the concatenated tables, at the start level, aligned. */
  readonly ttb: number
  readonly inputBits: number
  readonly granuleShift: number
  readonly startLevel: number
  /** Effective output address size, bits. */
  readonly outputBits: number
  readonly bigEndian: boolean
  readonly affd: boolean
  readonly ptw: boolean
  readonly fwb: boolean
  readonly record: boolean
  readonly stall: boolean
}

/** An STE that is valid and not ILLEGAL. */
export interface Ste {
  /** Config: STRTAB_STE_0_CFG_*. */
  readonly config: number
  readonly world: number
  /** VMID of TLB entries; 0 where they are not tagged with one. */
  readonly vmid: number
  readonly s1Fmt: number
  readonly s1ContextPtr: number
  /** 0: one CD, no SubstreamIDs. */
  readonly s1CdMax: number
  readonly s1Dss: number
  readonly s1Stalld: boolean
  /** PRIVCFG and INSTCFG, 0 (use incoming) where the SMMU has no overrides. */
  readonly privCfg: number
  readonly instCfg: number
  /** Effective EATS, with the CR0.ATSCHK of when it was fetched: 0 where ATS is denied. */
  readonly eats: number
  readonly ppar: boolean
  /** Of an STE with Config 0b11x. */
  readonly stage2: Stage2 | undefined
}

/** TTB0 or TTB1 of a CD. */
export interface Stage1Table {
  /** EPD is 0. Nothing below is meaningful otherwise. */
  readonly enabled: boolean
  readonly ttb: number
  readonly inputBits: number
  readonly granuleShift: number
  readonly startLevel: number
  readonly tbi: boolean
  /** Hierarchical attributes are disabled. */
  readonly had: boolean
  readonly e0pd: boolean
}

/** A CD that is valid and not ILLEGAL, reached through an STE. */
export interface Cd {
  readonly tables: readonly [Stage1Table, Stage1Table]
  /** Two address ranges; otherwise only TTB0 exists (StreamWorld EL2). */
  readonly twoRanges: boolean
  /** ASID of TLB entries; 0 where they are not tagged with one. */
  readonly asid: number
  readonly aset: number
  /** Effective output address size, bits. */
  readonly outputBits: number
  readonly bigEndian: boolean
  readonly affd: boolean
  readonly wxn: boolean
  readonly pan: boolean
  readonly epan: boolean
  readonly record: boolean
  readonly stall: boolean
  readonly abort: boolean
  readonly mairLo: number
  readonly mairHi: number
}

const V = dwordField(0, S.STRTAB_STE_0_V)
const CFG = dwordField(0, S.STRTAB_STE_0_CFG)
const S1FMT = dwordField(0, S.STRTAB_STE_0_S1FMT)
const S1CDMAX = dwordField(0, S.STRTAB_STE_0_S1CDMAX)
const S1DSS = dwordField(1, S.STRTAB_STE_1_S1DSS)
const S1STALLD = dwordField(1, S.STRTAB_STE_1_S1STALLD)
const S2FWB = dwordField(1, S.STRTAB_STE_1_S2FWB)
const EATS = dwordField(1, S.STRTAB_STE_1_EATS)
const PPAR = dwordField(1, S.STRTAB_STE_1_PPAR)
const STRW = dwordField(1, S.STRTAB_STE_1_STRW)
const PRIVCFG = dwordField(1, S.STRTAB_STE_1_PRIVCFG)
const INSTCFG = dwordField(1, S.STRTAB_STE_1_INSTCFG)
const S2VMID = dwordField(2, S.STRTAB_STE_2_S2VMID)
const vtcr = (mask: bigint) => dwordField(2, mask << 32n)
const S2T0SZ = vtcr(S.STRTAB_STE_2_VTCR_S2T0SZ)
const S2SL0 = vtcr(S.STRTAB_STE_2_VTCR_S2SL0)
const S2TG = vtcr(S.STRTAB_STE_2_VTCR_S2TG)
const S2PS = vtcr(S.STRTAB_STE_2_VTCR_S2PS)
const S2AA64 = dwordField(2, S.STRTAB_STE_2_S2AA64)
const S2ENDI = dwordField(2, S.STRTAB_STE_2_S2ENDI)
const S2AFFD = dwordField(2, S.STRTAB_STE_2_S2AFFD)
const S2PTW = dwordField(2, S.STRTAB_STE_2_S2PTW)
const S2HD = dwordField(2, S.STRTAB_STE_2_S2HD)
const S2HA = dwordField(2, S.STRTAB_STE_2_S2HA)
const S2S = dwordField(2, S.STRTAB_STE_2_S2S)
const S2R = dwordField(2, S.STRTAB_STE_2_S2R)

const T0SZ = dwordField(0, C.CTXDESC_CD_0_TCR_T0SZ)
const TG0 = dwordField(0, C.CTXDESC_CD_0_TCR_TG0)
const EPD0 = dwordField(0, C.CTXDESC_CD_0_TCR_EPD0)
const ENDI = dwordField(0, C.CTXDESC_CD_0_ENDI)
const T1SZ = dwordField(0, C.CTXDESC_CD_0_TCR_T1SZ)
const TG1 = dwordField(0, C.CTXDESC_CD_0_TCR_TG1)
const EPD1 = dwordField(0, C.CTXDESC_CD_0_TCR_EPD1)
const CD_V = dwordField(0, C.CTXDESC_CD_0_V)
const IPS = dwordField(0, C.CTXDESC_CD_0_TCR_IPS)
const AFFD = dwordField(0, C.CTXDESC_CD_0_AFFD)
const WXN = dwordField(0, C.CTXDESC_CD_0_WXN)
const TBI0 = dwordField(0, C.CTXDESC_CD_0_TCR_TBI0)
const TBI1 = dwordField(0, C.CTXDESC_CD_0_TCR_TBI1)
const PAN = dwordField(0, C.CTXDESC_CD_0_PAN)
const AA64 = dwordField(0, C.CTXDESC_CD_0_AA64)
const HD = dwordField(0, C.CTXDESC_CD_0_TCR_HD)
const HA = dwordField(0, C.CTXDESC_CD_0_TCR_HA)
const CD_S = dwordField(0, C.CTXDESC_CD_0_S)
const CD_R = dwordField(0, C.CTXDESC_CD_0_R)
const CD_A = dwordField(0, C.CTXDESC_CD_0_A)
const ASET = dwordField(0, C.CTXDESC_CD_0_ASET)
const ASID = dwordField(0, C.CTXDESC_CD_0_ASID)
const HAD0 = dwordField(1, C.CTXDESC_CD_1_HAD0)
const E0PD0 = dwordField(1, C.CTXDESC_CD_1_E0PD0)
const EPAN = dwordField(1, C.CTXDESC_CD_1_EPAN)
const HAD1 = dwordField(2, C.CTXDESC_CD_2_HAD1)
const E0PD1 = dwordField(2, C.CTXDESC_CD_2_E0PD1)

function granuleSupported(granuleShift: number, f: Features): boolean {
  if (granuleShift === 12) return f.gran4k
  if (granuleShift === 14) return f.gran16k
  return granuleShift === 16 && f.gran64k
}

/** The endianness that a structure selects is one the SMMU lacks (IDR0.TTENDIAN). */
function endianIllegal(bigEndian: boolean, f: Features): boolean {
  return f.ttEndian === (bigEndian ? IDR0_TTENDIAN_LE : IDR0_TTENDIAN_BE)
}

/** Largest TxSZ (IHI 0070 sections 5.2 S2T0SZ, 5.4 T0SZ). */
function maxTsz(granuleShift: number, f: Features): number {
  if (!f.stt) return 39
  return granuleShift === 16 ? 47 : 48
}

/** Effective output address size of IPS or S2PS: capped to OAS; Reserved encodings behave as 52 bits. */
function outputBitsOf(encoding: number, f: Features): number {
  return Math.min(oasBits(encoding), f.oas)
}

/** Bits of a table base: 48 unless the granule is 64 KiB. */
function tableBaseBits(outputBits: number, granuleShift: number): number {
  return granuleShift === 16 ? outputBits : Math.min(outputBits, 48)
}

/** Table base bits [51:4] of 64-bit word `dword`. */
function tableBase(words: Uint32Array, dword: number): number {
  return addressOf((words[2 * dword] & 0xffff_fff0) >>> 0, words[2 * dword + 1] & 0xf_ffff)
}

/** Aligned as the SMMU does: to the table, and to 64 bytes when 52-bit addresses are output. */
function alignTable(ttb: number, bytes: number, outputBits: number): number {
  return ttb - (ttb % Math.max(bytes, outputBits === 52 ? 64 : 16))
}

function decodeStage2(w: Uint32Array, f: Features): Stage2 | undefined {
  const stall = getField(w, S2S) === 1
  if (stall ? f.stallModel === IDR0_STALL_MODEL_NONE : f.stallModel === IDR0_STALL_MODEL_FORCE) return undefined
  if (!getField(w, S2AA64) || getField(w, S2HA) || getField(w, S2HD)) return undefined
  const granuleShift = tg0GranuleShift(getField(w, S2TG))
  if (!granuleSupported(granuleShift, f)) return undefined
  const outputBits = outputBitsOf(getField(w, S2PS), f)
  const ttb = tableBase(w, 3)
  if (ttb >= 2 ** tableBaseBits(outputBits, granuleShift)) return undefined
  const t0sz = getField(w, S2T0SZ)
  const min = Math.max(granuleShift === 16 ? 12 : 16, 64 - f.ias)
  if (t0sz < min || t0sz > maxTsz(granuleShift, f)) return undefined
  const inputBits = 64 - t0sz
  const startLevel = stage2StartLevel(getField(w, S2SL0), granuleShift, f.oas, f.stt)
  if (startLevel < 0 || !stage2StartLevelFits(inputBits, startLevel, granuleShift)) return undefined
  const bigEndian = getField(w, S2ENDI) === 1
  if (endianIllegal(bigEndian, f)) return undefined
  return {
    ttb: alignTable(ttb, startTableBytes(inputBits, startLevel, granuleShift), outputBits),
    inputBits,
    granuleShift,
    startLevel,
    outputBits,
    bigEndian,
    affd: getField(w, S2AFFD) === 1,
    ptw: getField(w, S2PTW) === 1,
    fwb: f.fwb && getField(w, S2FWB) === 1,
    record: getField(w, S2R) === 1,
    stall,
  }
}

/** EATS makes the STE ILLEGAL (IHI 0070 section 5.2.2); of interest only where ATS is supported. */
function eatsIllegal(w: Uint32Array, config: number, f: Features): boolean {
  if (!f.ats) return false
  const eats = getField(w, EATS)
  const s2s = getField(w, S2S) === 1
  if (eats === S.STRTAB_STE_1_EATS_S1CHK) return config !== S.STRTAB_STE_0_CFG_NESTED || s2s || f.ns1ats
  return eats === S.STRTAB_STE_1_EATS_TRANS && s2s && (config & 2) !== 0
}

/** What EATS of an STE that is not ILLEGAL amounts to: without DPT, 0b11 is Reserved and behaves as 0b00. */
function effectiveEats(w: Uint32Array, config: number, f: Features, atsChk: boolean): number {
  if (!f.ats || (config & 3) === 0) return S.STRTAB_STE_1_EATS_ABT
  const eats = getField(w, EATS)
  if (eats === S.STRTAB_STE_1_EATS_S1CHK) return atsChk ? eats : S.STRTAB_STE_1_EATS_ABT
  return eats === S.STRTAB_STE_1_EATS_DPT ? S.STRTAB_STE_1_EATS_ABT : eats
}

/**
 * Decodes an STE.
 * @param w its sixteen words
 * @param e2h CR2.E2H
 * @param atsChk CR0.ATSCHK
 * @returns undefined if it is invalid or ILLEGAL
 */
export function decodeSte(w: Uint32Array, f: Features, e2h: boolean, atsChk = false): Ste | undefined {
  if (!getField(w, V)) return undefined
  const config = getField(w, CFG)
  const s1 = (config & 5) === 5
  const s2 = (config & 6) === 6
  if ((s1 && !f.s1p) || (s2 && !f.s2p)) return undefined
  const translates = s1 || s2
  if (translates && eatsIllegal(w, config, f)) return undefined
  const strw = s1 && !s2 && f.hyp ? getField(w, STRW) : S.STRTAB_STE_1_STRW_NSEL1
  if (strw & 1) return undefined
  const world = strw === S.STRTAB_STE_1_STRW_NSEL1 ? WORLD_NS_EL1 : e2h ? WORLD_EL2_E2H : WORLD_EL2
  const s1ContextPtr = addressOf((w[0] & 0xffff_ffc0) >>> 0, w[1] & 0xff_ffff)
  const s1CdMax = s1 && f.ssidSize > 0 ? getField(w, S1CDMAX) : 0
  const s1Fmt = getField(w, S1FMT)
  const s1Stalld = getField(w, S1STALLD) === 1
  if (s1) {
    if (s1Stalld && f.stallModel !== IDR0_STALL_MODEL_STALL) return undefined
    if (s1CdMax > f.ssidSize) return undefined
    if (s1CdMax > 0 && !f.cd2l && (s1Fmt === S.STRTAB_STE_0_S1FMT_4K_L2 || s1Fmt === S.STRTAB_STE_0_S1FMT_64K_L2)) {
      return undefined
    }
    // With stage 2 the pointer is an IPA: out of range, it meets a stage 2 Translation fault (IHI 0070 section 3.4.3, note 2b).
    if (!s2 && s1ContextPtr >= 2 ** f.oas) return undefined
  }
  const tagged = translates && f.s2p && world === WORLD_NS_EL1
  const vmid = tagged ? getField(w, S2VMID) : 0
  if (!f.vmid16 && vmid > 0xff) return undefined
  const stage2 = s2 ? decodeStage2(w, f) : undefined
  if (s2 && !stage2) return undefined
  return {
    config,
    world,
    vmid,
    s1Fmt,
    s1ContextPtr,
    s1CdMax,
    s1Dss: getField(w, S1DSS),
    s1Stalld,
    privCfg: f.attrPermsOvr ? getField(w, PRIVCFG) : S.STRTAB_STE_1_PRIVCFG_INCOMING,
    instCfg: f.attrPermsOvr ? getField(w, INSTCFG) : S.STRTAB_STE_1_INSTCFG_INCOMING,
    eats: effectiveEats(w, config, f, atsChk),
    ppar: getField(w, PPAR) === 1,
    stage2,
  }
}

const DISABLED: Stage1Table = {
  enabled: false,
  ttb: 0,
  inputBits: 0,
  granuleShift: 12,
  startLevel: 0,
  tbi: false,
  had: false,
  e0pd: false,
}

function decodeTable(
  f: Features,
  outputBits: number,
  granuleShift: number,
  tsz: number,
  ttb: number,
  flags: Pick<Stage1Table, 'tbi' | 'had' | 'e0pd'>,
): Stage1Table | undefined {
  if (!granuleSupported(granuleShift, f)) return undefined
  const min = granuleShift === 16 && f.vaBits === 52 ? 12 : 16
  if (tsz < min || tsz > maxTsz(granuleShift, f)) return undefined
  if (ttb >= 2 ** tableBaseBits(outputBits, granuleShift)) return undefined
  const inputBits = 64 - tsz
  const startLevel = stage1StartLevel(inputBits, granuleShift)
  const bytes = 8 * 2 ** (inputBits - levelShift(startLevel, granuleShift))
  return { enabled: true, ttb: alignTable(ttb, bytes, outputBits), inputBits, granuleShift, startLevel, ...flags }
}

/**
 * Decodes a CD.
 * @param w its sixteen words
 * @param ste the STE through which it was reached
 * @returns undefined if it is invalid or ILLEGAL
 */
export function decodeCd(w: Uint32Array, ste: Ste, f: Features): Cd | undefined {
  if (!getField(w, CD_V)) return undefined
  const stall = getField(w, CD_S) === 1
  const abort = getField(w, CD_A) === 1
  if (ste.s1Stalld && stall) return undefined
  if (f.termModel && !abort) return undefined
  if (stall ? f.stallModel === IDR0_STALL_MODEL_NONE : f.stallModel === IDR0_STALL_MODEL_FORCE) return undefined
  const twoRanges = ste.world !== WORLD_EL2
  const enabled0 = !twoRanges || getField(w, EPD0) === 0
  const enabled1 = twoRanges && getField(w, EPD1) === 0
  const bigEndian = getField(w, ENDI) === 1
  if ((enabled0 || enabled1) && endianIllegal(bigEndian, f)) return undefined
  if (!getField(w, AA64) || getField(w, HA) || getField(w, HD)) return undefined
  const asid = twoRanges ? getField(w, ASID) : 0
  if (!f.asid16 && asid > 0xff) return undefined
  const outputBits = outputBitsOf(getField(w, IPS), f)
  const table0 = enabled0
    ? decodeTable(f, outputBits, tg0GranuleShift(getField(w, TG0)), getField(w, T0SZ), tableBase(w, 1), {
        tbi: getField(w, TBI0) === 1,
        had: f.had && getField(w, HAD0) === 1,
        e0pd: f.e0pd && twoRanges && getField(w, E0PD0) === 1,
      })
    : DISABLED
  const table1 = enabled1
    ? decodeTable(f, outputBits, tg1GranuleShift(getField(w, TG1)), getField(w, T1SZ), tableBase(w, 2), {
        tbi: getField(w, TBI1) === 1,
        had: f.had && getField(w, HAD1) === 1,
        e0pd: f.e0pd && getField(w, E0PD1) === 1,
      })
    : DISABLED
  if (!table0 || !table1) return undefined
  return {
    tables: [table0, table1],
    twoRanges,
    asid,
    aset: getField(w, ASET),
    outputBits,
    bigEndian,
    affd: getField(w, AFFD) === 1,
    wxn: getField(w, WXN) === 1,
    pan: twoRanges && getField(w, PAN) === 1,
    epan: f.epan && getField(w, EPAN) === 1,
    record: getField(w, CD_R) === 1,
    stall,
    abort,
    mairLo: w[6],
    mairHi: w[7],
  }
}
