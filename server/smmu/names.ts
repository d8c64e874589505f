// SPDX-License-Identifier: Apache-2.0
/** Names of commands, events and registers, and back to their numbers. */
import { CMDQ_OP_CFGI_ALL, CMDQ_OP_PREFETCH_CFG, opcodeName } from './commands.ts'
import { eventName } from './events.ts'
import { REGISTERS } from './registers.ts'

const numbered = (name: (id: number) => string, unknown: RegExp): Map<string, number> => {
  const map = new Map<string, number>()
  for (let id = 0; id < 256; id++) if (!unknown.test(name(id))) map.set(name(id), id)
  return map
}

const commands = numbered(opcodeName, /^opcode /)
const events = numbered(eventName, /^(event |IMPDEF)/)

export const COMMAND_NAMES = [...commands.keys()]
export const EVENT_NAMES = [...events.keys()]
export const REGISTER_NAMES = REGISTERS.map(({ name }) => name)

/** What Linux calls otherwise, or the specification calls by two names. */
const ALIASES: ReadonlyMap<string, number> = new Map([
  ['CFGI_ALL', CMDQ_OP_CFGI_ALL],
  ['PREFETCH_CFG', CMDQ_OP_PREFETCH_CFG],
])

// Names as people write them: in any case, with the prefix of Linux or of the specification or without.

/** Opcode: `CMDQ_OP_CFGI_STE`, `CMD_SYNC` and `CFGI_STE` are all understood. */
export function commandNumber(name: string): number | undefined {
  const bare = name.toUpperCase().replace(/^(CMDQ_OP_)?(CMD_)?/, '')
  return commands.get(bare) ?? ALIASES.get(bare)
}

export const eventNumber = (name: string): number | undefined => events.get(name.toUpperCase().replace(/^EVT_ID_/, ''))

/** Offset of a register by name, or as hexadecimal. */
export function registerOffset(name: string): number | undefined {
  if (/^0x[0-9a-f]{1,5}$/i.test(name)) return Number(name)
  const bare = name.toUpperCase().replace(/^(ARM_)?SMMU_/, '')
  return REGISTERS.find(register => register.name === bare)?.offset
}

/** The nearest of some names, if it is near: as many typing mistakes as a third of its letters, and one letter is no name. */
export function nearest(name: string, names: readonly string[]): string | undefined {
  const wanted = name.toUpperCase().slice(0, 80)
  let best: string | undefined
  let distance = Math.floor(wanted.length / 3) + 1
  for (const candidate of names) {
    const d = edits(wanted, candidate.toUpperCase(), distance)
    if (d < distance) {
      distance = d
      best = candidate
    }
  }
  return best
}

/** Letters left out, put in, replaced, or next to each other and exchanged; or anything from `limit` on. */
function edits(a: string, b: string, limit: number): number {
  if (Math.abs(a.length - b.length) >= limit) return limit
  let before: number[] = []
  let row = Array.from({ length: b.length + 1 }, (_, i) => i)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++) {
      const cost = a[i - 1] === b[j - 1] ? 0 : 1
      let least = Math.min((row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1, (row[j - 1] ?? 0) + cost)
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1])
        least = Math.min(least, (before[j - 2] ?? 0) + 1)
      next.push(least)
    }
    before = row
    row = next
  }
  return row[b.length] ?? limit
}
