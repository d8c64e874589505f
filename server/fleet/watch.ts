// SPDX-License-Identifier: Apache-2.0
/** Looks at a fleet's queue for who only wants to know: nothing is put into it, nothing taken. */
import { Queue } from 'bullmq'
import { family, type Sample } from './exposition.ts'
import { QUEUE_NAME, QUEUE_PREFIX, type QueueConnection } from './queue.ts'

/** Until a queue that does not answer counts as one that is away. */
const PATIENCE_MS = 2_000
const STATES = ['waiting', 'prioritized', 'delayed', 'active', 'completed', 'failed'] as const

export class QueueWatch {
  readonly queue: Queue
  /** Why it is away, as it was told. */
  #trouble = ''

  /** @param troubled is told why the queue cannot be reached, once each time that this changes */
  constructor(connection: QueueConnection, troubled: (why: string) => void) {
    this.queue = new Queue(QUEUE_NAME, {
      prefix: QUEUE_PREFIX,
      // Who asks waits no longer than that; the connection itself is tried again for good.
      connection: { ...connection, maxRetriesPerRequest: 1, enableOfflineQueue: false, connectTimeout: PATIENCE_MS },
      skipWaitingForReady: true,
      skipVersionCheck: true,
      skipMetasUpdate: true,
    })
    this.queue.on('error', ({ message }) => {
      if (message !== this.#trouble) troubled(message)
      this.#trouble = message
    })
  }

  /** Prometheus metrics of the queue; when it is away, that alone. */
  async metrics(): Promise<string> {
    const gauge = (name: string, help: string, samples: readonly Sample[]) =>
      family(`smmu_cosim_queue_${name}`, 'gauge', help, samples)
    const up = (value: number) => gauge('up', '1 if the queue answers', [[{}, value]])
    const found = await inTime(Promise.all([this.queue.getJobCounts(...STATES), this.queue.getWorkersCount()]))
    if (found === undefined) return up(0)
    this.#trouble = ''
    const [counts, workers] = found
    return [
      up(1),
      gauge(
        'jobs',
        'Jobs by what has become of them; those that were collected are gone',
        STATES.map(state => [{ state }, counts[state] ?? 0]),
      ),
      gauge('workers', 'Workers that are connected', [[{}, workers]]),
    ].join('')
  }

  async close(): Promise<void> {
    await inTime(this.queue.close())
    await this.queue.disconnect().catch(() => {})
  }
}

/** @returns undefined when it fails, or takes too long */
async function inTime<T>(work: Promise<T>): Promise<T | undefined> {
  const { promise: late, resolve } = Promise.withResolvers<undefined>()
  const timer = setTimeout(() => resolve(undefined), PATIENCE_MS)
  try {
    return await Promise.race([work, late])
  } catch {
    return undefined
  } finally {
    clearTimeout(timer)
  }
}
