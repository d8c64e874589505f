// SPDX-License-Identifier: Apache-2.0
/** History of the machines of a server: traps, events, warnings, faults and console, as far back as it is kept. */
import { StringDecoder } from 'node:string_decoder'
import type { Session } from '../control/session.ts'
import { NO_WARNINGS, type WarningTable } from '../policy/warnings.ts'
import { f64At, u32At } from '../trace/layout.ts'
import { request, type TraceRecord } from '../trace/records.ts'
import { Feed } from './feed.ts'
import { historyItem, marks, powerItem } from './historyItems.ts'
import { KernelFunctions } from './kernelFunctions.ts'
import { PastTraps, type Recorded } from './pastTraps.ts'
import type { FiringItem } from './schemas/faults.ts'
import type { PageItem } from './schemas/pages.ts'
import type { ConsoleItem } from './schemas/subscriptions.ts'
import type { EventItem, Timeline, TimelineQuery, WarningItem } from './schemas/trace.ts'
import { timeline } from './timeline.ts'
import { type LogEntry, TrapLog } from './trapLog.ts'
import { Traps } from './traps.ts'
import { Verdicts } from './verdicts.ts'

/** Console chunks kept as scrollback. */
const CONSOLE_CHUNKS = 20_000
const MAX_CHUNK = 4096
const EVENTS = 5_000

/** Where a machine begins in each list, and what its rows need. */
interface MachineStart {
  readonly rows: number
  readonly events: number
  readonly warnings: number
  readonly firings: number
  /** When its ring was made, ms since 1970. */
  readonly epoch: number | undefined
  /** What the ids of its warnings stand for. */
  readonly table: () => WarningTable | undefined
}

export class History {
  readonly log = new TrapLog()
  readonly functions = new KernelFunctions()
  readonly traps = new Traps(
    this.log,
    this.functions,
    row => this.warningsAt(row),
    row => this.#machineOf(row)?.epoch,
  )
  /** Of traps that are no longer in the log. */
  readonly past = new PastTraps((row, pc) => this.functions.name(row, pc))
  readonly verdicts = new Verdicts(this.log)
  /** A guest whose kernel says much, or whose devices fault often, leaves room for what else happens. */
  readonly events = new Feed<EventItem>(EVENTS, ({ kind }) => kind)
  readonly warnings = new Feed<WarningItem>(EVENTS)
  readonly firings = new Feed<FiringItem>(EVENTS)
  readonly pages = new Feed<PageItem>(EVENTS)
  readonly console = new Feed<ConsoleItem>(CONSOLE_CHUNKS)
  /** Of each machine. */
  readonly #machines: MachineStart[] = []
  /** Guest time of the last group, ns. */
  #time = 0

  /** @param grouped called with each finished group of the trap log */
  constructor(grouped: (entry: LogEntry) => void) {
    this.log.onRecord = record => this.#record(record)
    this.log.onGroup = entry => {
      this.verdicts.group(entry)
      this.functions.group(entry)
      this.#group(entry)
      grouped(entry)
    }
  }

  /** Follows a session that was just started. @param image its kernel, where that is known */
  follow(session: Session, image: string | undefined): void {
    this.functions.machine(image, this.log.next)
    this.#time = 0
    const epoch = session.pump && Date.now() - session.pump.now() / 1e6
    this.past.machine(this.log.next, epoch, recordedBy(session))
    this.#machines.push({
      rows: this.log.next,
      events: this.events.next,
      warnings: this.warnings.next,
      firings: this.firings.next,
      epoch,
      table: () => session.thread?.policy?.warnings,
    })
    session.pump?.add(this.log)
    const decoder = new StringDecoder('utf8')
    session.console.on('data', chunk => {
      const text = decoder.write(chunk)
      for (let at = 0; at < text.length; at += MAX_CHUNK) this.console.push({ text: text.slice(at, at + MAX_CHUNK) })
    })
    session.thread?.on('fired', ({ rule, n, trap, time, what }) =>
      this.firings.push({ at: new Date().toISOString(), rule, n, trap, time, what }),
    )
  }

  /** What the ids of warnings stand for in a row of the log; by default in the next one. */
  warningsAt(row = this.log.next): WarningTable {
    return this.#machineOf(row)?.table() ?? NO_WARNINGS
  }

  #machineOf(row: number): MachineStart | undefined {
    return this.#machines.findLast(({ rows }) => rows <= row)
  }

  /** Traps over guest time, of the last machine. */
  timeline(query: TimelineQuery): Timeline {
    const { rows = 1, events = 1, warnings = 1, firings = 1 } = this.#machines.at(-1) ?? {}
    const all = Number.POSITIVE_INFINITY
    const marked = marks(
      this.log,
      this.events.read(events, all, undefined).items,
      this.warnings.read(warnings, all, undefined).items,
      this.firings.read(firings, all, undefined).items,
    )
    return timeline(this.log, rows, marked, query)
  }

  /** Something about the machine that no record of its traps tells. @param text a line, as it came */
  told(kind: 'guest' | 'recording', name: string, text: string): void {
    this.events.push({
      at: new Date().toISOString(),
      time: this.#time,
      kind,
      name,
      text: text.trim().slice(0, 300),
    })
  }

  #group(entry: LogEntry): void {
    const { id, at, layout, words, doubles } = entry
    if (layout.name === 'request') {
      if (words[at + u32At.request.request] !== request.power) return
      const item = powerItem(this.log.root(entry), new Date().toISOString(), this.#time)
      if (item !== undefined) this.events.push(item)
      return
    }
    if (layout.name === 'trap') this.past.trap(id, words[at + u32At.trap.seq] ?? 0)
    this.#time = doubles[(at >> 1) + f64At[layout.name as 'trap' | 'reset' | 'translate'].time] ?? this.#time
    const first = this.#machineOf(id)?.rows === id
    // The first reset is that of the start.
    if (layout.name === 'reset' && !first)
      this.events.push({
        at: new Date().toISOString(),
        time: this.#time,
        kind: 'reset',
        name: 'reset',
        text: 'machine reset',
      })
  }

  #record(record: TraceRecord): void {
    const told = {
      at: new Date().toISOString(),
      time: this.#time,
      row: this.log.next,
      warnings: this.warningsAt(),
    }
    const found = historyItem(record, told)
    if (found?.feed === 'warnings') this.warnings.push(found.item)
    else if (found?.feed === 'events') this.events.push(found.item)
    else if (found?.feed === 'pages') this.pages.push(found.item)
  }
}

/** The recording of a session, once it has one. */
function recordedBy(session: Session): () => Recorded | undefined {
  let open = true
  const ended = () => {
    open = false
  }
  session.ended.then(ended, ended)
  return () => {
    const { recording } = session
    return recording && { path: recording.path, sync: async () => (open ? await recording.sync() : undefined) }
  }
}
