// SPDX-License-Identifier: Apache-2.0
/**
 * Cached translations of one address space: leaves by address and size, and table descriptors on the way to them. Invalidation
 * removes exactly what the parameters match (IHI 0070 section 4.4.1), nothing more.
 */
import { alignDown, shiftDown } from '../bits.ts'
import { LAST_LEVEL, levelShift } from '../pagetable.ts'
import type { Matched, TableDescriptor } from '../translationCaches.ts'

/** Addresses that a TLB invalidation names, and the hints that narrow it. Pages are 4 KiB, 52 bits; `last` is included. */
export interface Scope {
  readonly first: number
  readonly last: number
  /** 0: entries of any granule. */
  readonly granuleShift: number
  /** 0: leaves of any level. */
  readonly level: number
}

/** Leaves, found by any address inside them. */
class Leaves<T extends Matched> {
  /** By size; the key is the page number in units of that size. */
  readonly #bySize = new Map<number, Map<number, T>>()
  /** Sizes in use, smallest first. */
  #sizes: number[] = []
  /** Entries that are smaller than the leaf descriptor they come from: an address of theirs does not find them all. */
  #fragments = 0

  get size(): number {
    let size = 0
    for (const map of this.#bySize.values()) size += map.size
    return size
  }

  get(page: number): T | undefined {
    for (const shift of this.#sizes) {
      const entry = this.#bySize.get(shift)?.get(shiftDown(page, shift - 12))
      if (entry) return entry
    }
    return undefined
  }

  put(entry: T): void {
    let map = this.#bySize.get(entry.shift)
    if (!map) {
      map = new Map()
      this.#bySize.set(entry.shift, map)
      this.#sizes = [...this.#bySize.keys()].sort((a, b) => a - b)
    }
    const key = shiftDown(entry.page, entry.shift - 12)
    this.#count(map.get(key), -1)
    map.set(key, entry)
    this.#count(entry, 1)
  }

  remove(scope: Scope): void {
    for (const [shift, map] of this.#bySize) {
      const first = shiftDown(scope.first, shift - 12)
      const last = shiftDown(scope.last, shift - 12)
      if (this.#fragments > 0 || last - first >= map.size) {
        for (const [key, entry] of map) this.#removeIf(map, key, entry, scope)
      } else {
        for (let key = first; key <= last; key++) this.#removeIf(map, key, map.get(key), scope)
      }
    }
  }

  #removeIf(map: Map<number, T>, key: number, entry: T | undefined, scope: Scope): void {
    if (!entry || !matches(entry, scope)) return
    map.delete(key)
    this.#count(entry, -1)
  }

  #count(entry: T | undefined, by: number): void {
    if (entry && entry.shift < entry.leafShift) this.#fragments += by
  }
}

/** The leaf descriptor of the entry, of the granule and level that are named, maps one of the addresses. */
function matches(entry: Matched, scope: Scope): boolean {
  const pages = entry.leafShift - 12
  const start = alignDown(entry.page, pages)
  return (
    start <= scope.last &&
    scope.first < start + 2 ** pages &&
    (scope.granuleShift === 0 || scope.granuleShift === entry.granuleShift) &&
    (scope.level === 0 || scope.level === entry.level)
  )
}

interface CachedTable extends TableDescriptor {
  readonly page: number
  readonly granuleShift: number
}

/** Level and granule of a table descriptor in four bits. */
function tableKind(level: number, granuleShift: number): number {
  return level * 4 + (granuleShift - 12) / 2
}

/** Table descriptors by the addresses they lead to. */
class Tables {
  readonly #map = new Map<number, CachedTable>()

  /** The deepest one for `page`. */
  get(page: number, granuleShift: number): TableDescriptor | undefined {
    for (let level = LAST_LEVEL - 1; level >= 0; level--) {
      const table = this.#map.get(key(page, level, granuleShift))
      if (table) return table
    }
    return undefined
  }

  put(page: number, granuleShift: number, table: TableDescriptor): void {
    this.#map.set(key(page, table.level, granuleShift), { ...table, page, granuleShift })
  }

  /** With a level hint, tables above that level only (IHI 0070 section 4.4.1.1). */
  remove(scope: Scope): void {
    for (const [at, table] of this.#map) {
      const pages = levelShift(table.level, table.granuleShift) - 12
      const start = alignDown(table.page, pages)
      if (
        start <= scope.last &&
        scope.first < start + 2 ** pages &&
        (scope.granuleShift === 0 || scope.granuleShift === table.granuleShift) &&
        (scope.level === 0 || table.level < scope.level)
      ) {
        this.#map.delete(at)
      }
    }
  }
}

function key(page: number, level: number, granuleShift: number): number {
  return shiftDown(page, levelShift(level, granuleShift) - 12) * 16 + tableKind(level, granuleShift)
}

/** What is cached under one set of tags. */
export class AddressSpace<T extends Matched> {
  readonly leaves = new Leaves<T>()
  readonly tables = new Tables()

  remove(scope: Scope, leafOnly: boolean): void {
    this.leaves.remove(scope)
    if (!leafOnly) this.tables.remove(scope)
  }
}

/** The scope of an address-based command without a range: one page, of any granule and level. */
export function onePage(page: number): Scope {
  return { first: page, last: page, granuleShift: 0, level: 0 }
}

/** The scope of a range command: `granules` granules from `page` on; it does not wrap at the end of the address space. */
export function pageRange(page: number, granules: number, granuleShift: number, level: number): Scope {
  const pages = granules * 2 ** (granuleShift - 12)
  return { first: page, last: Math.min(page + pages, 2 ** 52) - 1, granuleShift, level }
}
