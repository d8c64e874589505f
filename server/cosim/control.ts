// SPDX-License-Identifier: Apache-2.0
import { EventEmitter, once } from 'node:events'
import { setFlagsFromString } from 'node:v8'
import { Worker } from 'node:worker_threads'
import type { Hello } from '../../protocol/generated/messages.ts'
import type { FaultPlan, Firing } from '../faults/rule.ts'
import type { Handover } from './dispatcher.ts'
import {
  type HeldTrap,
  OperationError,
  type OperationFailure,
  type OperationName,
  type Operations,
} from './operations.ts'
import type { TranslateMode } from './translator.ts'

/** What the trap thread is started with. */
export interface ThreadOptions {
  /** Path of a Unix socket, or `host:port`. */
  readonly listen: string
  /** `passthrough`, `pkvm`, or the path of a TypeScript file with a policy. */
  readonly policy: string
  /** Options of the policy, e.g. `{ until: 'cmdq' }`. */
  readonly policyOptions: Readonly<Record<string, unknown>>
  /**
   * The file of guest RAM that this process created, or with a slash at its end a folder of such files; a memory that QEMU
   * says is elsewhere is reached over the wire.
   */
  readonly ramFile: string
  /** Shared memory: the trace ring (trace/ring.ts) and the counters (trace/counters.ts). */
  readonly ring: SharedArrayBuffer
  readonly counters: SharedArrayBuffer
  readonly panicOnWarn: boolean
  /** Who translates for devices; default `hardware`. */
  readonly translate?: TranslateMode
  /** Pages that are donated to a VM are filled with what it would find changed (faults/sessions/canary.ts). */
  readonly canaries?: boolean
  /** Every access of the guest is asked for, and every access to the hardware waited for. */
  readonly faithful?: boolean
  /**
   * What becomes of a running machine whose state cannot be taken over. `refuse` (default): QEMU ends with the reason.
   * `reset`: its traps are aborted until somebody resets it. `leave`: it is left to another server.
   */
  readonly onRefusal?: 'refuse' | 'reset' | 'leave'
  /** Rules that are armed from the start. */
  readonly faults?: FaultPlan
  /** The machine waits for a lost server: a thread that a fault ends is replaced. */
  readonly revive?: boolean
  /** How long code that may loop is waited for, ms; default 10,000. */
  readonly patienceMs?: number
}

/** From the trap thread. */
export type ThreadEvent =
  | { readonly event: 'loaded' }
  | {
      readonly event: 'connected'
      readonly machine: Hello
      /** The machine ran already: what had to be put right. */
      readonly resumed: boolean
      readonly repairs: readonly string[]
    }
  /** A connection's first trap was answered; ms since the epoch. */
  | { readonly event: 'first-trap'; readonly at: number }
  /** A running machine was not taken over (`onRefusal` leave). */
  | { readonly event: 'refused'; readonly message: string }
  /** A running machine could not be taken over, and waits for its reset. */
  | { readonly event: 'lost'; readonly message: string }
  | { readonly event: 'reset'; readonly cause: number }
  | { readonly event: 'shutdown'; readonly cause: number; readonly sections: Readonly<Record<string, unknown>> }
  | {
      readonly event: 'disconnected'
      readonly message: string
      readonly expected: boolean
      /** The policy threw. */
      readonly fault: boolean
    }
  | { readonly event: 'panic'; readonly text: string; readonly sections: Readonly<Record<string, unknown>> }
  | { readonly event: 'held'; readonly held: HeldTrap }
  | { readonly event: 'released'; readonly seq: number; readonly action: string }
  /** A fault was injected. */
  | { readonly event: 'fired'; readonly firing: Firing }
  /** A fault ends the thread. What is left is what people gave it: of the machine it takes nothing along. */
  | { readonly event: 'killed'; readonly left: Handover }
  | {
      readonly event: 'result'
      readonly id: number
      readonly value?: unknown
      readonly error?: string
      readonly failure?: OperationFailure
    }

/** To the trap thread; taken between traps. */
export interface ThreadCommand {
  readonly id: number
  readonly operation: string
  readonly args: readonly unknown[]
}

/**
 * What short-lived objects of the trap thread may fill before they are collected, MiB, of which V8 keeps three: a collection
 * holds up the trap at hand by 0.3 ms. V8 would begin with a few MiB, and stay there; the flag is for threads yet to come.
 */
