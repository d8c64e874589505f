// SPDX-License-Identifier: Apache-2.0
/** Where the time of a trap of a running Linux goes, from a recording. */
import { TraceReader } from '../../server/trace/reader.ts'
import type { TraceRecord } from '../../server/trace/records.ts'
import type { Budget } from './figure.ts'
import { median } from './stats.ts'

/** A trap that QEMU had to wait for; ns. */
export interface TimedTrap {
  /** When the server had it decoded, since the trace began. */
  readonly start: number
  readonly seq: number
  readonly write: number
  readonly offset: number
  /** Since the trap before it. */
  readonly gap: number
  /** Round trip as QEMU measured it. */
  readonly total: number
  /** From QEMU's trap until the server has it decoded, above the fastest of the recording. */
  readonly way: number
  /** The server's own, with the sending of the reply. */
  readonly own: number
}

/**
 * Traps of a recording. QEMU's clock of the guest and the server's run alike while the machine is not paused; what lies
 * between them is taken from the trap that arrived fastest.
 */
export function timedTraps(records: Iterable<TraceRecord>): TimedTrap[] {
  const traps: TimedTrap[] = []
  let last: (Omit<TimedTrap, 'total'> & { readonly time: number }) | undefined
  let fastest = Number.POSITIVE_INFINITY
  for (const record of records) {
    if (record.kind !== 'trap' || record.duration === 0) continue
    const { seq, write, offset, time, start, duration, lastTrapNs } = record
    if (last !== undefined && lastTrapNs > 0) {
      const { time: _, ...trap } = last
      traps.push({ ...trap, total: lastTrapNs })
    }
    const way = start - time
    fastest = Math.min(fastest, way)
    const gap = last === undefined ? 0 : time - last.time
    last = { start, seq, write, offset, time, way, own: duration, gap }
  }
  return traps.map(trap => ({ ...trap, way: trap.way - fastest }))
}

/** ns: traps that follow one another, and such before which everybody had gone to sleep. */
const SOON = 50e3
const LONG = 500e3

/** @param traps of the recordings of all runs. */
export function linuxBudget(traps: readonly Pick<TimedTrap, 'gap' | 'total' | 'way' | 'own'>[]): Budget {
  const µs = (of: typeof traps, value: (trap: (typeof traps)[number]) => number) => median(of.map(value)) / 1000
  const rows = (what: string, of: typeof traps): Budget['rows'] =>
    of.length === 0
      ? []
      : [
          {
            part: `${what}, ${((100 * of.length) / traps.length).toFixed(0)} % of the traps`,
            value: µs(of, t => t.total),
          },
          { part: 'way to the server, above the fastest: wake-up, event loop', of: true, value: µs(of, t => t.way) },
          { part: 'server: hypervisor, trace, reply with its wake-up', of: true, value: µs(of, t => t.own) },
          {
            part: 'rest: QEMU’s messages, notice of the answer',
            of: true,
            value: µs(of, t => t.total - t.way - t.own),
          },
        ]
  return {
    bench: 'server',
    what: 'where the time of a trap goes while Linux boots and reads, medians',
    unit: 'µs',
    rows: [
      ...rows('any trap', traps),
      ...rows(
        'less than 50 µs after another',
        traps.filter(({ gap }) => gap < SOON),
      ),
      ...rows(
        'more than 500 µs after another',
        traps.filter(({ gap }) => gap > LONG),
      ),
    ],
  }
}

/** Of the file of one run. */
export const recordedTraps = (path: string): TimedTrap[] => timedTraps(TraceReader.open(path).records())
