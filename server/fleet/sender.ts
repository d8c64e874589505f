// SPDX-License-Identifier: Apache-2.0
/**
 * Sends jobs to the queue and collects what becomes of them. The queue has nothing that the sender does not know: jobs that it has lost are
 * sent again, under the same name, and so is what a sender left there that did not come to its end.
 */
import { hostname } from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Job, Queue, QueueEvents, type Telemetry } from 'bullmq'
import type { Redis } from 'ioredis'
import type { Runner } from '../sessions/campaign.ts'
import type { CampaignOf, RowOf } from '../sessions/store.ts'
import { counted, grouped } from '../trace/words.ts'
import { type Content, getArtefacts, removeArtefacts } from './artefacts.ts'
import { begin, campaignKey, GONE_S, jobId, leave, want } from './campaigns.ts'
import { type FleetJob, KEPT_S, MOST_DEATHS, Refused, Returned } from './job.ts'
import { QUEUE_NAME, QUEUE_PREFIX, type QueueConnection } from './queue.ts'
import { connect, cut, damage, redisOptions, workersOf } from './redis.ts'
import { openTracing } from './tracing.ts'

/** Jobs that are asked about, or sent, in one go. */
const BATCH = 200
/** Jobs whose results are in memory at a time. */
const COLLECTED = 16
/** What is kept of why a job failed, letters. */
const MOST_WHY = 2000
/** Refusals that are told: who may write to the queue can make up as many as he likes. */
const MOST_TOLD = 100
/** What events do not tell – there may have been nobody to hear them – is found so, ms. */
const SWEEP_MS = 15_000
/** Without a result for so long, it is told how things stand, ms. */
const QUIET_MS = 30_000
/** When it is interrupted: to come to an end, to take back what has not begun, and to close connections, each, ms. */
const BACK_MS = 5_000

/** How jobs of a kind go over the queue. */
export interface Sent<Job, Result> {
  readonly nameOf: (job: Job) => string
  readonly pack: (job: Job, signal: AbortSignal) => Promise<FleetJob>
  /** @param files what else came of it @throws Error when it is no result */
  readonly unpack: (value: unknown, job: Job, files: readonly Content[]) => Result
  /** What is known of a job that came to nothing. */
  readonly lost: (why: string, job: Job) => Result
}

export interface SenderOptions {
  readonly connection: QueueConnection
  /** Names the campaign: the same one, sent again, has the same jobs. */
  readonly campaign: string
  /** How the campaign is gone on with when this is interrupted, for people; absent: it is not. */
  readonly goesOn?: string
  readonly say: (line: string) => void
  readonly sweepMs?: number
}

/** The name of a campaign in a queue. */
export const nameOf = ({ id, started, what }: CampaignOf<unknown>): string => `${id} ${started} ${what}`

/** Runs jobs on the workers of a queue. It throws Error when there is no queue, or a job's files cannot be had. */
export const throughQueue =
  <J, R>(sent: Sent<J, R>, options: SenderOptions): Runner<J, R> =>
  async (jobs, take, signal) => {
    if (jobs.length === 0) return
    const tracing = await openTracing()
    let sender: Sender<J, R> | undefined
    try {
      sender = await Sender.of(sent, options, jobs, take, tracing?.telemetry, signal)
      await soon(sender.run(signal), signal)
    } catch (error) {
      if (sender === undefined && !signal.aborted) throw error
      const { goesOn } = options
      const left = sender === undefined ? 'nothing was sent' : await takenBack(sender)
      options.say(`${signal.aborted ? 'interrupted' : 'ended'}: ${left}${goesOn === undefined ? '' : `; ${goesOn}`}`)
      throw error
    } finally {
      await sender?.close()
      await tracing?.close()
    }
  }

/** Ends what a sender has in the queue, if that answers. @returns how, for people */
async function takenBack(sender: Pick<Sender<unknown, unknown>, 'takeBack'>): Promise<string> {
  const failed = (error: Error) => `not all could be taken back from the queue: ${error.message}`
  return Promise.race([sender.takeBack().catch(failed), sleep(BACK_MS, SILENT)])
}

const SILENT = `the queue does not answer; its workers go on for up to ${GONE_S / 60} min, and results stay there for a week`

/** A job that is on its way. */
interface Open<J> {
  readonly job: J
  readonly data: FleetJob
  /** Times that its result could not be read. */
  unread: number
}

class Sender<J, R> {
  readonly #sent: Sent<J, R>
  readonly #options: SenderOptions
  /** Its name in the queue. */
  readonly #campaign: string
  readonly #take: (rows: readonly RowOf<J, R>[]) => void
  readonly #redis: Redis
  readonly #queue: Queue
  readonly #events: QueueEvents
  readonly #open: Map<string, Open<J>>
  /** Of those, what has ended and is not collected. */
  readonly #ended = new Set<string>()
  readonly #told = new Set<string>()
  #wake = Promise.withResolvers<void>()

