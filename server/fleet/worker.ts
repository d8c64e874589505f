// SPDX-License-Identifier: Apache-2.0
/**
 * Takes jobs from the queue, and runs each in a process of its own. BullMQ decides who has a job: a worker that does not renew its lock any
 * more loses the job to another one, and cannot end it. So there is one result of each job, whatever becomes of workers.
 */
import { mkdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { DelayedError, type Job, type Telemetry, UnrecoverableError, WaitingError, Worker } from 'bullmq'
import type { Redis } from 'ioredis'
import { inTime } from '../control/inTime.ts'
import type { LockedFolder } from '../machine/lockedFolder.ts'
import { ownFolder } from '../machine/scratch.ts'
import { grouped } from '../trace/words.ts'
import { filesOf, MOST_BYTES, putArtefacts } from './artefacts.ts'
import { isWanted } from './campaigns.ts'
import { checkJob, deadlineOf, type FleetJob, KEPT_S, kindOf, MOST_DEATHS, type Work } from './job.ts'
import type { Answer, OwnOptions } from './own.ts'
import { ProcessDied, Processes } from './processes.ts'
import { QUEUE_NAME, QUEUE_PREFIX, type QueueConnection } from './queue.ts'
import { connect, cut, redisOptions } from './redis.ts'
import { openTracing } from './tracing.ts'
import type { WorkerMetrics } from './workerMetrics.ts'

/** A job of a worker that is gone is taken up by another one after up to twice that, ms. */
const LOCK_MS = 30_000
/** A job that was refused goes behind the others after so long, ms. */
const BEHIND_MS = 1_000
/** A worker to which a refused job comes again, or that cannot run one, leaves all to others for so long, each time twice as long, ms. */
const REST_MS = 10_000
const LONGEST_REST_MS = 60_000
/** Refused jobs that a worker remembers. */
const MOST_REFUSED = 1000
/** So often it is asked whether somebody still waits for what runs, ms. */
const WANTED_MS = 10_000
/** What is under way when the worker is told to end may take so long to end, ms. */
const END_MS = 40_000

export interface WorkerOptions {
  readonly connection: QueueConnection
  /** What senders call it. */
  readonly name: string
  /** At a time. */
  readonly jobs: number
  readonly own: OwnOptions
  /** Whether a job is run; see `Own`. */
  readonly answer: (job: FleetJob, signal: AbortSignal) => Promise<Answer>
  /** What its processes run: it calls `serveJobs`. */
  readonly module: URL
  readonly say: (line: string) => void
  readonly lockMs?: number
  /** The shortest rest, ms. */
  readonly restMs?: number
  readonly wantedMs?: number
  /** When a job's process is killed, s; default: `deadlineOf`. */
  readonly deadline?: (work: Work) => number
  /** Counts what it does. */
  readonly metrics?: WorkerMetrics
}

const NOBODY = 'nobody waits for them any more'

class Dropped extends UnrecoverableError {}

/** What becomes of a job that ends so, for the metrics. */
function howEnded(error: unknown): 'returned' | 'dropped' | 'failed' {
  if (error instanceof Dropped) return 'dropped'
  return error instanceof WaitingError || error instanceof DelayedError ? 'returned' : 'failed'
}

export class FleetWorker {
  readonly #options: WorkerOptions
  readonly #redis: Redis
  readonly #processes: Processes
  readonly #worker: Worker
  readonly #folder: LockedFolder
  readonly #signal: AbortSignal
  #orders = 0
  /** Jobs that were refused since the last rest, and why: what is told already. */
  readonly #refused = new Set<string>()
  readonly #told = new Set<string>()
  #restMs: number

  private constructor(options: WorkerOptions, redis: Redis, telemetry: Telemetry | undefined, signal: AbortSignal) {
    const { connection, name, jobs, module, say, lockMs = LOCK_MS, restMs = REST_MS, metrics } = options
    this.#options = options
    this.#restMs = restMs
    this.#redis = redis
    this.#signal = signal
    this.#processes = new Processes(module, say)
    this.#folder = ownFolder(tmpdir(), 'worker-')
    this.#worker = new Worker(
      QUEUE_NAME,
      (job, token = '', cancelled = signal) => {
        const work = () => this.#process(job, token, AbortSignal.any([signal, cancelled]))
        return metrics?.of(kindOf(job.name), howEnded, work) ?? work()
      },
      {
        ...{ connection: redisOptions(connection), prefix: QUEUE_PREFIX, name, concurrency: jobs, autorun: false },
        ...{ lockDuration: lockMs, stalledInterval: lockMs, maxStalledCount: MOST_DEATHS - 1 },
        ...{ removeOnComplete: { age: KEPT_S }, removeOnFail: { age: KEPT_S } },
        ...(telemetry && { telemetry }),
      },
    )
    metrics?.watch(this.#worker)
    // What is wrong with the connection is told by ours.
    this.#worker.on('error', error => {
      if (redis.status === 'ready') say(error.message)
    })
    this.#worker.on('lockRenewalFailed', ids => {
      for (const id of ids) this.#worker.cancelJob(id)
    })
  }

  /**
   * Runs jobs until `signal` aborts: those that are under way then go back to the queue.
   * @throws Error when the queue refuses this worker
   */
  static async run(options: WorkerOptions, signal: AbortSignal): Promise<void> {
    const redis = await connect(options.connection, true, options.say, signal)
    const tracing = await openTracing()
    const own = new FleetWorker(options, redis, tracing?.telemetry, signal)
    try {
      await own.#run()
    } finally {
      await own.#end()
      await tracing?.close()
    }
  }

  async #run(): Promise<void> {
    const { name, jobs, say } = this.#options
    const aborted = Promise.withResolvers<void>()
    this.#signal.addEventListener('abort', () => aborted.resolve(), { once: true })
    if (this.#signal.aborted) return
    this.#worker.run().catch(error => aborted.reject(error))
    say(`worker ${name}: takes jobs, ${jobs} at a time`)
    await aborted.promise
  }

  async #end(): Promise<void> {
    // A queue that is away does not take jobs back; their locks expire.
    await Promise.race([this.#worker.close(), sleep(END_MS, undefined, { ref: false })])
    await cut(this.#worker)
    this.#processes.close()
    this.#redis.disconnect()
    this.#folder.remove()
  }

  async #process(job: Job, token: string, signal: AbortSignal): Promise<unknown> {
    const { id = '' } = job
    const over = new AbortController()
    const dropped = new AbortController()
    try {
      if (!(await inTime(isWanted(this.#redis, id), signal))) throw new Dropped(NOBODY)
      this.#watch(id, dropped, over.signal).catch(() => {}) // it is over
      return await this.#work(job, token, AbortSignal.any([signal, dropped.signal]))
    } catch (error) {
      if (this.#signal.aborted) {
        await job.moveToWait(token)
        throw new WaitingError()
      }
      if (error instanceof Dropped) this.#drop(job)
      throw error
    } finally {
      over.abort()
    }
  }

  /** Asks again and again whether somebody waits for a job, until it is over. */
  async #watch(id: string, dropped: AbortController, over: AbortSignal): Promise<void> {
    const { wantedMs = WANTED_MS } = this.#options
    do await sleep(wantedMs, undefined, { signal: over })
    while (await isWanted(this.#redis, id))
    dropped.abort(new Dropped(NOBODY))
  }

  /** A sender that comes back after all sends it again. */
  #drop(job: Job): void {
    job.opts.removeOnFail = true
    if (!this.#told.has(NOBODY)) this.#options.say(`drops jobs: ${NOBODY}`)
    this.#told.add(NOBODY)
  }

  async #work(job: Job, token: string, signal: AbortSignal): Promise<unknown> {
    const deaths = job.attemptsMade + job.stalledCounter
    if (deaths >= MOST_DEATHS) throw new UnrecoverableError(job.failedReason ?? 'it ended its workers')
    const order = orderOf(job.data)
    const folder = join(this.#folder.path, String(++this.#orders))
    mkdirSync(folder)
    try {
      const answer = await this.#answer(order, signal)
      if ('refused' in answer) return await this.#refuse(job, token, answer.refused)
      const { own, deadline = deadlineOf, restMs = REST_MS } = this.#options
      const what = { work: order.work, files: answer, own, folder }
      const result = await this.#processes
        .run(what, order.identity.source, deadline(order.work), signal)
        .catch((error: Error) => this.#failed(job, error, signal))
      // Who edits the tree while a job runs does not get a result of it.
      const after = await this.#answer(order, signal)
      if ('refused' in after) return await this.#refuse(job, token, after.refused)
      this.#restMs = restMs
      return await this.#keep(job.id ?? '', result, folder)
    } finally {
      rmSync(folder, { recursive: true, force: true })
    }
  }

  async #answer(order: FleetJob, signal: AbortSignal): Promise<Answer> {
    try {
      return await this.#options.answer(order, signal)
    } catch (error) {
      signal.throwIfAborted()
      return { refused: `it cannot: ${(error as Error).message}` }
    }
  }

  async #keep(id: string, result: unknown, folder: string): Promise<unknown> {
    const bytes = Buffer.from(JSON.stringify(result))
    if (bytes.length > MOST_BYTES) {
      const size = `${grouped(bytes.length)} bytes, on worker ${this.#options.name}; a result has ${grouped(MOST_BYTES)} at most`
      throw new UnrecoverableError(`it ran, but its result is too large: ${size}`)
    }
    const contents = [{ name: 'result', bytes }, ...filesOf(folder)]
    return { worker: this.#options.name, artefacts: await putArtefacts(this.#redis, id, contents) }
  }

  /**
   * Gives back a job that came to nothing here: it is tried again, a few times, by whoever takes it. What cannot be run here would fail as fast with
   * each job of the queue: others are to have them.
   */
  async #failed(job: Job, error: Error, signal: AbortSignal): Promise<never> {
    signal.throwIfAborted()
    if (!(error instanceof ProcessDied)) {
      await this.#tell(job, `it cannot be run there: ${error.message}`)
      await this.#rest()
    }
    throw new Error(`${error.message}, on worker ${this.#options.name}`)
  }

  async #tell(job: Job, why: string): Promise<void> {
    const { name, say } = this.#options
    if (!this.#told.has(why)) say(`refuses a job: ${why}`)
    this.#told.add(why)
    await job.updateProgress({ refused: why.slice(0, 2000), worker: name })
  }

  /** Leaves a job to others, and behind the jobs that follow it: they may be for us. */
  async #refuse(job: Job, token: string, why: string): Promise<never> {
    await this.#tell(job, why)
    await job.moveToDelayed(Date.now() + BEHIND_MS, token)
    const id = job.id ?? ''
    if (this.#refused.has(id) || this.#refused.size >= MOST_REFUSED) await this.#rest()
    else this.#refused.add(id)
    throw new DelayedError()
  }

  /** For a while there is nothing in the queue for us. */
  async #rest(): Promise<void> {
    if (this.#worker.isPaused()) return
    this.#refused.clear()
    this.#told.clear()
    await this.#worker.pause(true)
    const rest = setTimeout(() => {
      if (!this.#signal.aborted) void this.#worker.resume()
    }, this.#restMs)
    rest.unref()
    this.#restMs = Math.min(2 * this.#restMs, LONGEST_REST_MS)
  }
}

/** @throws UnrecoverableError: no worker can do anything with it */
function orderOf(data: unknown): FleetJob {
  try {
    return checkJob(data)
  } catch (error) {
    throw new UnrecoverableError(`it cannot be run: ${(error as Error).message}`)
  }
}
