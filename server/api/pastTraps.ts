// SPDX-License-Identifier: Apache-2.0
/**
 * Traps that have left the log in memory, from the recordings of this server's machines, as far as these have them. Reading is another
 * thread's, one request at a time, and each looks at a bounded number of rows.
 */
import { Worker } from 'node:worker_threads'
import { Problem } from './problem.ts'
import type { Anchor, Found, Wanted, Window } from './recordedRows.ts'
import type { TrapDetail, TrapFilter, TrapRow } from './schemas/trace.ts'
import { hasText } from './trapRows.ts'
import { SCAN } from './traps.ts'

/** Rows from one anchor to the next, at least. */
const ANCHOR_ROWS = 256
/** An answer takes no longer, ms. */
const MOST_MS = 10_000
/** Requests that wait; more are refused. */
const MOST_WAITING = 16
/** Without a request for so long, the thread ends, ms. */
const IDLE_MS = 30_000
const LIMITS = { maxOldGenerationSizeMb: 256 }

/** A machine whose traps are recorded. */
export interface Recorded {
  readonly path: string
  /** Resolves when all that was recorded so far is in the file. */
  readonly sync: () => Promise<void>
}

interface Machine {
  /** Row of its first group. */
  readonly first: number
  readonly epoch: number | undefined
  readonly recorded: () => Recorded | undefined
  /** Ascending. */
  readonly anchors: Anchor[]
}

export class PastTraps {
  readonly #name: (row: number, pc: bigint) => string | undefined
  readonly #machines: Machine[] = []
  /** The next trap from this row on becomes an anchor. */
  #nextAnchor = 0
  #worker: Worker | undefined
  #idle: NodeJS.Timeout | undefined
  #waiting = 0
  #turn: Promise<unknown> = Promise.resolve()

  /** @param name the kernel function of a PC in a row */
  constructor(name: (row: number, pc: bigint) => string | undefined) {
    this.#name = name
  }

  /** A machine starts. @param recorded asked for when it is needed; undefined: nothing is recorded */
  machine(first: number, epoch: number | undefined, recorded: () => Recorded | undefined): void {
    this.#machines.push({ first, epoch, recorded, anchors: [{ id: first, seq: 0 }] })
    this.#nextAnchor = first
  }

