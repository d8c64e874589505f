// SPDX-License-Identifier: Apache-2.0
/**
 * Context descriptor and level 1 context descriptor (IHI 0070 sections 5.4 and 5.3), little-endian. Masks are of the 64-bit
 * word whose number is in their name. Names are Linux's `CTXDESC_CD_*`, with its `TCR_` prefix for the fields of word 0 that
 * mirror TCR_EL1.
 */
import { fieldGet64, genmask64, hex } from './bits.ts'

export const CTXDESC_L1_DESC_SIZE = 8
export const CTXDESC_L1_DESC_V = genmask64(0, 0)
/** L2Ptr. Bits above the output address size are RES0. */
export const CTXDESC_L1_DESC_L2PTR_MASK = genmask64(55, 12)

export const CTXDESC_CD_DWORDS = 8
export const CTXDESC_CD_SIZE = 64

export const CTXDESC_CD_0_TCR_T0SZ = genmask64(5, 0)
export const CTXDESC_CD_0_TCR_TG0 = genmask64(7, 6)
export const CTXDESC_CD_0_TCR_TG0_4K = 0
export const CTXDESC_CD_0_TCR_TG0_64K = 1
export const CTXDESC_CD_0_TCR_TG0_16K = 2
export const CTXDESC_CD_0_TCR_IRGN0 = genmask64(9, 8)
export const CTXDESC_CD_0_TCR_ORGN0 = genmask64(11, 10)
export const CTXDESC_CD_0_TCR_SH0 = genmask64(13, 12)
export const CTXDESC_CD_0_TCR_EPD0 = genmask64(14, 14)
export const CTXDESC_CD_0_ENDI = genmask64(15, 15)
export const CTXDESC_CD_0_TCR_T1SZ = genmask64(21, 16)
export const CTXDESC_CD_0_TCR_TG1 = genmask64(23, 22)
export const CTXDESC_CD_0_TCR_TG1_16K = 1
export const CTXDESC_CD_0_TCR_TG1_4K = 2
export const CTXDESC_CD_0_TCR_TG1_64K = 3
export const CTXDESC_CD_0_TCR_IRGN1 = genmask64(25, 24)
export const CTXDESC_CD_0_TCR_ORGN1 = genmask64(27, 26)
export const CTXDESC_CD_0_TCR_SH1 = genmask64(29, 28)
export const CTXDESC_CD_0_TCR_EPD1 = genmask64(30, 30)
export const CTXDESC_CD_0_V = genmask64(31, 31)
export const CTXDESC_CD_0_TCR_IPS = genmask64(34, 32)
export const CTXDESC_CD_0_AFFD = genmask64(35, 35)
export const CTXDESC_CD_0_WXN = genmask64(36, 36)
export const CTXDESC_CD_0_UWXN = genmask64(37, 37)
export const CTXDESC_CD_0_TCR_TBI0 = genmask64(38, 38)
export const CTXDESC_CD_0_TCR_TBI1 = genmask64(39, 39)
export const CTXDESC_CD_0_PAN = genmask64(40, 40)
export const CTXDESC_CD_0_AA64 = genmask64(41, 41)
export const CTXDESC_CD_0_TCR_HD = genmask64(42, 42)
export const CTXDESC_CD_0_TCR_HA = genmask64(43, 43)
export const CTXDESC_CD_0_S = genmask64(44, 44)
export const CTXDESC_CD_0_R = genmask64(45, 45)
export const CTXDESC_CD_0_A = genmask64(46, 46)
export const CTXDESC_CD_0_ASET = genmask64(47, 47)
export const CTXDESC_CD_0_ASID = genmask64(63, 48)

export const CTXDESC_CD_1_NSCFG0 = genmask64(0, 0)
export const CTXDESC_CD_1_HAD0 = genmask64(1, 1)
export const CTXDESC_CD_1_E0PD0 = genmask64(2, 2)
export const CTXDESC_CD_1_HAFT = genmask64(3, 3)
/** TTB0 for VMSAv8-64 tables. */
export const CTXDESC_CD_1_TTB0_MASK = genmask64(51, 4)
export const CTXDESC_CD_1_EPAN = genmask64(59, 59)

