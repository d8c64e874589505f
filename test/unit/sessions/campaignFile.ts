// SPDX-License-Identifier: Apache-2.0
import type { CatalogueEntry, Verdict } from '../../../server/faults/rule.ts'
import { Database, planOf } from '../../../server/sessions/database.ts'
import type { SessionResult } from '../../../server/sessions/session.ts'

const ENTRY: CatalogueEntry = {
  ...{ name: 'tlbi-late', summary: 'a TLBI comes late', expect: 'recovered', why: 'the host tries again', rules: [] },
}
const SEEDS = 10

/** A file with three campaigns: ten sessions as expected, the same of which eight are not, and one of which none is done. */
export function campaignFile(path: string): void {
  const plan = planOf(
    [ENTRY],
    ['6.12'],
    ['nested'],
    [...Array(SEEDS).keys()].map(i => i + 1),
  )
  const result = (verdict: Verdict): SessionResult => ({
    ...{ verdict, asExpected: verdict === ENTRY.expect, findings: [], evidence: {} as SessionResult['evidence'] },
    ...{ timeline: [], console: [], trace: [], before: { accesses: 0, digest: '' }, ms: 1_500, folder: '/none' },
  })
  const database = new Database(path)
  for (const [what, hung] of [
    ['before', 0],
    ['after', 8],
  ] as const) {
    const campaign = database.begin(what, plan)
    for (const [i, job] of plan.entries()) database.add(campaign, job, result(i < hung ? 'guest-hung' : 'recovered'))
    database.finish(campaign)
  }
  database.begin('interrupted', plan)
  database.close()
}
