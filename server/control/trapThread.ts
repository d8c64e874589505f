// SPDX-License-Identifier: Apache-2.0
import { EventEmitter, once } from 'node:events'
import { rmSync } from 'node:fs'
import type { Hello } from '../../protocol/generated/messages.ts'
import { OperationError } from '../policy/operationError.ts'
import type { PolicyInfo } from '../policy/policy.ts'
import { forget } from '../trap/listener.ts'
import type { Handover, ThreadEvent, ThreadEvents, ThreadOptions } from '../trap/messages.ts'
import type { Operations } from '../trap/operations.ts'
import type { Arguments, Result } from '../trap/rpc.ts'
import { inTime, Late, PATIENCE_MS, WorkerHandle, within } from './workerHandle.ts'

/** QEMU looks for its server many times a second. */
const TAKE_OVER_MS = 5_000

/** A thread that does not sleep in the kernel ends within this, ms. */
const END_MS = 1_000

/** What a replacement of the trap thread's code came to. */
export interface Swap {
  /** When the new code answered its first trap, ms since the epoch; null: there was none yet. */
  readonly firstTrap: Promise<number>
  /** What the new code had to put right. */
  readonly repairs: readonly string[]
  /** How long nobody could answer traps, ms. */
  readonly gapMs: number
}

/** What concerns only the replacement of the thread is dealt with here. */
interface Events extends Omit<ThreadEvents, 'module' | 'loaded' | 'mapped' | 'killed'> {
  /** The thread ended without being asked to. */
  died: [message: string]
}

/** The control thread's handle on the trap thread. */
export class TrapThread extends EventEmitter<Events> {
  readonly #options: ThreadOptions
  /** Modules of code that was tried since and not taken: what mends it may be in any of them. */
  readonly #tried = new Set<string>()
  #worker: WorkerHandle
  /** All that were started and not ended: while the code is replaced, there are two. */
  readonly #workers = new Set<WorkerHandle>()
  #stopping = false
  /** What decides for the machine that is, or was, connected. */
  policy: PolicyInfo | undefined
  /** The machine, while it is connected. */
  #machine: Hello | undefined
  #swapping = false
  /** A machine waits for a server. */
  #parked = false
  /** What a thread left that a fault is ending. */
  #left: Handover | undefined

  private constructor(options: ThreadOptions) {
    super()
    this.#options = options
    this.#worker = this.#spawn(options)
  }

  /** Starts the thread; resolves when it listens. @throws Error when it cannot: socket in use, no such policy. */
  static async start(options: ThreadOptions): Promise<TrapThread> {
    const thread = new TrapThread(options)
    try {
      await thread.#worker.loaded(thread.#patience)
      thread.#attach(thread.#worker)
      await thread.#worker.call('serve', null)
      return thread
    } catch (error) {
      await thread.stop()
      throw error
    }
  }

  /** @throws OperationError when this thread is being stopped */
  #spawn(options: ThreadOptions): WorkerHandle {
    if (this.#stopping) throw new OperationError('state', 'the trap thread has ended')
    const worker = new WorkerHandle(options)
    this.#workers.add(worker)
    return worker
  }