export const CTXDESC_CD_2_NSCFG1 = genmask64(0, 0)
export const CTXDESC_CD_2_HAD1 = genmask64(1, 1)
export const CTXDESC_CD_2_E0PD1 = genmask64(2, 2)
/** TTB1 for VMSAv8-64 tables. */
export const CTXDESC_CD_2_TTB1_MASK = genmask64(51, 4)
export const CTXDESC_CD_2_DS = genmask64(58, 58)
export const CTXDESC_CD_2_PIE = genmask64(59, 59)

/** MAIR1:MAIR0, all 64 bits of word 3. */
export const CTXDESC_CD_3_MAIR = genmask64(63, 0)

const FIELDS_0: readonly (readonly [string, bigint])[] = [
  ['ASID', CTXDESC_CD_0_ASID],
  ['IPS', CTXDESC_CD_0_TCR_IPS],
  ['ASET', CTXDESC_CD_0_ASET],
  ['AFFD', CTXDESC_CD_0_AFFD],
  ['WXN', CTXDESC_CD_0_WXN],
  ['UWXN', CTXDESC_CD_0_UWXN],
  ['PAN', CTXDESC_CD_0_PAN],
  ['AA64', CTXDESC_CD_0_AA64],
  ['ENDI', CTXDESC_CD_0_ENDI],
  ['HD', CTXDESC_CD_0_TCR_HD],
  ['HA', CTXDESC_CD_0_TCR_HA],
  ['S', CTXDESC_CD_0_S],
  ['R', CTXDESC_CD_0_R],
  ['A', CTXDESC_CD_0_A],
]

const HALVES = [
  {
    n: '0',
    dword: 1,
    ttb: CTXDESC_CD_1_TTB0_MASK,
    had: CTXDESC_CD_1_HAD0,
    tsz: CTXDESC_CD_0_TCR_T0SZ,
    tg: CTXDESC_CD_0_TCR_TG0,
    granules: ['4K', '64K', '16K', 'reserved'],
    epd: CTXDESC_CD_0_TCR_EPD0,
    tbi: CTXDESC_CD_0_TCR_TBI0,
  },
  {
    n: '1',
    dword: 2,
    ttb: CTXDESC_CD_2_TTB1_MASK,
    had: CTXDESC_CD_2_HAD1,
    tsz: CTXDESC_CD_0_TCR_T1SZ,
    tg: CTXDESC_CD_0_TCR_TG1,
    granules: ['reserved', '16K', '4K', '64K'],
    epd: CTXDESC_CD_0_TCR_EPD1,
    tbi: CTXDESC_CD_0_TCR_TBI1,
  },
] as const

/** A CD in one line, for example `V ASID=1 IPS=4 AA64 R A TTB0=0x42000000 T0SZ=16 TG0=4K EPD1 MAIR=0xff440c0400`. */
export function describeCd(cd: BigUint64Array): string {
  if (!(cd[0] & CTXDESC_CD_0_V)) return 'V=0'
  const out = ['V']
  for (const [name, mask] of FIELDS_0) {
    const value = fieldGet64(mask, cd[0])
    if (mask & (mask - 1n)) out.push(`${name}=${value}`)
    else if (value) out.push(name)
  }
  for (const half of HALVES) {
    if (cd[0] & half.epd) {
      out.push(`EPD${half.n}`)
      continue
    }
    out.push(
      `TTB${half.n}=${hex(cd[half.dword] & half.ttb)}`,
      `T${half.n}SZ=${fieldGet64(half.tsz, cd[0])}`,
      `TG${half.n}=${half.granules[fieldGet64(half.tg, cd[0])]}`,
    )
    if (cd[0] & half.tbi) out.push(`TBI${half.n}`)
    if (cd[half.dword] & half.had) out.push(`HAD${half.n}`)
  }
  out.push(`MAIR=${hex(cd[3])}`)
  return out.join(' ')
}
