// SPDX-License-Identifier: Apache-2.0
import { setFlagsFromString } from 'node:v8'
import { Worker } from 'node:worker_threads'
import { type Mapping, unmap } from '../machine/sharedMemory.ts'
import { OperationError } from '../policy/operationError.ts'
import type {
  ThreadEvent,
  ThreadEvents,
  ThreadInterface,
  ThreadMessage,
  ThreadOptions,
  ThreadOutcome,
} from '../trap/messages.ts'
import { type Arguments, callOf, type Result } from '../trap/rpc.ts'

/**
 * What short-lived objects of the trap thread may fill before they are collected, MiB, of which V8 keeps three: a collection
 * holds up the trap at hand by 0.3 ms. V8 would begin with a few MiB, and stay there; the flag is for threads yet to come.
 */
const SEMI_SPACE_MIB = 32
setFlagsFromString(`--min-semi-space-size=${SEMI_SPACE_MIB}`)

/** How long code may take that may loop: new code to be loaded and tried, old code to answer. */
export const PATIENCE_MS = 10_000

/** Nobody answered in time. */
export class Late extends Error {}

/** @throws Late after `ms` */
export async function inTime<T>(work: Promise<T>, ms: number, what: string): Promise<T> {
  return within(work, ms, `${what} within ${ms / 1000} s: does it loop?`)
}

/** @throws Late with `message` after `ms` */
export async function within<T>(work: Promise<T>, ms: number, message: string): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Late(message)), ms)
  })
  try {
    return await Promise.race([work, late])
  } finally {
    clearTimeout(timer)
  }
}

/** One worker: asks it, and passes on what it says. */
export class WorkerHandle {
  /** Files of the modules that were loaded, or that could not be. */
  readonly modules = new Set<string>()
  /** What the thread has mapped, by address. */
  readonly #mapped = new Map<bigint, Mapping>()
  readonly #worker: Worker
  readonly #waiting = new Map<number, PromiseWithResolvers<unknown>>()
  #nextId = 1
  /** Where events go. */
  #take: (event: ThreadEvent) => void = () => {}
  /** Called once, unless it was stopped. */
  #died: (message: string) => void = () => {}
  /** What came while nobody took it. */
  #kept: ThreadEvent[] = []
  #stopped = false

  constructor(options: ThreadOptions) {
    this.#worker = new Worker(new URL('../trap/worker.ts', import.meta.url), {
      workerData: options,
      resourceLimits: { maxYoungGenerationSizeMb: 3 * SEMI_SPACE_MIB },
    })
    this.#worker.on('message', (message: ThreadMessage) => {
      if ('event' in message && message.event === 'module') this.modules.add(message.args[0])
      else if ('event' in message && message.event === 'mapped') this.#keep(...message.args)
      else if ('event' in message) this.#take(message)
      else this.#settle(message)
    })
    this.#worker.on('error', thrown => this.#ended(thrown instanceof Error ? thrown.message : String(thrown)))
    this.#worker.on('exit', code => {
      for (const mapping of this.#mapped.values()) unmap(mapping)
      this.#mapped.clear()
      this.#ended(`exit code ${code}`)
    })
  }

  #keep(mapping: Mapping, is: boolean): void {
    if (is) this.#mapped.set(mapping.address, mapping)
    else this.#mapped.delete(mapping.address)
  }

  /** Resolves when its code is loaded. @throws Late after `ms`, Error when that is not possible */
  async loaded(ms: number): Promise<void> {
    await inTime(this.next(['loaded']), ms, 'the code did not load')
  }

  /** It was ended, or ended by itself. */
  get stopped(): boolean {
    return this.#stopped
  }

  attach(take: (event: ThreadEvent) => void, died: (message: string) => void): void {
    this.#take = take
    this.#died = died
    for (const event of this.#kept.splice(0)) take(event)
  }

  /** Calls a method of the trap thread. @throws what it throws, OperationError when the thread has ended */
  async call<M extends keyof ThreadInterface>(
    method: M,
    ...args: Arguments<ThreadInterface, M>
  ): Promise<Result<ThreadInterface, M>> {
    if (this.#stopped) throw new OperationError('state', 'the trap thread has ended')
    const id = this.#nextId++
    const outcome = Promise.withResolvers<unknown>()
    // It throws for what cannot be cloned: then nothing is waited for.
    this.#worker.postMessage({ id, ...callOf<ThreadInterface, M>(method, args) })
    this.#waiting.set(id, outcome)
    return (await outcome.promise) as Result<ThreadInterface, M>
  }

  #settle({ id, value, error }: ThreadOutcome): void {
    const outcome = this.#waiting.get(id)
    this.#waiting.delete(id)
    if (error === undefined) outcome?.resolve(value)
    else if (error.failure === undefined) outcome?.reject(new Error(error.message))
    else outcome?.reject(new OperationError(error.failure, error.message))
  }

  /** Resolves with the first of these events; keeps those behind it for `attach`. @throws Error when the worker ends */
  async next<K extends keyof ThreadEvents>(kinds: readonly K[]): Promise<ThreadEvent<K>> {
    const arrival = Promise.withResolvers<ThreadEvent<K>>()
    const id = this.#nextId++
    this.#waiting.set(id, arrival as PromiseWithResolvers<unknown>)
    const died = (message: string) => arrival.reject(new Error(message))
    this.attach(event => {
      if (!(kinds as readonly string[]).includes(event.event)) return
      this.attach(later => this.#kept.push(later), died)
      arrival.resolve(event as ThreadEvent<K>)
    }, died)
    try {
      return await arrival.promise
    } finally {
      this.#waiting.delete(id)
    }
  }

  /** Ends it, whatever it is doing. */
  async stop(): Promise<void> {
    this.#reject(new OperationError('state', 'the trap thread has ended'))
    this.#stopped = true
    await this.#worker.terminate()
  }

  #ended(message: string): void {
    const expected = this.#stopped
    this.#stopped = true
    if (!expected) this.#died(message)
    this.#reject(new Error(`the trap thread ended: ${message}`))
  }

  #reject(error: Error): void {
    for (const { reject } of this.#waiting.values()) reject(error)
    this.#waiting.clear()
  }
}
