// SPDX-License-Identifier: Apache-2.0
/** What a worker of the tests runs for each job. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { serveJobs } from '../../server/fleet/jobServer.ts'
import { DEADLY, FULL, LARGE, resultOf } from './stub.ts'

serveJobs(async ({ work, own, folder }, _say, signal) => {
  if (own.ramDir === FULL) throw new Error(`no room in ${FULL}`)
  if (work.do !== 'session') throw new Error('there are sessions only')
  const { entry, seed } = work
  if (entry.name === LARGE) return 'x'.repeat(5 << 20)
  const [{ what }] = entry.rules
  if (what.do === 'pause') await sleep(what.ms, undefined, { signal })
  if (entry.name === DEADLY) process.kill(process.pid, 'SIGKILL')
  writeFileSync(join(folder, 'console.log'), `console of ${entry.name}, seed ${seed}\n`)
  return resultOf({ entry, seed })
})
