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

/**
 * Why nobody can tell whether the machine is isolated; undefined: it was judged.
 * @param withEl2 there is an EL2, whose tables were to be compared
 */
export function whyUnjudged({ oracle, el2 }: Sections, withEl2: boolean): string | undefined {
  if (withEl2) {
    if (el2?.agreement) return undefined
    return "EL2's tables and the SMMU's were not compared: EL2 keeps none for its host, or no device has a second stage"
  }
  if (oracle === undefined) return 'nobody looked'
  if (oracle.unjudged !== undefined) return `nothing was judged: ${oracle.unjudged}`
  return oracle.wholes + oracle.samples > 0 ? undefined : 'nothing was looked at'
}

/** A run that asked to be judged, and was not, has not passed. @param withEl2 as of `whyUnjudged` */
export function notJudged(sections: Sections, withEl2: boolean): Ending<'not-judged'> | undefined {
  const why = whyUnjudged(sections, withEl2)
  return why === undefined ? undefined : { outcome: 'not-judged', message: `--oracle: ${why}` }
}