const SEMI_SPACE_MIB = 32
setFlagsFromString(`--min-semi-space-size=${SEMI_SPACE_MIB}`)

/** A policy that never returns must not hold up the end of a run. */
const DRAIN_MS = 5_000
/** How long code may take that may loop: new code to be loaded and tried, old code to answer. */
const PATIENCE_MS = 10_000
/** QEMU looks for its server many times a second. */
const TAKE_OVER_MS = 5_000

/** What a replacement of the trap thread's code came to. */
export interface Swap {
  /** When the new code answered its first trap, ms since the epoch; null: there was none yet. */
  readonly firstTrap: Promise<number>
  /** What the new code had to put right. */
  readonly repairs: readonly string[]
  /** How long nobody could answer traps, ms. */
  readonly gapMs: number
}

interface Events {
  connected: [machine: Hello, resumed: boolean, repairs: readonly string[]]
  firstTrap: [at: number]
  /** A running machine cannot be taken over, and waits for its reset. */
  lost: [message: string]
  reset: [cause: number]
  shutdown: [cause: number, sections: Readonly<Record<string, unknown>>]
  disconnected: [message: string, expected: boolean, fault: boolean]
  panic: [text: string, sections: Readonly<Record<string, unknown>>]
  /** A breakpoint stopped a trap. */
  held: [HeldTrap]
  released: [seq: number, action: string]
  /** A fault was injected. */
  fired: [Firing]
  /** The thread ended without being asked to. */
  died: [message: string]
}

/** Nobody answered in time. */
class Late extends Error {}

/** @throws Late after `ms` */
async function inTime<T>(work: Promise<T>, ms: number, what: string): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Late(`${what} within ${ms / 1000} s: does it loop?`)), ms)
  })
  try {
    return await Promise.race([work, late])
  } finally {
    clearTimeout(timer)
  }
}

/** One worker: asks it, and passes on what it says. */
class Lane {
  readonly #worker: Worker
  readonly #waiting = new Map<number, { resolve: (value: unknown) => void; reject: (error: Error) => void }>()
  #nextId = 1
  /** Where events go. */
  #take: (event: ThreadEvent) => void = () => {}
  /** Called once, unless it was stopped. */
  #died: (message: string) => void = () => {}
  /** What came while nobody took it. */
  #kept: ThreadEvent[] = []
  #stopped = false

  constructor(options: ThreadOptions) {
    this.#worker = new Worker(new URL('./worker.ts', import.meta.url), {
      workerData: options,
      resourceLimits: { maxYoungGenerationSizeMb: 3 * SEMI_SPACE_MIB },
    })
    this.#worker.on('message', (event: ThreadEvent) => {
      if (event.event !== 'result') return this.#take(event)
      const waiting = this.#waiting.get(event.id)
      this.#waiting.delete(event.id)
      if (event.failure !== undefined) waiting?.reject(new OperationError(event.failure, event.error ?? ''))
      else if (event.error !== undefined) waiting?.reject(new Error(event.error))
      else waiting?.resolve(event.value)
    })
    this.#worker.on('error', error => this.#ended(error.message))
    this.#worker.on('exit', code => this.#ended(`exit code ${code}`))
  }

  /** Starts a worker; resolves when its code is loaded. @throws Error when that is not possible. */
  static async load(options: ThreadOptions): Promise<Lane> {
    const lane = new Lane(options)
    try {
      const loaded = new Promise<void>((resolve, reject) => {
        lane.attach(
          () => resolve(),
          message => reject(new Error(message)),
        )
      })
      await inTime(loaded, options.patienceMs ?? PATIENCE_MS, 'the code did not load')
    } catch (error) {
      await lane.stop()
      throw error
    }
    return lane
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

  call(operation: string, args: readonly unknown[]): Promise<unknown> {
    if (this.#stopped) return Promise.reject(new OperationError('state', 'the trap thread has ended'))
    const id = this.#nextId++
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject })
      this.#worker.postMessage({ id, operation, args } satisfies ThreadCommand)
    })
  }

  /** Resolves with the first of these events. @throws Error when the worker ends, or time is up. */
  next<K extends ThreadEvent['event']>(kinds: readonly K[], timeoutMs: number): Promise<ThreadEvent & { event: K }> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`QEMU did not come within ${timeoutMs} ms`)), timeoutMs)
      const died = (message: string) => {
        clearTimeout(timer)
        reject(new Error(message))
      }
      this.attach(event => {
        if (!(kinds as readonly string[]).includes(event.event)) return
        clearTimeout(timer)
        this.attach(later => this.#kept.push(later), died)
        resolve(event as ThreadEvent & { event: K })
      }, died)
    })
  }

  async stop(): Promise<void> {
    this.#reject(new OperationError('state', 'the trap thread has ended'))
    this.#stopped = true
    await this.#worker.terminate()
  }

  #ended(message: string): void {
    this.#reject(new Error(`the trap thread ended: ${message}`))
    if (!this.#stopped) this.#died(message)
    this.#stopped = true
  }

  #reject(error: Error): void {
    for (const { reject } of this.#waiting.values()) reject(error)
    this.#waiting.clear()
  }
}

