// SPDX-License-Identifier: Apache-2.0
/**
 * What must hold of pages that change hands, decided from outside: the map follows the results of donations and reclaims, the CPU's
 * guard is the map, the hypervisor keeps its hands off the pages of VMs, and pages come back without what their VM had in them.
 * The attacker's machine and a live one have it in common.
 */
import type { StaticPartition } from '../policy/inspect.ts'
import { hex } from '../smmu/bits.ts'
import type { PageGuard } from './pageGuard.ts'
import { HOST, HYPERVISOR, NOT_RAM, ownerName, PAGE_SIZE, type PageMap } from './pageMap.ts'
import { Partitions } from './partitions.ts'

export abstract class PageOracle {
  readonly map: PageMap
  readonly guard: PageGuard
  /** The policy says that it isolates; nothing is wrong otherwise. */
  claims = false
  /** Pages that VMs own, in the order in which they got them. */
  readonly donations: number[] = []
  /** Of a policy that shares memory out for good. */
  #partitions: Partitions | undefined
  /** Pages on their way back to the host: not yet said to be its own. */
  #returning: { readonly base: number; readonly end: number } | undefined

  constructor(map: PageMap, guard: PageGuard) {
    this.map = map
    this.guard = guard
  }

  /** Something must not be. `kind`: same for the same sort of weakness. */
  abstract report(kind: string, message: string, page?: number): void

  /** The new owner of a page stores what it would find changed. */
  protected abstract fill(page: number): void

  /** A page that came back holds what its VM had in it. */
  protected abstract leaves(page: number): boolean

  /** vCPUs are kept from pages by a guard, and not by somebody else. */
  protected get guards(): boolean {
    return true
  }

  /** Nobody was told what became of the page. */
  protected unsure(_page: number): boolean {
    return false
  }

  /** All RAM is the host's but hypervisor memory. */
  protected clear(): void {
    this.map.reset()
    this.donations.length = 0
    this.#returning = undefined
  }

  /** @param partitions what the policy has said at its reset; absent: all streams are the host's */
  share(partitions: readonly StaticPartition[] | undefined): void {
    this.#partitions = partitions && new Partitions(partitions)
  }

  /** The guest may configure the stream. */
  isGuests(smmu: number, sid: number): boolean {
    return this.#partitions === undefined || this.#partitions.of(smmu, sid) === 0
  }

  /** The partition of a stream, for those that take streams of one together. */
  partitionOf(smmu: number, sid: number): number | undefined {
    return this.#partitions?.of(smmu, sid)
  }

  /**
   * First address of a range that is not of the stream's partition; -1: none. Whose the page is otherwise is not looked at.
   * @param sid undefined: the SMMU itself, which belongs to the guest
   */
  outside(smmu: number, sid: number | undefined, from: number, size: number): number {
    const partitions = this.#partitions
    return partitions?.outside(sid === undefined ? 0 : partitions.of(smmu, sid), from, size) ?? -1
  }

  /** Why a stream must not reach an address that it reaches: whose that is. */
  notOf(smmu: number, sid: number | undefined, address: number): string {
    const partitions = this.#partitions
    if (partitions === undefined || this.outside(smmu, sid, address, 1) < 0 || !this.map.hostMay(address)) {
      return `belongs to ${this.owner(address)}`
    }
    return `is not in partition ${partitions.name(sid === undefined ? 0 : partitions.of(smmu, sid))}`
  }

  owner(address: number): string {
    return this.map.isFrame(address) ? 'an SMMU' : ownerName(this.map.owner(address))
  }

  /** On its way back to the host. */
  protected isReturning(page: number): boolean {
    const back = this.#returning
    return back !== undefined && page >= back.base && page < back.end
  }

  /** The hypervisor writes memory. */
  hypervisorWrites(address: number, length: number): void {
    if (!this.claims) return
    const back = this.#returning
    if (back !== undefined && address >= back.base && address + length <= back.end) return
    const at = this.#ofVm(address, length)
    if (at < 0) return
    const what = `the hypervisor writes ${length} bytes at ${hex(address)}`
    this.report('hypervisor-writes-vm', `${what}, ${hex(at)} belongs to ${this.owner(at)}`, at - (at % PAGE_SIZE))
  }

  /** The hypervisor reads memory: the host must not make it read what belongs to a VM. */
  hypervisorReads(address: number, length: number): void {
    if (!this.claims) return
    const at = this.#ofVm(address, length)
    if (at < 0) return
    const what = `the hypervisor reads ${length} bytes at ${hex(address)}`
    this.report('hypervisor-reads-vm', `${what}, ${hex(at)} belongs to ${this.owner(at)}`, at - (at % PAGE_SIZE))
  }

  /** First address of a range that belongs to a VM; -1: none. */
  #ofVm(address: number, length: number): number {
    const end = address + length
    for (let at = address; at < end; at += PAGE_SIZE - (at % PAGE_SIZE)) {
      const owner = this.map.owner(at)
      if (owner === HOST || owner === HYPERVISOR || owner === NOT_RAM) continue
      if (!this.unsure(at - (at % PAGE_SIZE))) return at
    }
    return -1
  }

  // Pages that change hands.

  /** A donation succeeded. */
  donated(base: number, size: number, vm: number): void {
    for (let page = base; page < base + size; page += PAGE_SIZE) {
      const owner = this.map.owner(page)
      if (owner !== HOST) {
        this.report('donates-foreign', `${hex(page)} was donated to VM ${vm}, but belongs to ${ownerName(owner)}`, page)
      }
      this.fill(page)
      this.donations.push(page)
    }
    this.map.give(base, size, vm)
    this.#guarded(base, size, true)
  }

  /** A reclaim begins. */
  returning(base: number, size: number): void {
    this.#returning = { base, end: base + size }
  }

  /** A reclaim has ended. @param done it succeeded */
  reclaimed(base: number, size: number, vm: number, done: boolean): void {
    this.#returning = undefined
    if (!done) return
    for (let page = base; page < base + size; page += PAGE_SIZE) {
      const owner = this.map.owner(page)
      if (owner !== vm) {
        const message = `${hex(page)} was reclaimed from VM ${vm}, but belongs to ${ownerName(owner)}`
        this.report('reclaims-foreign', message, page)
      }
      if (this.leaves(page)) this.report('not-zeroed', `${hex(page)} came back from VM ${vm} with its contents`, page)
    }
    this.map.give(base, size, HOST)
    const left = this.donations.filter(page => page < base || page >= base + size)
    this.donations.splice(0, this.donations.length, ...left)
    this.#guarded(base, size, false)
  }

  #guarded(base: number, size: number, guarded: boolean): void {
    if (!this.claims || !this.guards) return
    for (let page = base; page < base + size; page += PAGE_SIZE) {
      if (this.guard.has(page) === guarded) continue
      const how = guarded ? 'open to vCPUs' : 'kept from vCPUs'
      this.report('guard', `${hex(page)} belongs to ${ownerName(this.map.owner(page))} and is ${how}`, page)
    }
  }

  /** All of the guard against all of the map. */
  auditGuard(): void {
    if (!this.claims) return
    for (const [i, { base }] of this.map.ram.entries()) {
      const owners = this.map.owners[i]
      const guarded = this.guard.pages[i]
      for (let index = 0; index < owners.length; index++) {
        if ((owners[index] !== HOST) === (guarded[index] === 1)) continue
        const page = base + index * PAGE_SIZE
        if (!this.unsure(page)) this.#guarded(page, PAGE_SIZE, owners[index] !== HOST)
      }
    }
  }
}
