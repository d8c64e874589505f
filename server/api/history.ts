// SPDX-License-Identifier: Apache-2.0
/** History of the machines of a server: traps, events, warnings, faults and console, as far back as it is kept. */
import { StringDecoder } from 'node:string_decoder'
import type { Session } from '../control/session.ts'
import { PAGE_OPERATION_NAMES } from '../policy/report.ts'
import { resultName } from '../policy/result.ts'
import { formatWarningValues, NO_WARNINGS, type WarningTable, warningById } from '../policy/warnings.ts'
import { hex } from '../smmu/bits.ts'
import { decodeEvent, describeEvent, eventName } from '../smmu/events.ts'
import { describeRecord } from '../trace/describe.ts'
import type { TraceRecord } from '../trace/records.ts'
import { Feed } from './feed.ts'
import { words } from './hex.ts'
import { KernelFunctions } from './kernelFunctions.ts'
import type { FiringItem } from './schemas/faults.ts'
import type { PageItem } from './schemas/pages.ts'
import type { ConsoleItem } from './schemas/subscriptions.ts'
import type { EventItem, WarningItem } from './schemas/trace.ts'
import { type LogEntry, TrapLog } from './trapLog.ts'
import { Traps } from './traps.ts'
import { Verdicts } from './verdicts.ts'

/** Console chunks kept as scrollback. */
const CONSOLE_CHUNKS = 20_000
const MAX_CHUNK = 4096
const EVENTS = 5_000

export class History {
  readonly log = new TrapLog()
  readonly functions = new KernelFunctions()
  readonly traps = new Traps(this.log, this.functions, row => this.warningsAt(row))
  readonly verdicts = new Verdicts(this.log)
  readonly events = new Feed<EventItem>(EVENTS)
  readonly warnings = new Feed<WarningItem>(EVENTS)
  readonly firings = new Feed<FiringItem>(EVENTS)
  readonly pages = new Feed<PageItem>(EVENTS)
  readonly console = new Feed<ConsoleItem>(CONSOLE_CHUNKS)
  /** First row of each machine, and what the ids of its warnings stand for. */
  readonly #tables: { readonly from: number; readonly table: () => WarningTable | undefined }[] = []

  /** @param grouped called with each finished group of the trap log */
  constructor(grouped: (entry: LogEntry) => void) {
    this.log.onRecord = record => this.#record(record)
    this.log.onGroup = entry => {
      this.verdicts.group(entry)
      this.functions.group(entry)
      grouped(entry)
    }
  }

  /** Follows a session that was just started. @param image its kernel, where that is known */
  follow(session: Session, image: string | undefined): void {
    this.functions.machine(image, this.log.next)
    this.#tables.push({ from: this.log.next, table: () => session.thread?.policy?.warnings })
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
    return this.#tables.findLast(({ from }) => from <= row)?.table() ?? NO_WARNINGS
  }

  #record(record: TraceRecord): void {
    const at = new Date().toISOString()
    switch (record.kind) {
      case 'warning': {
        const warning = warningById(this.warningsAt(), record.id)
        if (warning === undefined) return
        const { code, section, meaning, expected } = warning
        const values = formatWarningValues(warning, [record.v0, record.v1, record.v2, record.v3])
        this.warnings.push({ at, code, section, meaning, expected, values, row: this.log.next })
        return
      }
      case 'event': {
        const event = decodeEvent(words(record.bytes))
        const text = describeEvent(event)
        this.events.push({ at, kind: 'event', name: eventName(event.id), text, smmu: record.smmu, sid: event.streamId })
        return
      }
      case 'pages': {
        const { base, size, owner: vm } = record
        const operation = PAGE_OPERATION_NAMES[record.operation]
        if (operation !== undefined)
          this.pages.push({ at, operation, base: hex(base), size, vm, result: resultName(record.result) })
        return
      }
      case 'gerror':
      case 'guardFault':
      case 'lost':
      case 'fault':
      case 'machine':
        this.events.push({ at, kind: record.kind, name: record.kind, text: describeRecord(record, this.warningsAt()) })
        return
      default:
        return
    }
  }
}
