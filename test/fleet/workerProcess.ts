// SPDX-License-Identifier: Apache-2.0
/** A worker in a process of its own, to be killed: NAME PORT JOBS LOCK-MS [HOST]. */
import type { FleetJob } from '../../server/fleet/job.ts'
import type { Answer } from '../../server/fleet/own.ts'
import { FleetWorker } from '../../server/fleet/worker.ts'
import { IDENTITY } from './stub.ts'

const [name = '', port, jobs, lockMs, host = '127.0.0.1'] = process.argv.slice(2)
const stop = new AbortController()
for (const name of ['SIGTERM', 'SIGINT'] as const) process.once(name, () => stop.abort(new Error(name)))

await FleetWorker.run(
  {
    connection: { host, port: Number(port), db: 0 },
    ...{ name, jobs: Number(jobs), lockMs: Number(lockMs) },
    own: { jobs: 1, kernels: [], qemuArgs: [], ramDir: 'memory', transport: 'auto', sandbox: true },
    answer: async ({ identity }: FleetJob): Promise<Answer> =>
      identity.source === IDENTITY.source ? { kernel: '6.12' } : { refused: 'other code' },
    module: new URL('./stubProcess.ts', import.meta.url),
    say: line => console.error(`${name}: ${line}`),
  },
  stop.signal,
)
process.exit(0)
