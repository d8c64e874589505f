// SPDX-License-Identifier: Apache-2.0
/**
 * The stage-2 identity map with RAM in the largest blocks that ownership allows (server/hypervisor/README.md, section 9.4): a block
 * becomes a table when a part of it is taken from the host, and a block again when all of it has come back.
 *
 * Where a descriptor changes what it maps at once, its order of stores and invalidations is that of the hardware's BBM level
 * (SMMU_IDR3.BBML, IHI 0070 section 6.3.4). Memory for tables is taken before the first store: without it nothing changes.
 */

import { EFAULT, EIO, ENOMEM, OK } from '../../policy/result.ts'
import { addressOf, TWO_POW_32 } from '../../smmu/bits.ts'
import {
  ARM_LPAE_PTE_NT,
  ARM_LPAE_PTE_TYPE_BLOCK,
  ARM_LPAE_PTE_TYPE_MASK,
  ARM_LPAE_PTE_TYPE_PAGE,
  ARM_LPAE_PTE_TYPE_TABLE,
  ARM_LPAE_PTE_VALID,
  LAST_LEVEL,
  PTE_SIZE,
} from '../../smmu/pagetable.ts'
import type { Idmap } from './idmap.ts'
import { leafAllowed, levelSpan } from './idmapGeometry.ts'
import { fillLeaves, LEAF_RAM } from './idmapLayout.ts'
import type { PageOwnership } from './ownership.ts'
import type { PagePool } from './pool.ts'

/** A descriptor in halves. */
interface Descriptor {
  readonly lo: number
  readonly hi: number
}

/** A descriptor that is to map other sizes than it does: a block that becomes a table, or the reverse. */
interface Swap {
  /** Its address. */
  readonly entry: number
  readonly level: number
  readonly before: Descriptor
  readonly after: Descriptor
}

/** Descriptors side by side that are to become invalid. */
interface Hole {
  readonly entry: number
  readonly count: number
}

const INVALID: Descriptor = { lo: 0, hi: 0 }

const isTable = ({ lo }: Descriptor): boolean => (lo & ARM_LPAE_PTE_TYPE_MASK) === ARM_LPAE_PTE_TYPE_TABLE
const isValid = ({ lo }: Descriptor): boolean => (lo & ARM_LPAE_PTE_VALID) !== 0
/** Where a table descriptor leads. */
const next = ({ lo, hi }: Descriptor): number => addressOf((lo & 0xffff_f000) >>> 0, hi & 0xffff)

const descriptor = (address: number, low: number): Descriptor => ({
  lo: ((address % TWO_POW_32) | low) >>> 0,
  hi: Math.floor(address / TWO_POW_32),
})
const blockAt = (address: number): Descriptor => descriptor(address, LEAF_RAM | ARM_LPAE_PTE_TYPE_BLOCK)
/** Caches keep nothing of it that could conflict with another size. */
const notCached = ({ lo, hi }: Descriptor): Descriptor => ({ lo: (lo | ARM_LPAE_PTE_NT) >>> 0, hi })

export class IdmapBlocks {
  readonly #idmap: Idmap
  readonly #pool: PagePool
  readonly #ownership: PageOwnership
  readonly #level: () => number
  readonly #forget: () => number
  /** One table that is made. */
  readonly #table: Uint32Array

  /**
   * @param level BBM level that all SMMUs have: 0, 1 or 2
   * @param forget every SMMU forgets all that it has translated by the idmap, table descriptors included; OK or an error
   */
  constructor(idmap: Idmap, pool: PagePool, ownership: PageOwnership, level: () => number, forget: () => number) {
    this.#idmap = idmap
    this.#pool = pool
    this.#ownership = ownership
    this.#level = level
    this.#forget = forget
    this.#table = new Uint32Array(2 * 2 ** idmap.geometry.tableBits)
  }

