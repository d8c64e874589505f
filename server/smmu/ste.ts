// SPDX-License-Identifier: Apache-2.0
/**
 * Stream table entry (IHI 0070 section 5.2): 64 bytes, little-endian, eight 64-bit words. Masks are of the 64-bit word whose
 * number is in their name; those of VTCR (bits [50:32] of word 2) count from the start of VTCR, as Linux's do.
 */
import { fieldGet64, fieldPrep64, genmask64, hex } from './bits.ts'

export const STRTAB_STE_DWORDS = 8
export const STRTAB_STE_SIZE = 64

export const STRTAB_STE_0_V = genmask64(0, 0)
export const STRTAB_STE_0_CFG = genmask64(3, 1)
export const STRTAB_STE_0_CFG_ABORT = 0
export const STRTAB_STE_0_CFG_BYPASS = 4
export const STRTAB_STE_0_CFG_S1_TRANS = 5
export const STRTAB_STE_0_CFG_S2_TRANS = 6
export const STRTAB_STE_0_CFG_NESTED = 7
export const STRTAB_STE_0_S1FMT = genmask64(5, 4)
export const STRTAB_STE_0_S1FMT_LINEAR = 0
/** 4 KiB leaf tables of 64 CDs. */
export const STRTAB_STE_0_S1FMT_4K_L2 = 1
/** 64 KiB leaf tables of 1024 CDs. */
export const STRTAB_STE_0_S1FMT_64K_L2 = 2
/** S1ContextPtr. Bits above the output address size are RES0. */
export const STRTAB_STE_0_S1CTXPTR_MASK = genmask64(55, 6)
export const STRTAB_STE_0_S1CDMAX = genmask64(63, 59)

export const STRTAB_STE_1_S1DSS = genmask64(1, 0)
export const STRTAB_STE_1_S1DSS_TERMINATE = 0
export const STRTAB_STE_1_S1DSS_BYPASS = 1
export const STRTAB_STE_1_S1DSS_SSID0 = 2
export const STRTAB_STE_1_S1CIR = genmask64(3, 2)
export const STRTAB_STE_1_S1COR = genmask64(5, 4)
export const STRTAB_STE_1_S1CSH = genmask64(7, 6)
export const STRTAB_STE_1_S1C_CACHE_NC = 0
export const STRTAB_STE_1_S1C_CACHE_WBRA = 1
export const STRTAB_STE_1_S1C_CACHE_WT = 2
export const STRTAB_STE_1_S1C_CACHE_WB = 3
export const STRTAB_STE_1_S2HWU = genmask64(11, 8)
export const STRTAB_STE_1_DRE = genmask64(12, 12)
export const STRTAB_STE_1_CONT = genmask64(16, 13)
export const STRTAB_STE_1_DCP = genmask64(17, 17)
export const STRTAB_STE_1_PPAR = genmask64(18, 18)
export const STRTAB_STE_1_MEV = genmask64(19, 19)
/** Not looked at by hardware. */
export const STRTAB_STE_1_SW_RESERVED = genmask64(23, 20)
export const STRTAB_STE_1_S1PIE = genmask64(24, 24)
export const STRTAB_STE_1_S2FWB = genmask64(25, 25)
export const STRTAB_STE_1_S1MPAM = genmask64(26, 26)
export const STRTAB_STE_1_S1STALLD = genmask64(27, 27)
export const STRTAB_STE_1_EATS = genmask64(29, 28)
export const STRTAB_STE_1_EATS_ABT = 0
export const STRTAB_STE_1_EATS_TRANS = 1
export const STRTAB_STE_1_EATS_S1CHK = 2
export const STRTAB_STE_1_EATS_DPT = 3
export const STRTAB_STE_1_STRW = genmask64(31, 30)
export const STRTAB_STE_1_STRW_NSEL1 = 0
export const STRTAB_STE_1_STRW_EL2 = 2
export const STRTAB_STE_1_MEMATTR = genmask64(35, 32)
export const STRTAB_STE_1_MTCFG = genmask64(36, 36)
export const STRTAB_STE_1_ALLOCCFG = genmask64(40, 37)
export const STRTAB_STE_1_SHCFG = genmask64(45, 44)
export const STRTAB_STE_1_SHCFG_NSH = 0
export const STRTAB_STE_1_SHCFG_INCOMING = 1
export const STRTAB_STE_1_SHCFG_OSH = 2
export const STRTAB_STE_1_SHCFG_ISH = 3
export const STRTAB_STE_1_NSCFG = genmask64(47, 46)
export const STRTAB_STE_1_PRIVCFG = genmask64(49, 48)
export const STRTAB_STE_1_PRIVCFG_INCOMING = 0
export const STRTAB_STE_1_PRIVCFG_UNPRIV = 2
export const STRTAB_STE_1_PRIVCFG_PRIV = 3
export const STRTAB_STE_1_INSTCFG = genmask64(51, 50)
export const STRTAB_STE_1_INSTCFG_INCOMING = 0
export const STRTAB_STE_1_INSTCFG_DATA = 2
export const STRTAB_STE_1_INSTCFG_INST = 3