/** The control thread's handle on the trap thread. */
export class TrapThread extends EventEmitter<Events> {
  readonly #options: ThreadOptions
  #lane: Lane
  #stopping = false
  /** The machine, while it is connected. */
  #machine: Hello | undefined
  #swapping = false
  /** A machine waits for a server. */
  #parked = false
  /** What a thread left that a fault is ending. */
  #left: Handover | undefined

  private constructor(options: ThreadOptions, lane: Lane) {
    super()
    this.#options = options
    this.#lane = lane
    this.#attach(lane)
  }

  /** Starts the thread; resolves when it listens. @throws Error when it cannot: socket in use, no such policy. */
  static async start(options: ThreadOptions): Promise<TrapThread> {
    const lane = await Lane.load(options)
    try {
      const thread = new TrapThread(options, lane)
      await lane.call('serve', [null])
      return thread
    } catch (error) {
      await lane.stop()
      throw error
    }
  }

  /** Runs an operation of the dispatcher on the trap thread, between two traps. */
  call<K extends OperationName>(operation: K, ...args: Parameters<Operations[K]>): Promise<ReturnType<Operations[K]>> {
    if (this.#stopping) return Promise.reject(new OperationError('state', 'the trap thread has ended'))
    return this.#lane.call(operation, args) as Promise<ReturnType<Operations[K]>>
  }

  /**
   * Replaces the thread by one with the source files as they are now, while the machine runs; it needs a QEMU that waits
   * for its server (`reconnect-ms`). Whatever goes wrong, the old code goes on.
   * @throws Error why the new code was not taken.
   */
  swap(): Promise<Swap> {
    return this.#replace('leave')
  }

  /** The same, whatever state the machine is in: a machine that cannot be taken over is reported (`lost`) for a reset. */
  startOver(): Promise<Swap> {
    return this.#replace('reset')
  }

  async #replace(onRefusal: 'leave' | 'reset'): Promise<Swap> {
    if (this.#swapping) throw new Error('the code is being replaced already')
    this.#swapping = true
    try {
      const lane = await Lane.load({ ...this.#options, onRefusal })
      try {
        return await this.#takeOver(lane, onRefusal === 'leave')
      } catch (error) {
        await lane.stop()
        throw error
      }
    } finally {
      this.#swapping = false
    }
  }

  async #takeOver(lane: Lane, careful: boolean): Promise<Swap> {
    const old = this.#lane
    const machine = this.#machine
    if (machine !== undefined && careful && !old.stopped) {
      const checkpoint = await this.#ask(old, 'checkpoint')
      if (checkpoint !== undefined) await this.#try(lane, machine, checkpoint)
    }
    if (this.#stopping) throw new Error('the trap thread has ended')
    const start = performance.now()
    old.attach(
      () => {},
      () => {},
    )
    const left = old.stopped ? undefined : ((await this.#ask(old, 'retire')) as Handover | undefined)
    if (left?.held) this.emit('released', left.held, 'lost')
    let repairs: readonly string[] = []
    let gapMs = 0
    try {
      const waited = machine !== undefined || this.#parked
      const arrival = waited ? lane.next(['connected', 'refused', 'disconnected'], TAKE_OVER_MS) : undefined
      arrival?.catch(() => {})
      await lane.call('serve', [left ?? null])
      const arrived = await arrival
      gapMs = performance.now() - start
      if (arrived !== undefined && arrived.event !== 'connected') throw new Error(arrived.message)
      if (arrived !== undefined) {
        repairs = arrived.repairs
        this.#machine = arrived.machine
      }
    } catch (error) {
      await lane.stop()
      if (!old.stopped) this.#attach(old)
      if (!this.#parked) await old.call('serve', [null])
      throw error
    }
    this.#lane = lane
    this.#parked = false
    const firstTrap = once(this, 'firstTrap').then(([at]) => at as number)
    firstTrap.catch(() => {})
    this.#attach(lane)
    await old.stop()
    return { firstTrap, repairs, gapMs }
  }

  get #patience(): number {
    return this.#options.patienceMs ?? PATIENCE_MS
  }

  async #try(lane: Lane, machine: Hello, checkpoint: unknown): Promise<void> {
    try {
      await inTime(lane.call('try', [machine, checkpoint]), this.#patience, 'it was not tried')
    } catch (error) {
      throw new Error(`the new code cannot take over the running machine: ${(error as Error).message}`)
    }
  }

  /** An old thread that does not answer is ended, as if it had been killed: QEMU has its checkpoint. */
  async #ask(old: Lane, operation: 'checkpoint' | 'retire'): Promise<unknown> {
    try {
      return await inTime(old.call(operation, []), this.#patience, 'the old code did not answer')
    } catch (error) {
      if (!(error instanceof Late)) throw error
      await old.stop()
      this.#machine = undefined
      this.#parked = true
      return undefined
    }
  }

  /** The machine waits: nothing of the present code goes on. */
  get parked(): boolean {
    return this.#parked
  }

  /** Leaves the machine waiting at its trap until the code is replaced: the present code cannot go on. */
  async park(): Promise<void> {
    this.#parked = true
    await this.#lane.call('retire', [])
  }

  /** Resolves when everything that QEMU sent before it ended has been handled; at once if it never connected. */
  async drained(): Promise<void> {
    if (this.#machine === undefined || this.#stopping) return
    const timeout = AbortSignal.timeout(DRAIN_MS)
    await Promise.race([
      once(this, 'disconnected', { signal: timeout }),
      once(this, 'died', { signal: timeout }),
    ]).catch(() => {})
  }

  async stop(): Promise<void> {
    this.#stopping = true
    await this.#lane.stop()
  }

  #attach(lane: Lane): void {
    lane.attach(
      event => this.#take(event),
      message => {
        const left = this.#left
        this.#left = undefined
        if (left !== undefined && this.#options.revive && !this.#stopping) void this.#revive(message, left)
        else this.#die(message)
      },
    )
  }

  #die(message: string): void {
    if (!this.#stopping) this.emit('died', message)
    this.#stopping = true
  }

  /** As whoever looks after a server would start it again: QEMU holds the trap, and has the checkpoint. */
  async #revive(message: string, left: Handover): Promise<void> {
    this.#machine = undefined
    this.emit('disconnected', `the trap thread ended: ${message}`, false, false)
    try {
      const lane = await Lane.load(this.#options)
      if (this.#stopping) return await lane.stop()
      this.#lane = lane
      this.#attach(lane)
      await lane.call('serve', [left])
    } catch (error) {
      this.#die((error as Error).message)
    }
  }

  #take(event: ThreadEvent): void {
    switch (event.event) {
      case 'connected':
        this.#machine = event.machine
        return void this.emit('connected', event.machine, event.resumed, event.repairs)
      case 'first-trap':
        return void this.emit('firstTrap', event.at)
      case 'lost':
        return void this.emit('lost', event.message)
      case 'reset':
        return void this.emit('reset', event.cause)
      case 'shutdown':
        return void this.emit('shutdown', event.cause, event.sections)
      case 'disconnected':
        this.#machine = undefined
        return void this.emit('disconnected', event.message, event.expected, event.fault)
      case 'panic':
        return void this.emit('panic', event.text, event.sections)
      case 'held':
        return void this.emit('held', event.held)
      case 'released':
        return void this.emit('released', event.seq, event.action)
      case 'fired':
        return void this.emit('fired', event.firing)
      case 'killed':
        this.#left = event.left
        return
    }
  }
}
