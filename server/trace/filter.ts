// SPDX-License-Identifier: Apache-2.0
import { concernsStream, touches } from './describe.ts'
import { type Group, type Item, isGroup } from './groups.ts'
import type { Wanted } from './reader.ts'
import type { KindName } from './records.ts'
import { pcOf, type Symbols } from './symbols.ts'
import { inRange, type Range } from './vocabulary.ts'

/** What is to be shown. What is absent allows everything; all that is there must hold. */
export interface Filter {
  /** Offsets of registers that a trap is for. */
  readonly registers?: ReadonlySet<number>
  /** Opcodes of commands of the host. */
  readonly commands?: ReadonlySet<number>
  readonly sid?: number
  readonly address?: Range
  /** ns of the server's clock. */
  readonly time?: Range
  /** Sequence numbers of traps. */
  readonly seq?: Range
  readonly cpu?: number
  readonly smmu?: number
  /** Name of the kernel function that made the trap, or a part of it. */
  readonly function?: string
  readonly warnings?: boolean
  readonly aborted?: boolean
  /** Kinds of records and roots. */
  readonly kinds?: ReadonlySet<KindName>
}

/** Blocks that can hold something of it. */
export function blocksFor({ seq, time }: Filter): Wanted | undefined {
  if (seq === undefined && time === undefined) return undefined
  return block => {
    // What belongs to a trap may be at the end of the block before.
    if (seq !== undefined && block.lastSeq !== 0 && (block.lastSeq < seq.from - 1 || block.firstSeq >= seq.to))
      return false
    return time === undefined || block.lastStart === 0 || (block.lastStart >= time.from && block.firstStart < time.to)
  }
}

/** Filters that look into traps; with any of them, records that stand for themselves are not shown. */
function aboutTraps(filter: Filter): boolean {
  const { registers, commands, sid, address, seq, cpu, smmu, warnings, aborted } = filter
  const some = [registers, commands, sid, address, seq, cpu, smmu, filter.function]
  return some.some(value => value !== undefined) || warnings === true || aborted === true
}

export function matches(item: Item, filter: Filter, symbols?: Symbols): boolean {
  if (isGroup(item)) return groupMatches(item, filter, symbols)
  const { kinds, time } = filter
  if (kinds !== undefined ? !kinds.has(item.kind) : aboutTraps(filter)) return false
  return time === undefined || !('start' in item) || inRange(item.start, time)
}

function groupMatches(group: Group, filter: Filter, symbols: Symbols | undefined): boolean {
  const { root, children } = group
  const { kinds, time, warnings, commands, sid, address, smmu } = filter
  if (kinds !== undefined && !kinds.has(root.kind) && !children.some(({ kind }) => kinds.has(kind))) return false
  if (time !== undefined && !inRange(root.start, time)) return false
  if (smmu !== undefined && (!('smmu' in root) || root.smmu !== smmu)) return false
  if (!trapMatches(group, filter, symbols)) return false
  if (warnings && !children.some(({ kind }) => kind === 'warning')) return false
  if (commands !== undefined && !children.some(c => c.kind === 'command' && commands.has(c.opcode))) return false
  if (sid !== undefined && !concernsStream(group, sid)) return false
  return address === undefined || touches(group, address.from, address.to)
}

function trapMatches({ root }: Group, filter: Filter, symbols: Symbols | undefined): boolean {
  const { registers, seq, cpu, aborted } = filter
  const name = filter.function
  if (root.kind !== 'trap') return !(registers || seq || cpu !== undefined || name !== undefined || aborted)
  if (registers !== undefined && !registers.has(root.offset)) return false
  if (seq !== undefined && !inRange(root.seq, seq)) return false
  if (cpu !== undefined && root.cpu !== cpu) return false
  if (aborted && root.aborted === 0) return false
  return name === undefined || (symbols?.find(pcOf(root))?.name.includes(name) ?? false)
}
