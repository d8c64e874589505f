// SPDX-License-Identifier: Apache-2.0
import type { HypReport } from '../hypervisor/report.ts'
import { formatWarningValues, type HypWarning } from '../hypervisor/warnings.ts'
import type { CountersWriter } from '../trace/counters.ts'
import { verdict } from '../trace/records.ts'
import type { RingWriter } from '../trace/ring.ts'

/** Warnings of one code in a report. */
export interface WarningSummary {
  readonly code: string
  /** Section of the behaviour reference. */
  readonly section: string
  readonly meaning: string
  /** An unmodified driver causes it in normal operation. */
  readonly expected: boolean
  count: number
  /** Trap and values of the first one. */
  readonly firstTrap: number
  readonly firstValues: string
}

/** CPU accesses to guarded memory in a report; the first few are listed. */
export interface GuardFaultSummary {
  readonly cpu: number
  readonly address: number
  readonly size: number
  readonly write: boolean
}

const LISTED_GUARD_FAULTS = 100

/** Takes what the hypervisor reports on the trap thread: to the trace ring, the counters, and the report's sections. */
export class Reporter implements HypReport {
  /** The first unexpected warning since `reset`, worded; undefined: none. */
  panic: string | undefined
  readonly #ring: RingWriter
  readonly #counters: CountersWriter
  readonly #warnings = new Map<number, WarningSummary>()
  readonly #guardFaults: GuardFaultSummary[] = []
  #guardFaultCount = 0
  readonly #refusals: { readonly smmu: number; readonly refusal: string }[] = []

  constructor(ring: RingWriter, counters: CountersWriter) {
    this.#ring = ring
    this.#counters = counters
  }

  warn(warning: HypWarning, trap: number, smmu: number, a: number, b: number, c: number, d: number): void {
    this.#ring.warning(warning.id, smmu, a, b, c, d)
    this.#counters.warning(warning.id)
    const known = this.#warnings.get(warning.id)
    if (known !== undefined) {
      known.count++
      return
    }
    const values = formatWarningValues(warning, [a, b, c, d])
    const { code, section, meaning, expected } = warning
    this.#warnings.set(warning.id, { code, section, meaning, expected, count: 1, firstTrap: trap, firstValues: values })
    if (!expected) this.panic ??= `${code} (section ${section}) at trap ${trap}, SMMU ${smmu}: ${meaning} ${values}`
  }

  command(_smmu: number, opcode: number, kept: boolean): void {
    this.#counters.command(opcode, kept ? verdict.kept : verdict.dropped)
  }

  hypCommand(_smmu: number, opcode: number): void {
    this.#counters.command(opcode, verdict.own)
  }

  stream(): void {}

  pages(operation: number, base: number, size: number, owner: number, result: number): void {
    this.#ring.pages(operation, base, size, owner, result)
  }

  probe(smmu: number, refusal: string | null): void {
    if (refusal !== null) this.#refusals.push({ smmu, refusal })
  }

  guardFault(cpu: number, address: number, size: number, write: boolean): void {
    this.#guardFaultCount++
    if (this.#guardFaults.length < LISTED_GUARD_FAULTS) this.#guardFaults.push({ cpu, address, size, write })
  }

  /** The report's sections that come from here. */
  sections(): Record<string, unknown> {
    return {
      warnings: [...this.#warnings.values()],
      guardFaults: { total: this.#guardFaultCount, first: this.#guardFaults },
      probeRefusals: this.#refusals,
    }
  }
}
