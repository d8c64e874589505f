// SPDX-License-Identifier: Apache-2.0
/**
 * What must hold, decided from outside: every write of an SMMU itself and every access of a device lands where the page map allows it, the
 * hypervisor keeps its hands off the pages of VMs, the CPU's guard is the map, and pages come back zeroed.
 */
import { hex } from '../smmu/bits.ts'
import type { SmmuWrite } from '../smmu/soft/options.ts'
import type { PageGuard } from './guard.ts'
import { type AttackMemory, PAGE_SIZE } from './memory.ts'
import { HOST, HYPERVISOR, NOT_RAM, ownerName, type PageMap } from './pageMap.ts'

/** Something that must not be. */
export interface Finding {
  /** Same for the same sort of weakness; what a list of known weaknesses names. */
  readonly kind: string
  readonly message: string
  /** Number of the step, from 0. */
  readonly step: number
  /** The page that was reached, if it is about one. */
  readonly page?: number
}

/** Kinds of findings. */
export type Kinds = Pick<ReadonlySet<string>, 'has'>

/** What a page of a VM is filled with. */
export const SECRET = 0x5ec2_e75a

export class Oracle {
  readonly map: PageMap
  readonly #memory: AttackMemory
  readonly #guard: PageGuard
  /** The policy says that it isolates; nothing is wrong otherwise. */
  claims = false
  finding: Finding | undefined
  /** Step that is performed. */
  step = 0
  /** Kinds that are passed over: they are counted in `seen`. */
  known: Kinds = new Set<string>()
  readonly seen = new Map<string, number>()
  /** A known weakness has left the machine in a state that nothing can be said about. */
  spoiled = false
  /** Pages that VMs own, in the order in which they got them. */
  readonly donations: number[] = []
  /** Pages on their way back to the host: not yet said to be its own, but there is no harm in reaching them once they are empty. */
  #returning: { readonly base: number; readonly end: number } | undefined

  constructor(map: PageMap, memory: AttackMemory, guard: PageGuard) {
    this.map = map
    this.#memory = memory
    this.#guard = guard
  }

  begin(): void {
    this.map.reset()
    this.claims = false
    this.finding = undefined
    this.spoiled = false
    this.#returning = undefined
    this.donations.length = 0
  }

  report(kind: string, message: string, page?: number): void {
    if (this.known.has(kind)) {
      this.seen.set(kind, (this.seen.get(kind) ?? 0) + 1)
      this.spoiled ||= !kind.startsWith('dma')
      return
    }
    if (this.spoiled) return
    this.finding ??= { kind, message, step: this.step, ...(page === undefined ? {} : { page }) }
  }

  /** Whether an access to `address` is one that the host may not make happen. */
  forbidden(address: number): boolean {
    if (!this.claims || this.map.hostMay(address)) return false
    const page = address - (address % PAGE_SIZE)
    const back = this.#returning
    if (back === undefined || page < back.base || page >= back.end) return true
    return this.#memory.contains(page, SECRET)
  }

  owner(address: number): string {
    return this.map.isFrame(address) ? 'an SMMU' : ownerName(this.map.owner(address))
  }

  /** The SMMU is about to write. */
  smmuWrites(smmu: number, what: SmmuWrite, address: number, length: number): void {
    if (!this.claims) return
    const last = address + length - 1
    const at = this.forbidden(address)
      ? address
      : last % PAGE_SIZE < address % PAGE_SIZE && this.forbidden(last)
        ? last
        : -1
    if (at >= 0) {
      const page = at - (at % PAGE_SIZE)
      this.report(
        `smmu-write ${what}`,
        `SMMU ${smmu} writes ${what} at ${hex(address)}, which belongs to ${this.owner(at)}`,
        page,
      )
    }
  }

  /** The hypervisor writes memory. */
  hypervisorWrites(address: number, length: number): void {
    if (!this.claims) return
    const back = this.#returning
    if (back !== undefined && address >= back.base && address + length <= back.end) return
    const at = this.#ofVm(address, length)
    if (at < 0) return
    const what = `the hypervisor writes ${length} bytes at ${hex(address)}`
    this.report('hypervisor-writes-vm', `${what}, ${hex(at)} belongs to ${this.owner(at)}`)
  }

  /** The hypervisor reads memory: the host must not make it read what belongs to a VM. */
  hypervisorReads(address: number, length: number): void {
    if (!this.claims) return
    const at = this.#ofVm(address, length)
    if (at < 0) return
    const what = `the hypervisor reads ${length} bytes at ${hex(address)}`
    this.report('hypervisor-reads-vm', `${what}, ${hex(at)} belongs to ${this.owner(at)}`)
  }

  /** First address of a range that belongs to a VM; -1: none. */
  #ofVm(address: number, length: number): number {
    const end = address + length
    for (let at = address; at < end; at += PAGE_SIZE - (at % PAGE_SIZE)) {
      const owner = this.map.owner(at)
      if (owner !== HOST && owner !== HYPERVISOR && owner !== NOT_RAM) return at
    }
    return -1
  }

  // Pages that change hands.

  donated(base: number, size: number, vm: number): void {
    for (let page = base; page < base + size; page += PAGE_SIZE) {
      const owner = this.map.owner(page)
      if (owner !== HOST) {
        this.report('donates-foreign', `${hex(page)} was donated to VM ${vm}, but belongs to ${ownerName(owner)}`, page)
      }
      this.#memory.fillPage(page, SECRET)
      this.donations.push(page)
    }
    this.map.give(base, size, vm)
    this.#guarded(base, size, true)
  }

  /** A reclaim begins. */
  returning(base: number, size: number): void {
    this.#returning = { base, end: base + size }
  }

  reclaimed(base: number, size: number, vm: number, done: boolean): void {
    this.#returning = undefined
    if (!done) return
    for (let page = base; page < base + size; page += PAGE_SIZE) {
      const owner = this.map.owner(page)
      if (owner !== vm) {
        this.report(
          'reclaims-foreign',
          `${hex(page)} was reclaimed from VM ${vm}, but belongs to ${ownerName(owner)}`,
          page,
        )
      }
      if (this.#memory.contains(page, SECRET)) {
        this.report('not-zeroed', `${hex(page)} came back from VM ${vm} with its contents`, page)
      }
    }
    this.map.give(base, size, HOST)
    const left = this.donations.filter(page => page < base || page >= base + size)
    this.donations.splice(0, this.donations.length, ...left)
    this.#guarded(base, size, false)
  }

  #guarded(base: number, size: number, guarded: boolean): void {
    if (!this.claims) return
    for (let page = base; page < base + size; page += PAGE_SIZE) {
      if (this.#guard.has(page) === guarded) continue
      const how = guarded ? 'open to vCPUs' : 'kept from vCPUs'
      this.report('guard', `${hex(page)} belongs to ${ownerName(this.map.owner(page))} and is ${how}`, page)
    }
  }

  /** All of the guard against all of the map. */
  auditGuard(): void {
    if (!this.claims) return
    for (const [i, { base }] of this.map.ram.entries()) {
      const owners = this.map.owners[i]
      const guarded = this.#guard.pages[i]
      for (let page = 0; page < owners.length; page++) {
        if ((owners[page] !== HOST) === (guarded[page] === 1)) continue
        this.#guarded(base + page * PAGE_SIZE, PAGE_SIZE, owners[page] !== HOST)
      }
    }
  }
}
