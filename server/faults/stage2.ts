// SPDX-License-Identifier: Apache-2.0
import type { Stage2Table } from '../policy/inspect.ts'
import type { GuestMemory } from '../smmu/memory.ts'
import {
  ARM_LPAE_PTE_TYPE_MASK,
  ARM_LPAE_PTE_TYPE_TABLE,
  descriptorAddress,
  LAST_LEVEL,
  levelShift,
  PTE_SIZE,
  tableIndex,
} from '../smmu/pagetable.ts'

/** Address of the last descriptor of a stage-2 walk for an input address; undefined when a table cannot be read. */
export function stage2Descriptor(memory: GuestMemory, stage2: Stage2Table, input: number): number | undefined {
  const { granuleShift, startLevel, outputBits, bigEndian } = stage2
  const words = new Uint32Array(2)
  const bytes = new Uint8Array(words.buffer)
  let table = stage2.root
  for (let level = startLevel; ; level++) {
    const at = table + PTE_SIZE * tableIndex(input, level, startLevel, granuleShift)
    if (level === LAST_LEVEL) return at
    if (!memory.read(at, bytes, 0, PTE_SIZE)) return undefined
    const [lo = 0, hi = 0] = bigEndian ? new Uint32Array(Buffer.from(bytes).swap64().buffer, 0, 2) : words
    if ((lo & ARM_LPAE_PTE_TYPE_MASK) !== ARM_LPAE_PTE_TYPE_TABLE) return at
    table = descriptorAddress(lo, hi, granuleShift, granuleShift, outputBits)
    if (levelShift(level, granuleShift) <= granuleShift) return undefined
  }
}
