// SPDX-License-Identifier: Apache-2.0
/** Messages of the wire, made from choices. */
import { type Element, pack } from '../../../protocol/generator/pack.ts'
import { limit, messageList, recordFields } from '../../../protocol/generator/wire.ts'
import type { Field, Message } from '../../../protocol/messages.ts'
import type { Choices } from '../choices.ts'

/** What is put in place of a field's value. */
export type Values = Readonly<Record<string, Element | undefined>>

const TEXTS = ['', 'a', '/dev/shm/x', 'é€😀', '\u{10ffff}', '\x1b[2J', '../..', 'x'.repeat(4096)]

function fieldElements(field: Field, choices: Choices): Element[] {
  const { type } = field
  if (typeof type === 'object') {
    const records = Array.from({ length: choices.below(4) }, () =>
      recordFields(type.list).flatMap(each => fieldElements(each, choices)),
    )
    return [records]
  }
  switch (type) {
    case 'u64':
      return [choices.u32(), choices.u32()]
    case 'str':
      return [choices.pick(TEXTS)]
    case 'bin':
      return [choices.bytes(64)]
    default:
      return [choices.integer(limit(field))]
  }
}

/** Frame of a message with any values, all of them in range. */
export function messageFrame(message: Message, seq: number, choices: Choices, values: Values = {}): Buffer {
  const elements = message.fields.flatMap(field => {
    const value = values[field.name]
    if (value === undefined) return fieldElements(field, choices)
    // Both halves of a u64.
    return field.type === 'u64' ? (value as readonly Element[]) : [value]
  })
  return frameOf(pack([message.id, seq, ...elements], choices.once(4) ? 'longest' : 'shortest'))
}

/** A payload with its length in front. */
export function frameOf(payload: Uint8Array, length = payload.length): Buffer {
  const header = Buffer.alloc(4)
  header.writeUInt32LE(length)
  return Buffer.concat([header, payload])
}

export function messageNamed(name: string): Message {
  const found = messageList.find(([key]) => key === name)
  if (found === undefined) throw new Error(`no message ${name}`)
  return found[1]
}

export const messagesOf = (end: 'qemu' | 'server'): readonly Message[] =>
  messageList.map(([, message]) => message).filter(({ from }) => from === end || from === 'both')
