// SPDX-License-Identifier: Apache-2.0
/** Everything that is counted, as the API shows it. */
import { type WarningTable, warningById } from '../policy/warnings.ts'
import { eventName } from '../smmu/events.ts'
import type { Counters } from '../trace/counters.ts'
import type { CountersView } from './schemas/lifecycle.ts'

/** @param missing records that the full ring lost, and that the disk refused @param table warnings by id */
export function countersView(
  counters: Counters | undefined,
  missing: Pick<CountersView, 'lost' | 'refused'>,
  table: WarningTable,
): CountersView {
  const us = (ns: number) => Math.round(ns / 10) / 100
  const quantiles = (p: { p50: number; p90: number; p99: number; max: number } | undefined) =>
    p ? { p50: us(p.p50), p90: us(p.p90), p99: us(p.p99), max: us(p.max) } : { p50: 0, p90: 0, p99: 0, max: 0 }
  const get = (name: Parameters<Counters['get']>[0]) => counters?.get(name) ?? 0
  return {
    traps: get('reads') + get('writes'),
    reads: get('reads'),
    writes: get('writes'),
    predicted: get('predicted'),
    aborted: get('aborted'),
    hardwareReads: get('hardwareReads'),
    hardwareWrites: get('hardwareWrites'),
    gerrors: get('gerrors'),
    guardFaults: get('guardFaults'),
    resets: get('resets'),
    breakpoints: get('breakpoints'),
    power: { off: get('poweredOff'), on: get('poweredOn'), refused: get('powerRefused') },
    ...missing,
    latencyUs: quantiles(counters?.latency()),
    serverUs: quantiles(counters?.server()),
    smmus: counters?.smmus() ?? [],
    registers: (counters?.registers() ?? []).map(({ register, offset, reads, writes }) => ({
      register,
      offset,
      reads,
      writes,
    })),
    commands: (counters?.commands() ?? []).map(({ opcode, command, kept, rewritten, dropped, own }) => ({
      opcode,
      command,
      kept,
      rewritten,
      dropped,
      own,
    })),
    warnings: (counters?.warnings() ?? []).map(({ id, count }) => ({
      code: warningById(table, id)?.code ?? String(id),
      expected: warningById(table, id)?.expected ?? false,
      count,
    })),
    events: (counters?.events() ?? []).map(({ id, count }) => ({ name: eventName(id), count })),
    histogram: counters?.serverBuckets() ?? [],
  }
}
