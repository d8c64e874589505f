// SPDX-License-Identifier: Apache-2.0
import fc from 'fast-check'
import { Packr, Unpackr } from 'msgpackr'
import { describe, expect, test } from 'vitest'
import { ProtocolError } from '../../../protocol/errors.ts'
import { FrameWriter } from '../../../protocol/framing.ts'
import {
  Decoder,
  encode,
  encodeData,
  encodeHwWrite,
  encodeMemRead,
  encodeMemWrite,
  encodeQuit,
  encodeReply,
  type Hello,
  Id,
  type Message,
} from '../../../protocol/generated/messages.ts'
import { messageList } from '../../../protocol/generator/wire.ts'
import { enums, MAX_BYTES, MAX_CHECKPOINT, MAX_FRAME, MAX_LIST, MAX_STRING } from '../../../protocol/messages.ts'
import { anyMessage, frameOf, payloads, toWire, type Values } from './support.ts'

const toServer = new Decoder('server')
const toQemu = new Decoder('qemu')

/** The decoder of the end that takes messages of `from`. */
const decoderFor = (from: string): Decoder<'server' | 'qemu'> => (from === 'server' ? toQemu : toServer)

const decode = (decoder: Decoder<'server' | 'qemu'>, payload: Buffer): Message =>
  decoder.decode(payload, 0, payload.length)

const plain = (elements: unknown): unknown =>
  Array.isArray(elements) ? elements.map(plain) : elements instanceof Uint8Array ? Array.from(elements) : elements

describe.each(messageList)('%s', (name, { id, from, fields }) => {
  const wire = (message: Message & Values): unknown[] => [id, message.seq, ...toWire(fields, message)]

  test('survives encoding and decoding', () => {
    fc.assert(
      fc.property(anyMessage(name), message => {
        expect({ ...decode(decoderFor(from), frameOf(message).subarray(4)) }).toEqual(message)
      }),
    )
  })

  test('is read by msgpackr as the same values', () => {
    const reference = new Unpackr({ int64AsType: 'number' })
    fc.assert(
      fc.property(anyMessage(name), message => {
        expect(plain(reference.unpack(frameOf(message).subarray(4)))).toEqual(plain(wire(message)))
      }),
    )
  })

  test('is understood as msgpackr writes it, integers above 2^32 aside', () => {
    // those it writes as float64 or int64, which the protocol does not have
    const small = (value: unknown): unknown =>
      Array.isArray(value) ? value.map(small) : typeof value === 'number' ? Math.min(value, 0xffff_ffff) : value
    const reference = new Packr({ useRecords: false })
    fc.assert(
      fc.property(anyMessage(name), message => {
        const elements = small(wire(message)) as unknown[]
        const decoded = decode(decoderFor(from), reference.pack(elements))
        expect(plain(wire(decoded as Message & Values))).toEqual(plain(elements))
      }),
    )
  })
})

