// SPDX-License-Identifier: Apache-2.0
import { Unpackr } from 'msgpackr'
import { describe, expect, test } from 'vitest'
import { ProtocolError } from '../../../protocol/errors.ts'
import { FrameReader } from '../../../protocol/framing.ts'
import { Decoder, type Message } from '../../../protocol/generated/messages.ts'
import { enums, messages } from '../../../protocol/messages.ts'
import { exampleFrames, frameOf, toVector, toWire, type Values, vectors } from './support.ts'

type End = 'server' | 'qemu'

/** What the end makes of a frame. */
function receive(end: End, frame: Buffer): Message {
  const reader = new FrameReader()
  reader.push(frame)
  if (!reader.next()) throw new Error('the frame is not whole')
  return new Decoder<End>(end).decode(reader.buffer, reader.start, reader.end)
}

const fieldsOf = (name: string) => messages[name as keyof typeof messages].fields

describe('valid vectors', () => {
  test.each(vectors.valid)('$name', ({ message, from, frame, shortest = frame, seq, fields }) => {
    const bytes = Buffer.from(frame, 'hex')
    const ends: End[] = from === 'both' ? ['server', 'qemu'] : [from === 'qemu' ? 'server' : 'qemu']
    for (const end of ends) {
      const decoded = receive(end, bytes)
      expect(decoded.type).toBe(messages[message as keyof typeof messages].id)
      expect(decoded.seq).toBe(seq)
      expect(toVector(fieldsOf(message), decoded as Message & Values)).toEqual(fields)
      expect(frameOf(decoded).toString('hex')).toBe(shortest)

      const reference = new Unpackr({ int64AsType: 'number' }).unpack(bytes.subarray(4))
      const { type, ...values } = decoded as Message & Values
      expect(JSON.stringify(reference)).toBe(JSON.stringify([type, seq, ...buffers(toWire(fieldsOf(message), values))]))
    }
  })
})

/** msgpackr gives bytes as Buffers. */
const buffers = (elements: unknown[]): unknown[] =>
  elements.map(element => (element instanceof Uint8Array ? Buffer.from(element) : element))

describe('invalid vectors', () => {
  test.each(vectors.invalid)('$name', ({ to, frame, error }) => {
    const refused = expect(() => receive(to, Buffer.from(frame, 'hex')))
    refused.toThrow(ProtocolError)
    refused.toThrow(expect.objectContaining({ code: enums.error[error][0] }))
  })
})

test.each(exampleFrames())('example of the specification: $message of $from', ({ from, message, frame }) => {
  const decoded = receive(from === 'server' ? 'qemu' : 'server', Buffer.from(frame, 'hex'))
  expect(decoded.type).toBe(messages[message as keyof typeof messages].id)
  expect(frameOf(decoded).toString('hex')).toBe(frame)
})

test('the specification has examples of both ends', () => {
  expect(new Set(exampleFrames().map(({ from }) => from))).toEqual(new Set(['qemu', 'server']))
})