  private constructor(
    sent: Sent<J, R>,
    options: SenderOptions,
    take: (rows: readonly RowOf<J, R>[]) => void,
    redis: Redis,
    telemetry: Telemetry | undefined,
    open: Map<string, Open<J>>,
  ) {
    this.#sent = sent
    this.#options = options
    this.#campaign = campaignKey(options.campaign)
    this.#take = take
    this.#redis = redis
    this.#open = open
    const common = { connection: redisOptions(options.connection), prefix: QUEUE_PREFIX }
    this.#queue = new Queue(QUEUE_NAME, { ...common, ...(telemetry && { telemetry }) })
    this.#events = new QueueEvents(QUEUE_NAME, common)
    // What is wrong with the connection is told by ours.
    const say = (error: Error) => {
      if (redis.status === 'ready') options.say(error.message)
    }
    this.#queue.on('error', say)
    this.#events.on('error', say)
    this.#events.on('completed', ({ jobId }) => this.#end(jobId))
    this.#events.on('failed', ({ jobId }) => this.#end(jobId))
    this.#events.on('progress', ({ jobId, data }) => this.#refused(jobId, data))
  }

  static async of<J, R>(
    sent: Sent<J, R>,
    options: SenderOptions,
    jobs: readonly J[],
    take: (rows: readonly RowOf<J, R>[]) => void,
    telemetry: Telemetry | undefined,
    signal: AbortSignal,
  ): Promise<Sender<J, R>> {
    const redis = await connect(options.connection, false, options.say, signal)
    const open = new Map<string, Open<J>>()
    const campaign = campaignKey(options.campaign)
    try {
      for (const job of jobs) {
        const data = await sent.pack(job, signal)
        open.set(jobId(campaign, sent.nameOf(job), JSON.stringify(data)), { job, data, unread: 0 })
      }
    } catch (error) {
      redis.disconnect()
      throw error
    }
    return new Sender(sent, options, take, redis, telemetry, open)
  }

