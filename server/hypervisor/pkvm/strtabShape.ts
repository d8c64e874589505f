// SPDX-License-Identifier: Apache-2.0
/** Shape of the shadow stream table (server/hypervisor/README.md, section 3.2): the largest that the SMMU can use. */
import { STRTAB_STE_SIZE } from '../../smmu/ste.ts'
import { STRTAB_L1_DESC_SIZE } from '../../smmu/strtab.ts'
import type { SmmuFeatures } from '../common/probe.ts'

/** StreamID bits inside an L2 table. */
export const STRTAB_SPLIT = 8
/** Most L1 descriptors. */
export const STRTAB_MAX_L1_ENTRIES = 2 ** 17
export const STRTAB_L2_STES = 2 ** STRTAB_SPLIT
export const STRTAB_L2_BYTES = STRTAB_L2_STES * STRTAB_STE_SIZE

export interface StrtabShape {
  readonly twoLevel: boolean
  /** L1 descriptors or, of a linear table, STEs. */
  readonly entries: number
  /** StreamIDs that it covers, as STRTAB_BASE_CFG.LOG2SIZE says it. */
  readonly log2size: number
  /** Bytes that exist from the start: L1 descriptors or STEs. */
  readonly bytes: number
}

export function strtabShape({ twoLevel: supported, sidBits }: SmmuFeatures): StrtabShape {
  const twoLevel = supported && sidBits > STRTAB_SPLIT
  const entries = twoLevel ? Math.min(2 ** (sidBits - STRTAB_SPLIT), STRTAB_MAX_L1_ENTRIES) : 2 ** sidBits
  return {
    twoLevel,
    entries,
    log2size: Math.log2(entries) + (twoLevel ? STRTAB_SPLIT : 0),
    bytes: entries * (twoLevel ? STRTAB_L1_DESC_SIZE : STRTAB_STE_SIZE),
  }
}
