// SPDX-License-Identifier: Apache-2.0
/** Building the stage-2 identity map (server/hypervisor/README.md, section 9.2). */
import { EFAULT, ENOMEM } from '../../policy/result.ts'
import { TWO_POW_32 } from '../../smmu/bits.ts'
import {
  ARM_LPAE_PTE_TYPE_BLOCK,
  ARM_LPAE_PTE_TYPE_PAGE,
  ARM_LPAE_PTE_TYPE_TABLE,
  LAST_LEVEL,
  PTE_SIZE,
} from '../../smmu/pagetable.ts'
import type { Idmap, IdmapState } from './idmap.ts'
import { type IdmapGeometry, leafAllowed, levelSpan } from './idmapGeometry.ts'
import { AddressSpace, DEVICE, fillLeaves, HOLE, LEAF_DEVICE, LEAF_RAM, RAM } from './idmapLayout.ts'
import type { PageOwnership } from './ownership.ts'
import type { PagePool } from './pool.ts'
import type { TableMemory } from './tableMemory.ts'

/** Most bytes of last-level tables that are written at a time. */
const BATCH_BYTES = 2 ** 18

/**
 * Builds the whole map into an empty root, from the lowest address up.
 * @param frames ranges that are not mapped though they are no RAM: the SMMUs
 * @param reserve pages of the pool that tables for devices must leave for others
 * @param blocks RAM is mapped in blocks where it can be; else in pages
 * @returns false when hypervisor memory cannot be written. Parts may be left unmapped (`state.unmappedBytes`), which takes access
 *   away and so is no hole in the isolation.
 */
export function buildIdmap(
  idmap: Idmap,
  pool: PagePool,
  ownership: PageOwnership,
  frames: readonly { base: number; size: number }[],
  reserve: number,
  blocks: boolean,
): boolean {
  const { startLevel, rootBytes, inputBits } = idmap.geometry
  const space = new AddressSpace(ownership, frames, 2 ** inputBits)
  const builder = new Builder(idmap, pool, space, reserve, blocks)
  return builder.fill(startLevel, 0, rootBytes / PTE_SIZE, idmap.root)
}

class Builder {
  readonly #geometry: IdmapGeometry
  readonly #state: IdmapState
  readonly #memory: TableMemory
  readonly #pool: PagePool
  readonly #space: AddressSpace
  readonly #reserve: number
  readonly #blocks: boolean
  /** A table of each level, and the whole root at its own. */
  readonly #tables: Uint32Array[] = []
  /** Last-level tables of RAM are written several at a time: those that were, and how many at most. */
  #batch = new Uint32Array(0)
  readonly #batchTables: number

  constructor(
    { geometry, state, tableMemory }: Idmap,
    pool: PagePool,
    space: AddressSpace,
    reserve: number,
    blocks: boolean,
  ) {
    this.#geometry = geometry
    this.#state = state
    this.#memory = tableMemory
    this.#pool = pool
    this.#space = space
    this.#reserve = reserve
    this.#blocks = blocks
    this.#batchTables = Math.max(1, BATCH_BYTES / geometry.granule)
    for (let level = 0; level <= LAST_LEVEL; level++) {
      const entries = level === geometry.startLevel ? geometry.rootBytes / PTE_SIZE : 2 ** geometry.tableBits
      this.#tables.push(new Uint32Array(2 * entries))
    }
  }

  /** Writes the table of `entries` at `address`, which maps from `base` on, and all below it. @returns whether it could be. */
  fill(level: number, base: number, entries: number, address: number): boolean {
    const table = this.#tables[level]
    const space = this.#space
    const span = levelSpan(this.#geometry, level)
    const leaf = leafAllowed(this.#geometry, level)
    const last = level === LAST_LEVEL
    let i = 0
    while (i < entries) {
      const start = base + i * span
      const segment = space.at(start)
      const whole = Math.min(entries - i, Math.floor((segment.end - start) / span))
      const type = last ? ARM_LPAE_PTE_TYPE_PAGE : ARM_LPAE_PTE_TYPE_BLOCK
      if (whole > 0 && segment.kind === HOLE) {
        table.fill(0, 2 * i, 2 * (i + whole))
        i += whole
      } else if (whole > 0 && segment.kind === RAM && (last || (this.#blocks && leaf))) {
        fillLeaves(table, i, whole, start, span, LEAF_RAM | type)
        this.#state.ramBytes += whole * span
        i += whole
      } else if (whole > 0 && leaf && segment.kind === DEVICE) {
        fillLeaves(table, i, whole, start, span, LEAF_DEVICE | type)
        this.#state.deviceBytes += whole * span
        i += whole
      } else if (whole > 1 && level === LAST_LEVEL - 1 && segment.kind === RAM) {
        const room = Math.floor(this.#pool.free / (this.#geometry.granule / 4096))
        const count = Math.max(1, Math.min(whole, room, this.#batchTables))
        const tables = this.#fillBatch(start, count)
        if (tables === EFAULT) return false
        if (tables === ENOMEM) this.#state.unmappedBytes += count * span
        if (tables === ENOMEM) table.fill(0, 2 * i, 2 * (i + count))
        else fillLeaves(table, i, count, tables, this.#geometry.granule, ARM_LPAE_PTE_TYPE_TABLE)
        i += count
      } else {
        // Below the last level: a table. At the last level: a granule that is not all of one kind is a hole.
        let child = 0
        if (!last) {
          child = space.has(start, start + span, RAM | DEVICE) ? this.#newTable(start, start + span) : 0
          if (child > 0 && !this.fill(level + 1, start, 2 ** this.#geometry.tableBits, child)) return false
        }
        table[2 * i] = child > 0 ? (child % TWO_POW_32) + ARM_LPAE_PTE_TYPE_TABLE : 0
        table[2 * i + 1] = Math.floor(child / TWO_POW_32)
        i++
      }
    }
    return this.#memory.write(address, table, entries)
  }

  /** `count` last-level tables side by side, all RAM from `start` on. Returns their address, or an error. */
  #fillBatch(start: number, count: number): number {
    const { granule, tableBits: bits } = this.#geometry
    const address = this.#pool.allocate(count * granule, true)
    if (address === ENOMEM) return ENOMEM
    this.#state.tables += count
    this.#state.ramBytes += count * levelSpan(this.#geometry, LAST_LEVEL - 1)
    if (this.#batch.length < 2 * count * 2 ** bits) this.#batch = new Uint32Array(2 * count * 2 ** bits)
    fillLeaves(this.#batch, 0, count * 2 ** bits, start, granule, LEAF_RAM | ARM_LPAE_PTE_TYPE_PAGE)
    return this.#memory.write(address, this.#batch, count * 2 ** bits) ? address : EFAULT
  }

  /** Memory for a table that maps `start` to `end`, 0 when there is none. */
  #newTable(start: number, end: number): number {
    const { granule } = this.#geometry
    const reserve = this.#space.has(start, end, RAM) ? 0 : this.#reserve
    const address = this.#pool.free >= reserve + granule / 4096 ? this.#pool.allocate(granule, true) : ENOMEM
    if (address === ENOMEM) {
      this.#state.unmappedBytes += end - start
      return 0
    }
    this.#state.tables++
    return address
  }
}