describe('decoder', () => {
  test('throws nothing but ProtocolError on random bytes', () => {
    fc.assert(
      fc.property(fc.constantFrom('server', 'qemu'), fc.uint8Array({ minLength: 1, maxLength: 200 }), (end, bytes) => {
        onlyProtocolError(decoderFor(end), Buffer.from(bytes))
      }),
      { numRuns: 5_000 },
    )
  })

  test('throws nothing but ProtocolError on damaged messages', () => {
    const damage = fc.array(fc.tuple(fc.nat(), fc.integer({ min: 0, max: 255 })), { minLength: 1, maxLength: 3 })
    const any = fc.constantFrom(...messageList.map(([name]) => name)).chain(anyMessage)
    fc.assert(
      fc.property(any, damage, fc.boolean(), (message, changes, truncate) => {
        const payload = frameOf(message).subarray(4)
        for (const [at, byte] of changes) payload[at % payload.length] = byte
        const [[end]] = changes as [[number, number]]
        const bytes = truncate ? payload.subarray(0, end % payload.length) : payload
        onlyProtocolError(toServer, bytes)
        onlyProtocolError(toQemu, bytes)
      }),
      { numRuns: 5_000 },
    )
  })

  test('reuses the objects of hot messages and no others', () => {
    const reply = frameOf({ type: Id.reply, seq: 1, status: 0, valueHi: 0, valueLo: 1 }).subarray(4)
    expect(decode(toQemu, reply)).toBe(decode(toQemu, reply))
    const hold = frameOf({ type: Id.hold, seq: 1 }).subarray(4)
    expect(decode(toQemu, hold)).not.toBe(decode(toQemu, hold))
  })

  test('gives bytes that survive the buffer', () => {
    const payload = frameOf({ type: Id.memWrite, seq: 1, address: 0, bytes: Buffer.from('abc') }).subarray(4)
    const message = decode(toQemu, payload)
    payload.fill(0)
    expect(message).toEqual({ type: Id.memWrite, seq: 1, address: 0, bytes: new Uint8Array(Buffer.from('abc')) })
  })

  test('decodes a part of a buffer', () => {
    const frame = frameOf({ type: Id.quit, seq: 5, code: 3, text: 'bye' })
    const buffer = Buffer.concat([Buffer.from('ffff', 'hex'), frame, Buffer.from('ffff', 'hex')])
    expect(toQemu.decode(buffer, 6, 2 + frame.length)).toEqual({ type: Id.quit, seq: 5, code: 3, text: 'bye' })
    expect(() => toQemu.decode(buffer, 6, 1 + frame.length)).toThrow('text: the payload ends before it does')
  })

  test('names the frame, what is wrong and what was expected', () => {
    const wrong = Buffer.from('940307cd012c00', 'hex')
    expect(() => decode(toServer, wrong)).toThrow('trapWrite 7: 4 elements, expected 12 (7 bytes: 940307cd012c00)')
    const large = Buffer.from('9a0207cd012c', 'hex')
    expect(() => decode(toServer, large)).toThrow('trapRead 7: smmu: 300, expected at most 255 (6 bytes: 9a0207cd012c)')
    const kind = Buffer.concat([Buffer.from('9a0207c0', 'hex'), Buffer.alloc(100)])
    expect(() => decode(toServer, kind)).toThrow(
      `trapRead 7: smmu: starts with 0xc0, expected an unsigned integer (104 bytes: 9a0207c0${'0'.repeat(40)}…)`,
    )
  })

  test('refuses a list and a checkpoint above their limits', () => {
    const hello = (more: Partial<Hello>) => toWire(messageList[0][1].fields, { ...machine, ...more })
    const pack = (elements: unknown[]): Buffer => new Packr({ useRecords: false }).pack([Id.hello, 1, ...elements])
    const devices = Array.from({ length: MAX_LIST }, () => ({ smmu: 0, sid: 0, name: '', model: '' }))
    expect((decode(toServer, pack(hello({ devices }))) as Hello).devices).toHaveLength(MAX_LIST)
    expect(() => decode(toServer, pack(hello({ devices: [...devices, machine.devices[0]] })))).toThrow(
      'devices: 65537 records, expected at most 65536',
    )
    expect(() => decode(toServer, pack(hello({ checkpoint: Buffer.alloc(MAX_CHECKPOINT + 1) })))).toThrow(
      'checkpoint: 524289 bytes, expected at most 524288',
    )
  })
})

const machine: Hello = {
  type: Id.hello,
  seq: 1,
  minVersion: 1,
  maxVersion: 1,
  features: 0,
  session: '',
  resumed: 0,
  lastSeq: 0,
  checkpoint: new Uint8Array(),
  qemuVersion: '10.0.13',
  vcpus: 1,
  carveoutBase: 0,
  carveoutSize: 0,
  ram: [{ base: 0x4000_0000, size: 2 ** 30, path: '/dev/shm/ram', offset: 0 }],
  smmus: [],
  devices: [{ smmu: 0, sid: 8, name: 'disk0', model: 'virtio-blk-pci' }],
}

function onlyProtocolError(decoder: Decoder<'server' | 'qemu'>, payload: Buffer): void {
  try {
    decode(decoder, payload)
  } catch (error) {
    expect(error).toBeInstanceOf(ProtocolError)
    expect(Object.values(enums.error).map(([code]) => code)).toContain((error as ProtocolError).code)
  }
}

