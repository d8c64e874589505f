// SPDX-License-Identifier: Apache-2.0

import type { CommandVerdict, HypReport } from '../policy/report.ts'
import type { HypWarning } from '../policy/warnings.ts'
import type { CountersWriter } from './counters.ts'
import { verdict } from './records.ts'
import type { RingWriter } from './ring.ts'

/** Puts what the hypervisor reports on the trace and into the counters. */
export class TraceReport implements HypReport {
  readonly #ring: RingWriter
  readonly #counters: CountersWriter

  constructor(ring: RingWriter, counters: CountersWriter) {
    this.#ring = ring
    this.#counters = counters
  }

  warn(warning: HypWarning, _trap: number, smmu: number, a: number, b: number, c: number, d: number): void {
    this.#ring.warning(warning.id, smmu, a, b, c, d)
    this.#counters.warning(warning.id)
  }

  command(smmu: number, opcode: number, result: CommandVerdict): void {
    this.#ring.command(smmu, opcode, result)
    this.#counters.command(smmu, opcode, result)
  }

  hypCommand(smmu: number, opcode: number): void {
    this.#ring.command(smmu, opcode, verdict.own)
    this.#counters.command(smmu, opcode, verdict.own)
  }

  stream(smmu: number, sid: number, hostConfig: number, shadowConfig: number): void {
    this.#ring.stream(smmu, sid, hostConfig, shadowConfig)
  }

  pages(operation: number, base: number, size: number, owner: number, result: number): void {
    this.#ring.pages(operation, base, size, owner, result)
  }

  probe(smmu: number, refusal: string | null): void {
    this.#ring.probe(smmu, refusal ?? '')
  }
}
