// SPDX-License-Identifier: Apache-2.0
/** How many jobs a queue moves, with sessions that take no time: `node test/fleet/throughput.ts [JOBS] [WORKERS] [AT-A-TIME]`. */
import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { throughQueue } from '../../server/fleet/sender.ts'
import { runJobs } from '../../server/sessions/campaign.ts'
import { Database } from '../../server/sessions/database.ts'
import { end, withRedis } from './measured.ts'
import type { RedisServer } from './redis.ts'
import { job, sentStubs } from './stub.ts'

const [count = 2000, workers = 1, atATime = 4] = process.argv.slice(2).map(Number)
const script = fileURLToPath(new URL('./workerProcess.ts', import.meta.url))

async function measure(folder: string, redis: RedisServer, signal: AbortSignal): Promise<void> {
  const running = Array.from({ length: workers }, (_, i) =>
    spawn(process.execPath, [script, `worker-${i}`, String(redis.connection.port), String(atATime), '30000'], {
      stdio: 'ignore',
    }),
  )
  const database = new Database(join(folder, 'campaigns.db'))
  const send = async (from: number, to: number): Promise<number> => {
    const plan = Array.from({ length: to - from }, (_, i) => job('stub', from + i, 1))
    const campaign = database.begin('throughput', plan)
    const begun = performance.now()
    const options = { connection: redis.connection, campaign: `throughput ${from}`, say: () => {} }
    await runJobs(database, campaign, throughQueue(sentStubs(folder), options), signal)
    return performance.now() - begun
  }
  try {
    // Jobs that are run before, so that each worker has its processes.
    await send(0, 40 * workers)
    const ms = await send(10_000, 10_000 + count)
    const rate = ((1000 * count) / ms).toFixed(0)
    console.log(`${count} jobs, ${workers} workers with ${atATime} at a time: ${ms.toFixed(0)} ms, ${rate} jobs/s`)
  } finally {
    await Promise.all(running.map(end))
    database.close()
  }
}

await withRedis('throughput', '', measure)
