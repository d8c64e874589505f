// SPDX-License-Identifier: Apache-2.0
/** What a record adds to the history of a machine, live or recorded. */
import { PAGE_OPERATION_NAMES } from '../policy/report.ts'
import { resultName } from '../policy/result.ts'
import { formatWarningValues, type WarningTable, warningById } from '../policy/warnings.ts'
import { hex } from '../smmu/bits.ts'
import { decodeEvent, describeEvent, eventName } from '../smmu/events.ts'
import { POWER_STATES } from '../smmu/hardware.ts'
import { describeRecord } from '../trace/describe.ts'
import { request, type TraceRecord } from '../trace/records.ts'
import { words } from './hex.ts'
import type { PageItem } from './schemas/pages.ts'
import type { EventItem, Timeline, WarningItem } from './schemas/trace.ts'
import type { TrapLog } from './trapLog.ts'

/** Of the moment of a record. */
export interface Told {
  /** The server's clock, ISO 8601. */
  readonly at: string
  /** The guest's clock at the decision before, ns. */
  readonly time: number
  /** Id of the row that a warning belongs to. */
  readonly row: number
  readonly warnings: WarningTable
}

export type HistoryItem =
  | { readonly feed: 'warnings'; readonly item: Omit<WarningItem, 'id'> }
  | { readonly feed: 'events'; readonly item: Omit<EventItem, 'id'> }
  | { readonly feed: 'pages'; readonly item: Omit<PageItem, 'id'> }

export function historyItem(record: TraceRecord, { at, time, row, warnings }: Told): HistoryItem | undefined {
  /** Of a record that may have a time of its own, ns. */
  const when = 'time' in record && record.time > 0 ? record.time : time
  switch (record.kind) {
    case 'warning': {
      const warning = warningById(warnings, record.id)
      if (warning === undefined) return undefined
      const { code, section, meaning, expected } = warning
      const values = formatWarningValues(warning, [record.v0, record.v1, record.v2, record.v3])
      return { feed: 'warnings', item: { at, time, code, section, meaning, expected, values, row } }
    }
    case 'event': {
      const event = decodeEvent(words(eventBytes(record.bytes)))
      const { smmu } = record
      const [name, text, sid] = [eventName(event.id), describeEvent(event), event.streamId]
      return { feed: 'events', item: { at, time: when, kind: 'event', name, text, smmu, sid } }
    }
    case 'pages': {
      const { base, size, owner: vm } = record
      const operation = PAGE_OPERATION_NAMES[record.operation]
      if (operation === undefined) return undefined
      const result = resultName(record.result)
      return { feed: 'pages', item: { at, time, operation, base: hex(base), size, vm, result } }
    }
    case 'gerror':
    case 'guardFault':
    case 'lost':
    case 'fault':
    case 'machine': {
      const { kind } = record
      return { feed: 'events', item: { at, time: when, kind, name: kind, text: describeRecord(record, warnings) } }
    }
    default:
      return undefined
  }
}

/** That an SMMU was switched, or was not; undefined: the decision is another one. @param time of the guest's clock, ns */
export function powerItem(root: TraceRecord, at: string, time: number): Omit<EventItem, 'id'> | undefined {
  if (root.kind !== 'request' || root.request !== request.power) return undefined
  const { v0: smmu, v1, result } = root
  const text = `SMMU ${smmu} ${POWER_STATES[v1] ?? v1}: ${resultName(result)}`
  return { at, time, kind: 'power', name: 'power', text, smmu }
}

/** An event record has 32 bytes; of a recording it may be cut short. */
function eventBytes(bytes: Uint8Array): Uint8Array {
  const whole = new Uint8Array(32)
  whole.set(bytes.subarray(0, 32))
  return whole
}

/** What a time line marks. */
export function marks(
  log: TrapLog,
  events: readonly EventItem[],
  warnings: readonly WarningItem[],
  firings: readonly { readonly time: number; readonly rule: string; readonly what: string }[],
): Timeline['marks'] {
  return [
    ...events.flatMap(({ time, kind, text }) => {
      const mark =
        kind === 'reset' ? 'reset' : kind === 'machine' || kind === 'lost' || kind === 'fault' ? undefined : 'event'
      return time === undefined || mark === undefined ? [] : [{ time, kind: mark, text } as const]
    }),
    ...warnings.map(({ code, values, row, time = 0 }) => {
      const entry = log.entry(row)
      const root = entry && log.root(entry)
      const own = root !== undefined && 'time' in root ? root.time : time
      return { time: own, kind: 'warning', text: `${code} ${values}`, row } as const
    }),
    ...firings.map(({ time, rule, what }) => ({ time, kind: 'fault', text: `${rule}: ${what}` }) as const),
  ]
}
