// SPDX-License-Identifier: Apache-2.0
/**
 * Who owns each page of RAM (server/hypervisor/README.md, section 8).
 *
 * One byte a page, so 256 MiB describe 1 TiB, and every question about a page is one load. Pages are 4 KiB whatever the
 * granule of the stage-2 idmap is. Operations on ranges are all or nothing: every page is checked before one is changed.
 */
import { EBUSY, EFAULT, EINVAL, ENOMEM, EPERM, ERANGE, OK } from '../../policy/result.ts'

export const PAGE_SHIFT = 12
export const PAGE_SIZE = 2 ** PAGE_SHIFT

/** States of a page. */
export const PAGE_NOT_RAM = 0
/** Owned by the host, exclusively. */
export const PAGE_OWNED = 1
/** Owned by the host, shared with the hypervisor. */
export const PAGE_SHARED = 2
/** Owned by the hypervisor. */
export const PAGE_HYP = 3
/** Owned by a protected VM. */
export const PAGE_VM = 4

const STATE_NAMES = ['not RAM', 'owned', 'shared', 'hyp', 'vm'] as const
export type PageStateName = (typeof STATE_NAMES)[number]

export function pageStateName(state: number): PageStateName {
  return STATE_NAMES[state] ?? 'not RAM'
}

// The byte of a page: 0 owned, 1 hyp, SHARED + pins, or VM + slot.
const OWNED = 0
const HYP = 1
const SHARED = 2
const VM = 64
/** Most pins that a page can have at a time. */
export const MAX_PINS = VM - 1 - SHARED
/** Most protected VMs that can own pages at a time. */
export const MAX_VMS = 256 - VM

/** Pages that are counted together. */
const CHUNK = 512

/** Bytes. */
export interface Range {
  readonly base: number
  readonly size: number
}

/** A run of pages in one state. */
export interface PageRange extends Range {
  readonly state: PageStateName
  /** VM id, 0 unless `state` is 'vm'. */
  readonly vm: number
  /** 0 unless `state` is 'shared'. */
  readonly pins: number
}

interface Region {
  readonly base: number
  readonly end: number
  /** Index in `pages` of the first page. */
  readonly first: number
}

export class PageOwnership {
  /** Whole pages of RAM in ascending order, adjacent ranges joined. */
  readonly #regions: Region[] = []
  readonly #pages: Uint8Array
  /** By chunk: pages that are not plainly the host's, so that nobody has to look at all the others. */
  readonly #others: Uint16Array
  /** VM id of a slot, 0 when free. VM ids are positive. */
  readonly #vmIds = new Float64Array(MAX_VMS)
  readonly #vmPages = new Float64Array(MAX_VMS)
  /** Counts every change, so that a copy of the state can be known to be stale. */
  generation = 0

  constructor(ram: readonly { readonly base: number; readonly size: number }[]) {
    let count = 0
    for (const { base, size } of ram) {
      const start = Math.ceil(base / PAGE_SIZE) * PAGE_SIZE
      const end = Math.floor((base + size) / PAGE_SIZE) * PAGE_SIZE
      if (end <= start) continue
      const last = this.#regions.at(-1)
      if (last !== undefined && start < last.end) throw new RangeError('RAM ranges overlap or are not in order')
      if (last !== undefined && start === last.end) {
        this.#regions[this.#regions.length - 1] = { base: last.base, end, first: last.first }
      } else {
        this.#regions.push({ base: start, end, first: count })
      }
      count += (end - start) / PAGE_SIZE
    }
    this.#pages = new Uint8Array(count)
    this.#others = new Uint16Array(Math.ceil(count / CHUNK))
  }

  /** All pages go back to the host. */
  reset(): void {
    this.#pages.fill(OWNED)
    this.#others.fill(0)
    this.#vmIds.fill(0)
    this.#vmPages.fill(0)
    this.generation++
  }

  /** Pages of RAM. */
  get pages(): number {
    return this.#pages.length
  }