describe('encoder', () => {
  test.each<[string, (out: FrameWriter) => void]>([
    ['reply.status: 2 is not an integer of 0 to 1', out => encodeReply(out, 1, 2, 0, 0)],
    ['reply.status: -1 is not an integer of 0 to 1', out => encodeReply(out, 1, -1, 0, 0)],
    ['reply.valueLo: 4294967296 is not an integer of 0 to 4294967295', out => encodeReply(out, 1, 0, 0, 2 ** 32)],
    ['reply.valueHi: 0.5 is not an integer', out => encodeReply(out, 1, 0, 0.5, 0)],
    ['reply.seq: NaN is not an integer', out => encodeReply(out, Number.NaN, 0, 0, 0)],
    ['reply.seq: 0 is not an integer of 1 to 4294967295', out => encodeReply(out, 0, 0, 0, 0)],
    ['memRead.address: 9007199254740992 is not an integer', out => encodeMemRead(out, 1, 2 ** 53, 1)],
    ['memRead.address: -1 is not an integer', out => encodeMemRead(out, 1, -1, 1)],
    ['memRead.address: 4294967296.5 is not an integer', out => encodeMemRead(out, 1, 2 ** 32 + 0.5, 1)],
    ['memRead.length: 1048513 is not an integer of 0 to 1048512', out => encodeMemRead(out, 1, 0, MAX_BYTES + 1)],
    ['memWrite.bytes: 1048513 bytes, at most 1048512', out => encodeMemWrite(out, 1, 0, Buffer.alloc(MAX_BYTES + 1))],
    ['quit.text: 4097 bytes, at most 4096', out => encodeQuit(out, 1, 0, 'x'.repeat(MAX_STRING + 1))],
    ['quit.text: 4098 bytes, at most 4096', out => encodeQuit(out, 1, 0, 'é'.repeat(MAX_STRING / 2 + 1))],
    ['quit.text: not well-formed text without NUL', out => encodeQuit(out, 1, 0, 'a\0')],
    ['quit.text: not well-formed text without NUL', out => encodeQuit(out, 1, 0, '\ud800')],
    [
      'hello.ram: 65537 records, at most 65536',
      out => encode(out, { ...machine, ram: Array(MAX_LIST + 1).fill(machine.ram[0]) }),
    ],
    ['hello.ramRange.base: -1', out => encode(out, { ...machine, ram: [{ base: -1, size: 0, path: '', offset: 0 }] })],
    [
      'hello.frame:',
      out =>
        encode(out, {
          ...machine,
          devices: Array(MAX_LIST).fill({ smmu: 0, sid: 0, name: 'x'.repeat(20), model: '' }),
        }),
    ],
  ])('%s', (text, run) => {
    const out = new FrameWriter()
    encodeHwWrite(out, 1, 0, 0x98, 4, 0, 5)
    const { length } = out
    expect(() => run(out)).toThrow(RangeError)
    expect(() => run(out)).toThrow(text)
    expect(out.length).toBe(length)
    encodeHwWrite(out, 2, 0, 0x98, 4, 0, 6)
    expect(payloads([out.buffer.subarray(0, out.length)])).toHaveLength(2)
  })

  test('encodes the largest message', () => {
    const bytes = Buffer.alloc(MAX_BYTES, 7)
    const out = new FrameWriter()
    encodeData(out, 0xffff_ffff, 0, bytes)
    expect(out.length).toBeLessThanOrEqual(4 + MAX_FRAME)
    const [payload] = payloads([out.buffer.subarray(0, out.length)])
    expect(decode(toServer, payload)).toEqual({
      type: Id.data,
      seq: 0xffff_ffff,
      status: 0,
      bytes: new Uint8Array(bytes),
    })
  })

  test('keeps many frames for one write, and no more than its limit', () => {
    const out = new FrameWriter()
    const count = 10_000
    for (let seq = 1; seq <= count; seq++) encodeReply(out, seq, 0, 0, seq)
    const found = payloads([out.buffer.subarray(0, out.length)])
    expect(found).toHaveLength(count)
    expect(decode(toQemu, found[count - 1])).toMatchObject({ seq: count, valueLo: count })

    const { length } = out
    expect(() => encodeData(out, 1, 0, Buffer.alloc(MAX_BYTES))).toThrow('wait to be sent')
    expect(out.length).toBe(length)
    out.reset()
    encodeData(out, 1, 0, Buffer.alloc(MAX_BYTES))
    expect(out.buffer.length).toBeLessThan(2 * MAX_FRAME)
  })
})
