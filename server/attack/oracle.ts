// SPDX-License-Identifier: Apache-2.0
/**
 * What must hold, decided from outside: what every machine's oracle looks at (server/oracle), and that every write of an SMMU itself and
 * every access of a device lands where the page map allows it.
 */
import type { PageGuard } from '../oracle/pageGuard.ts'
import { PAGE_SIZE, type PageMap } from '../oracle/pageMap.ts'
import { PageOracle } from '../oracle/pageOracle.ts'
import { hex } from '../smmu/bits.ts'
import type { SmmuWrite } from '../smmu/soft/options.ts'
import type { AttackMemory } from './memory.ts'

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

/** Owner of EL2's memory: no VM has so high an id. */
const EL2 = 0xfffe

/** What a page of a VM is filled with. */
export const SECRET = 0x5ec2_e75a

export class Oracle extends PageOracle {
  readonly #memory: AttackMemory
  finding: Finding | undefined
  /** Step that is performed. */
  step = 0
  /** Kinds that are passed over: they are counted in `seen`. */
  known: Kinds = new Set<string>()
  readonly seen = new Map<string, number>()
  /** EL2's memory. */
  #el2: { readonly base: number; readonly size: number } | undefined
  /** A known weakness has left the machine in a state that nothing can be said about. */
  spoiled = false

  constructor(map: PageMap, memory: AttackMemory, guard: PageGuard) {
    super(map, guard)
    this.#memory = memory
  }

  begin(): void {
    this.#el2 = undefined
    this.clear()
    this.claims = false
    this.finding = undefined
    this.spoiled = false
  }

  override report(kind: string, message: string, page?: number): void {
    if (this.known.has(kind)) {
      this.seen.set(kind, (this.seen.get(kind) ?? 0) + 1)
      this.spoiled ||= !kind.startsWith('dma')
      return
    }
    if (this.spoiled) return
    this.finding ??= { kind, message, step: this.step, ...(page === undefined ? {} : { page }) }
  }

  /** The range is EL2's from the beginning, which keeps its host away from it and from VMs by itself. */
  keepForEl2(range: { readonly base: number; readonly size: number }): void {
    this.#el2 = range
    this.map.give(range.base, range.size, EL2)
  }

  /** What is kept by EL2 has no guard. */
  protected override get guards(): boolean {
    return this.#el2 === undefined
  }

  /** The hypervisor reads EL2's tables. */
  protected override unsure(page: number): boolean {
    const el2 = this.#el2
    return el2 !== undefined && page >= el2.base && page < el2.base + el2.size
  }

  protected override fill(page: number): void {
    this.#memory.fillPage(page, SECRET)
  }

  protected override leaves(page: number): boolean {
    return this.#memory.contains(page, SECRET)
  }

  /**
   * Whether an access to `address` is one that the host may not make happen: there is no harm in a page that returns once it is empty.
   * @param sid undefined: the SMMU itself
   */
  forbidden(address: number, smmu: number, sid?: number): boolean {
    if (!this.claims) return false
    if (this.outside(smmu, sid, address, 1) >= 0) return true
    if (this.map.hostMay(address)) return false
    const page = address - (address % PAGE_SIZE)
    return !this.isReturning(page) || this.#memory.contains(page, SECRET)
  }

  /** The SMMU is about to write. */
  smmuWrites(smmu: number, what: SmmuWrite, address: number, length: number): void {
    if (!this.claims) return
    const last = address + length - 1
    const at = this.forbidden(address, smmu)
      ? address
      : last % PAGE_SIZE < address % PAGE_SIZE && this.forbidden(last, smmu)
        ? last
        : -1
    if (at >= 0) {
      const page = at - (at % PAGE_SIZE)
      this.report(
        `smmu-write ${what}`,
        `SMMU ${smmu} writes ${what} at ${hex(address)}, which ${this.notOf(smmu, undefined, at)}`,
        page,
      )
    }
  }
}
