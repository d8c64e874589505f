// SPDX-License-Identifier: Apache-2.0
import { warningById } from '../policy/warnings.ts'
import { opcodeName } from '../smmu/commands.ts'
import { eventName } from '../smmu/events.ts'
import { registerName } from '../smmu/registers.ts'
import { describeSmmu, type SmmuCount } from './counters.ts'
import type { TraceHeader } from './format.ts'
import { count, HISTOGRAM_WORDS, type Percentiles, percentiles } from './histogram.ts'
import type { Output } from './output.ts'
import type { TraceReader } from './reader.ts'
import { type TraceRecord, verdict } from './records.ts'
import { pcOf, type Symbols } from './symbols.ts'
import { warningsOf } from './warnings.ts'
import { counted, grouped, micros, tenths } from './words.ts'

/** Numbers of a recording; times in ns. */
export interface Stats {
  readonly records: number
  readonly traps: number
  readonly aborted: number
  /** Reads that QEMU answered by itself, as predicted; they are among the traps. */
  readonly predicted: number
  /** Between the first and the last decision, server's clock. */
  readonly span: number
  /** The server's time for a trap. */
  readonly server: Percentiles
  /** Round trip of a trap as QEMU measured it. */
  readonly latency: Percentiles
  readonly hardware: { readonly reads: number; readonly writes: number } & Percentiles
  readonly memory: { readonly reads: number; readonly writes: number; readonly bytes: number }
  /** Of each SMMU. */
  readonly smmus: readonly SmmuCount[]
  readonly registers: Readonly<Record<string, number>>
  readonly commands: Readonly<Record<string, number>>
  readonly warnings: Readonly<Record<string, number>>
  readonly events: Readonly<Record<string, number>>
  readonly functions: Readonly<Record<string, number>>
  readonly kinds: Readonly<Record<string, number>>
  /** Records that the recording misses. */
  readonly lost: number
}

const VERDICTS = Object.keys(verdict) as (keyof typeof verdict)[]

class Tally {
  readonly #counts = new Map<string, number>()

  add(name: string): void {
    this.#counts.set(name, (this.#counts.get(name) ?? 0) + 1)
  }

