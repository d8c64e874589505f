// SPDX-License-Identifier: Apache-2.0
/**
 * Who owns each page of RAM, by what was said to the outside and nothing else: hypervisor memory belongs to the hypervisor, a page
 * to a VM from a donation that succeeded until a reclaim that did. No hypervisor is asked.
 */
import { PAGE_SIZE, type RamRange } from './memory.ts'

export const HOST = 0
/** VMs have their ids, 1 to 0xfffe. */
export const HYPERVISOR = 0xffff
export const NOT_RAM = -1

export function ownerName(owner: number): string {
  if (owner === HOST) return 'the host'
  if (owner === HYPERVISOR) return 'the hypervisor'
  return owner === NOT_RAM ? 'nobody' : `VM ${owner}`
}

export class PageMap {
  readonly ram: readonly RamRange[]
  readonly #carveout: RamRange
  /** By range of RAM and page. */
  readonly owners: readonly Uint16Array[]
  /** Ranges that nobody's device may reach though they are no RAM: the SMMUs' frames. */
  readonly #frames: readonly RamRange[]

  constructor(ram: readonly RamRange[], carveout: RamRange, frames: readonly RamRange[]) {
    this.ram = ram
    this.#carveout = carveout
    this.#frames = frames
    this.owners = ram.map(({ size }) => new Uint16Array(size / PAGE_SIZE))
    this.reset()
  }

  /** All RAM is the host's but hypervisor memory. */
  reset(): void {
    for (const owners of this.owners) owners.fill(HOST)
    this.give(this.#carveout.base, this.#carveout.size, HYPERVISOR)
  }

  give(base: number, size: number, owner: number): void {
    for (const [i, range] of this.ram.entries()) {
      const from = Math.max(base, range.base) - range.base
      const to = Math.min(base + size, range.base + range.size) - range.base
      if (from < to) this.owners[i].fill(owner, from / PAGE_SIZE, to / PAGE_SIZE)
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
}
