// SPDX-License-Identifier: Apache-2.0
/** What the oracles of a machine found, as the end of a run. */
import type { El2Report } from '../trap/el2Oracle.ts'
import type { OracleReport } from '../trap/oracleReport.ts'
import { el2Violation } from './el2.ts'
import type { Ending } from './ending.ts'

/** Of a report. */
interface Sections {
  readonly oracle?: OracleReport
  readonly el2?: El2Report
}

/** Somebody reached what he must not, or nobody can tell: whatever else went wrong comes after it. */
export function isolationViolation({ oracle, el2 }: Sections): Ending<'isolation-violation'> | undefined {
  const [first] = oracle?.violations ?? []
  if (first !== undefined) return { outcome: 'isolation-violation', message: first.message }
  return el2Violation({ ...(el2 && { el2 }) })
}