  /** Most frequent first. */
  get(): Record<string, number> {
    return Object.fromEntries([...this.#counts].sort((a, b) => b[1] - a[1]))
  }
}

export function stats(
  records: Iterable<TraceRecord>,
  header: Pick<TraceHeader, 'warnings' | 'machine'>,
  symbols?: Symbols,
): Stats {
  const table = warningsOf(header)
  const smmus = header.machine.smmus.map((_, smmu) => ({
    ...{ smmu, reads: 0, writes: 0, predicted: 0 },
    commands: { kept: 0, rewritten: 0, dropped: 0, own: 0 },
  }))
  const registers = new Tally()
  const commands = new Tally()
  const warnings = new Tally()
  const events = new Tally()
  const functions = new Tally()
  const kinds = new Tally()
  const server = new Uint32Array(HISTOGRAM_WORDS)
  const latency = new Uint32Array(HISTOGRAM_WORDS)
  const hardware = new Uint32Array(HISTOGRAM_WORDS)
  const n = {
    records: 0,
    traps: 0,
    predicted: 0,
    aborted: 0,
    hwReads: 0,
    hwWrites: 0,
    reads: 0,
    writes: 0,
    bytes: 0,
    lost: 0,
  }
  let first = Number.POSITIVE_INFINITY
  let last = 0
  for (const record of records) {
    n.records++
    kinds.add(record.kind)
    if ('start' in record) {
      first = Math.min(first, record.start)
      last = Math.max(last, record.start)
    }
    switch (record.kind) {
      case 'trap': {
        const of = smmus[record.smmu]
        n.traps++
        n.aborted += record.aborted
        registers.add(`${record.write ? 'W' : 'R'} ${registerName(record.offset)}`)
        if (of !== undefined) of[record.write ? 'writes' : 'reads']++
        if (record.duration > 0) count(server, 0, record.duration)
        else {
          n.predicted++
          if (of !== undefined) of.predicted++
        }
        if (record.lastTrapNs > 0) count(latency, 0, record.lastTrapNs)
        if (symbols) functions.add(symbols.find(pcOf(record))?.name ?? '?')
        break
      }
      case 'hardware':
        if (record.write) n.hwWrites++
        else n.hwReads++
        count(hardware, 0, record.duration)
        break
      case 'memory':
        if (record.done > 0) break
        if (record.write) n.writes++
        else n.reads++
        n.bytes += record.length
        break
      case 'command': {
        const result = VERDICTS[record.verdict]
        const of = smmus[record.smmu]
        if (of !== undefined && result !== undefined) of.commands[result]++
        const what = record.verdict === verdict.kept ? '' : ` (${result ?? record.verdict})`
        commands.add(`${opcodeName(record.opcode)}${what}`)
        break
      }
      case 'warning':
        warnings.add(warningById(table, record.id)?.code ?? `number ${record.id}`)
        break
      case 'event':
        events.add(eventName(record.bytes[0] ?? 0))
        break
      case 'lost':
        n.lost += record.count
        break
    }
  }
  return {
    records: n.records,
    traps: n.traps,
    aborted: n.aborted,
    predicted: n.predicted,
    span: Math.max(0, last - first),
    server: percentiles(server),
    latency: percentiles(latency),
    hardware: { reads: n.hwReads, writes: n.hwWrites, ...percentiles(hardware) },
    memory: { reads: n.reads, writes: n.writes, bytes: n.bytes },
    smmus,
    registers: registers.get(),
    commands: commands.get(),
    warnings: warnings.get(),
    events: events.get(),
    functions: functions.get(),
    kinds: kinds.get(),
    lost: n.lost,
  }
}

export function printStats(s: Stats, reader: TraceReader, out: Output): void {
  const us = ({ p50, p90, p99, max }: Percentiles) =>
    `p50 ${micros(p50 / 1000)}, p90 ${tenths(p90 / 1000)}, p99 ${tenths(p99 / 1000)}, max ${tenths(max / 1000)}`
  out.line(
    `${counted(s.traps, 'access', 'accesses')} in ${(s.span / 1e9).toFixed(2)} s${s.predicted > 0 ? `, of which ${grouped(s.predicted)} answered by QEMU` : ''}${s.aborted > 0 ? `, ${grouped(s.aborted)} aborted` : ''}`,
  )
  if (s.smmus.length > 1) for (const smmu of s.smmus) out.line(`  ${describeSmmu(smmu)}`)
  out.line(`  as QEMU saw them   ${us(s.latency)}`)
  out.line(`  in the server      ${us(s.server)}`)
  out.line(
    `  hardware accesses  ${counted(s.hardware.reads, 'read')}, ${counted(s.hardware.writes, 'write')}: ${us(s.hardware)}`,
  )
  out.line(
    `  memory accesses    ${counted(s.memory.reads, 'read')}, ${counted(s.memory.writes, 'write')}, ${counted(s.memory.bytes, 'byte')}`,
  )
  const perTrap = s.traps > 0 ? `, ${grouped(Math.round(reader.size / s.traps))} per access` : ''
  out.line(`  file               ${counted(s.records, 'record')}, ${counted(reader.size, 'byte')}${perTrap}`)
  if (s.lost > 0) out.line(`  LOST               ${counted(s.lost, 'record')}`)
  const sections = { registers: s.registers, commands: s.commands, warnings: s.warnings, events: s.events }
  for (const [name, counts] of Object.entries({ ...sections, functions: s.functions })) {
    const entries = Object.entries(counts)
    if (entries.length === 0) continue
    out.line(name)
    for (const [what, many] of entries) out.line(`  ${grouped(many).padStart(9)}  ${what}`)
  }
}
