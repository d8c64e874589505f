// SPDX-License-Identifier: Apache-2.0
/** Comparing the stage-2 identity map in memory with what it should be. */
import { addressOf, TWO_POW_32 } from '../../smmu/bits.ts'
import {
  ARM_LPAE_PTE_NT,
  ARM_LPAE_PTE_TYPE_BLOCK,
  ARM_LPAE_PTE_TYPE_PAGE,
  ARM_LPAE_PTE_TYPE_TABLE,
  LAST_LEVEL,
  PTE_SIZE,
} from '../../smmu/pagetable.ts'
import type { Idmap } from './idmap.ts'
import { leafAllowed, levelSpan } from './idmapGeometry.ts'
import { AddressSpace, DEVICE, LEAF_DEVICE, LEAF_RAM, matchLeaves, RAM } from './idmapLayout.ts'
import type { PageOwnership } from './ownership.ts'
import type { PagePool } from './pool.ts'

/** A place where the tables are not what they should be. */
export interface IdmapDifference {
  /** Input addresses that the entry maps. */
  readonly base: number
  readonly size: number
  readonly level: number
  /** Descriptors as they are and as they should be; `expected` is null where a table should be. */
  readonly found: bigint
  readonly expected: bigint | null
}

/**
 * Compares the tables with what a build would make of the state now. A hole where something could be mapped is no
 * difference while tables could not be had for everything, nor a table where a block could be, nor what a former hypervisor left broken and
 * nobody has put right yet (server/hypervisor/README.md, section 9.4).
 * @param blocks RAM is mapped in blocks where it can be
 * @param limit stops after so many differences
 */
export function verifyIdmap(
  idmap: Idmap,
  pool: PagePool,
  ownership: PageOwnership,
  frames: readonly { base: number; size: number }[],
  limit: number,
  blocks = false,
): IdmapDifference[] {
  const { startLevel, rootBytes, inputBits } = idmap.geometry
  const space = new AddressSpace(ownership, frames, 2 ** inputBits)
  const verifier = new Verifier(idmap, pool, space, limit, blocks)
  verifier.compare(startLevel, 0, rootBytes / PTE_SIZE, idmap.root)
  return verifier.differences
}

class Verifier {
  readonly differences: IdmapDifference[] = []
  readonly #idmap: Idmap
  readonly #pool: PagePool
  readonly #space: AddressSpace
  readonly #limit: number
  readonly #blocks: boolean
  /** Descriptors with nT are no difference, nor are holes. */
  readonly #unsettled: boolean
  readonly #holes: boolean

  constructor(idmap: Idmap, pool: PagePool, space: AddressSpace, limit: number, blocks: boolean) {
    this.#idmap = idmap
    this.#pool = pool
    this.#space = space
    this.#limit = limit
    this.#blocks = blocks
    this.#unsettled = idmap.state.unsettledSize > 0
    this.#holes = this.#unsettled || idmap.state.unmappedBytes > 0
  }

  /** The table of `entries` at `address`, which maps from `base` on. */
  compare(level: number, base: number, entries: number, address: number): void {
    const found = this.differences
    const limit = this.#limit
    const table = new Uint32Array(2 * entries)
    const readable = this.#idmap.tableMemory.read(address, table)
    const span = levelSpan(this.#idmap.geometry, level)
    const last = level === LAST_LEVEL
    const leaf = leafAllowed(this.#idmap.geometry, level)
    const type = last ? ARM_LPAE_PTE_TYPE_PAGE : ARM_LPAE_PTE_TYPE_BLOCK
    for (let i = 0; i < entries && found.length < limit; i++) {
      const start = base + i * span
      const { kind, end } = this.#space.at(start)
      const whole = Math.min(entries - i, Math.floor((end - start) / span))
      const lo = table[2 * i]
      const hi = table[2 * i + 1]
      let expectedLo = 0
      let expectedHi = 0
      const child = last ? 0 : this.#child(lo, hi)
      const block = this.#blocks && leaf && child === 0
      if (whole > 0 && ((kind === RAM && (last || block)) || (kind === DEVICE && leaf))) {
        const attributes = (kind === RAM ? LEAF_RAM : LEAF_DEVICE) | type
        const same = readable ? matchLeaves(table, i, whole, start, span, attributes) : 0
        if (same > 0) {
          i += same - 1
          continue
        }
        expectedLo = ((start % TWO_POW_32) | attributes) >>> 0
        expectedHi = Math.floor(start / TWO_POW_32)
      } else if (!last) {
        // A table stays when all that it mapped was taken away.
        if (child !== 0) {
          this.compare(level + 1, start, 2 ** this.#idmap.geometry.tableBits, child)
          continue
        }
        if (this.#space.has(start, start + span, RAM | DEVICE)) {
          if (lo !== 0 || hi !== 0 || !this.#holes || !readable) {
            found.push({ base: start, size: span, level, found: descriptor(lo, hi), expected: null })
          }
          continue
        }
      }
      if (readable && hi === expectedHi && (this.#unsettled ? lo & ~ARM_LPAE_PTE_NT : lo) >>> 0 === expectedLo) continue
      if (readable && lo === 0 && hi === 0 && this.#holes) continue
      const expected = descriptor(expectedLo, expectedHi)
      found.push({ base: start, size: span, level, found: descriptor(lo, hi), expected })
    }
  }

  /** The table that a descriptor leads to, if it is one of the pool; else 0. */
  #child(lo: number, hi: number): number {
    const child = addressOf((lo & 0xffff_f000) >>> 0, hi)
    return (lo & 0xfff) === ARM_LPAE_PTE_TYPE_TABLE && this.#pool.holds(child, this.#idmap.geometry.granule) ? child : 0
  }
}

function descriptor(lo: number, hi: number): bigint {
  return (BigInt(hi) << 32n) | BigInt(lo)
}
