// SPDX-License-Identifier: Apache-2.0
/** Stands for sessions: no machine, a verdict that is the seed's, and as long as the rule says. */
import { createHash } from 'node:crypto'
import { VERDICTS, type Verdict } from '../../server/faults/rule.ts'
import type { FleetJob } from '../../server/fleet/job.ts'
import type { Sent } from '../../server/fleet/sender.ts'
import { lostSession, sessionResult, sessionWork } from '../../server/fleet/session.ts'
import { jobName } from '../../server/sessions/database.ts'
import type { Job, SessionResult } from '../../server/sessions/session.ts'

export const SOURCE = 'a'.repeat(20)
export const IDENTITY = { source: SOURCE, kernel: 'b'.repeat(64) } as const

/** What becomes of a session, wherever it runs. */
export function verdictOf({ entry, seed }: Pick<Job, 'seed'> & { readonly entry: { readonly name: string } }): Verdict {
  const digest = createHash('sha256').update(`${entry.name} ${seed}`).digest()
  return VERDICTS[digest[0] % (VERDICTS.length - 1)] ?? 'unaffected'
}

/** As a worker's process tells it. */
export const resultOf = (job: Parameters<typeof verdictOf>[0]): unknown => {
  const verdict = verdictOf(job)
  const { folder: _, asExpected: __, ...rest } = lostSession('', '')
  return { ...rest, verdict, findings: [{ verdict, text: `seed ${job.seed}` }], ms: 1 }
}

/** A session of so many ms. */
export const job = (name: string, seed: number, ms: number): Job => ({
  entry: {
    ...{ name, summary: 'a stub', expect: [], why: 'it is none' },
    rules: [{ name: 'wait', where: { at: 'machine' }, what: { do: 'pause', ms } }],
  },
  ...{ seed, kernel: '6.12', until: 'nested' },
})

/** Name of an entry whose session ends the process that runs it. */
export const DEADLY = 'deadly'

/** Name of an entry whose result is longer than any may be. */
export const LARGE = 'large'

/** `--ram-dir` of a worker that can start no machine. */
export const FULL = '/full'

/** Sessions that ask for a code that there is not. */
export const sentStubs = (folder: string, identity: FleetJob['identity'] = IDENTITY): Sent<Job, SessionResult> => ({
  nameOf: jobName,
  pack: async job => ({ identity, work: sessionWork(job) }),
  unpack: (value, job) => sessionResult(value, job, folder),
  lost: why => lostSession(why, folder),
})
