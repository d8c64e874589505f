// SPDX-License-Identifier: Apache-2.0
/**
 * Who owns each page of RAM, by what was said to the outside and nothing else: hypervisor memory belongs to the hypervisor, a page
 * to a VM from a donation that succeeded until a reclaim that did. No hypervisor is asked.
 */
import type { GuestMemory } from '../smmu/memory.ts'

export const PAGE_SIZE = 4096

export const HOST = 0
/** VMs have their ids, 1 to 0xfffe. */
export const HYPERVISOR = 0xffff
export const NOT_RAM = -1

/** Pages of one chunk: whether a large block has anything foreign in it is asked for each block of a walk. */
const CHUNK = 512

type Range = GuestMemory['ram'][number]

export function ownerName(owner: number): string {
  if (owner === HOST) return 'the host'
  if (owner === HYPERVISOR) return 'the hypervisor'
  return owner === NOT_RAM ? 'nobody' : `VM ${owner}`
}

export class PageMap {
  readonly ram: readonly Range[]
  readonly #carveout: Range
  /** By range of RAM and page. */
  readonly owners: readonly Uint16Array[]
  /** Of each chunk: pages that are not the host's. */
  readonly #counts: readonly Uint16Array[]
  /** Ranges that nobody's device may reach though they are no RAM: the SMMUs' frames. */
  readonly #frames: readonly Range[]

  constructor(ram: readonly Range[], carveout: Range, frames: readonly Range[]) {
    this.ram = ram
    this.#carveout = carveout
    this.#frames = frames
    this.owners = ram.map(({ size }) => new Uint16Array(size / PAGE_SIZE))
    this.#counts = ram.map(({ size }) => new Uint16Array(Math.ceil(size / PAGE_SIZE / CHUNK)))
    this.reset()
  }

  /** All RAM is the host's but hypervisor memory. */
  reset(): void {
    for (const owners of this.owners) owners.fill(HOST)
    for (const counts of this.#counts) counts.fill(0)
    this.give(this.#carveout.base, this.#carveout.size, HYPERVISOR)
  }

  give(base: number, size: number, owner: number): void {
    for (const [i, range] of this.ram.entries()) {
      const owners = this.owners[i]
      const from = (Math.max(base, range.base) - range.base) / PAGE_SIZE
      const to = (Math.min(base + size, range.base + range.size) - range.base) / PAGE_SIZE
      for (let page = from; page < to; page++) {
        const change = (owner === HOST ? 0 : 1) - (owners[page] === HOST ? 0 : 1)
        if (change !== 0) this.#counts[i][Math.floor(page / CHUNK)] += change
        owners[page] = owner
      }
    }
  }

  /** Owner of the page that holds `address`. */
  owner(address: number): number {
    for (let i = 0; i < this.ram.length; i++) {
      const { base, size } = this.ram[i]
      const offset = address - base
      if (offset >= 0 && offset < size) return this.owners[i][Math.floor(offset / PAGE_SIZE)]
    }
    return NOT_RAM
  }

  isFrame(address: number): boolean {
    for (const { base, size } of this.#frames) if (address >= base && address < base + size) return true
    return false
  }

  /** Devices of the host, and what the host tells an SMMU to do, may reach `address`. */
  hostMay(address: number): boolean {
    const owner = this.owner(address)
    return owner === HOST || (owner === NOT_RAM && !this.isFrame(address))
  }

  /** First address of a range that the host's devices must not reach; -1: none. */
  forbidden(from: number, size: number): number {
    if (size <= PAGE_SIZE && from % PAGE_SIZE === 0) return this.hostMay(from) ? -1 : from
    const end = from + size
    for (const frame of this.#frames) {
      if (frame.base < end && from < frame.base + frame.size) return Math.max(frame.base, from)
    }
    for (const [i, { base, size: bytes }] of this.ram.entries()) {
      const owners = this.owners[i]
      const last = Math.min(owners.length, Math.ceil((end - base) / PAGE_SIZE))
      let index = Math.max(0, Math.floor((from - base) / PAGE_SIZE))
      if (from >= base + bytes) continue
      while (index < last) {
        if (index % CHUNK === 0 && this.#counts[i][index / CHUNK] === 0) index += CHUNK
        else if (owners[index] !== HOST) return Math.max(from, base + index * PAGE_SIZE)
        else index++
      }
    }
    return -1
  }
}
