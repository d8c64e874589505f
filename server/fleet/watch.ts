// SPDX-License-Identifier: Apache-2.0
/** Looks at a fleet's queue for who only wants to know: nothing is put into it, nothing taken. */
import { type Job, type JobType, Queue } from 'bullmq'
import { Redis } from 'ioredis'
import { family, type Sample } from './exposition.ts'
import { probe } from './probe.ts'
import { QUEUE_NAME, QUEUE_PREFIX, type QueueConnection } from './queue.ts'
import { damage, workersOf } from './redis.ts'

/** Until a queue that does not answer counts as one that is away, ms. */
const PATIENCE_MS = 2_000
/** It is asked so often, whoever else asks, ms. */
const BEAT_MS = 10_000
const STATES = ['waiting', 'prioritized', 'delayed', 'active', 'completed', 'failed'] as const

/** What somebody has written over is left out: one such job would keep the others of a page from being shown. */
class ShownQueue extends Queue {
  override async getJobs(types: JobType | JobType[] = [], start = 0, end = -1, asc = false): Promise<Job[]> {
    const ids = await this.getRanges([types].flat(), start, end, asc)
    const jobs = await Promise.all(ids.map(id => (this.getJob(id) as Promise<Job | undefined>).catch(damage)))
    return jobs.filter(job => typeof job === 'object')
  }
}

export class QueueWatch {
  readonly queue: Queue
  readonly #connection: QueueConnection
  readonly #redis: Redis
  readonly #troubled: (why: string) => void
  readonly #beat: NodeJS.Timeout
  readonly #closed = new AbortController()
  /** Whether it is away, and was told to be. */
  #away = false

  /** @param troubled is told why the queue cannot be reached, once each time that it goes away */
  constructor(connection: QueueConnection, troubled: (why: string) => void) {
    this.#connection = connection
    this.#troubled = troubled
    // Who asks waits no longer than that; the connection itself is tried again for good.
    this.#redis = new Redis({
      ...connection,
      ...{
        maxRetriesPerRequest: 1,
        enableOfflineQueue: false,
        connectTimeout: PATIENCE_MS,
        commandTimeout: PATIENCE_MS,
      },
    })
    this.#redis.on('error', ({ message }) => void this.#left(message))
    this.queue = new ShownQueue(QUEUE_NAME, {
      prefix: QUEUE_PREFIX,
      connection: this.#redis,
      skipWaitingForReady: true,
      skipVersionCheck: true,
      skipMetasUpdate: true,
    })
    this.queue.on('error', ({ message }) => void this.#left(message))
    this.#beat = setInterval(() => void this.#ask(), BEAT_MS)
    this.#beat.unref()
    void this.#left('it does not answer', true)
  }

  /** Tells what is wrong there. @param first it may be that nothing is */
  async #left(message: string, first = false): Promise<void> {
    if (this.#away) return
    this.#away = true
    const found = await probe(this.#connection, this.#closed.signal).catch(() => undefined)
    if (found === undefined) return // it is closed
    if (!found.there) this.#troubled(found.why)
    else if (first) this.#away = false
    else this.#troubled(message)
  }

  async #ask(): Promise<void> {
    if ((await inTime(this.#redis.ping())) !== undefined) {
      this.#away = false
      return
    }
    // What was asked and is not answered would become more and more.
    if (this.#redis.status === 'ready') this.#redis.disconnect(true)
    await this.#left('it does not answer')
  }

  /** Prometheus metrics of the queue; when it is away, that alone. */
  async metrics(): Promise<string> {
    const gauge = (name: string, help: string, samples: readonly Sample[]) =>
      family(`smmu_cosim_queue_${name}`, 'gauge', help, samples)
    const up = (value: number) => gauge('up', '1 if the queue answers', [[{}, value]])
    const found = await inTime(
      Promise.all([this.queue.getJobCounts(...STATES), workersOf(this.queue, this.#connection)]),
    )
    if (found === undefined) return up(0)
    this.#away = false
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
    clearInterval(this.#beat)
    this.#closed.abort()
    await inTime(this.queue.close())
    this.#redis.disconnect()
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
