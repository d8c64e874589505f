// SPDX-License-Identifier: Apache-2.0
/**
 * Workers on hosts of their own – network namespaces, each with a link to the one of Redis and the sender – that lose the network in
 * the middle of their jobs, and get it back: `node test/fleet/hosts.ts [JOBS] [SEED]`, as root.
 */
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { Random } from '../../server/attack/random.ts'
import { throughQueue } from '../../server/fleet/sender.ts'
import { privateFolder } from '../../server/machine/scratch.ts'
import { runJobs } from '../../server/sessions/campaign.ts'
import { Database } from '../../server/sessions/database.ts'
import { Host } from './host.ts'
import { RedisServer } from './redis.ts'
import { job, sentStubs, verdictOf } from './stub.ts'

const HOSTS = 4
const LOCK_MS = 3_000

const [count = 60, seed = 1] = process.argv.slice(2).map(Number)
const random = new Random(seed)
const script = fileURLToPath(new URL('./workerProcess.ts', import.meta.url))

const folder = privateFolder(tmpdir(), 'hosts-')
mkdirSync(join(folder, 'redis'))
const redis = await RedisServer.start(join(folder, 'redis'), 'bind 0.0.0.0\nprotected-mode no\n')
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
  const all = runJobs(database, campaign, runner, new AbortController().signal, (_job, _result, done) => {
    if (done >= 2 * HOSTS) working.resolve()
  })
  const cuts = (async () => {
    await working.promise
    // Two of them, so that no job can lose three workers.
    for (const host of [...hosts].sort(() => random.below(2) - 0.5).slice(0, 2)) {
      await sleep(1_000 + random.below(1_000))
      if (over) return
      host.link('down')
      // Longer than its locks, so that others take its jobs; what it did meanwhile must not count a second time.
      await sleep(4 * LOCK_MS)
      host.link('up')
    }
  })()
  await all
  over = true
  await cuts
  const rows = database.rows(campaign)
  const wrong = rows.filter(({ job, result }) => result.verdict !== verdictOf(job))
  console.log(`${rows.length} results of ${count} jobs, ${wrong.length} not as on one machine`)
  if (rows.length !== count || wrong.length > 0) process.exitCode = 1
} finally {
  for (const worker of workers) {
    worker.kill('SIGTERM')
    await once(worker, 'close')
  }
  for (const host of hosts) host.remove()
  await redis.kill()
  database.close()
  rmSync(folder, { recursive: true })
}