  /** A trap has got its row. */
  trap(id: number, seq: number): void {
    if (id < this.#nextAnchor) return
    this.#nextAnchor = id + ANCHOR_ROWS
    this.#machines.at(-1)?.anchors.push({ id, seq })
  }

  /** undefined: there is no such row, or it was not recorded. @throws Problem */
  async detail(id: number): Promise<TrapDetail | undefined> {
    const { window } = this.#partOf(id)
    if (window === undefined) return undefined
    const { rows, detail } = await this.#ask(window, { what: 'detail', id })
    const [row] = rows
    if (row === undefined || detail === undefined) return undefined
    const { previous, following } = detail
    return {
      ...detail,
      row: this.#named(row),
      ...(previous && { previous: this.#named(previous) }),
      ...(following && { following: this.#named(following) }),
    }
  }

  /** Of the newest machine that had a trap with this number. @throws Problem */
  async numbered(seq: number): Promise<TrapRow | undefined> {
    for (const machine of [...this.#machines].reverse()) {
      const at = machine.anchors.findLastIndex(anchor => anchor.seq <= seq)
      const window = this.#window(machine, at)
      if (window === undefined) continue
      const { rows } = await this.#ask(window, { what: 'numbered', seq })
      if (rows[0] !== undefined) return this.#named(rows[0])
    }
    return undefined
  }

  /**
   * The last rows before `before` that match, oldest first.
   * @returns from: the oldest row that was looked at; missing: how many of these rows are not in the recording
   */
  async last(
    max: number,
    filter: TrapFilter,
    before: number,
  ): Promise<{ items: TrapRow[]; from: number; missing: number }> {
    let items: TrapRow[] = []
    let missing = 0
    const first = Math.max(1, before - SCAN)
    let from = before
    while (items.length < max && from > first) {
      const { window, start } = this.#partOf(from - 1)
      const until = Math.max(start, first)
      const found = window && (await this.#rows(window, until, from, filter))
      if (found === undefined) missing += from - until
      else items = [...found, ...items]
      from = until
    }
    const more = items.length > max ? items.slice(-max) : items
    return { items: more, from: items.length > max ? (more[0]?.id ?? from) : from, missing }
  }

  /** The first rows from `from` on, up to `until`, that match. @returns next: the row to go on with; missing: as of `last` */
  async read(
    from: number,
    until: number,
    max: number,
    filter: TrapFilter,
  ): Promise<{ items: TrapRow[]; next: number; missing: number }> {
    const items: TrapRow[] = []
    let missing = 0
    const last = Math.min(until, from + SCAN)
    let next = from
    while (items.length < max && next < last) {
      const { window, end } = this.#partOf(next)
      const until = Math.min(end, last)
      const found = window && (await this.#rows(window, next, until, filter))
      if (found === undefined) missing += until - next
      const room = max - items.length
      items.push(...(found ?? []).slice(0, room))
      next = found !== undefined && found.length > room ? (items.at(-1)?.id ?? next) + 1 : until
    }
    return { items, next, missing }
  }

  /** undefined: the recording has not got them. */
  async #rows(window: Window, first: number, last: number, filter: TrapFilter): Promise<TrapRow[] | undefined> {
    const { text, ...rest } = filter
    try {
      const { rows } = await this.#ask(window, { what: 'rows', first, last, filter: rest })
      return rows.map(row => this.#named(row)).filter(row => hasText(row, text))
    } catch (error) {
      if (error instanceof Problem && error.status === 404) return undefined
      throw error
    }
  }

  #named(row: TrapRow): TrapRow {
    const where = row.pc === undefined ? undefined : this.#name(row.id, BigInt(row.pc))
    return where === undefined ? row : { ...row, where }
  }

  /** Where a row is: between which rows, and in which window; undefined: it was not recorded. */
  #partOf(id: number): { readonly window: Window | undefined; readonly start: number; readonly end: number } {
    const at = this.#machines.findLastIndex(({ first }) => first <= id)
    const machine = this.#machines[at]
    const behind = this.#machines[at + 1]?.first ?? Number.POSITIVE_INFINITY
    if (machine === undefined) return { window: undefined, start: 0, end: behind }
    const window = this.#window(
      machine,
      machine.anchors.findLastIndex(anchor => anchor.id <= id),
    )
    if (window === undefined) return { window, start: machine.first, end: behind }
    return { window, start: window.from.id, end: window.to?.id ?? behind }
  }

  /** @param at index of the anchor that it begins with */
  #window(machine: Machine, at: number): Window | undefined {
    const { anchors, epoch } = machine
    const from = anchors[at]
    const recorded = machine.recorded()
    if (recorded === undefined || from === undefined) return undefined
    return { path: recorded.path, from, to: anchors[at + 1] ?? null, epoch }
  }

  /** One after the other. @throws Problem: 404 when the recording has not got the window, 409 when there is no answer */
  #ask(window: Window, wanted: Wanted): Promise<Found> {
    if (this.#waiting >= MOST_WAITING) throw new Problem(409, 'the recording is being read for others')
    this.#waiting++
    const answer = this.#turn.then(() => this.#askNow(window, wanted)).finally(() => this.#waiting--)
    this.#turn = answer.catch(() => {})
    return answer
  }

  async #askNow(window: Window, wanted: Wanted): Promise<Found> {
    await this.#machines
      .map(({ recorded }) => recorded())
      .find(recorded => recorded?.path === window.path)
      ?.sync()
    clearTimeout(this.#idle)
    const worker = this.#started()
    const answer = await new Promise<Found | { readonly error: string }>((resolve, reject) => {
      const end = (act: () => void) => {
        clearTimeout(timer)
        worker.off('message', told).off('error', failed).off('exit', gone)
        act()
      }
      const broken = (message: string) => {
        this.#stop()
        end(() => reject(new Problem(409, message)))
      }
      const timer = setTimeout(() => broken(`not read within ${MOST_MS / 1000} s`), MOST_MS)
      const told = (found: Found | { readonly error: string }) => end(() => resolve(found))
      const failed = (error: Error) => broken(`the recording cannot be read: ${error.message}`)
      const gone = () => broken('the recording cannot be read')
      worker.once('message', told).once('error', failed).once('exit', gone)
      worker.postMessage({ window, wanted })
    })
    this.#idle = setTimeout(() => this.#stop(), IDLE_MS).unref()
    if ('error' in answer)
      throw new Problem(404, `not in memory any more, and not read from the recording: ${answer.error}`)
    return answer
  }

  #started(): Worker {
    if (this.#worker === undefined) {
      this.#worker = new Worker(new URL('./recordedWorker.ts', import.meta.url), { resourceLimits: LIMITS })
      this.#worker.unref()
      // One that ends without a request is started again at the next.
      this.#worker.on('error', () => this.#stop())
    }
    return this.#worker
  }

  #stop(): void {
    void this.#worker?.terminate()
    this.#worker = undefined
  }

  /** The server ends. */
  close(): void {
    clearTimeout(this.#idle)
    this.#stop()
  }
}
