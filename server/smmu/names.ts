// SPDX-License-Identifier: Apache-2.0
/** Names of commands, events and registers, and back to their numbers. */
import { opcodeName } from './commands.ts'
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

/** Names as people write them: with or without prefix, in any case. */
const plain = (name: string): string => name.toUpperCase().replace(/^(CMD_|CMDQ_OP_)/, '')

export const commandNumber = (name: string): number | undefined =>
  commands.get(plain(name)) ?? { CMD_SYNC: 0x46, CFGI_ALL: 0x04 }[name.toUpperCase()]
export const eventNumber = (name: string): number | undefined => events.get(name.toUpperCase())
export const registerOffset = (name: string): number | undefined =>
  /^0x[0-9a-f]{1,5}$/i.test(name)
    ? Number(name)
    : REGISTERS.find(register => register.name === name.toUpperCase())?.offset
