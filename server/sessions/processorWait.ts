// SPDX-License-Identifier: Apache-2.0
/** How long threads were ready to run and no processor was free: what a busy host, and not a fault, does to a workload. */
import { readdirSync, readFileSync } from 'node:fs'

/** Of a thread, ns: on a processor, and waiting for one. */
interface Times {
  readonly ran: number
  readonly waited: number
}

/** Unit of the times in /proc/stat, whatever the kernel's own clock is. */
const TICK_MS = 10

/** From now on. */
export class ProcessorWait {
  readonly #pids: readonly number[]
  readonly #threads: ReadonlyMap<string, Times>
  readonly #busyMs: number
  readonly #proc: string

  /** @param proc where the kernel tells */
  constructor(pids: readonly number[], proc = '/proc') {
    this.#pids = pids
    this.#proc = proc
    this.#threads = new Map(pids.flatMap(pid => threads(proc, pid)))
    this.#busyMs = busyMs(proc)
  }

  /**
   * Of each process the thread that waited longest, as those that wait at the same time do not delay twice; no more than processors were busy with
   * other processes, as threads that only keep each other waiting do so on an idle host, too. Threads that have ended are not counted. 0 where the
   * kernel does not say, ms.
   */
  ms(): number {
    let waited = 0
    let ran = 0
    for (const pid of this.#pids) {
      let longest = 0
      for (const [thread, now] of threads(this.#proc, pid)) {
        const before = this.#threads.get(thread)
        ran += now.ran - (before?.ran ?? 0)
        longest = Math.max(longest, now.waited - (before?.waited ?? 0))
      }
      waited += longest
    }
    const others = busyMs(this.#proc) - this.#busyMs - ran / 1e6
    return Math.max(Math.min(waited / 1e6, others), 0)
  }
}

/** Threads of a process that runs, by their ids. */
function threads(proc: string, pid: number): [string, Times][] {
  try {
    const tasks = `${proc}/${pid}/task`
    return readdirSync(tasks).map(thread => [thread, timesOf(`${tasks}/${thread}/schedstat`)])
  } catch {
    return []
  }
}

/** Nothing of a thread that has ended. The file has three numbers: time on a processor, time of waiting for one, and time slices. */
function timesOf(file: string): Times {
  try {
    const [ran = 0, waited = 0] = readFileSync(file, 'latin1').split(' ').map(Number)
    return { ran, waited }
  } catch {
    return { ran: 0, waited: 0 }
  }
}

/** How long all processors together have been busy since the kernel started, ms. */
function busyMs(proc: string): number {
  try {
    const [first = ''] = readFileSync(`${proc}/stat`, 'latin1').split('\n', 1)
    const [, user = 0, nice = 0, system = 0, , , irq = 0, softirq = 0, steal = 0] = first.split(/ +/).map(Number)
    return (user + nice + system + irq + softirq + steal) * TICK_MS
  } catch {
    return 0
  }
}
