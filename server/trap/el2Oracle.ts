// SPDX-License-Identifier: Apache-2.0
/** What a server says of the EL2 that it follows, checked against EL2's own tables in RAM (server/oracle). */
import type { HostStage2Registers } from '../machine/ports.ts'
import { type Agreement, compare, type Disagreement, describeDisagreement, type Reach } from '../oracle/agreement.ts'
import { hostDescriptor } from '../oracle/hostStage2.ts'
import { hex64 } from '../smmu/bits.ts'
import type { IdRegisters } from '../smmu/features.ts'
import type { GuestMemory } from '../smmu/memory.ts'
import { hearsBroadcast, sharingProblems } from '../smmu/sharedStage2.ts'
import { count, HISTOGRAM_WORDS, type Percentiles, percentiles } from '../trace/histogram.ts'

/** Time between two checks while the machine runs, ns: one takes some milliseconds for each GiB. */
const PERIOD = 1e9

/** The section `el2` of a report. */
export interface El2Report {
  /** Null: EL2 keeps no tables for its host. */
  readonly registers: { readonly vttbr: string; readonly vtcr: string } | null
  /** How often EL2 waited for the server, and how long the server took. */
  readonly changes: number
  readonly serverUs: Percentiles
  /** Comparisons of all RAM while the machine ran. */
  readonly checks: number
  /** The last comparison, of the state in which this report was made. Null: there is nothing to compare, or a problem. */
  readonly agreement: Agreement | null
  readonly problem?: string
  /** What stopped the machine. */
  readonly violation?: string
  /** What it would be to have the SMMU walk EL2's tables itself; absent: EL2 keeps none, or no SMMU was asked. */
  readonly shared?: {
    /** Why the SMMU cannot walk them; none: it can. */
    readonly problems: readonly string[]
    /** It hears what CPUs invalidate; if not, EL2 has to send commands. */
    readonly broadcast: boolean
    /** Translations that this server answered, those of them that led to pages that EL2 had not mapped yet, and had taken. */
    readonly translations: number
    readonly untouched: number
    readonly kept: number
  }
}

/** What devices must not reach, and do. */
const grave = ({ what }: Disagreement): boolean => what !== 'lost'

const overlap = (a: Disagreement, b: Disagreement): boolean => a.base < b.base + b.size && b.base < a.base + a.size

export class El2Oracle {
  readonly #memory: GuestMemory
  readonly #carveout: { readonly base: number; readonly size: number }
  readonly #reaches: (ask: boolean) => readonly Reach[]
  readonly #vcpus: number
  readonly #sampled: boolean
  /** As EL2 told them last; null: it keeps no tables yet. */
  registers: HostStage2Registers | null = null
  #changes = 0
  readonly #durations = new Uint32Array(HISTOGRAM_WORDS)
  #checks = 0
  #due = 0
  /** Of the check before: another vCPU may have been in EL2, with stores of which nothing was told yet. */
  #pending: readonly Disagreement[] = []
  /** The tables made no sense at the check before. */
  #puzzled = false
  #violation: string | undefined
  /** Of the first SMMU, once it was asked. */
  id: IdRegisters | undefined
  #translations = 0
  #untouched = 0
  #kept = 0

  /**
   * @param reaches what devices reach memory through now; none: nothing is isolated. `ask`: the hardware can be asked
   * @param sampled check while the machine runs, not only for a report
   */
  constructor(
    memory: GuestMemory,
    carveout: { readonly base: number; readonly size: number },
    reaches: (ask: boolean) => readonly Reach[],
    vcpus: number,
    sampled: boolean,
  ) {
    this.#memory = memory
    this.#carveout = carveout
    this.#reaches = reaches
    this.#vcpus = vcpus
    this.#sampled = sampled
  }

  /** The machine was reset. */
  forget(): void {
    this.registers = null
    this.#pending = []
    this.#puzzled = false
  }

  /** A device was let through to an address: whether EL2's own tables would have. */
  translated(address: number): void {
    if (this.registers === null) return
    this.#translations++
    try {
      const descriptor = hostDescriptor(this.#memory, this.registers, address)
      if (descriptor === 0n) this.#untouched++
      else if ((descriptor & 1n) === 0n) this.#kept++
    } catch {
      // Tables that make no sense are told of where they are compared.
    }
  }

  /** EL2 waited for the server, `duration` ns. */
  changed(duration: number): void {
    this.#changes++
    count(this.#durations, 0, duration)
  }

  /**
   * To be called often; compares when it is time.
   * @param now ns
   * @param waiting a vCPU waits in EL2 for an answer that was not given yet
   * @returns what devices reach and must not, in words
   */
  sample(now: number, waiting: boolean): string | undefined {
    if (!this.#sampled || now < this.#due || this.#violation !== undefined) return undefined
    this.#due = now + PERIOD
    // Nobody but the vCPU that waits could be in the middle of a change.
    const settled = waiting && this.#vcpus === 1
    const result = this.#compare(true)
    const puzzled = this.#puzzled
    this.#puzzled = typeof result === 'string'
    if (typeof result === 'string') return settled || puzzled ? this.#stop(result) : undefined
    if (result === undefined) return undefined
    this.#checks++
    const found = result.disagreements.filter(grave)
    const certain = settled ? found : found.filter(range => this.#pending.some(before => overlap(range, before)))
    this.#pending = found
    const [first] = certain
    return first === undefined ? undefined : this.#stop(describeDisagreement(first))
  }

  #stop(violation: string): string {
    this.#violation = violation
    return violation
  }

  /** @returns undefined when there is nothing to compare; what is wrong with the tables, in words */
  #compare(ask: boolean): Agreement | string | undefined {
    const { registers } = this
    if (registers === null) return undefined
    const reaches = this.#reaches(ask)
    if (reaches.length === 0) return undefined
    try {
      return compare(this.#memory, registers, reaches, this.#carveout)
    } catch (error) {
      return (error as Error).message
    }
  }

  /** Compares all of it once more. */
  report(): El2Report {
    const result = this.#compare(false)
    const { registers } = this
    const { p50, p90, p99, max } = percentiles(this.#durations)
    return {
      registers: registers && {
        vttbr: hex64(registers.vttbrLo, registers.vttbrHi),
        vtcr: hex64(registers.vtcrLo, registers.vtcrHi),
      },
      changes: this.#changes,
      serverUs: { p50: p50 / 1000, p90: p90 / 1000, p99: p99 / 1000, max: max / 1000 },
      checks: this.#checks,
      agreement: typeof result === 'object' ? result : null,
      ...(typeof result === 'string' && { problem: result }),
      ...(this.#violation !== undefined && { violation: this.#violation }),
      ...(registers !== null &&
        this.id !== undefined && {
          shared: {
            problems: sharingProblems(registers, this.id),
            broadcast: hearsBroadcast(this.id),
            translations: this.#translations,
            untouched: this.#untouched,
            kept: this.#kept,
          },
        }),
    }
  }
}
