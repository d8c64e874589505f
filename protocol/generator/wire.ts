// SPDX-License-Identifier: Apache-2.0
/** What the definitions of messages.ts mean on the wire, and the names made from theirs; shared by all generators. */
import type { Field, Message, RecordName } from '../messages.ts'
import { enums, MAX_BYTES, MAX_STRING, messages, records } from '../messages.ts'

/** Messages by name, in order of their ids. */
export const messageList: readonly (readonly [string, Message])[] = Object.entries(messages)

export const recordList: readonly (readonly [string, readonly Field[]])[] = Object.entries(records)

export const enumList: readonly (readonly [string, readonly (readonly [string, number, string])[]])[] = Object.entries(
  enums,
).map(([name, values]) => [
  name,
  Object.entries(values).map(([key, [value, doc]]: [string, readonly [number, string]]) => [key, value, doc]),
])

export const recordFields = (name: RecordName): readonly Field[] => records[name]

/** Elements of a message's array: its id and sequence number, then its fields. */
export const messageArity = (message: Message): number => 2 + arity(message.fields)

/** Elements that these fields take. */
export const arity = (fields: readonly Field[]): number =>
  fields.reduce((count, { type }) => count + (type === 'u64' ? 2 : 1), 0)

const typeLimits = { u8: 0xff, u16: 0xffff, u32: 0xffffffff, u53: Number.MAX_SAFE_INTEGER, u64: 0xffffffff }

/** Largest value of an integer (of each half for a u64), most bytes of a str or bin. */
export function limit({ type, max }: Field): number {
  if (typeof type === 'object') throw new Error('a list has no limit of its own')
  if (max !== undefined) return max
  if (type === 'str') return MAX_STRING
  return type === 'bin' ? MAX_BYTES : typeLimits[type]
}

/** `lastTrapNs` → `LastTrapNs`. */
export const pascal = (name: string): string => name.charAt(0).toUpperCase() + name.slice(1)

/** `lastTrapNs` → `last_trap_ns`. */
export const snake = (name: string): string => name.replace(/[A-Z]/g, letter => `_${letter.toLowerCase()}`)

/** Words of `text` in lines of at most `width` columns. */
export function wrap(text: string, width: number): string[] {
  const lines: string[] = []
  let line = ''
  for (const word of text.split(' ')) {
    if (line !== '' && line.length + 1 + word.length > width) {
      lines.push(line)
      line = word
    } else {
      line = line === '' ? word : `${line} ${word}`
    }
  }
  return [...lines, line]
}