export const STRTAB_STE_2_S2VMID = genmask64(15, 0)
export const STRTAB_STE_2_VTCR = genmask64(50, 32)
export const STRTAB_STE_2_VTCR_S2T0SZ = genmask64(5, 0)
export const STRTAB_STE_2_VTCR_S2SL0 = genmask64(7, 6)
export const STRTAB_STE_2_VTCR_S2IR0 = genmask64(9, 8)
export const STRTAB_STE_2_VTCR_S2OR0 = genmask64(11, 10)
export const STRTAB_STE_2_VTCR_S2SH0 = genmask64(13, 12)
export const STRTAB_STE_2_VTCR_S2TG = genmask64(15, 14)
export const STRTAB_STE_2_VTCR_S2TG_4K = 0
export const STRTAB_STE_2_VTCR_S2TG_64K = 1
export const STRTAB_STE_2_VTCR_S2TG_16K = 2
export const STRTAB_STE_2_VTCR_S2PS = genmask64(18, 16)
/** Values of S2IR0 and S2OR0: write-back, read- and write-allocate. */
export const STRTAB_STE_2_VTCR_RGN_WBWA = 1
export const STRTAB_STE_2_S2AA64 = genmask64(51, 51)
export const STRTAB_STE_2_S2ENDI = genmask64(52, 52)
export const STRTAB_STE_2_S2AFFD = genmask64(53, 53)
export const STRTAB_STE_2_S2PTW = genmask64(54, 54)
export const STRTAB_STE_2_S2HD = genmask64(55, 55)
export const STRTAB_STE_2_S2HA = genmask64(56, 56)
export const STRTAB_STE_2_S2S = genmask64(57, 57)
export const STRTAB_STE_2_S2R = genmask64(58, 58)
export const STRTAB_STE_2_S2HAFT = genmask64(59, 59)
export const STRTAB_STE_2_S2PIE = genmask64(60, 60)
export const STRTAB_STE_2_S2POE = genmask64(61, 61)
export const STRTAB_STE_2_DPT_VMATCH = genmask64(63, 62)

export const STRTAB_STE_3_S2NSW = genmask64(0, 0)
export const STRTAB_STE_3_S2NSA = genmask64(1, 1)
export const STRTAB_STE_3_S2SL0_2 = genmask64(2, 2)
export const STRTAB_STE_3_S2DS = genmask64(3, 3)
/** S2TTB for VMSAv8-64 tables. */
export const STRTAB_STE_3_S2TTB_MASK = genmask64(51, 4)

export const STRTAB_STE_4_PARTID = genmask64(31, 16)

export const STRTAB_STE_5_PMG = genmask64(7, 0)
export const STRTAB_STE_5_VMSPTR_MASK = genmask64(55, 12)

/** Bits [50:32] of word 2 from the values of the VTCR fields. */
export function vtcr(fields: {
  t0sz: number
  sl0: number
  ir0: number
  or0: number
  sh0: number
  tg: number
  ps: number
}): bigint {
  return (
    (fieldPrep64(STRTAB_STE_2_VTCR_S2T0SZ, fields.t0sz) |
      fieldPrep64(STRTAB_STE_2_VTCR_S2SL0, fields.sl0) |
      fieldPrep64(STRTAB_STE_2_VTCR_S2IR0, fields.ir0) |
      fieldPrep64(STRTAB_STE_2_VTCR_S2OR0, fields.or0) |
      fieldPrep64(STRTAB_STE_2_VTCR_S2SH0, fields.sh0) |
      fieldPrep64(STRTAB_STE_2_VTCR_S2TG, fields.tg) |
      fieldPrep64(STRTAB_STE_2_VTCR_S2PS, fields.ps)) <<
    32n
  )
}

const CONFIG_NAMES = ['abort', 'abort', 'abort', 'abort', 'bypass', 's1', 's2', 'nested']

/** Names of Config, for people; a stream table entry with V = 0 has none. */
export function steConfigName(config: number): string {
  return CONFIG_NAMES[config & 7]
}