  /**
   * Takes RAM that is not the host's any more from devices: when this returns OK, none reaches it.
   * @param invalidate nothing that was translated through these pages stays cached; OK or an error
   * @returns ENOMEM: nothing has changed; another error: what `give` puts right
   */
  take(base: number, size: number, invalidate: () => number): number {
    const settled = this.#settle()
    if (settled !== OK) return settled
    const holes: Hole[] = []
    const swaps: Swap[] = []
    const planned = this.#each(base, size, (entry, level, start, from, end) => {
      if (level === LAST_LEVEL) {
        holes.push({ entry, count: (end - from) / this.#idmap.geometry.granule })
        return OK
      }
      const before = this.#read(entry)
      if (before === undefined) return EFAULT
      if (isTable(before)) return next(before)
      if (!isValid(before)) return OK
      if (from === start && end === start + levelSpan(this.#idmap.geometry, level)) {
        holes.push({ entry, count: 1 })
        return OK
      }
      const table = this.#build(level + 1, start, from, end)
      if (table < 0) return table
      swaps.push({ entry, level, before, after: descriptor(table, ARM_LPAE_PTE_TYPE_TABLE) })
      return OK
    })
    if (planned !== OK) {
      for (const { level, after } of swaps) this.#release(level + 1, next(after))
      return planned
    }
    return this.#split(holes, swaps, invalidate)
  }

  /** Stores and invalidations of `take`. The memory of a table that is not linked in the end goes back to the pool. */
  #split(holes: readonly Hole[], swaps: readonly Swap[], invalidate: () => number): number {
    const level = this.#level()
    let result: number = OK
    let begun = 0
    for (const { entry, count } of holes) if (!this.#clear(entry, count)) result = EFAULT
    for (const { entry, before, after } of swaps) {
      if (result !== OK) break
      if (!this.#write(entry, level === 0 ? INVALID : level === 1 ? notCached(before) : after)) result = EFAULT
      else begun++
    }
    if (result === OK) result = invalidate()
    if (level === 2) {
      // What is linked stays: it may be cached.
      this.#idmap.state.tables += this.#count(swaps.slice(0, begun))
      for (const swap of swaps.slice(begun)) this.#release(swap.level + 1, next(swap.after))
      return result
    }
    for (const [i, { entry, level: at, before, after }] of swaps.entries()) {
      if (result === OK && this.#write(entry, after)) {
        this.#idmap.state.tables += this.#count([swaps[i]])
        continue
      }
      // What stood there maps what is cached of it still.
      if (result !== OK && i < begun) this.#write(entry, before)
      this.#release(at + 1, next(after))
      if (result === OK) result = EFAULT
    }
    // A descriptor with nT may have been used, and cached in some way, until the table was there.
    return result === OK && level === 1 && swaps.length > 0 ? invalidate() : result
  }

  /**
   * Lets devices reach what is the host's, all of it. Nothing that is mapped changes; `merge` makes blocks of it. A part for which no
   * table can be had stays a hole; where nothing may become valid yet, so does all of it until that is settled.
   */
  give(base: number, size: number): void {
    if (this.#settle() === OK) this.#map(base, size)
    else this.#unsettle(base, size)
  }

  #map(base: number, size: number): number {
    const { geometry, state } = this.#idmap
    let result: number = OK
    const failed = this.#each(base, size, (entry, level, start, from, end) => {
      if (level === LAST_LEVEL) return this.#pages(entry, from, end) ? OK : EFAULT
      const found = this.#read(entry)
      if (found === undefined) return EFAULT
      if (isTable(found)) return next(found)
      if (isValid(found)) return OK
      if (leafAllowed(geometry, level) && this.#ownership.hostReachesAll(start, levelSpan(geometry, level))) {
        return this.#write(entry, blockAt(start)) ? OK : EFAULT
      }
      const table = this.#pool.allocate(geometry.granule)
      if (table < 0) {
        state.unmappedBytes += end - from
        result = ENOMEM
        return OK
      }
      if (!this.#write(entry, descriptor(table, ARM_LPAE_PTE_TYPE_TABLE))) return EFAULT
      state.tables++
      return table
    })
    return failed === OK ? result : failed
  }

  /** Leaves for `from` to `end`. */
  #pages(entry: number, from: number, end: number): boolean {
    const { granule } = this.#idmap.geometry
    const count = (end - from) / granule
    fillLeaves(this.#table, 0, count, from, granule, LEAF_RAM | ARM_LPAE_PTE_TYPE_PAGE)
    return this.#idmap.tableMemory.write(entry, this.#table, count)
  }

  /** Tables in which all is the host's become blocks again. What cannot be invalidated stays a table. */
  merge(base: number, size: number): void {
    if (this.#settle() !== OK) return
    const { geometry } = this.#idmap
    this.#each(base, size, (entry, level, start) => {
      if (level === LAST_LEVEL) return OK
      const before = this.#read(entry)
      if (before === undefined) return EFAULT
      if (!isTable(before)) return OK
      if (!leafAllowed(geometry, level) || !this.#ownership.hostReachesAll(start, levelSpan(geometry, level))) {
        return next(before)
      }
      return this.#join({ entry, level, before, after: blockAt(start) })
    })
  }

