// SPDX-License-Identifier: Apache-2.0
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { ProtocolError } from '../../../protocol/errors.ts'
import { FrameReader } from '../../../protocol/framing.ts'
import { enums, MAX_FRAME } from '../../../protocol/messages.ts'
import { payloads } from './support.ts'

function framed(payload: Uint8Array, length: number = payload.length): Buffer {
  const header = Buffer.alloc(4)
  header.writeUInt32LE(length)
  return Buffer.concat([header, payload])
}

const hexes = (list: readonly Uint8Array[]): string[] => list.map(bytes => Buffer.from(bytes).toString('hex'))

describe('FrameReader', () => {
  const list = ['01', '0203', 'ff'.repeat(300), '00', '0a0b0c'].map(hex => Buffer.from(hex, 'hex'))
  const stream = Buffer.concat(list.map(bytes => framed(bytes)))

  test('finds many frames in one chunk', () => {
    expect(hexes(payloads([stream]))).toEqual(hexes(list))
  })

  test('finds frames split at every byte', () => {
    for (let at = 0; at <= stream.length; at++) {
      expect(hexes(payloads([stream.subarray(0, at), stream.subarray(at)]))).toEqual(hexes(list))
    }
    expect(hexes(payloads(Array.from(stream, byte => Buffer.from([byte]))))).toEqual(hexes(list))
  })

  test('finds frames in any chunks', () => {
    const sizes = fc.array(fc.integer({ min: 1, max: 200_000 }), { minLength: 1, maxLength: 50 })
    const lengths = fc.array(fc.integer({ min: 1, max: 100_000 }), { maxLength: 20 })
    fc.assert(
      fc.property(lengths, sizes, (frameLengths, chunkSizes) => {
        const frames = frameLengths.map((length, index) => Buffer.alloc(length, index + 1))
        const bytes = Buffer.concat(frames.map(frame => framed(frame)))
        const chunks: Buffer[] = []
        for (let at = 0, i = 0; at < bytes.length; i++) {
          const size = chunkSizes[i % chunkSizes.length]
          chunks.push(bytes.subarray(at, at + size))
          at += size
        }
        const found = payloads(chunks)
        expect(found.length).toBe(frames.length)
        for (const [index, frame] of frames.entries()) expect(frame.equals(found[index])).toBe(true)
      }),
      { numRuns: 200 },
    )
  })

  test('takes bytes read straight into its buffer', () => {
    const reader = new FrameReader()
    const found: Buffer[] = []
    const large = Buffer.concat([stream, framed(Buffer.alloc(MAX_FRAME, 9))])
    for (let at = 0; at < large.length; ) {
      const into = reader.prepare()
      expect(into).toBeLessThan(reader.buffer.length)
      const count = large.copy(reader.buffer, into, at)
      reader.commit(count)
      at += count
      while (reader.next()) found.push(Buffer.from(reader.buffer.subarray(reader.start, reader.end)))
    }
    expect(found.length).toBe(list.length + 1)
    expect(found[list.length].equals(Buffer.alloc(MAX_FRAME, 9))).toBe(true)
    expect(reader.buffer.length).toBe(MAX_FRAME + 4)
  })

  test.each([0, MAX_FRAME + 1, 0x7fff_ffff, 0xffff_ffff])('refuses length %i and allocates nothing', length => {
    const reader = new FrameReader()
    const before = reader.buffer
    reader.push(framed(Buffer.alloc(0), length))
    const refused = expect(() => reader.next())
    refused.toThrow(ProtocolError)
    refused.toThrow(expect.objectContaining({ code: enums.error.frame[0] }))
    refused.toThrow(`frame length ${length}, expected 1 to 1048576`)
    expect(reader.buffer).toBe(before)
  })

  test('does not grow with the number of frames', () => {
    const reader = new FrameReader()
    const before = reader.buffer
    for (let i = 0; i < 1_000; i++) {
      reader.push(stream)
      for (const bytes of list) {
        expect(reader.next()).toBe(true)
        expect(reader.end - reader.start).toBe(bytes.length)
      }
      expect(reader.next()).toBe(false)
    }
    expect(reader.buffer).toBe(before)
  })

  test('moves a frame that began near the end of the buffer', () => {
    const reader = new FrameReader()
    const size = reader.buffer.length
    const half = framed(Buffer.alloc(size - 104, 1))
    const next = framed(Buffer.alloc(1000, 2))
    reader.push(Buffer.concat([half, next.subarray(0, 50)]))
    expect(reader.next()).toBe(true)
    expect(reader.next()).toBe(false)
    reader.push(next, next.length)
    expect(reader.buffer.length).toBe(size)
  })
})