/** Fields of stage 1 and stage 2 and the rest, with the name to show and the 64-bit word. */
const S1_FIELDS: readonly (readonly [string, number, bigint])[] = [
  ['S1Fmt', 0, STRTAB_STE_0_S1FMT],
  ['S1CDMax', 0, STRTAB_STE_0_S1CDMAX],
  ['S1DSS', 1, STRTAB_STE_1_S1DSS],
  ['S1CIR', 1, STRTAB_STE_1_S1CIR],
  ['S1COR', 1, STRTAB_STE_1_S1COR],
  ['S1CSH', 1, STRTAB_STE_1_S1CSH],
  ['S1STALLD', 1, STRTAB_STE_1_S1STALLD],
  ['STRW', 1, STRTAB_STE_1_STRW],
]
const COMMON_FIELDS: readonly (readonly [string, number, bigint])[] = [
  ['CONT', 1, STRTAB_STE_1_CONT],
  ['MEV', 1, STRTAB_STE_1_MEV],
  ['EATS', 1, STRTAB_STE_1_EATS],
  ['MTCFG', 1, STRTAB_STE_1_MTCFG],
  ['MemAttr', 1, STRTAB_STE_1_MEMATTR],
  ['ALLOCCFG', 1, STRTAB_STE_1_ALLOCCFG],
  ['SHCFG', 1, STRTAB_STE_1_SHCFG],
  ['PRIVCFG', 1, STRTAB_STE_1_PRIVCFG],
  ['INSTCFG', 1, STRTAB_STE_1_INSTCFG],
]
const VTCR_FIELDS: readonly (readonly [string, bigint])[] = [
  ['S2T0SZ', STRTAB_STE_2_VTCR_S2T0SZ],
  ['S2SL0', STRTAB_STE_2_VTCR_S2SL0],
  ['S2IR0', STRTAB_STE_2_VTCR_S2IR0],
  ['S2OR0', STRTAB_STE_2_VTCR_S2OR0],
  ['S2SH0', STRTAB_STE_2_VTCR_S2SH0],
  ['S2TG', STRTAB_STE_2_VTCR_S2TG],
  ['S2PS', STRTAB_STE_2_VTCR_S2PS],
]
const S2_FLAGS: readonly (readonly [string, number, bigint])[] = [
  ['S2FWB', 1, STRTAB_STE_1_S2FWB],
  ['S2AA64', 2, STRTAB_STE_2_S2AA64],
  ['S2ENDI', 2, STRTAB_STE_2_S2ENDI],
  ['S2AFFD', 2, STRTAB_STE_2_S2AFFD],
  ['S2PTW', 2, STRTAB_STE_2_S2PTW],
  ['S2HD', 2, STRTAB_STE_2_S2HD],
  ['S2HA', 2, STRTAB_STE_2_S2HA],
  ['S2S', 2, STRTAB_STE_2_S2S],
  ['S2R', 2, STRTAB_STE_2_S2R],
  ['S2DS', 3, STRTAB_STE_3_S2DS],
]

function words(ste: BigUint64Array, fields: readonly (readonly [string, number, bigint])[]): string[] {
  const out: string[] = []
  for (const [name, dword, mask] of fields) {
    const value = fieldGet64(mask, ste[dword])
    if (value) out.push(mask & (mask - 1n) ? `${name}=${value}` : name)
  }
  return out
}

/**
 * An STE in one line, for example
 * `V s1 S1ContextPtr=0x41000000 S1CIR=1 S1COR=1 S1CSH=3 SHCFG=1`: Config, then what it makes relevant and is not 0.
 */
export function describeSte(ste: BigUint64Array): string {
  if (!(ste[0] & STRTAB_STE_0_V)) return 'V=0'
  const config = fieldGet64(STRTAB_STE_0_CFG, ste[0])
  const out = ['V', steConfigName(config)]
  if (!(config & 4)) return out.join(' ')
  if (config & 1) {
    out.push(`S1ContextPtr=${hex(ste[0] & STRTAB_STE_0_S1CTXPTR_MASK)}`, ...words(ste, S1_FIELDS))
  }
  out.push(...words(ste, COMMON_FIELDS))
  if (config & 3) out.push(`S2VMID=${fieldGet64(STRTAB_STE_2_S2VMID, ste[2])}`)
  if (config & 2) {
    const vtcrBits = (ste[2] & STRTAB_STE_2_VTCR) >> 32n
    for (const [name, mask] of VTCR_FIELDS) out.push(`${name}=${fieldGet64(mask, vtcrBits)}`)
    out.push(...words(ste, S2_FLAGS), `S2TTB=${hex(ste[3] & STRTAB_STE_3_S2TTB_MASK)}`)
  }
  return out.join(' ')
}
