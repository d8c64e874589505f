// SPDX-License-Identifier: Apache-2.0
import type { WarningTable } from '../policy/warnings.ts'
import { describeChildren, describeRecord, describeRoot } from './describe.ts'
import { blocksFor, type Filter, matches } from './filter.ts'
import type { TraceHeader } from './format.ts'
import { type Group, groups, type Item, isGroup } from './groups.ts'
import type { Output } from './output.ts'
import type { TraceReader } from './reader.ts'
import type { Symbols } from './symbols.ts'
import { warningsOf } from './warnings.ts'

export interface ShowOptions {
  readonly filter: Filter
  /** Hardware, memory and guard accesses of each trap, too. */
  readonly nested: boolean
  /** Only the so many decisions that took longest, slowest first. */
  readonly slowest?: number
  /** At most so many items. */
  readonly limit?: number
  readonly symbols?: Symbols | undefined
}

/** What was recorded, in a line. */
export function title(header: TraceHeader): string {
  const { policy, policyOptions, kernel, machine, created } = header
  const options = Object.entries(policyOptions)
    .filter(([name]) => name !== 'quirks')
    .map(([name, value]) => ` ${name}=${value}`)
  const { quirks = [] } = policyOptions
  const defects = Array.isArray(quirks) && quirks.length > 0 ? ` WITH QUIRKS ${quirks.join(', ')}` : ''
  const system = `${machine.vcpus} vCPU${machine.vcpus === 1 ? '' : 's'}, QEMU ${machine.qemu}`
  return `${created}  policy ${policy}${defects}${options.join('')}, ${kernel ? `kernel ${kernel}, ` : ''}${system}`
}

/** Prints what the filter lets through. @returns how many items. */
export async function show(reader: TraceReader, options: ShowOptions, out: Output): Promise<number> {
  const { filter, symbols, slowest, limit = Number.POSITIVE_INFINITY } = options
  const warnings = warningsOf(reader.header)
  out.line(`# ${title(reader.header)}`)
  const items = groups(reader.records(blocksFor(filter)))
  const shown = slowest === undefined ? through(items, filter, symbols) : slowestOf(items, filter, symbols, slowest)
  let count = 0
  for (const item of shown) {
    if (count === limit) break
    print(item, options, warnings, out)
    count++
    if (!out.full) continue
    await out.flush()
    if (out.closed) break
  }
  return count
}

function* through(items: Iterable<Item>, filter: Filter, symbols: Symbols | undefined): Generator<Item> {
  for (const item of items) if (matches(item, filter, symbols)) yield item
}

function slowestOf(items: Iterable<Item>, filter: Filter, symbols: Symbols | undefined, count: number): Group[] {
  const found: Group[] = []
  const slower = (a: Group, b: Group) => b.root.duration - a.root.duration
  for (const item of through(items, filter, symbols)) {
    if (!isGroup(item)) continue
    found.push(item)
    if (found.length >= 2 * count + 100) found.sort(slower).splice(count)
  }
  return found.sort(slower).slice(0, count)
}

function print(item: Item, { nested, symbols }: ShowOptions, warnings: WarningTable, out: Output): void {
  if (!isGroup(item)) {
    out.line(`${seconds('start' in item ? item.start : undefined)} ${' '.repeat(8)}${describeRecord(item, warnings)}`)
    return
  }
  out.line(`${seconds(item.root.start)} ${describeRoot(item.root, symbols)}${item.whole ? '' : '  (incomplete)'}`)
  for (const line of describeChildren(item, nested, warnings, symbols)) out.line(`${' '.repeat(21)}${line}`)
}

/** ns as seconds since the start of the recording. */
function seconds(start: number | undefined): string {
  return (start === undefined ? '' : (start / 1e9).toFixed(6)).padStart(12)
}
