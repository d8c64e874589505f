// SPDX-License-Identifier: Apache-2.0
/** Connections to a queue. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Queue } from 'bullmq'
import { Redis } from 'ioredis'
import { counted } from '../trace/words.ts'
import { probe } from './probe.ts'
import type { QueueConnection } from './queue.ts'

/** Between two attempts to reach a queue that is away, ms. */
const LONGEST_PAUSE_MS = 2_000
const CONNECT_MS = 10_000
/** A sender does not begin without a queue: it is looked for for so long, and has so long to let us in, ms. */
const LOOK_MS = 3_000
const BEGIN_MS = 10_000
/** It is asked whether it is still there, and has so long to answer, ms. */
const BEAT_MS = 10_000
const ANSWER_MS = 10_000
/** A connection that is ended has so long, ms. */
const CUT_MS = 5_000

/** As ioredis and BullMQ take it: what is asked for while the queue is away is asked when it is back. */
export const redisOptions = (connection: QueueConnection) => ({
  ...connection,
  maxRetriesPerRequest: null,
  connectTimeout: CONNECT_MS,
  keepAlive: CONNECT_MS,
  retryStrategy: (times: number) => Math.min(50 * 2 ** times, LONGEST_PAUSE_MS),
})

export const whereIs = ({ host, port, db, tls }: QueueConnection): string =>
  `${tls === undefined ? 'redis' : 'rediss'}://${host.includes(':') ? `[${host}]` : host}:${port}/${db}`

/**
 * Looks for a queue.
 * @param wait whether one that is not there is waited for
 * @throws Error when it is not there, or is none
 */
async function find(
  connection: QueueConnection,
  wait: boolean,
  say: (line: string) => void,
  signal: AbortSignal,
): Promise<void> {
  const where = whereIs(connection)
  const begun = performance.now()
  for (let tries = 1; ; tries++) {
    const found = await probe(connection, signal)
    if (found.there) {
      if (wait && tries > 1) say(`the queue ${where} is there`)
      return
    }
    const ms = performance.now() - begun
    if (found.hopeless) throw new Error(`the queue ${where}: ${found.why}`)
    if (!wait && ms >= LOOK_MS) {
      const times = tries === 1 ? 'tried once' : `tried ${counted(tries, 'time')} in ${(ms / 1000).toFixed(0)} s`
      throw new Error(`the queue ${where}: ${found.why}; ${times}`)
    }
    if (wait && tries === 1) say(`the queue ${where} is not there yet: ${found.why}; waits for it`)
    await sleep(Math.min(250 * 2 ** (tries - 1), LONGEST_PAUSE_MS), undefined, { signal })
  }
}

/**
 * A connection of one's own.
 * @param wait whether a queue that is not there is waited for
 * @param say told when it is away, and when it is back
 * @throws Error when it refuses us, is none, or is not there
 */
export async function connect(
  connection: QueueConnection,
  wait: boolean,
  say: (line: string) => void,
  signal: AbortSignal,
): Promise<Redis> {
  await find(connection, wait, say, signal).catch((error: unknown) => {
    signal.throwIfAborted()
    throw error
  })
  const redis = new Redis(redisOptions(connection))
  const where = whereIs(connection)
  /** Why it is away; empty: it is not. */
  let away = ''
  let begun = false
  const refused = Promise.withResolvers<never>()
  refused.promise.catch(() => {}) // it is only waited for at first
  const left = (why: string) => {
    if (away === '') say(`the queue ${where} is away: ${why}`)
    away = why
  }
  const back = () => {
    if (away !== '') say(`the queue ${where} is back`)
    away = ''
  }
  redis.on('error', (error: Error) => {
    // Trying again does not help.
    const refuses = /^(WRONGPASS|NOAUTH|NOPERM|ERR AUTH)|certificate/.test(error.message)
    if (refuses) refused.reject(error)
    if (refuses && !begun) return // told by what is thrown
    left(error.message || 'it cannot be reached')
  })
  redis.on('ready', () => {
    back()
    begun = true
  })
  beat(redis, () => left('it does not answer'), back)
  const limit = wait ? signal : AbortSignal.any([signal, AbortSignal.timeout(BEGIN_MS)])
  const late = new Promise<never>((_, reject) => {
    const abort = () => reject(signal.aborted ? signal.reason : new Error(`${away || 'it does not answer'}`))
    if (limit.aborted) abort()
    limit.addEventListener('abort', abort, { once: true })
  })
  try {
    await Promise.race([redis.ping(), refused.promise, late])
    return redis
  } catch (error) {
    redis.disconnect()
    signal.throwIfAborted()
    throw new Error(`the queue ${where}: ${(error as Error).message}`)
  }
}

/** How many workers a queue has: BullMQ counts those of all databases of a Redis. */
export async function workersOf(queue: Queue, { db }: QueueConnection): Promise<number> {
  const workers = await queue.getWorkers()
  return workers.filter(worker => worker.db === undefined || worker.db === String(db)).length
}

/** What somebody wrote over a job: no job of BullMQ's, or no hash at all. @returns what is wrong with it @throws any other error */
export function damage(error: Error): string {
  if (error instanceof SyntaxError || error instanceof TypeError || error.message.includes('WRONGTYPE'))
    return error.message
  throw error
}

/** Ends connections of BullMQ that a queue which says nothing would keep open, and the process with them. */
export async function cut(...owners: readonly { disconnect(): Promise<void> }[]): Promise<void> {
  const all = Promise.allSettled(owners.map(owner => owner.disconnect()))
  await Promise.race([all, sleep(CUT_MS, undefined, { ref: false })])
}

/** Asks it every now and then, until the connection is given up: what takes connections and says nothing makes no error. */
function beat(redis: Redis, silent: () => void, answers: () => void): void {
  let asked = false
  const timer = setInterval(() => {
    if (asked) return
    asked = true
    const late = setTimeout(silent, ANSWER_MS)
    late.unref()
    redis
      .ping()
      .then(answers, () => {})
      .finally(() => {
        asked = false
        clearTimeout(late)
      })
  }, BEAT_MS)
  timer.unref()
  redis.once('end', () => clearInterval(timer))
}
