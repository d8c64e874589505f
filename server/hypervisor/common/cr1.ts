// SPDX-License-Identifier: Apache-2.0
import { fieldPrep } from '../../smmu/bits.ts'
import {
  ARM_SMMU_SH_ISH,
  CR1_CACHE_WB,
  CR1_QUEUE_IC,
  CR1_QUEUE_OC,
  CR1_QUEUE_SH,
  CR1_TABLE_IC,
  CR1_TABLE_OC,
  CR1_TABLE_SH,
} from '../../smmu/registers.ts'

/** What CR1 must be: tables and queues inner shareable, write-back. */
export const CR1_REQUIRED =
  fieldPrep(CR1_TABLE_SH, ARM_SMMU_SH_ISH) |
  fieldPrep(CR1_TABLE_OC, CR1_CACHE_WB) |
  fieldPrep(CR1_TABLE_IC, CR1_CACHE_WB) |
  fieldPrep(CR1_QUEUE_SH, ARM_SMMU_SH_ISH) |
  fieldPrep(CR1_QUEUE_OC, CR1_CACHE_WB) |
  fieldPrep(CR1_QUEUE_IC, CR1_CACHE_WB)
