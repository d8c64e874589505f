// SPDX-License-Identifier: Apache-2.0
/** One core of an attack. Anything that the main thread says means: stop. */
import { setImmediate } from 'node:timers/promises'
import { parentPort, workerData } from 'node:worker_threads'
import { loadPolicy } from '../policy/load.ts'
import { Campaign } from './campaign.ts'
import type { WorkerMessage, WorkerOptions } from './messages.ts'

/** Time between looks at messages and the clock, ms. */
const SLICE_MS = 200
/** Time between reports, ms. */
const REPORT_MS = 1000

const options = workerData as WorkerOptions
const say = (message: WorkerMessage) => parentPort?.postMessage(message)

let stopped = false
parentPort?.on('message', () => {
  stopped = true
})

const { factory } = await loadPolicy(options.policy)
const campaign = new Campaign(factory, options)
campaign.adopt(options.programs)
const start = performance.now()
const seconds = () => (performance.now() - start) / 1000
const over = () =>
  stopped ||
  (options.seconds !== undefined && seconds() >= options.seconds) ||
  (options.operations !== undefined && campaign.stats.operations >= options.operations)

let reported = start
while (!over()) {
  const slice = performance.now() + SLICE_MS
  while (
    performance.now() < slice &&
    (options.operations === undefined || campaign.stats.operations < options.operations)
  ) {
    const found = campaign.next()
    if (found !== undefined) say({ type: 'case', found, seconds: seconds() })
  }
  if (performance.now() - reported >= REPORT_MS) {
    reported = performance.now()
    say({ type: 'progress', stats: campaign.stats })
  }
  await setImmediate()
}
say({ type: 'done', stats: campaign.stats, programs: campaign.corpus })
parentPort?.close()
