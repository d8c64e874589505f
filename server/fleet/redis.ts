// SPDX-License-Identifier: Apache-2.0
/** Connections to a queue. */
import { Redis } from 'ioredis'
import type { QueueConnection } from './queue.ts'

/** Between two attempts to reach a queue that is away, ms. */
const LONGEST_PAUSE_MS = 2_000
const CONNECT_MS = 10_000
/** A sender does not begin without a queue, ms. */
const BEGIN_MS = 10_000

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
 * A connection of one's own.
 * @param wait whether a queue that is not there is waited for
 * @param say told when it is away, and when it is back
 * @throws Error when it refuses us, or is not there
 */
export async function connect(
  connection: QueueConnection,
  wait: boolean,
  say: (line: string) => void,
  signal: AbortSignal,
): Promise<Redis> {
  const redis = new Redis(redisOptions(connection))
  const where = whereIs(connection)
  let away = ''
  let begun = false
  const refused = Promise.withResolvers<never>()
  refused.promise.catch(() => {}) // it is only waited for at first
  redis.on('error', (error: Error) => {
    // Trying again does not help.
    const refuses = /^(WRONGPASS|NOAUTH|NOPERM|ERR AUTH)|certificate/.test(error.message)
    if (refuses) refused.reject(error)
    if (refuses && !begun) return // told by what is thrown
    if (away !== error.message) say(`the queue ${where} is away: ${error.message || 'it cannot be reached'}`)
    away = error.message
  })
  redis.on('ready', () => {
    if (away !== '') say(`the queue ${where} is back`)
    away = ''
    begun = true
  })
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
