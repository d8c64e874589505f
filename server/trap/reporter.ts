// SPDX-License-Identifier: Apache-2.0
import { formatWarningValues, type HypWarning } from '../policy/warnings.ts'
import type { CountersWriter } from '../trace/counters.ts'
import type { RingWriter } from '../trace/ring.ts'
import { TraceReport } from '../trace/traceReport.ts'
import type { Breakpoints } from './breakpoints.ts'

/** Warnings of one code in a report. */
export interface WarningSummary {
  readonly code: string
  /** Where its rule stands, as in `HypWarning`. */
  readonly section: string
  readonly meaning: string
  /** An unmodified driver causes it in normal operation. */
  readonly expected: boolean
  count: number
  /** Trap and values of the first one. */
  readonly firstTrap: number
  readonly firstValues: string
}

/** A CPU access to guarded memory. */
export interface GuardFaultSummary {
  readonly cpu: number
  /** Guest physical, bytes. */
  readonly address: number
  readonly size: number
  readonly write: boolean
}

/** What a report tells so far, for the thread that goes on with it. */
export interface ReporterState {
  readonly warnings: readonly (readonly [id: number, summary: WarningSummary])[]
  readonly guardFaults: readonly GuardFaultSummary[]
  readonly guardFaultCount: number
  readonly refusals: readonly (readonly [smmu: number, refusal: string])[]
}

const LISTED_GUARD_FAULTS = 100

/** What the hypervisor reports goes to trace, counters and breakpoints, and what a report should tell is kept. */
export class Reporter extends TraceReport {
  /** The first unexpected warning, worded. */
  panic: string | undefined
  readonly #warnings = new Map<number, WarningSummary>()
  readonly #guardFaults: GuardFaultSummary[] = []
  #guardFaultCount = 0
  readonly #refusals = new Map<number, string>()
  readonly #breakpoints: Pick<Breakpoints, 'armed' | 'warning'> | undefined

  constructor(ring: RingWriter, counters: CountersWriter, breakpoints?: Pick<Breakpoints, 'armed' | 'warning'>) {
    super(ring, counters)
    this.#breakpoints = breakpoints
  }

  override warn(warning: HypWarning, trap: number, smmu: number, a: number, b: number, c: number, d: number): void {
    super.warn(warning, trap, smmu, a, b, c, d)
    if (this.#breakpoints?.armed) this.#breakpoints.warning(warning, smmu)
    const known = this.#warnings.get(warning.id)
    if (known !== undefined) {
      known.count++
      return
    }
    const values = formatWarningValues(warning, [a, b, c, d])
    const { id, code, section, meaning, expected } = warning
    this.#warnings.set(id, { code, section, meaning, expected, count: 1, firstTrap: trap, firstValues: values })
    if (!expected) this.panic ??= `${code} (${section}) at trap ${trap}, SMMU ${smmu}: ${meaning} ${values}`
  }

  override probe(smmu: number, refusal: string | null): void {
    super.probe(smmu, refusal)
    if (refusal === null) this.#refusals.delete(smmu)
    else this.#refusals.set(smmu, refusal)
  }

  guardFault(cpu: number, address: number, size: number, write: boolean): void {
    this.#guardFaultCount++
    if (this.#guardFaults.length < LISTED_GUARD_FAULTS) this.#guardFaults.push({ cpu, address, size, write })
  }

  get state(): ReporterState {
    return {
      warnings: [...this.#warnings],
      guardFaults: this.#guardFaults,
      guardFaultCount: this.#guardFaultCount,
      refusals: [...this.#refusals],
    }
  }

  adopt(state: ReporterState): void {
    for (const [id, summary] of state.warnings) this.#warnings.set(id, { ...summary })
    this.#guardFaults.push(...state.guardFaults)
    this.#guardFaultCount += state.guardFaultCount
    for (const [smmu, refusal] of state.refusals) this.#refusals.set(smmu, refusal)
  }

  /** The report's sections that come from here. */
  sections(): Record<string, unknown> {
    return {
      warnings: [...this.#warnings.values()],
      guardFaults: { total: this.#guardFaultCount, first: this.#guardFaults },
      refusals: [...this.#refusals].map(([smmu, refusal]) => ({ smmu, refusal })),
    }
  }
}