  #join({ entry, level: at, before, after }: Swap): number {
    const level = this.#level()
    const first = level === 0 ? INVALID : level === 1 ? notCached(after) : after
    if (!this.#write(entry, first)) return EFAULT
    const forgotten = this.#forget()
    if (forgotten !== OK) {
      this.#write(entry, before)
      return forgotten
    }
    if (level < 2 && !this.#write(entry, after)) {
      // At level 1 the block stands there with nT: caches keep it as little as the table, and both lead to the same.
      if (level === 0) this.#write(entry, before)
      return EFAULT
    }
    this.#idmap.state.tables -= this.#release(at + 1, next(before))
    return OK
  }

  // After a take-over.

  /**
   * A former hypervisor died in the middle of `take`, `give` or `merge` of this range, or had not begun. What is linked is claimed from
   * the pool. No descriptor becomes valid before all is forgotten that is cached.
   */
  adopt(base: number, size: number): void {
    const { geometry, state } = this.#idmap
    const tables = this.tables()
    for (const table of tables) this.#pool.claim(table, geometry.granule)
    state.tables = tables.length + 1
    this.#unsettle(base, size)
  }

  /** What is mapped there is looked at before anything else is: these addresses, and those that are known already. */
  #unsettle(base: number, size: number): void {
    const { state } = this.#idmap
    const [before, bytes] = [state.unsettledBase, state.unsettledSize]
    const end = Math.max(base + size, bytes === 0 ? 0 : before + bytes)
    state.unsettledBase = bytes === 0 ? base : Math.min(base, before)
    state.unsettledSize = end - state.unsettledBase
  }

  /** Addresses of all tables but the root. */
  tables(): number[] {
    const { startLevel, rootBytes } = this.#idmap.geometry
    return this.#linked(startLevel, this.#idmap.root, rootBytes / PTE_SIZE)
  }

  /** Makes good what a former hypervisor left broken: the blocks around its operation are mapped as they should be. */
  #settle(): number {
    const { geometry, state: idmap } = this.#idmap
    const { unsettledBase: left, unsettledSize: bytes } = idmap
    if (bytes === 0) return OK
    if (this.#forget() !== OK) return EIO
    idmap.unsettledSize = 0
    const { startLevel, granule } = geometry
    let largest = granule
    for (let level = LAST_LEVEL; level >= startLevel; level--) {
      if (leafAllowed(geometry, level)) largest = levelSpan(geometry, level)
    }
    const from = Math.floor(left / largest) * largest
    const to = Math.ceil((left + bytes) / largest) * largest
    for (const { base, size } of [...this.#ownership.hostRanges(from, to)]) {
      const first = Math.ceil(base / granule) * granule
      const end = Math.floor((base + size) / granule) * granule
      if (end <= first) continue
      const result = this.#plain(first, end - first)
      // A hole for want of a table is one that stays.
      if (result === OK || result === ENOMEM) continue
      idmap.unsettledSize = bytes
      return result
    }
    return OK
  }

  /** A block that a former hypervisor left with nT is as it should be, and holes are mapped. */
  #plain(base: number, size: number): number {
    const plain = this.#each(base, size, (entry, level) => {
      if (level === LAST_LEVEL) return OK
      const found = this.#read(entry)
      if (found === undefined) return EFAULT
      if (isTable(found)) return next(found)
      if (!isValid(found) || (found.lo & ARM_LPAE_PTE_NT) === 0) return OK
      return this.#write(entry, { lo: (found.lo & ~ARM_LPAE_PTE_NT) >>> 0, hi: found.hi }) ? OK : EFAULT
    })
    return plain === OK ? this.#map(base, size) : plain
  }

  // Tables.

  /**
   * Visits the descriptors that map a range, from the start level down; those of a last-level table together.
   * @param visit `start`: first address that the descriptor maps; `from`, `end`: the part of that inside the range, at the last level of
   *   all. Returns a table to go into, OK to go on, or an error, which ends it.
   */
  #each(
    base: number,
    size: number,
    visit: (entry: number, level: number, start: number, from: number, end: number) => number,
  ): number {
    const { geometry, root } = this.#idmap
    const { startLevel, inputBits } = geometry
    const go = (level: number, table: number, first: number, from: number, end: number): number => {
      const span = levelSpan(geometry, level)
      if (level === LAST_LEVEL) return visit(table + ((from - first) / span) * PTE_SIZE, level, from, from, end)
      for (let i = Math.floor((from - first) / span); first + i * span < end; i++) {
        const start = first + i * span
        const [partFrom, partEnd] = [Math.max(from, start), Math.min(end, start + span)]
        const result = visit(table + i * PTE_SIZE, level, start, partFrom, partEnd)
        if (result < 0) return result
        if (result === OK) continue
        const below = go(level + 1, result, start, partFrom, partEnd)
        if (below < 0) return below
      }
      return OK
    }
    return go(startLevel, root, 0, base, Math.min(base + size, 2 ** inputBits))
  }

  /** A table, not linked, in which all from `base` on is mapped but `from` to `end`. @returns its address, or an error */
  #build(level: number, base: number, from: number, end: number): number {
    const { geometry } = this.#idmap
    const { granule, tableBits } = geometry
    const span = levelSpan(geometry, level)
    const entries = 2 ** tableBits
    const address = this.#pool.allocate(granule, true)
    if (address < 0) return address
    const children: (readonly [index: number, table: number])[] = []
    const undo = (error: number) => {
      for (const [, table] of children) this.#release(level + 1, table)
      this.#pool.release(address, granule)
      return error
    }
    const first = Math.floor((from - base) / span)
    const last = Math.ceil((end - base) / span) - 1
    for (const index of first === last ? [first] : [first, last]) {
      const start = base + index * span
      const [partFrom, partEnd] = [Math.max(from, start), Math.min(end, start + span)]
      if (partEnd - partFrom === span) continue
      const child = this.#build(level + 1, start, partFrom, partEnd)
      if (child < 0) return undo(child)
      children.push([index, child])
    }
    const table = this.#table
    const type = level === LAST_LEVEL ? ARM_LPAE_PTE_TYPE_PAGE : ARM_LPAE_PTE_TYPE_BLOCK
    fillLeaves(table, 0, entries, base, span, LEAF_RAM | type)
    table.fill(0, 2 * first, 2 * (last + 1))
    for (const [index, child] of children) {
      const { lo, hi } = descriptor(child, ARM_LPAE_PTE_TYPE_TABLE)
      table[2 * index] = lo
      table[2 * index + 1] = hi
    }
    return this.#idmap.tableMemory.write(address, table, entries) ? address : undo(EFAULT)
  }

  /** Tables that these lead to, and theirs. */
  #count(swaps: readonly Swap[]): number {
    return swaps.reduce((sum, { level, after }) => sum + this.#below(level + 1, next(after)).length, 0)
  }

  /** A table and all below it. */
  #below(level: number, table: number): number[] {
    return [table, ...this.#linked(level, table, 2 ** this.#idmap.geometry.tableBits)]
  }

  /** All tables below one of `entries` descriptors. */
  #linked(level: number, table: number, entries: number): number[] {
    const found: number[] = []
    if (level === LAST_LEVEL) return found
    const words = new Uint32Array(2 * entries)
    if (!this.#idmap.tableMemory.read(table, words)) return found
    for (let i = 0; i < 2 * entries; i += 2) {
      const entry = { lo: words[i], hi: words[i + 1] }
      if (isTable(entry)) found.push(...this.#below(level + 1, next(entry)))
    }
    return found
  }

  /** Gives a table and all below it back to the pool. @returns how many */
  #release(level: number, table: number): number {
    const tables = this.#below(level, table)
    for (const each of tables) this.#pool.release(each, this.#idmap.geometry.granule)
    return tables.length
  }

  #read(entry: number): Descriptor | undefined {
    const words = this.#idmap.tableMemory.entry(entry)
    return words && { lo: words[0], hi: words[1] }
  }

  #write(entry: number, { lo, hi }: Descriptor): boolean {
    return this.#idmap.tableMemory.writeEntry(entry, lo, hi)
  }

  #clear(entry: number, count: number): boolean {
    this.#table.fill(0, 0, 2 * count)
    return this.#idmap.tableMemory.write(entry, this.#table, count)
  }
}