  async #end(worker: WorkerHandle): Promise<void> {
    await worker.stop()
    this.#workers.delete(worker)
  }

  /** Carries out an operation on the trap thread, between two traps or while one is held. */
  async call<K extends keyof Operations>(
    operation: K,
    ...args: Arguments<Operations, K>
  ): Promise<Result<Operations, K>> {
    if (this.#stopping) throw new OperationError('state', 'the trap thread has ended')
    return this.#worker.call(operation, ...args)
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
      const worker = this.#spawn({ ...this.#options, onRefusal })
      try {
        await worker.loaded(this.#patience)
        return await this.#takeOver(worker, onRefusal === 'leave')
      } catch (error) {
        await this.#end(worker)
        for (const path of worker.modules) this.#tried.add(path)
        throw error
      }
    } finally {
      this.#swapping = false
    }
  }

  async #takeOver(worker: WorkerHandle, careful: boolean): Promise<Swap> {
    const old = this.#worker
    const machine = this.#machine
    if (machine !== undefined && careful && !old.stopped) {
      const checkpoint = await this.#ask(old, () => old.call('checkpoint'))
      if (checkpoint !== undefined) await this.#try(worker, machine, checkpoint)
    }
    if (this.#stopping) throw new Error('the trap thread has ended')
    const start = performance.now()
    old.attach(
      () => {},
      () => {},
    )
    const left = old.stopped ? null : ((await this.#ask(old, () => old.call('retire'))) ?? null)
    if (left?.held) this.emit('released', left.held, 'lost')
    let repairs: readonly string[] = []
    let gapMs = 0
    try {
      const waited = machine !== undefined || this.#parked
      const arrival = waited ? worker.next(['connected', 'refused', 'disconnected']) : undefined
      arrival?.catch(() => {})
      await worker.call('serve', left)
      const arrived = arrival && (await within(arrival, TAKE_OVER_MS, `QEMU did not come within ${TAKE_OVER_MS} ms`))
      gapMs = performance.now() - start
      if (arrived?.event === 'connected') {
        const [machine, , repaired, policy] = arrived.args
        repairs = repaired
        this.#machine = machine
        this.policy = policy
      } else if (arrived !== undefined) throw new Error(arrived.args[0])
    } catch (error) {
      await this.#end(worker)
      if (!old.stopped) this.#attach(old)
      if (!this.#parked) await old.call('serve', null)
      throw error
    }
    this.#worker = worker
    this.#tried.clear()
    this.#parked = false
    const firstTrap = once(this, 'firstTrap').then(([at]) => at as number)
    firstTrap.catch(() => {})
    this.#attach(worker)
    await this.#end(old)
    return { firstTrap, repairs, gapMs }
  }

  /** Files of the modules that the thread has loaded; and of code that was tried since, loaded or not. */
  get modules(): ReadonlySet<string> {
    return new Set([...this.#worker.modules, ...this.#tried])
  }

  get #patience(): number {
    return this.#options.patienceMs ?? PATIENCE_MS
  }

  async #try(worker: WorkerHandle, machine: Hello, checkpoint: Uint8Array): Promise<void> {
    try {
      await inTime(worker.call('try', machine, checkpoint), this.#patience, 'it was not tried')
    } catch (error) {
      throw new Error(`the new code cannot take over the running machine: ${(error as Error).message}`)
    }
  }

  /** An old thread that does not answer is ended, as if it had been killed: QEMU has its checkpoint. */
  async #ask<T>(old: WorkerHandle, question: () => Promise<T>): Promise<T | undefined> {
    try {
      return await inTime(question(), this.#patience, 'the old code did not answer')
    } catch (error) {
      if (!(error instanceof Late)) throw error
      // It may be waiting for a QEMU that stands still: then it goes when that does. Its socket is for the next one.
      await within(this.#end(old), END_MS, '').catch(() => rmSync(this.#options.listen, { force: true }))
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
    await this.#worker.call('retire')
  }

  /** QEMU has ended. Resolves when everything that it sent has been handled and told, or time is up. */
  async drained(ms: number): Promise<void> {
    if (this.#stopping) return
    if (this.#machine === undefined) {
      // It may have been refused a moment ago: what the thread told comes before its answer.
      await inTime(this.#worker.call('held'), ms, 'no answer').catch(() => {})
      return
    }
    const timeout = AbortSignal.timeout(ms)
    await Promise.race([
      once(this, 'disconnected', { signal: timeout }),
      once(this, 'died', { signal: timeout }),
    ]).catch(() => {})
  }

  /** Ends it, whatever it is doing: a policy that loops, a wait for a QEMU that stands still, a replacement of the code. */
  async stop(): Promise<void> {
    this.#stopping = true
    await Promise.all(Array.from(this.#workers, worker => this.#end(worker)))
    await forget(this.#options.listen)
  }

  #attach(worker: WorkerHandle): void {
    worker.attach(
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
      this.#workers.delete(this.#worker)
      const worker = this.#spawn(this.#options)
      await worker.loaded(this.#patience)
      this.#worker = worker
      this.#attach(worker)
      await worker.call('serve', left)
    } catch (error) {
      this.#die((error as Error).message)
    }
  }

  #take(message: ThreadEvent): void {
    const { event } = message
    if (event === 'module' || event === 'loaded' || event === 'mapped') return
    if (event === 'killed') {
      this.#left = message.args[0]
      return
    }
    if (event === 'connected') {
      this.#machine = message.args[0]
      this.policy = message.args[3]
    } else if (event === 'disconnected') this.#machine = undefined
    this.emit(event, ...message.args)
  }
}
