// SPDX-License-Identifier: Apache-2.0
/**
 * Real guests on hosts of their own: two network namespaces, a worker with one machine at a time in each, and a campaign of some entries of the
 * catalogue. `node test/fleet/guests.ts ENTRY...`, as root. What set-up has made is shared by both.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Database } from '../../server/sessions/database.ts'
import { Host } from './host.ts'
import { end, withRedis } from './measured.ts'

const HOSTS = 2
const MAIN = fileURLToPath(new URL('../../server/cli/main.ts', import.meta.url))

await withRedis('guests', 'bind 0.0.0.0\nprotected-mode no\n', async (folder, redis, signal) => {
  const { port } = redis.connection
  const hosts: Host[] = []
  const workers: ChildProcess[] = []
  try {
    for (let i = 0; i < HOSTS; i++) hosts.push(new Host(i))
    for (const [i, host] of hosts.entries()) {
      const metrics = ['--metrics', '0.0.0.0:9100']
      workers.push(
        host.node(
          MAIN,
          'worker',
          '--queue',
          `redis://${host.address}:${port}`,
          '--jobs',
          '1',
          '--name',
          `host-${i}`,
          ...metrics,
        ),
      )
    }
    const path = join(folder, 'campaigns.db')
    const words = ['faults', 'run', ...process.argv.slice(2), '--queue', redis.url, '--database', path]
    const sender = spawn(process.execPath, [MAIN, ...words], { stdio: 'inherit' })
    const interrupt = () => sender.kill('SIGINT')
    signal.addEventListener('abort', interrupt)
    const [code] = await once(sender, 'close')
    signal.throwIfAborted()
    const database = new Database(path)
    const rows = database.rows(database.campaign(1))
    database.close()
    const wrong = rows.filter(({ result }) => !result.asExpected)
    console.log(`exit code ${code}; ${rows.length} results, ${wrong.length} not as expected`)
    for (const host of hosts) {
      const text = await (await fetch(`http://${host.inside}:9100/metrics`)).text()
      console.log(/^smmu_cosim_worker_jobs_total.*$/m.exec(text)?.[0] ?? 'no jobs')
    }
    process.exitCode = code
  } finally {
    await Promise.all(workers.map(end))
    for (const host of hosts) host.remove()
  }
})
