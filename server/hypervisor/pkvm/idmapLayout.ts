// SPDX-License-Identifier: Apache-2.0
/** What the stage-2 identity map maps (server/hypervisor/README.md, section 9.2), and its descriptors. */
import { TWO_POW_32 } from '../../smmu/bits.ts'
import {
  ARM_LPAE_PTE_AF,
  ARM_LPAE_PTE_HAP_READ,
  ARM_LPAE_PTE_HAP_WRITE,
  ARM_LPAE_PTE_MEMATTR_DEV,
  ARM_LPAE_PTE_MEMATTR_OIWB,
  ARM_LPAE_PTE_SH_IS,
  ARM_LPAE_PTE_SH_OS,
} from '../../smmu/pagetable.ts'
import type { PageOwnership } from './ownership.ts'

export const LEAF_RAM =
  ARM_LPAE_PTE_AF | ARM_LPAE_PTE_SH_IS | ARM_LPAE_PTE_HAP_READ | ARM_LPAE_PTE_HAP_WRITE | ARM_LPAE_PTE_MEMATTR_OIWB
export const LEAF_DEVICE =
  ARM_LPAE_PTE_AF | ARM_LPAE_PTE_SH_OS | ARM_LPAE_PTE_HAP_READ | ARM_LPAE_PTE_HAP_WRITE | ARM_LPAE_PTE_MEMATTR_DEV

/** Kinds of segments: bits, so that several can be asked for. */
export const HOLE = 0
export const RAM = 1
export const DEVICE = 2

/** Addresses of one kind, up to `end`. */
export interface Segment {
  readonly kind: number
  readonly end: number
}

/** Leaves `first` to `first + count` of an identity map that starts with `address`, `span` bytes apart. */
export function fillLeaves(
  table: Uint32Array,
  first: number,
  count: number,
  address: number,
  span: number,
  attributes: number,
): void {
  // Halves with a carry: `%` and division of large numbers are ten times as slow.
  let lo = address % TWO_POW_32
  let hi = Math.floor(address / TWO_POW_32)
  const [spanLo, spanHi] = [span % TWO_POW_32, Math.floor(span / TWO_POW_32)]
  const end = 2 * (first + count)
  for (let i = 2 * first; i < end; i += 2) {
    table[i] = lo | attributes
    table[i + 1] = hi
    lo += spanLo
    hi += spanHi
    if (lo < TWO_POW_32) continue
    lo -= TWO_POW_32
    hi++
  }
}

/** How many leaves of these, in their order, are what `fillLeaves` writes. */
export function matchLeaves(
  table: Uint32Array,
  first: number,
  count: number,
  address: number,
  span: number,
  attributes: number,
): number {
  let lo = address % TWO_POW_32
  let hi = Math.floor(address / TWO_POW_32)
  const [spanLo, spanHi] = [span % TWO_POW_32, Math.floor(span / TWO_POW_32)]
  for (let i = 0; i < count; i++) {
    const at = 2 * (first + i)
    if ((table[at] ^ (lo | attributes)) !== 0 || table[at + 1] !== hi) return i
    lo += spanLo
    hi += spanHi
    if (lo < TWO_POW_32) continue
    lo -= TWO_POW_32
    hi++
  }
  return count
}

/** The input address space in ascending order, without gaps: what the host reaches, devices, holes. */
export class AddressSpace {
  readonly #segments: readonly Segment[]
  #cursor = 0

  /**
   * @param frames ranges that are holes though they are no RAM: the SMMUs
   * @param limit end of the address space
   */
  constructor(ownership: PageOwnership, frames: readonly { base: number; size: number }[], limit: number) {
    this.#segments = segmentsOf(ownership, frames, limit)
  }

  /** The segment of an address that is not below the one that was asked for before. */
  at(address: number): Segment {
    while (this.#segments[this.#cursor].end <= address) this.#cursor++
    return this.#segments[this.#cursor]
  }

  /** Whether anything of one of these kinds lies between two addresses, of which the first was asked for last. */
  has(start: number, end: number, kinds: number): boolean {
    for (let c = this.#cursor, from = start; from < end; c++) {
      if ((this.#segments[c].kind & kinds) !== 0) return true
      from = this.#segments[c].end
    }
    return false
  }
}

function segmentsOf(
  ownership: PageOwnership,
  frames: readonly { base: number; size: number }[],
  limit: number,
): Segment[] {
  const segments: Segment[] = []
  let at = 0
  const push = (kind: number, end: number) => {
    end = Math.min(end, limit)
    if (end <= at) return
    const last = segments.at(-1)
    if (last?.kind === kind) segments[segments.length - 1] = { kind, end }
    else segments.push({ kind, end })
    at = end
  }
  const sorted = [...frames].sort((a, b) => a.base - b.base)
  const devices = (end: number) => {
    for (const frame of sorted) {
      // One that ends before adds nothing.
      if (frame.base >= end) continue
      push(DEVICE, frame.base)
      push(HOLE, Math.min(end, frame.base + frame.size))
    }
    push(DEVICE, end)
  }
  for (const { base, size, state } of ownership.ranges()) {
    devices(base)
    push(state === 'owned' || state === 'shared' ? RAM : HOLE, base + size)
  }
  devices(limit)
  return segments
}
