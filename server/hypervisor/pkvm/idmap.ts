// SPDX-License-Identifier: Apache-2.0
/**
 * Stage-2 identity map (server/hypervisor/README.md, section 9): what the host may reach through an SMMU. VMSAv8-64, one
 * for all SMMUs. RAM in page-size leaves, everything else in the largest blocks that alignment allows. Pages that the
 * host does not reach are holes.
 *
 * The tables in hypervisor memory are the only state: every later change walks them.
 */

import { EFAULT, EINVAL, ENOMEM, OK } from '../../policy/result.ts'
import { addressOf, TWO_POW_32 } from '../../smmu/bits.ts'
import type { GuestMemory } from '../../smmu/memory.ts'
import {
  ARM_LPAE_PTE_TYPE_MASK,
  ARM_LPAE_PTE_TYPE_PAGE,
  ARM_LPAE_PTE_TYPE_TABLE,
  ARM_LPAE_PTE_VALID,
  LAST_LEVEL,
  PTE_SIZE,
} from '../../smmu/pagetable.ts'
import { type IdmapGeometry, levelSpan } from './idmapGeometry.ts'
import { fillLeaves, LEAF_RAM } from './idmapLayout.ts'
import type { PagePool } from './pool.ts'
import { StateLayout } from './stateLayout.ts'
import { TableMemory } from './tableMemory.ts'

/** VMID of the host, in every STE and TLB entry. */
export const HOST_VMID = 0

/** What of an idmap is not in its tables; what a checkpoint holds. */
export interface IdmapState {
  /** Address of the start level table. */
  readonly root: number
  readonly outputBits: number
  readonly bigEndian: boolean
  /** Tables, the concatenated root counted as one. */
  tables: number
  /** Bytes mapped as memory and as devices when it was built, and those for which no table could be had. */
  ramBytes: number
  deviceBytes: number
  unmappedBytes: number
  /** Duration of the build. */
  buildUs: number
  /**
   * With blocks: addresses in which a former hypervisor may have died between a store and its invalidation, which nobody has put right
   * yet; a size of 0: none.
   */
  unsettledBase: number
  unsettledSize: number
}

export const IDMAP_STATE = new StateLayout<IdmapState>({
  root: 'u53',
  outputBits: 'u32',
  bigEndian: 'flag',
  tables: 'u32',
  ramBytes: 'u53',
  deviceBytes: 'u53',
  unmappedBytes: 'u53',
  buildUs: 'u53',
  unsettledBase: 'u53',
  unsettledSize: 'u53',
})

/** Of an idmap that is to be built. @param root memory for the start level table */
export function newIdmapState(root: number, outputBits: number, bigEndian: boolean): IdmapState {
  const bytes = { ramBytes: 0, deviceBytes: 0, unmappedBytes: 0, unsettledBase: 0, unsettledSize: 0 }
  return { root, outputBits, bigEndian, tables: 1, ...bytes, buildUs: 0 }
}

export interface IdmapInfo {
  readonly vttbr: number
  readonly vtcr: number
  readonly granule: number
  readonly inputBits: number
  readonly outputBits: number
  readonly startLevel: number
  readonly concatenated: number
  /** Tables, the concatenated root counted as one. */
  readonly tables: number
  /** Pages of 4 KiB in these tables. */
  readonly pages: number
  /** Bytes mapped as memory and as devices when it was built, and those for which no table could be had. */
  readonly ram: number
  readonly devices: number
  readonly unmapped: number
  /** Duration of the build. */
  readonly buildUs: number
}

export class Idmap {
  readonly geometry: IdmapGeometry
  readonly state: IdmapState
  readonly tableMemory: TableMemory
  readonly #pool: PagePool
  /** A last-level table that is being changed. */
  readonly #leaves: Uint32Array

