// SPDX-License-Identifier: Apache-2.0
/** Shape of the stage-2 identity map (server/hypervisor/README.md, section 9.1), and how much memory it can need. */
import { fieldPrep64 } from '../../smmu/bits.ts'
import {
  blockAllowed,
  concatenatedTables,
  LAST_LEVEL,
  levelShift,
  stage2ShortestStartLevel,
  stage2Sl0,
  startTableBytes,
  tableBits,
} from '../../smmu/pagetable.ts'
import {
  ARM_SMMU_SH_ISH,
  IDR5_OAS_32_BIT,
  IDR5_OAS_36_BIT,
  IDR5_OAS_40_BIT,
  IDR5_OAS_42_BIT,
  IDR5_OAS_44_BIT,
  IDR5_OAS_48_BIT,
  IDR5_OAS_52_BIT,
} from '../../smmu/registers.ts'
import {
  STRTAB_STE_2_VTCR_RGN_WBWA,
  STRTAB_STE_2_VTCR_S2IR0,
  STRTAB_STE_2_VTCR_S2OR0,
  STRTAB_STE_2_VTCR_S2PS,
  STRTAB_STE_2_VTCR_S2SH0,
  STRTAB_STE_2_VTCR_S2SL0,
  STRTAB_STE_2_VTCR_S2T0SZ,
  STRTAB_STE_2_VTCR_S2TG,
  STRTAB_STE_2_VTCR_S2TG_4K,
  STRTAB_STE_2_VTCR_S2TG_16K,
  STRTAB_STE_2_VTCR_S2TG_64K,
} from '../../smmu/ste.ts'

/** Most tables that may be concatenated at the start level of stage 2. */
const MAX_CONCATENATED = 16

/** Shape of the tables. */
export interface IdmapGeometry {
  readonly granule: number
  readonly granuleShift: number
  /** Index bits of a whole table. */
  readonly tableBits: number
  readonly inputBits: number
  readonly outputBits: number
  readonly startLevel: number
  /** Bytes of the start level. */
  readonly rootBytes: number
  /** Tables side by side at the start level. */
  readonly concatenated: number
  /** VTCR as in the STE (S2T0SZ to S2PS, from bit 0). */
  readonly vtcr: number
}

/** S2PS of the STE by output bits, S2TG by granule. */
const PS_ENCODINGS: Readonly<Record<number, number>> = {
  32: IDR5_OAS_32_BIT,
  36: IDR5_OAS_36_BIT,
  40: IDR5_OAS_40_BIT,
  42: IDR5_OAS_42_BIT,
  44: IDR5_OAS_44_BIT,
  48: IDR5_OAS_48_BIT,
  52: IDR5_OAS_52_BIT,
}
/** Output sizes that there are. */
export const OUTPUT_BITS: readonly number[] = Object.keys(PS_ENCODINGS).map(Number)

const TG_ENCODINGS: Readonly<Record<number, number>> = {
  4096: STRTAB_STE_2_VTCR_S2TG_4K,
  16384: STRTAB_STE_2_VTCR_S2TG_16K,
  65536: STRTAB_STE_2_VTCR_S2TG_64K,
}

/**
 * The geometry that pKVM's rule gives for an output size: input min(48, OAS), as few levels as concatenating up to
 * 16 tables at the start level makes possible.
 */
export function idmapGeometry(granule: number, oas: number): IdmapGeometry {
  const granuleShift = Math.log2(granule)
  const inputBits = Math.min(48, oas)
  const startLevel = stage2ShortestStartLevel(inputBits, granuleShift)
  const vtcr =
    fieldPrep64(STRTAB_STE_2_VTCR_S2T0SZ, 64 - inputBits) |
    fieldPrep64(STRTAB_STE_2_VTCR_S2SL0, stage2Sl0(startLevel, granuleShift)) |
    fieldPrep64(STRTAB_STE_2_VTCR_S2IR0, STRTAB_STE_2_VTCR_RGN_WBWA) |
    fieldPrep64(STRTAB_STE_2_VTCR_S2OR0, STRTAB_STE_2_VTCR_RGN_WBWA) |
    fieldPrep64(STRTAB_STE_2_VTCR_S2SH0, ARM_SMMU_SH_ISH) |
    fieldPrep64(STRTAB_STE_2_VTCR_S2TG, TG_ENCODINGS[granule]) |
    fieldPrep64(STRTAB_STE_2_VTCR_S2PS, PS_ENCODINGS[oas])
  return {
    granule,
    granuleShift,
    tableBits: tableBits(granuleShift),
    inputBits,
    outputBits: oas,
    startLevel,
    rootBytes: startTableBytes(inputBits, startLevel, granuleShift),
    concatenated: concatenatedTables(inputBits, startLevel, granuleShift),
    vtcr: Number(vtcr),
  }
}

/** Bytes that one entry at `level` maps. */
export function levelSpan({ granuleShift }: IdmapGeometry, level: number): number {
  return 2 ** levelShift(level, granuleShift)
}

/** Whether a leaf may stand at `level`: pages at the last one, blocks where the granule and the output size have them. */
export function leafAllowed({ granuleShift, outputBits }: IdmapGeometry, level: number): boolean {
  return level === LAST_LEVEL || blockAllowed(level, granuleShift, outputBits)
}

/** Pages of 4 KiB for tables that map `bytes` in pages, all levels. */
function tablePages(geometry: IdmapGeometry, bytes: number): number {
  let entries = Math.ceil(bytes / geometry.granule)
  let tables = 0
  for (let level = LAST_LEVEL; level >= 0; level--) {
    entries = Math.ceil(entries / 2 ** geometry.tableBits)
    tables += entries
  }
  return tables * (geometry.granule / 4096)
}

/** Pages of 4 KiB that the host's stage 2 can need: RAM and 1 GiB of devices in pages, and a concatenated root. */
export function stage2Pages(geometry: IdmapGeometry, ram: readonly { readonly size: number }[]): number {
  let pages = tablePages(geometry, 2 ** 30) + MAX_CONCATENATED * (geometry.granule / 4096)
  for (const { size } of ram) pages += tablePages(geometry, size)
  return pages
}
