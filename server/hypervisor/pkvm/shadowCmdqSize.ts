// SPDX-License-Identifier: Apache-2.0
import { CMDQ_ENTRY_SIZE } from '../../smmu/queue.ts'

/** 4096 entries, 64 KiB. */
export const SHADOW_CMDQ_LOG2SIZE = 12
export const SHADOW_CMDQ_ENTRIES = 2 ** SHADOW_CMDQ_LOG2SIZE
export const SHADOW_CMDQ_BYTES = SHADOW_CMDQ_ENTRIES * CMDQ_ENTRY_SIZE
