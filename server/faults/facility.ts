// SPDX-License-Identifier: Apache-2.0
import type { Facility } from '../policy/inspect.ts'
import type { FaultRule } from './rule.ts'

/** What a policy must have of its own for a rule to mean anything; undefined: nothing. */
export function facilityOf({ where, what }: FaultRule): Facility | undefined {
  if (what.do === 'donate' || what.do === 'reclaim') return 'donation'
  if (what.do === 'corrupt') return what.table === 'stage2' ? 'stage2' : 'strtab'
  if (where.at === 'command') return 'cmdq'
  if (where.at === 'table') return where.table === 'stage2' ? 'stage2' : 'strtab'
  if (where.at !== 'pages') return undefined
  return where.operation === 'donate' || where.operation === 'reclaim' ? 'donation' : 'ownership'
}

/** In `policy NAME lacks what this needs: …`. */
export const FACILITY_NAMES: Readonly<Record<Facility, string>> = {
  cmdq: 'a command queue of its own',
  strtab: 'a stream table of its own',
  stage2: 'a second stage',
  ownership: 'page ownership',
  donation: 'pages that change hands',
}
