// SPDX-License-Identifier: Apache-2.0
/** Stream table entries and context descriptors field by field, for showing them side by side. */
import { fieldGet64, hex } from '../smmu/bits.ts'
import * as C from '../smmu/cd.ts'
import * as S from '../smmu/ste.ts'
import type { CdView, SteView } from './schemas/smmus.ts'

/** Name, 64-bit word, mask; `address`: the value is not moved down to bit 0. */
type Row = readonly [name: string, dword: number, mask: bigint, address?: boolean]

const vtcr = (mask: bigint): bigint => mask << 32n

const STE_ROWS: readonly Row[] = [
  ['V', 0, S.STRTAB_STE_0_V],
  ['Config', 0, S.STRTAB_STE_0_CFG],
  ['S1Fmt', 0, S.STRTAB_STE_0_S1FMT],
  ['S1ContextPtr', 0, S.STRTAB_STE_0_S1CTXPTR_MASK, true],
  ['S1CDMax', 0, S.STRTAB_STE_0_S1CDMAX],
  ['S1DSS', 1, S.STRTAB_STE_1_S1DSS],
  ['S1CIR', 1, S.STRTAB_STE_1_S1CIR],
  ['S1COR', 1, S.STRTAB_STE_1_S1COR],
  ['S1CSH', 1, S.STRTAB_STE_1_S1CSH],
  ['S1STALLD', 1, S.STRTAB_STE_1_S1STALLD],
  ['EATS', 1, S.STRTAB_STE_1_EATS],
  ['STRW', 1, S.STRTAB_STE_1_STRW],
  ['MTCFG', 1, S.STRTAB_STE_1_MTCFG],
  ['MemAttr', 1, S.STRTAB_STE_1_MEMATTR],
  ['ALLOCCFG', 1, S.STRTAB_STE_1_ALLOCCFG],
  ['SHCFG', 1, S.STRTAB_STE_1_SHCFG],
  ['PRIVCFG', 1, S.STRTAB_STE_1_PRIVCFG],
  ['INSTCFG', 1, S.STRTAB_STE_1_INSTCFG],
  ['S2VMID', 2, S.STRTAB_STE_2_S2VMID],
  ['S2T0SZ', 2, vtcr(S.STRTAB_STE_2_VTCR_S2T0SZ)],
  ['S2SL0', 2, vtcr(S.STRTAB_STE_2_VTCR_S2SL0)],
  ['S2IR0', 2, vtcr(S.STRTAB_STE_2_VTCR_S2IR0)],
  ['S2OR0', 2, vtcr(S.STRTAB_STE_2_VTCR_S2OR0)],
  ['S2SH0', 2, vtcr(S.STRTAB_STE_2_VTCR_S2SH0)],
  ['S2TG', 2, vtcr(S.STRTAB_STE_2_VTCR_S2TG)],
  ['S2PS', 2, vtcr(S.STRTAB_STE_2_VTCR_S2PS)],
  ['S2AA64', 2, S.STRTAB_STE_2_S2AA64],
  ['S2PTW', 2, S.STRTAB_STE_2_S2PTW],
  ['S2S', 2, S.STRTAB_STE_2_S2S],
  ['S2R', 2, S.STRTAB_STE_2_S2R],
  ['S2TTB', 3, S.STRTAB_STE_3_S2TTB_MASK, true],
]

const CD_ROWS: readonly Row[] = [
  ['V', 0, C.CTXDESC_CD_0_V],
  ['ASID', 0, C.CTXDESC_CD_0_ASID],
  ['AA64', 0, C.CTXDESC_CD_0_AA64],
  ['T0SZ', 0, C.CTXDESC_CD_0_TCR_T0SZ],
  ['TG0', 0, C.CTXDESC_CD_0_TCR_TG0],
  ['EPD0', 0, C.CTXDESC_CD_0_TCR_EPD0],
  ['TTB0', 1, C.CTXDESC_CD_1_TTB0_MASK, true],
  ['T1SZ', 0, C.CTXDESC_CD_0_TCR_T1SZ],
  ['TG1', 0, C.CTXDESC_CD_0_TCR_TG1],
  ['EPD1', 0, C.CTXDESC_CD_0_TCR_EPD1],
  ['TTB1', 2, C.CTXDESC_CD_2_TTB1_MASK, true],
  ['IPS', 0, C.CTXDESC_CD_0_TCR_IPS],
  ['A', 0, C.CTXDESC_CD_0_A],
  ['R', 0, C.CTXDESC_CD_0_R],
  ['S', 0, C.CTXDESC_CD_0_S],
  ['MAIR', 3, C.CTXDESC_CD_3_MAIR, true],
]

function fields(words: BigUint64Array, rows: readonly Row[]): SteView['fields'][number][] {
  return rows.map(([name, dword, mask, address]) => {
    const word = words[dword] ?? 0n
    const value = address ? hex(word & mask) : String(fieldGet64(mask, word))
    return { name, value }
  })
}

export function steConfig(words: BigUint64Array): string {
  const word = words[0] ?? 0n
  return (word & S.STRTAB_STE_0_V) === 0n ? 'invalid' : S.steConfigName(fieldGet64(S.STRTAB_STE_0_CFG, word))
}

export function steView(words: BigUint64Array): SteView {
  const config = steConfig(words)
  return {
    valid: config !== 'invalid',
    config,
    text: S.describeSte(words),
    words: [...words].map(word => hex(word)),
    fields: fields(words, STE_ROWS).map(f => (f.name === 'Config' ? { ...f, meaning: config } : f)),
  }
}

export function cdView(words: BigUint64Array): Omit<CdView, 'address'> {
  return {
    valid: ((words[0] ?? 0n) & C.CTXDESC_CD_0_V) !== 0n,
    text: C.describeCd(words),
    words: [...words].map(word => hex(word)),
    fields: fields(words, CD_ROWS),
  }
}
