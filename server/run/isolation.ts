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
 * A run that asked to be judged, and was not, has not passed.
 * @param withEl2 there is an EL2, whose tables were to be compared
 */
export function notJudged({ oracle, el2 }: Sections, withEl2: boolean): Ending<'not-judged'> | undefined {
  const unjudged = (why: string) => ({ outcome: 'not-judged', message: `--oracle: ${why}` }) as const
  if (withEl2) {
    if (el2?.agreement) return undefined
    return unjudged(
      "EL2's tables and the SMMU's were not compared: EL2 keeps none for its host, or no device has a second stage",
    )
  }
  if (oracle === undefined) return unjudged('nobody looked')
  if (oracle.unjudged !== undefined) return unjudged(`nothing was judged: ${oracle.unjudged}`)
  return oracle.wholes + oracle.samples > 0 ? undefined : unjudged('nothing was looked at')
}
