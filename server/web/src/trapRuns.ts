// SPDX-License-Identifier: Apache-2.0
/** Invalidations as Linux issues them by the thousand, as one line. */
import type { TrapRow } from '../../api/schemas/trace.ts'

/** Fewer rows stand for themselves. */
const SHORTEST = 4
/** A trap that took longer is worth a look, µs. */
const SLOW = 1_000

/** A line of the list. */
export type Line =
  | { readonly kind: 'row'; readonly row: TrapRow; readonly before: TrapRow | undefined; readonly inRun: boolean }
  | {
      readonly kind: 'run'
      readonly rows: readonly TrapRow[]
      readonly before: TrapRow | undefined
      readonly open: boolean
    }

/** Traps between two rows of an unfiltered stream, that are in the log but were not sent. */
export function trapsBetween(before: TrapRow | undefined, { seq }: TrapRow): number {
  return before?.seq === undefined || seq === undefined ? 0 : Math.max(0, seq - before.seq - 1)
}

/** TLBI and SYNC that the hypervisor passed on, and the host looking how far they are. */
function routine({ kind, register, write, aborted, warnings, us, commands }: TrapRow): boolean {
  if (kind !== 'trap' || aborted || warnings.length > 0 || us > SLOW) return false
  if (register === 'CMDQ_CONS') return write === false
  return (
    register === 'CMDQ_PROD' &&
    commands.length > 0 &&
    commands.every(({ command, verdict }) => verdict === 'kept' && /^(TLBI_|SYNC$)/.test(command))
  )
}

/**
 * Rows, with runs of routine ones drawn together; none across traps that were not sent.
 * @param isOpen whether the run's rows are shown below its line
 */
export function linesOf(rows: readonly TrapRow[], isOpen: (run: readonly TrapRow[]) => boolean): Line[] {
  const lines: Line[] = []
  const row = (i: number, inRun: boolean) => {
    const item = rows[i]
    if (item !== undefined) lines.push({ kind: 'row', row: item, before: rows[i - 1], inRun })
  }
  for (let i = 0; i < rows.length; ) {
    let end = i
    for (let next = rows[end]; next !== undefined && routine(next); next = rows[end]) {
      if (end > i && trapsBetween(rows[end - 1], next) > 0) break
      end++
    }
    if (end - i < SHORTEST) {
      end = Math.max(end, i + 1)
      for (; i < end; i++) row(i, false)
      continue
    }
    const run = rows.slice(i, end)
    const open = isOpen(run)
    lines.push({ kind: 'run', rows: run, before: rows[i - 1], open })
    if (open) for (let k = i; k < end; k++) row(k, true)
    i = end
  }
  return lines
}

/** What a run did: how often each command, and how many reads of CMDQ_CONS. */
export function runText(rows: readonly TrapRow[]): readonly (readonly [name: string, count: number])[] {
  const counts = new Map<string, number>()
  const add = (name: string, n: number) => counts.set(name, (counts.get(name) ?? 0) + n)
  for (const { commands } of rows) {
    if (commands.length === 0) add('CONS read', 1)
    for (const { command, count } of commands) add(command, count)
  }
  return [...counts]
}
