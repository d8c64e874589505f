// SPDX-License-Identifier: Apache-2.0
import { EventEmitter, once } from 'node:events'
import { Worker } from 'node:worker_threads'
import type { Hello } from '../../protocol/generated/messages.ts'
import {
  type HeldTrap,
  OperationError,
  type OperationFailure,
  type OperationName,
  type Operations,
} from './operations.ts'

/** What the trap thread is started with. */
export interface ThreadOptions {
  /** Path of a Unix socket, or `host:port`. */
  readonly listen: string
  /** `passthrough`, `pkvm`, or the path of a TypeScript file with a policy. */
  readonly policy: string
  /** Options of the policy, e.g. `{ until: 'cmdq' }`. */
  readonly policyOptions: Readonly<Record<string, unknown>>
  /** The file of guest RAM that this process created; a memory that QEMU says is elsewhere is reached over the wire. */
  readonly ramFile: string
  /** Shared memory: the trace ring (trace/ring.ts) and the counters (trace/counters.ts). */
  readonly ring: SharedArrayBuffer
  readonly counters: SharedArrayBuffer
  readonly panicOnWarn: boolean
}

/** From the trap thread. */
export type ThreadEvent =
  | { readonly event: 'listening' }
  | { readonly event: 'failed'; readonly message: string }
  | { readonly event: 'connected'; readonly machine: Hello }
  | { readonly event: 'reset'; readonly cause: number }
  | { readonly event: 'shutdown'; readonly cause: number; readonly sections: Readonly<Record<string, unknown>> }
  | { readonly event: 'disconnected'; readonly message: string; readonly expected: boolean }
  | { readonly event: 'panic'; readonly text: string; readonly sections: Readonly<Record<string, unknown>> }
  | { readonly event: 'held'; readonly held: HeldTrap }
  | { readonly event: 'released'; readonly seq: number; readonly action: string }
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

/** A policy that never returns must not hold up the end of a run. */
const DRAIN_MS = 5_000

interface Events {
  connected: [Hello]
  reset: [cause: number]
  shutdown: [cause: number, sections: Readonly<Record<string, unknown>>]
  disconnected: [message: string, expected: boolean]
  panic: [text: string, sections: Readonly<Record<string, unknown>>]
  /** A breakpoint stopped a trap. */
  held: [HeldTrap]
  released: [seq: number, action: string]
  /** The thread ended without being asked to. */
  died: [message: string]
}

/** The control thread's handle on the trap thread. */
export class TrapThread extends EventEmitter<Events> {
  readonly #worker: Worker
  readonly #waiting = new Map<number, { resolve: (value: unknown) => void; reject: (error: Error) => void }>()
  #nextId = 1
  #stopping = false
  #connected = false

  private constructor(options: ThreadOptions) {
    super()
    this.#worker = new Worker(new URL('./worker.ts', import.meta.url), { workerData: options })
  }

  /** Starts the thread; resolves when it listens. @throws Error when it cannot: socket in use, no such policy. */
  static start(options: ThreadOptions): Promise<TrapThread> {
    const thread = new TrapThread(options)
    return new Promise((resolve, reject) => {
      const failed = (error: Error) => {
        thread.stop()
        reject(error)
      }
      thread.#worker.once('error', failed)
      thread.#worker.on('message', (event: ThreadEvent) => {
        if (event.event === 'failed') failed(new Error(event.message))
        else if (event.event === 'listening') {
          thread.#worker.off('error', failed)
          thread.#worker.on('error', error => thread.#died(error.message))
          thread.#worker.on('exit', code => thread.#died(`exit code ${code}`))
          resolve(thread)
        } else thread.#take(event)
      })
    })
  }

  /** Runs an operation of the dispatcher on the trap thread, between two traps. */
  call<K extends OperationName>(operation: K, ...args: Parameters<Operations[K]>): Promise<ReturnType<Operations[K]>> {
    if (this.#stopping) return Promise.reject(new OperationError('state', 'the trap thread has ended'))
    const id = this.#nextId++
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve: resolve as (value: unknown) => void, reject })
      this.#worker.postMessage({ id, operation, args } satisfies ThreadCommand)
    })
  }

  /** Resolves when everything that QEMU sent before it ended has been handled; at once if it never connected. */
  async drained(): Promise<void> {
    if (!this.#connected || this.#stopping) return
    const timeout = AbortSignal.timeout(DRAIN_MS)
    await Promise.race([
      once(this, 'disconnected', { signal: timeout }),
      once(this, 'died', { signal: timeout }),
    ]).catch(() => {})
  }

  async stop(): Promise<void> {
    this.#stopping = true
    for (const { reject } of this.#waiting.values()) reject(new OperationError('state', 'the trap thread has ended'))
    this.#waiting.clear()
    await this.#worker.terminate()
  }

  #take(event: ThreadEvent): void {
    switch (event.event) {
      case 'connected':
        this.#connected = true
        return void this.emit('connected', event.machine)
      case 'reset':
        return void this.emit('reset', event.cause)
      case 'shutdown':
        return void this.emit('shutdown', event.cause, event.sections)
      case 'disconnected':
        this.#connected = false
        return void this.emit('disconnected', event.message, event.expected)
      case 'panic':
        return void this.emit('panic', event.text, event.sections)
      case 'held':
        return void this.emit('held', event.held)
      case 'released':
        return void this.emit('released', event.seq, event.action)
      case 'result': {
        const waiting = this.#waiting.get(event.id)
        this.#waiting.delete(event.id)
        if (event.failure !== undefined) waiting?.reject(new OperationError(event.failure, event.error ?? ''))
        else if (event.error !== undefined) waiting?.reject(new Error(event.error))
        else waiting?.resolve(event.value)
      }
    }
  }

  #died(message: string): void {
    for (const { reject } of this.#waiting.values()) reject(new Error(`the trap thread ended: ${message}`))
    this.#waiting.clear()
    if (!this.#stopping) this.emit('died', message)
    this.#stopping = true
  }
}
