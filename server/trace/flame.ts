// SPDX-License-Identifier: Apache-2.0
import { registerName } from '../smmu/registers.ts'
import { groups, isGroup } from './groups.ts'
import type { TraceRecord } from './records.ts'
import { pcOf, returnAddresses, type Symbols } from './symbols.ts'

/**
 * Folded stacks (`frame;frame;frame weight`), as flamegraph.pl, speedscope and inferno read them: those who called where that was
 * recorded, kernel function, register access, and the hardware accesses that it caused.
 * @param weight number of traps, or their time in the server in ns.
 */
export function flame(records: Iterable<TraceRecord>, symbols: Symbols, weight: 'traps' | 'time'): Map<string, number> {
  const stacks = new Map<string, number>()
  const add = (stack: string, value: number) => {
    if (value > 0) stacks.set(stack, (stacks.get(stack) ?? 0) + value)
  }
  for (const item of groups(records)) {
    if (!isGroup(item) || item.root.kind !== 'trap') continue
    const { root, children } = item
    const name = symbols.find(pcOf(root))?.name ?? '(unknown)'
    const stack = `${[...callers(children, symbols), name].join(';')};${root.write ? 'W' : 'R'} ${registerName(root.offset)}`
    if (weight === 'traps') {
      add(stack, 1)
      continue
    }
    let own = root.duration
    for (const child of children) {
      if (child.kind !== 'hardware') continue
      own -= child.duration
      add(`${stack};hardware ${child.write ? 'W' : 'R'} ${registerName(child.offset)}`, child.duration)
    }
    add(stack, own)
  }
  return stacks
}

/** The outermost first. */
function callers(children: readonly TraceRecord[], symbols: Symbols): string[] {
  const stack = children.find(child => child.kind === 'stack')
  if (stack === undefined) return []
  // A call is the instruction before the address that it returns to.
  return returnAddresses(stack.bytes)
    .map(address => symbols.find(address - 4n)?.name ?? '(unknown)')
    .reverse()
}
