// SPDX-License-Identifier: Apache-2.0
/** What the sections of a machine's report say against its isolation. */
import { el2Violation } from '../run/el2.ts'
import type { El2Report } from '../trap/el2Oracle.ts'
import type { OracleReport } from '../trap/oracleReport.ts'

interface Sections {
  readonly oracle?: OracleReport
  readonly el2?: El2Report
  /** What the policy says of itself. */
  readonly isolated?: boolean
}

/**
 * In words; none: nothing was found. An oracle holds a policy to what it claims: of one that says that it does not isolate nothing is
 * judged, so that its word is all there is.
 */
export function violationsOf(sections: Readonly<Record<string, unknown>>): string[] {
  const { oracle, el2, isolated } = sections as Sections
  const different = el2Violation({ ...(el2 && { el2 }) })
  return [
    ...(oracle?.violations ?? []).map(({ message }) => message),
    ...(oracle === undefined || oracle.more === 0 ? [] : [`and ${oracle.more} more`]),
    ...(different === undefined ? [] : [different.message]),
    ...(isolated === false ? ['the policy says that it does not isolate'] : []),
  ]
}
