// SPDX-License-Identifier: Apache-2.0
/**
 * EL2 says whose pages are (server/hypervisor/README.md, section 17): what it took from its host is taken from devices, and what it gave
 * back they reach, before it goes on. Where the SMMU walks EL2's own tables (server/hypervisor/README.md, section 20), what leads to them
 * follows.
 */
import type { El2 } from '../../machine/ports.ts'
import { HypFatal, type Stage2Change } from '../../policy/policy.ts'
import { PAGE_DONATE, PAGE_RECLAIM } from '../../policy/report.ts'
import { EFAULT, OK } from '../../policy/result.ts'
import { TWO_POW_32 } from '../../smmu/bits.ts'
import { ARM_SMMU_IDR0, ARM_SMMU_IDR1, ARM_SMMU_IDR3, ARM_SMMU_IDR5 } from '../../smmu/registers.ts'
import { tableProblems } from '../../smmu/sharedStage2.ts'
import { HostStage2, HostStage2Error, type OwnerChange } from './hostStage2.ts'
import type { PageRange } from './ownership.ts'
import type { SharedStage2 } from './sharedStage2.ts'
import type { MachineContext, Stage2 } from './stage2.ts'
import { HYP_EL2_TABLES, HYP_EL2_TOOK_SHARED } from './warnings.ts'

/** What the owners of pages became. */
interface Account {
  /** What was the host's and is not any more. */
  readonly revoked: PageRange[]
  /** What is the host's again. */
  readonly returned: PageRange[]
  /** SMMUs go on using some of what is not the host's any more. */
  readonly tookShared: boolean
}

export class El2Follower {
  /** EL2's tables for its host, once it has some. */
  host: HostStage2 | null = null
  /** How often hardware had to forget all that it had of EL2's tables. */
  forgotten = 0
  readonly #hyp: MachineContext

  constructor(hyp: MachineContext) {
    this.#hyp = hyp
  }

  /** The machine was reset. */
  reset(): void {
    this.host = null
    this.forgotten = 0
  }

  /**
   * EL2 has stored to its host's tables.
   * @returns false when devices may still reach what is not the host's. @throws HypFatal when the SMMUs cannot walk EL2's tables, and are to
   */
  follow(stage2: Stage2, el2: El2, change: Stage2Change): boolean {
    this.host ??= new HostStage2(this.#hyp.memory, el2.watch)
    const { host } = this
    const changes = this.#read(host, change)
    if (changes === null) return false
    const { shared } = stage2
    if (shared !== null) this.#expectSharable(host, change)
    const { revoked, returned, tookShared } = this.#account(changes)
    if (shared !== null) return this.#share(stage2, shared, host) && !tookShared
    // Unmaps first, then invalidates once, then maps what came back.
    if (!stage2.takeAll(revoked)) return false
    for (const { base, size } of returned) stage2.give(base, size)
    return !tookShared
  }

  /** @returns null when the tables make no sense */
  #read(host: HostStage2, change: Stage2Change): OwnerChange[] | null {
    try {
      const known = !change.all && host.geometry !== undefined
      return known ? host.readPages(change.pages) : host.readAll(change)
    } catch (error) {
      if (!(error instanceof HostStage2Error)) throw error
      const { vttbrLo, vttbrHi, vtcrLo, vtcrHi } = change
      this.#hyp.report.warn(HYP_EL2_TABLES, 0, 0, vttbrLo, vttbrHi, vtcrLo, vtcrHi)
      return null
    }
  }

  /** @throws HypFatal when the SMMUs cannot walk EL2's tables */
  #expectSharable({ geometry, forcesWriteBack }: HostStage2, change: Stage2Change): void {
    const problems: string[] = []
    if (geometry?.granuleShift !== 12) problems.push("EL2's granule is not 4 KiB (VTCR_EL2.TG0)")
    if (geometry?.lpa2 === true) problems.push("EL2's descriptors are those of 52-bit addresses (VTCR_EL2.DS)")
    if (forcesWriteBack) problems.push("EL2's descriptors have attributes that only HCR_EL2.FWB gives a meaning")
    if (change.all && problems.length === 0) {
      for (const { index, hardware } of this.#hyp.smmus) {
        const [idr0, idr1, idr3, idr5] = [ARM_SMMU_IDR0, ARM_SMMU_IDR1, ARM_SMMU_IDR3, ARM_SMMU_IDR5].map(offset =>
          hardware.read32(offset),
        )
        problems.push(...tableProblems(change, { idr0, idr1, idr3, idr5 }).map(problem => `SMMU ${index}: ${problem}`))
      }
    }
    if (problems.length > 0) throw new HypFatal(`EL2's tables cannot be the second stage: ${problems.join('; ')}`)
  }

  /** Where EL2 has stored, tables of ours become what they make of it; then hardware forgets what it may have kept of what is no more. */
  #share(stage2: Stage2, shared: SharedStage2, host: HostStage2): boolean {
    for (const { from, to } of host.touched) {
      if (!shared.follow(host, from, to)) return stage2.revoked(from, to - from, EFAULT) === OK
    }
    if (shared.stale || host.mayHaveTaken) {
      const { from, to } = host.touched[0] ?? { from: 0, to: 0 }
      if (stage2.revoked(from, to - from, stage2.forget()) !== OK) return false
      this.forgotten++
    }
    shared.release()
    return true
  }

  /** The pages have the owners that EL2 says. */
  #account(changes: readonly OwnerChange[]): Account {
    const { ownership, report } = this.#hyp
    const revoked: PageRange[] = []
    const returned: PageRange[] = []
    let tookShared = false
    for (const { base, size, vm } of changes) {
      for (const run of [...ownership.ranges(base, base + size)]) {
        if (run.state === 'not RAM' || this.#isCarveout(run.base)) continue
        const host = run.state === 'owned' || run.state === 'shared'
        if (host !== vm < 0) (host ? revoked : returned).push(run)
        if (run.state === 'shared' && vm >= 0) {
          tookShared = true
          const [lo, hi] = [run.base % TWO_POW_32, Math.floor(run.base / TWO_POW_32)]
          report.warn(HYP_EL2_TOOK_SHARED, 0, 0, lo, hi, run.size / 4096, run.pins)
        }
        if (host !== vm < 0 || (!host && run.vm !== vm)) {
          ownership.assign(run.base, run.size, vm)
          report.pages(vm < 0 ? PAGE_RECLAIM : PAGE_DONATE, run.base, run.size, vm < 0 ? run.vm : vm, OK)
        }
      }
    }
    return { revoked, returned, tookShared }
  }

  #isCarveout(address: number): boolean {
    const { base, size } = this.#hyp.machine.carveout
    return address >= base && address < base + size
  }
}
