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
  tableBits,
} from '../smmu/pagetable.ts'

/** Neighbours in one table. */
export interface Descriptors {
  /** Of the first. */
  readonly address: number
  readonly count: number
}

/**
 * Where walks for input addresses end, with whatever they find there. Reads tables that lead to others, each once, and none of the
 * last level: a rule may be about all of RAM, and is asked at every write.
 * @param from, end input addresses, below `end`
 */
export function* stage2Descriptors(
  memory: GuestMemory,
  stage2: Stage2Table,
  from: number,
  end: number,
): Generator<Descriptors> {
  const { root, granuleShift, startLevel, outputBits, bigEndian } = stage2
  const seen = new Set<string>()
  /** @param base what the first descriptor is for @param most descriptors of the table */
  function* walk(level: number, table: number, base: number, most: number): Generator<Descriptors> {
    const span = 2 ** levelShift(level, granuleShift)
    const first = Math.max(0, Math.floor((from - base) / span))
    const count = Math.min(most, Math.ceil((end - base) / span)) - first
    if (count <= 0) return
    const address = table + PTE_SIZE * first
    if (level === LAST_LEVEL) {
      yield { address, count }
      return
    }
    // A damaged table may lead into itself.
    if (seen.has(`${level} ${table}`)) return
    seen.add(`${level} ${table}`)
    const bytes = Buffer.alloc(PTE_SIZE * count)
    if (!memory.read(address, bytes, 0, bytes.length)) return
    if (bigEndian) bytes.swap64()
    for (let i = 0; i < count; i++) {
      const [lo, hi] = [bytes.readUInt32LE(PTE_SIZE * i), bytes.readUInt32LE(PTE_SIZE * i + 4)]
      if ((lo & ARM_LPAE_PTE_TYPE_MASK) !== ARM_LPAE_PTE_TYPE_TABLE) yield { address: address + PTE_SIZE * i, count: 1 }
      else {
        const next = descriptorAddress(lo, hi, granuleShift, granuleShift, outputBits)
        yield* walk(level + 1, next, base + (first + i) * span, 2 ** tableBits(granuleShift))
      }
    }
  }
  // It maps to itself, so there is no input beyond the output size; tables of the start level are concatenated.
  yield* walk(startLevel, root, 0, Math.ceil(2 ** (outputBits - levelShift(startLevel, granuleShift))))
}
