// SPDX-License-Identifier: Apache-2.0
/** A worker's processes: each runs one job at a time, and stays for the next one. */
import { type ChildProcess, fork } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import type { FromProcess, Order, ToProcess } from './jobServer.ts'
import { QUEUE_PASSWORD } from './queue.ts'

/** Until a job that was told to end is killed, ms. */
const KILL_MS = 30_000

/** The longest time that a timer has, ms. */
const LONGEST_MS = 2 ** 31 - 1

/** A process ended in the middle of a job. */
export class ProcessDied extends Error {
  override readonly name = 'ProcessDied'
}

export class Processes {
  readonly #module: string
  readonly #say: (line: string) => void
  readonly #all = new Set<ChildProcess>()
  /** Of each: the code that it was started from. */
  readonly #free: { readonly child: ChildProcess; readonly code: string }[] = []

  /** @param module that calls `serveJobs` */
  constructor(module: URL, say: (line: string) => void) {
    this.#module = fileURLToPath(module)
    this.#say = say
  }

  /**
   * Runs a job.
   * @param code identity of the source tree: a process that has loaded another one is not used any more
   * @param limitS when a process that does not end is killed, s: whatever holds it up, its worker goes on
   * @throws ProcessDied; Error with what the job failed with, or the signal's reason
   */
  async run(order: Order, code: string, limitS: number, signal: AbortSignal): Promise<unknown> {
    signal.throwIfAborted()
    const child = this.#take(code)
    let late = false
    const limit = setTimeout(
      () => {
        late = true
        child.kill('SIGKILL')
      },
      Math.min(1000 * limitS, LONGEST_MS),
    )
    let timer: NodeJS.Timeout | undefined
    const stop = () => {
      tell(child, { type: 'stop' })
      timer = setTimeout(() => child.kill('SIGKILL'), KILL_MS)
    }
    const ended = Promise.withResolvers<unknown>()
    const hear = (message: FromProcess) => {
      if (message.type === 'say') this.#say(message.line)
      else if (message.type === 'done') ended.resolve(message.result)
      else ended.reject(new Error(message.message))
    }
    const exit = (status: number | null, name: NodeJS.Signals | null) =>
      ended.reject(
        new ProcessDied(
          late ? `its process was killed after ${limitS} s` : `its process ended with ${name ?? `exit code ${status}`}`,
        ),
      )
    child.on('message', hear).once('exit', exit).once('error', ended.reject)
    signal.addEventListener('abort', stop, { once: true })
    tell(child, { type: 'run', order })
    try {
      return await ended.promise
    } catch (error) {
      signal.throwIfAborted()
      throw error
    } finally {
      clearTimeout(limit)
      clearTimeout(timer)
      signal.removeEventListener('abort', stop)
      child.off('message', hear).off('exit', exit).off('error', ended.reject)
      if (this.#all.has(child)) this.#free.push({ child, code })
    }
  }

  /** Ends them: each has ended its job. */
  close(): void {
    for (const child of this.#all) child.disconnect()
    this.#free.splice(0)
  }

  #take(code: string): ChildProcess {
    for (let free = this.#free.pop(); free !== undefined; free = this.#free.pop()) {
      if (free.code === code) return free.child
      free.child.disconnect()
    }
    // The queue's password is not theirs to know.
    const { [QUEUE_PASSWORD]: _, ...env } = process.env
    const child = fork(this.#module, [], { env, stdio: ['ignore', 'ignore', 'inherit', 'ipc'] })
    this.#all.add(child)
    child.once('exit', () => {
      this.#all.delete(child)
      const at = this.#free.findIndex(free => free.child === child)
      if (at >= 0) this.#free.splice(at, 1)
    })
    return child
  }
}

/** One that has ended says so by its exit. */
function tell(child: ChildProcess, message: ToProcess): void {
  child.send(message, () => {})
}
