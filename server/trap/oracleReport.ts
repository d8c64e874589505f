// SPDX-License-Identifier: Apache-2.0
import type { IsolationSummary } from '../oracle/isolationOracle.ts'
import type { Percentiles } from '../trace/histogram.ts'

/** The section `oracle` of a report. */
export interface OracleReport extends IsolationSummary {
  /** What a sample took. */
  readonly sampleUs: Percentiles
}