  /** @param state of an idmap that is to be built, or of one whose tables stand in memory already */
  constructor(memory: GuestMemory, pool: PagePool, geometry: IdmapGeometry, state: IdmapState) {
    this.#pool = pool
    this.geometry = geometry
    this.state = state
    this.tableMemory = new TableMemory(memory, state.bigEndian)
    this.#leaves = new Uint32Array(2 * 2 ** geometry.tableBits)
  }

  get root(): number {
    return this.state.root
  }

  get bigEndian(): boolean {
    return this.state.bigEndian
  }

  /** Makes `base` to `base + size` reachable; a part for which no table could be had stays a hole (ENOMEM). */
  map(base: number, size: number): number {
    return this.#change(base, size, true)
  }

  /** Makes holes; the caller invalidates what the SMMUs cached. */
  unmap(base: number, size: number): number {
    return this.#change(base, size, false)
  }

  #change(base: number, size: number, mapped: boolean): number {
    const { granule, granuleShift, tableBits, inputBits } = this.geometry
    if (!(base >= 0) || !(size > 0) || base % granule !== 0 || size % granule !== 0) return EINVAL
    const end = Math.min(base + size, 2 ** inputBits)
    const table = this.#leaves
    const perTable = 2 ** tableBits
    let result: number = OK
    for (let at = base; at < end; ) {
      const index = (at / granule) % perTable
      const count = Math.min((end - at) / granule, perTable - index)
      const address = this.#lastTable(at, mapped)
      if (address > 0) {
        if (mapped) fillLeaves(table, 0, count, at, 2 ** granuleShift, LEAF_RAM | ARM_LPAE_PTE_TYPE_PAGE)
        else table.fill(0, 0, 2 * count)
        if (!this.tableMemory.write(address, table, count)) return EFAULT
      } else if (address < 0) {
        result = address
        if (result !== ENOMEM) return result
      }
      at += count * granule
    }
    return result
  }

  /** Address of the last-level entry for `address`; 0 when there is no table (and none is wanted), or an error. */
  #lastTable(address: number, create: boolean): number {
    const { startLevel, rootBytes, tableBits } = this.geometry
    let table = this.root
    for (let level = startLevel; ; level++) {
      const entries = level === startLevel ? rootBytes / PTE_SIZE : 2 ** tableBits
      const entry = table + (Math.floor(address / levelSpan(this.geometry, level)) % entries) * PTE_SIZE
      if (level === LAST_LEVEL) return entry
      const descriptor = this.tableMemory.entry(entry)
      if (descriptor === undefined) return EFAULT
      const [lo, hi] = descriptor
      if ((lo & ARM_LPAE_PTE_TYPE_MASK) === ARM_LPAE_PTE_TYPE_TABLE) {
        table = addressOf((lo & 0xffff_f000) >>> 0, hi & 0xffff)
      } else if ((lo & ARM_LPAE_PTE_VALID) !== 0) {
        return EINVAL
      } else if (!create) {
        return 0
      } else {
        table = this.#pool.allocate(this.geometry.granule)
        if (table === ENOMEM) return ENOMEM
        this.state.tables++
        const next = (table % TWO_POW_32) + ARM_LPAE_PTE_TYPE_TABLE
        if (!this.tableMemory.writeEntry(entry, next, Math.floor(table / TWO_POW_32))) return EFAULT
      }
    }
  }

  get info(): IdmapInfo {
    const { vtcr, granule, inputBits, outputBits, startLevel, concatenated, rootBytes } = this.geometry
    const { root, tables, ramBytes, deviceBytes, unmappedBytes, buildUs } = this.state
    return {
      vttbr: root,
      vtcr,
      granule,
      inputBits,
      outputBits,
      startLevel,
      concatenated,
      tables,
      pages: ((tables - 1) * granule) / 4096 + Math.ceil(rootBytes / 4096),
      ram: ramBytes,
      devices: deviceBytes,
      unmapped: unmappedBytes,
      buildUs,
    }
  }
}
