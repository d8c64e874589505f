// SPDX-License-Identifier: Apache-2.0
/**
 * Workers on hosts of their own – network namespaces, each with a link to the one of Redis and the sender – that lose the network in
 * the middle of their jobs, and get it back: `node test/fleet/hosts.ts [JOBS] [SEED]`, as root.
 */
import type { ChildProcess } from 'node:child_process'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { Random } from '../../server/attack/random.ts'
import { throughQueue } from '../../server/fleet/sender.ts'
import { runJobs } from '../../server/sessions/campaign.ts'
import { Database } from '../../server/sessions/database.ts'
import { Host } from './host.ts'
import { end, withRedis } from './measured.ts'
import { job, sentStubs, verdictOf } from './stub.ts'

const HOSTS = 4
const LOCK_MS = 3_000

const [count = 60, seed = 1] = process.argv.slice(2).map(Number)
const random = new Random(seed)
const script = fileURLToPath(new URL('./workerProcess.ts', import.meta.url))

await withRedis('hosts', 'bind 0.0.0.0\nprotected-mode no\n', async (folder, redis, signal) => {
  const { port } = redis.connection
  const hosts: Host[] = []
  const workers: ChildProcess[] = []
  const database = new Database(join(folder, 'campaigns.db'))
  try {
    for (let i = 0; i < HOSTS; i++) hosts.push(new Host(i))
    for (const [i, host] of hosts.entries())
      workers.push(host.node(script, `host-${i}`, String(port), '2', String(LOCK_MS), host.address))
    const plan = Array.from({ length: count }, (_, seed) => job('stub', seed, 500 + random.below(1000)))
    const campaign = database.begin('hosts', plan)
    const options = { connection: redis.connection, campaign: 'hosts', say: console.error, sweepMs: 2_000 }
    let over = false
    const working = Promise.withResolvers<void>()
    const runner = throughQueue(sentStubs(folder), options)
    const all = runJobs(database, campaign, runner, signal, (_job, _result, done) => {
      if (done >= 2 * HOSTS) working.resolve()
    })
    const cuts = (async () => {
      await Promise.race([working.promise, all])
      // Two of them, so that no job can lose three workers.
      for (const host of [...hosts].sort(() => random.below(2) - 0.5).slice(0, 2)) {
        await sleep(1_000 + random.below(1_000), undefined, { signal })
        if (over) return
        host.link('down')
        // Longer than its locks, so that others take its jobs; what it did meanwhile must not count a second time.
        await sleep(4 * LOCK_MS, undefined, { signal })
        host.link('up')
      }
    })()
    cuts.catch(() => {}) // what ended the jobs is thrown by `all`
    await all.finally(() => {
      over = true
    })
    await cuts
    const rows = database.rows(campaign)
    const wrong = rows.filter(({ job, result }) => result.verdict !== verdictOf(job))
    console.log(`${rows.length} results of ${count} jobs, ${wrong.length} not as on one machine`)
    if (rows.length !== count || wrong.length > 0) process.exitCode = 1
  } finally {
    await Promise.all(workers.map(end))
    for (const host of hosts) host.remove()
    database.close()
  }
})
