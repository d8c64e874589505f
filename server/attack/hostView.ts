// SPDX-License-Identifier: Apache-2.0
/**
 * What the host would see of the SMMU that it was promised: one without a hypervisor, with the ID registers that the host reads, given the
 * same register writes and the same memory. As long as the host did nothing that was warned about, devices reach with the hypervisor what
 * they reach without, but for pages that are not the host's, and CMDQ_CONS reads the same.
 *
 * There are two of them, one that caches nothing and one that caches all it may: where they differ, the host left something out that it
 * had to invalidate, and nothing is compared.
 */
import { newTrap } from '../policy/policy.ts'
import { hex } from '../smmu/bits.ts'
import { describeEvent } from '../smmu/events.ts'
import type { PowerState } from '../smmu/hardware.ts'
import type { GuestMemory } from '../smmu/memory.ts'
import * as R from '../smmu/registers.ts'
import { SoftSmmu } from '../smmu/soft/softSmmu.ts'
import type { Outcome } from '../smmu/transaction.ts'
import { transactionOf } from './devices.ts'
import type { Access, Dma, Step } from './steps.ts'
import type { Onlooker, World } from './world.ts'

/** Warnings about what the host asked for: hardware that stops at an illegal command. */
const TOLERATED: ReadonlySet<string> = new Set(['HYP_CMDQ_STOPPED'])

const ID_REGISTERS = [R.ARM_SMMU_IDR0, R.ARM_SMMU_IDR1, R.ARM_SMMU_IDR3, R.ARM_SMMU_IDR5] as const

export class HostView implements Onlooker {
  readonly #world: World
  /** By SMMU: without caches, with all caches. */
  #bare: (readonly [SoftSmmu, SoftSmmu])[] = []
  /** Nothing is compared any more: the host was warned. */
  #over = false
  /** The last step, besides reads, was wrong. */
  #wrong = false
  /** Warnings that were looked at. */
  #looked = 0
  /** SMMUs that are switched off. */
  readonly #off = new Set<number>()

  constructor(world: World) {
    this.#world = world
  }

  /** After the world's restart. */
  begin(): void {
    if (this.#bare.length === 0 && this.#world.oracle.claims) this.#build()
    this.reset()
  }

  #build(): void {
    const { memory, machine, policy } = this.#world
    const blind: GuestMemory = {
      ram: memory.ram,
      read: (address, target, offset, length) => memory.read(address, target, offset, length),
      // What these write the real one writes as well.
      write: address => memory.isRam(address),
    }
    const trap = newTrap()
    this.#bare = machine.smmus.map((_, smmu) => {
      const [idr0, idr1, idr3, idr5] = ID_REGISTERS.map(offset => {
        Object.assign(trap, { smmu, offset, size: 4, write: false, lo: 0, hi: 0 })
        policy.access(trap)
        return trap.lo
      })
      const id = { idr0, idr1, idr3, idr5 }
      return [new SoftSmmu(blind, { id, caching: 'none' }), new SoftSmmu(blind, { id, caching: 'maximal' })] as const
    })
  }

  /** The host wrote a register, and the policy has decided. */
  wrote({ smmu, offset, size, lo, hi }: Access): void {
    if (this.#off.has(smmu)) return
    for (const bare of this.#bare[smmu] ?? []) bare.write(offset, size, lo, hi)
  }

  /** The machine was reset. */
  reset(): void {
    this.#over = !this.#world.oracle.claims
    this.#wrong = false
    this.#looked = this.#world.feedback.warnings.length
    this.#off.clear()
    for (const pair of this.#bare) for (const smmu of pair) smmu.reset()
  }

  /** An SMMU was switched to another state. What it keeps it has when it is on again, and what it cached as well. */
  switched(smmu: number, state: PowerState, lost: boolean): void {
    if (state === 'on') this.#off.delete(smmu)
    else this.#off.add(smmu)
    if (lost) for (const bare of this.#bare[smmu] ?? []) bare.reset()
  }

  /**
   * After each step: a host that does nothing wrong is not warned; one that was wrong, and was not told, is compared for one more step,
   * besides reads.
   */
  performed(step: Step): void {
    const wrong = 'wrong' in step
    if (step.do !== 'read') {
      this.#over ||= this.#wrong
      this.#wrong = wrong
    }
    const { warnings } = this.#world.feedback
    for (; this.#looked < warnings.length; this.#looked++) {
      const { code, expected } = warnings[this.#looked]
      if (this.#over || TOLERATED.has(code)) continue
      if (wrong) this.#over = true
      else if (!expected) {
        this.#over = true
        this.#world.oracle.report(`warns ${code}`, `${code} about a driver that did nothing wrong`)
      }
    }
  }

  /** A device's access, with what it ended in behind the hypervisor. */
  accessed(step: Dma, outcome: Outcome): void {
    if (step.how !== 'untranslated' || this.#over || this.#off.has(step.smmu)) return
    // Of other partitions' devices the guest was promised nothing.
    if (!this.#world.oracle.isGuests(step.smmu, step.sid)) return
    const pair = this.#bare[step.smmu]
    if (pair === undefined) return
    const into = { lo: 0, hi: 0 }
    pair[0].read(R.ARM_SMMU_CR0, 4, into)
    // A disabled SMMU lets everything through where there is no hypervisor.
    if (!(into.lo & R.CR0_SMMUEN)) return
    const t = transactionOf(step)
    const [without, with_] = [pair[0].translate(t), pair[1].translate(t)]
    if (destination(without) !== destination(with_)) return
    const { oracle } = this.#world
    const bare = destination(without)
    const here = destination(outcome)
    const stream = `SMMU ${step.smmu}: stream ${hex(step.sid)}, ${hex(step.address)}`
    if (bare < 0) {
      if (here >= 0) {
        const kind = without.kind === 'fault' ? describeEvent(without.event).split(' ')[0] : 'abort'
        oracle.report(`host-view grants ${kind}`, `${stream}: ${kind} without the hypervisor, ${hex(here)} with it`)
      }
    } else if (oracle.map.hostMay(bare) && oracle.outside(step.smmu, step.sid, bare, 1) < 0 && here !== bare) {
      const kind = outcome.kind === 'fault' ? describeEvent(outcome.event).split(' ')[0] : outcome.kind
      oracle.report(`host-view refuses ${kind}`, `${stream}: ${hex(bare)} without the hypervisor, ${kind} with it`)
    }
  }

  /** The host read CMDQ_CONS. */
  readCons(smmu: number, value: number): void {
    if (this.#over || this.#off.has(smmu)) return
    const into = { lo: 0, hi: 0 }
    this.#bare[smmu]?.[0].read(R.ARM_SMMU_CMDQ_CONS, 4, into)
    if (into.lo === value) return
    this.#world.oracle.report(
      into.lo & R.CMDQ_CONS_ERR ? 'host-view CMDQ_CONS after an error' : 'host-view CMDQ_CONS',
      `CMDQ_CONS reads ${hex(value)}, without the hypervisor ${hex(into.lo)}`,
    )
  }
}

/** Where an access goes; -1: nowhere. */
function destination(outcome: Outcome): number {
  return outcome.kind === 'translated' ? outcome.pa : -1
}
