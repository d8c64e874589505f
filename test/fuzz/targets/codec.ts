// SPDX-License-Identifier: Apache-2.0
import { isDeepStrictEqual } from 'node:util'
import { ProtocolError } from '../../../protocol/errors.ts'
import { FrameReader, FrameWriter, MAX_ON_WIRE } from '../../../protocol/framing.ts'
import { Decoder, encode, type Message } from '../../../protocol/generated/messages.ts'
import type { Choices } from '../choices.ts'
import { Finding, type Target } from '../target.ts'
import { messageFrame, messagesOf } from './messages.ts'

/** The buffer of a FrameReader may be twice as large as what it holds. */
const MAX_BUFFER = 2 * MAX_ON_WIRE

/** Frames of either end, whole and damaged, in pieces: a message or a ProtocolError, and messages survive the way back. */
const codec: Target = {
  name: 'codec',
  summary: 'frames of both ends against framing and decoder',
  run(choices) {
    const from = choices.pick(['qemu', 'server'] as const)
    const to = from === 'qemu' ? 'server' : 'qemu'
    const decoder = new Decoder(to)
    const reader = new FrameReader()
    const outcomes: string[] = []
    for (let frames = 1 + choices.below(4); frames > 0; frames--) {
      const message = choices.pick(messagesOf(from))
      const frame = messageFrame(message, 1 + choices.integer(0xffff_fffe), choices)
      const bytes = choices.once(2) ? choices.mutate(frame) : frame
      try {
        for (const chunk of chunks(bytes, choices)) {
          reader.push(chunk)
          while (reader.next()) {
            const decoded = decoder.decode(reader.buffer, reader.start, reader.end) as Message
            sameAfterwards(decoded, to)
            outcomes.push(`message ${decoded.type}`)
          }
        }
      } catch (error) {
        if (!(error instanceof ProtocolError)) throw error
        return [...outcomes, `error ${error.code} of ${message.id}`].join(', ')
      }
      if (reader.buffer.length > MAX_BUFFER) throw new Finding(`the reader grew to ${reader.buffer.length} bytes`)
    }
    return [...outcomes, reader.pending > 0 ? 'more is to come' : 'all'].join(', ')
  },
}

function* chunks(bytes: Buffer, choices: Choices): Generator<Buffer> {
  for (let at = 0; at < bytes.length; ) {
    const length = choices.once(3) ? 1 + choices.below(16) : bytes.length
    yield bytes.subarray(at, at + length)
    at += length
  }
}

function sameAfterwards(message: Message, to: 'qemu' | 'server'): void {
  const before = structuredClone(message)
  const out = new FrameWriter()
  encode(out, message)
  const reader = new FrameReader()
  reader.push(out.buffer, out.length)
  if (!reader.next()) throw new Finding(`message ${message.type} is cut when it is encoded again`)
  const after: unknown = new Decoder(to).decode(reader.buffer, reader.start, reader.end)
  if (!isDeepStrictEqual(before, structuredClone(after))) {
    throw new Finding(`message ${message.type} is another one when it is encoded again`)
  }
}

export default codec