  async run(signal: AbortSignal): Promise<void> {
    const { sweepMs = SWEEP_MS, campaign, say } = this.#options
    await this.#events.waitUntilReady()
    await begin(this.#redis, this.#campaign, `${campaign}, from ${hostname()}`)
    say(`its name in the queue is ${this.#campaign}`)
    await this.#send([...this.#open.keys()])
    await this.#stand()
    let swept = 0
    let told = performance.now()
    let heard = performance.now()
    const wake = () => this.#wake.resolve()
    const timer = setInterval(wake, Math.min(sweepMs, QUIET_MS))
    signal.addEventListener('abort', wake, { once: true })
    try {
      while (this.#open.size > 0) {
        signal.throwIfAborted()
        const now = performance.now()
        if (now - told >= sweepMs) {
          told = now
          if (!(await want(this.#redis, this.#campaign)))
            throw new Error(`somebody has purged ${this.#campaign} from the queue`)
        }
        if (this.#ended.size > 0) {
          await this.#collect([...this.#ended].slice(0, COLLECTED))
          heard = now
        } else if (now - swept >= sweepMs) {
          swept = now
          await this.#sweep()
        } else {
          if (now - heard >= QUIET_MS) {
            heard = now
            await this.#stand()
          }
          await this.#wake.promise
          this.#wake = Promise.withResolvers()
        }
      }
    } finally {
      clearInterval(timer)
      signal.removeEventListener('abort', wake)
    }
  }

  /** What has not begun is not run any more, what runs is ended by its worker, and what is complete is handed over. @returns how many, for people */
  async takeBack(): Promise<string> {
    await leave(this.#redis, this.#campaign)
    const open = this.#open.size
    let waited = 0
    let ran = 0
    for (const ids of batches([...this.#open.keys()])) {
      const states = await Promise.all(ids.map(id => this.#queue.getJobState(id)))
      const are = (...wanted: readonly string[]) => ids.filter((_, i) => wanted.includes(states[i] ?? ''))
      for (const id of are('completed', 'failed')) this.#end(id)
      // No worker begins what nobody waits for: none of these has become complete meanwhile.
      const removed = await Promise.all(
        are('waiting', 'delayed', 'prioritized').map(id => this.#queue.remove(id).catch(() => 0)),
      )
      waited += removed.reduce((sum, one) => sum + one, 0)
      ran += are('active').length
    }
    while (this.#ended.size > 0) await this.#collect([...this.#ended].slice(0, COLLECTED))
    const collected = counted(open - this.#open.size, 'result')
    return `${collected} collected at the end, ${counted(waited + ran, 'job')} dropped, ${grouped(ran)} of them while they ran`
  }

  async close(): Promise<void> {
    const closed = Promise.allSettled([this.#events.close(), this.#queue.close()])
    await Promise.race([closed, sleep(BACK_MS, undefined, { ref: false })])
    await cut(this.#events, this.#queue)
    this.#redis.disconnect()
    this.#open.clear()
  }

  #end(id: string): void {
    if (!this.#open.has(id)) return
    this.#ended.add(id)
    this.#wake.resolve()
  }

  /** Tells once why a worker leaves jobs alone. */
  #refused(id: string, data: unknown): void {
    if (!this.#open.has(id) || !Refused.Check(data)) return
    const line = `worker ${data.worker} refuses: ${data.refused}`
    if (this.#told.has(line) || this.#told.size >= MOST_TOLD) return
    this.#told.add(line)
    this.#options.say(line)
    if (this.#told.size === MOST_TOLD) this.#options.say('more refusals are not told')
  }

  /** Says how many wait, and for whom. */
  async #stand(): Promise<void> {
    const [{ wait = 0, delayed = 0, active = 0 }, workers] = await Promise.all([
      // One that a worker has refused is delayed for a moment.
      this.#queue.getJobCounts('wait', 'delayed', 'active'),
      workersOf(this.#queue, this.#options.connection),
    ])
    const whose = workers === 0 ? 'no worker yet' : counted(workers, 'worker')
    this.#options.say(
      `${counted(this.#open.size, 'job')} to come; in the queue ${grouped(wait + delayed)} wait and ${grouped(active)} run, for ${whose}`,
    )
  }

  /** A job that is there already stays as it is. */
  async #send(all: readonly string[]): Promise<void> {
    const kept = { age: KEPT_S }
    for (const ids of batches(all)) {
      await this.#queue.addBulk(
        ids.flatMap(id => {
          const data = this.#open.get(id)?.data
          const opts = { jobId: id, attempts: MOST_DEATHS + 1, removeOnComplete: kept, removeOnFail: kept }
          return data === undefined ? [] : [{ name: data.work.do, data, opts }]
        }),
      )
    }
  }

  /** Looks for those that have ended, and for those that the queue does not know any more. */
  async #sweep(): Promise<void> {
    for (const ids of batches([...this.#open.keys()])) {
      const states = await Promise.all(ids.map(id => this.#queue.getJobState(id)))
      for (const [i, id] of ids.entries()) if (states[i] === 'completed' || states[i] === 'failed') this.#end(id)
      await this.#send(ids.filter((_, i) => states[i] === 'unknown'))
    }
  }

  /** What is handed over is not in the queue any more. */
  async #collect(ids: readonly string[]): Promise<void> {
    const found = await Promise.all(ids.map(async id => ({ id, row: await this.#row(id) })))
    // Once, even if one that was given up as too late goes on after all.
    const rows = found.flatMap(({ id, row }) => (row === undefined || !this.#open.has(id) ? [] : [{ id, row }]))
    this.#take(rows.map(({ row }) => row))
    for (const id of ids) this.#ended.delete(id)
    for (const { id } of rows) this.#open.delete(id)
    await Promise.all(rows.map(({ id }) => this.#forget(id)))
  }

  async #forget(id: string): Promise<void> {
    await this.#queue.remove(id).catch(damage)
    await removeArtefacts(this.#redis, id)
  }

  /** What became of a job. Undefined: it is not over. */
  async #row(id: string): Promise<RowOf<J, R> | undefined> {
    const open = this.#open.get(id)
    if (open === undefined) return undefined
    const { job } = open
    const lost = (why: string) => ({ job, result: this.#sent.lost(why, job) })
    const found: Job | undefined | string = await this.#queue.getJob(id).catch(damage)
    if (typeof found === 'string') return lost(`what the queue has as job ${id} is none: ${found}`)
    if (found?.finishedOn === undefined) return undefined
    const { returnvalue, attemptsMade, stalledCounter } = found
    // Of a job that did not fail there is none, whatever BullMQ's type says.
    const failedReason: string | undefined = found.failedReason
    if (!Returned.Check(returnvalue)) {
      if (failedReason === undefined) return lost('what answered it is no worker of smmu-cosim')
      // The last time it was only taken to be given up.
      const times = attemptsMade + stalledCounter - 1
      const last = failedReason.includes('stalled')
        ? 'its worker ended, or lost the queue'
        : failedReason.slice(0, MOST_WHY)
      return lost(times > 0 ? `tried ${counted(times, 'time')} without a result; at last: ${last}` : last)
    }
    const { worker, artefacts } = returnvalue
    const contents = await getArtefacts(this.#redis, id, artefacts)
    if (contents === undefined) {
      if (++open.unread >= MOST_DEATHS) return lost(`what came of it on ${worker} is not what it was`)
      await this.#forget(id)
      await this.#send([id])
      return undefined
    }
    const [result, ...files] = contents
    try {
      return { job, result: this.#sent.unpack(JSON.parse(result?.bytes.toString() ?? ''), job, files) }
    } catch (error) {
      return lost(`${worker} sent what is no result: ${(error as Error).message}`)
    }
  }
}

/** The same, but for work that an interruption does not end in time: it waits for a queue that says nothing. @throws the signal's reason */
async function soon<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  const late = Promise.withResolvers<never>()
  let timer: NodeJS.Timeout | undefined
  const abort = () => {
    timer = setTimeout(() => late.reject(signal.reason), BACK_MS)
  }
  signal.addEventListener('abort', abort, { once: true })
  if (signal.aborted) abort()
  try {
    return await Promise.race([work, late.promise])
  } finally {
    clearTimeout(timer)
    signal.removeEventListener('abort', abort)
  }
}

function* batches<T>(items: readonly T[]): Generator<readonly T[]> {
  for (let at = 0; at < items.length; at += BATCH) yield items.slice(at, at + BATCH)
}