  /** Index of the first page of a range of whole pages, or a negative error. */
  #locate(base: number, size: number): number {
    if (!(base >= 0) || !(size > 0) || base % PAGE_SIZE !== 0 || size % PAGE_SIZE !== 0) return EINVAL
    for (const region of this.#regions) {
      if (base >= region.base && base < region.end) {
        return size <= region.end - base ? region.first + (base - region.base) / PAGE_SIZE : EFAULT
      }
    }
    return EFAULT
  }

  #byte(address: number): number {
    for (const region of this.#regions) {
      if (address >= region.base && address < region.end) {
        return this.#pages[region.first + Math.floor((address - region.base) / PAGE_SIZE)]
      }
    }
    return -1
  }

  /** State of the page that holds `address`. */
  stateAt(address: number): number {
    const byte = this.#byte(address)
    if (byte < 0) return PAGE_NOT_RAM
    return stateOf(byte)
  }

  /** VM id of the page's owner, 0 if no VM owns it. */
  vmAt(address: number): number {
    const byte = this.#byte(address)
    return byte >= VM ? this.#vmIds[byte - VM] : 0
  }

  /** Pins of the page, 0 unless it is shared. */
  pinsAt(address: number): number {
    const byte = this.#byte(address)
    return byte >= SHARED && byte < VM ? byte - SHARED : 0
  }

  /** Whether a host that owns it, exclusively or shared, may reach the page. */
  hostReaches(address: number): boolean {
    const byte = this.#byte(address)
    return byte === OWNED || (byte >= SHARED && byte < VM)
  }

  /** Whether all of a range is RAM that the host, who owns it exclusively or shared, may reach. */
  hostReachesAll(base: number, size: number): boolean {
    const first = this.#locate(base, size)
    if (first < 0) return false
    const pages = this.#pages
    const end = first + size / PAGE_SIZE
    for (let i = this.#endOfOwned(first, end); i < end; i = this.#endOfOwned(i + 1, end)) {
      if (pages[i] === HYP || pages[i] >= VM) return false
    }
    return true
  }

  /** Host → hyp, shared: only pages that the host owns exclusively. */
  share(base: number, size: number): number {
    return this.#move(base, size, OWNED, SHARED)
  }

  /** Undoes `share`: a page that was not shared is EPERM, one that is pinned EBUSY. */
  unshare(base: number, size: number): number {
    return this.#move(base, size, SHARED, OWNED)
  }

  /** Keeps shared pages shared until `unpin`. */
  pin(base: number, size: number): number {
    return this.#count(base, size, 1)
  }

  unpin(base: number, size: number): number {
    return this.#count(base, size, -1)
  }

  /** Host → hyp, given away: only pages that the host owns exclusively. */
  donateToHyp(base: number, size: number): number {
    return this.#move(base, size, OWNED, HYP)
  }

  /** Undoes `donateToHyp`. */
  reclaimFromHyp(base: number, size: number): number {
    return this.#move(base, size, HYP, OWNED)
  }

  /** Host → protected VM: only pages that the host owns exclusively. ENOMEM when too many VMs own pages. */
  donate(base: number, size: number, vm: number): number {
    if (!Number.isSafeInteger(vm) || vm <= 0) return EINVAL
    let slot = this.#vmIds.indexOf(vm)
    if (slot < 0) slot = this.#vmIds.indexOf(0)
    if (slot < 0) return ENOMEM
    const result = this.#move(base, size, OWNED, VM + slot)
    if (result === OK) {
      this.#vmIds[slot] = vm
      this.#vmPages[slot] += size / PAGE_SIZE
    }
    return result
  }

  /** Slot of a VM that owns pages, or -1. */
  #slotOf(vm: number): number {
    return vm > 0 ? this.#vmIds.indexOf(vm) : -1
  }

  /** Protected VM → host: only pages that this VM owns. */
  reclaim(base: number, size: number, vm: number): number {
    const slot = this.#slotOf(vm)
    if (slot < 0) {
      const first = this.#locate(base, size)
      return first < 0 ? first : EPERM
    }
    const result = this.#move(base, size, VM + slot, OWNED)
    if (result === OK) {
      this.#vmPages[slot] -= size / PAGE_SIZE
      if (this.#vmPages[slot] === 0) this.#vmIds[slot] = 0
    }
    return result
  }

  /** Whether a range would be accepted by `reclaim`. */
  checkVm(base: number, size: number, vm: number): number {
    const first = this.#locate(base, size)
    if (first < 0) return first
    const slot = this.#slotOf(vm)
    return slot < 0 ? EPERM : this.#check(first, first + size / PAGE_SIZE, VM + slot)
  }

  /**
   * What a hypervisor beside us says of pages that it owns, or gives back to the host: nothing is asked, pins are lost.
   * @param vm -1: the host's; 0: that hypervisor's; else a VM's
   * @returns ENOMEM when too many VMs own pages, and the pages are the hypervisor's then
   */
  assign(base: number, size: number, vm: number): number {
    const first = this.#locate(base, size)
    if (first < 0) return first
    let result: number = OK
    let to = vm < 0 ? OWNED : HYP
    let slot = -1
    if (vm > 0) {
      slot = this.#vmIds.indexOf(vm)
      if (slot < 0) slot = this.#vmIds.indexOf(0)
      if (slot < 0) result = ENOMEM
      else to = VM + slot
    }
    const pages = this.#pages
    for (let i = first; i < first + size / PAGE_SIZE; i++) {
      const from = pages[i]
      if (from === to) continue
      this.#others[Math.floor(i / CHUNK)] += (to === OWNED ? 0 : 1) - (from === OWNED ? 0 : 1)
      if (from >= VM && --this.#vmPages[from - VM] === 0 && from !== to) this.#vmIds[from - VM] = 0
      if (to >= VM) {
        this.#vmIds[slot] = vm
        this.#vmPages[slot]++
      }
      pages[i] = to
    }
    this.generation++
    return result
  }

  #check(first: number, end: number, from: number): number {
    const pages = this.#pages
    for (let i = first; i < end; i++) {
      const byte = pages[i]
      if (byte !== from) return from === SHARED && byte > SHARED && byte < VM ? EBUSY : EPERM
    }
    return OK
  }

  #move(base: number, size: number, from: number, to: number): number {
    const first = this.#locate(base, size)
    if (first < 0) return first
    const end = first + size / PAGE_SIZE
    const result = this.#check(first, end, from)
    if (result !== OK) return result
    this.#pages.fill(to, first, end)
    for (let i = first; i < end; ) {
      const chunk = Math.floor(i / CHUNK)
      const next = Math.min(end, (chunk + 1) * CHUNK)
      this.#others[chunk] += from === OWNED ? next - i : i - next
      i = next
    }
    this.generation++
    return OK
  }

  #count(base: number, size: number, by: 1 | -1): number {
    const first = this.#locate(base, size)
    if (first < 0) return first
    const end = first + size / PAGE_SIZE
    const pages = this.#pages
    for (let i = first; i < end; i++) {
      const byte = pages[i]
      if (byte < SHARED || byte >= VM) return EPERM
      if (by > 0 && byte === VM - 1) return ERANGE
      if (by < 0 && byte === SHARED) return EPERM
    }
    for (let i = first; i < end; i++) pages[i] += by
    this.generation++
    return OK
  }

  /**
   * All RAM as runs of equal pages in ascending order, none longer than the RAM range it lies in.
   * @param from first address of interest
   * @param to end of interest
   */
  *ranges(from = 0, to = Number.MAX_SAFE_INTEGER): Generator<PageRange> {
    const pages = this.#pages
    for (const region of this.#regions) {
      const start = Math.max(region.base, Math.floor(from / PAGE_SIZE) * PAGE_SIZE)
      const stop = Math.min(region.end, Math.ceil(to / PAGE_SIZE) * PAGE_SIZE)
      const end = region.first + (stop - region.base) / PAGE_SIZE
      let i = region.first + (start - region.base) / PAGE_SIZE
      while (i < end) {
        const byte = pages[i]
        const runEnd = byte === OWNED ? this.#endOfOwned(i, end) : endOfRun(pages, i, end)
        yield {
          base: region.base + (i - region.first) * PAGE_SIZE,
          size: (runEnd - i) * PAGE_SIZE,
          state: pageStateName(stateOf(byte)),
          vm: byte >= VM ? this.#vmIds[byte - VM] : 0,
          pins: byte >= SHARED && byte < VM ? byte - SHARED : 0,
        }
        i = runEnd
      }
    }
  }

  /** RAM that the host and its devices reach, shared or not, from `from` to `to` in ascending order: a granule may hold pages of both states. */
  *hostRanges(from: number, to: number): Generator<{ base: number; size: number }> {
    let run: { base: number; size: number } | undefined
    for (const { base, size, state } of this.ranges(from, to)) {
      if (state !== 'owned' && state !== 'shared') continue
      if (run !== undefined && run.base + run.size === base) run.size += size
      else {
        if (run !== undefined) yield run
        run = { base, size }
      }
    }
    if (run !== undefined) yield run
  }

  /** First page from `i` on that is not plainly the host's. */
  #endOfOwned(i: number, end: number): number {
    const pages = this.#pages
    while (i < end && pages[i] === OWNED) {
      const chunk = Math.floor(i / CHUNK)
      const next = Math.min(end, (chunk + 1) * CHUNK)
      i = this.#others[chunk] === 0 ? next : endOfRun(pages, i, next)
    }
    return i
  }

  /** Puts a run that `ranges` gave back, into a state that `reset` made. */
  restore(range: PageRange): number {
    let result: number = OK
    switch (range.state) {
      case 'owned':
        break
      case 'hyp':
        result = this.donateToHyp(range.base, range.size)
        break
      case 'vm':
        result = this.donate(range.base, range.size, range.vm)
        break
      case 'shared':
        if (range.pins > MAX_PINS) return EINVAL
        result = this.share(range.base, range.size)
        for (let pin = 0; pin < range.pins && result === OK; pin++) result = this.pin(range.base, range.size)
        break
      default:
        result = EINVAL
    }
    return result
  }
}

function stateOf(byte: number): number {
  if (byte === OWNED) return PAGE_OWNED
  if (byte === HYP) return PAGE_HYP
  return byte < VM ? PAGE_SHARED : PAGE_VM
}

/** First index after `i` with another value; four pages a step where it can. */
function endOfRun(pages: Uint8Array, i: number, end: number): number {
  const byte = pages[i]
  while (i < end && (i & 3) !== 0 && pages[i] === byte) i++
  const words = new Uint32Array(pages.buffer, 0, pages.length >>> 2)
  const pattern = Math.imul(byte, 0x0101_0101) >>> 0
  let word = i >>> 2
  const lastWord = end >>> 2
  while (word < lastWord && words[word] === pattern) word++
  i = Math.max(i, word << 2)
  while (i < end && pages[i] === byte) i++
  return i
}

/** Start of the first page that a range of bytes touches. */
export function pageFloor(address: number): number {
  return address - (address % PAGE_SIZE)
}

/** Bytes of the pages that a range of bytes touches. */
export function pageSpan(address: number, bytes: number): number {
  return Math.ceil((address + bytes) / PAGE_SIZE) * PAGE_SIZE - pageFloor(address)
}
