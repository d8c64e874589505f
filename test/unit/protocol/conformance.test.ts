// SPDX-License-Identifier: Apache-2.0
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { ProtocolError } from '../../../protocol/errors.ts'
import { Decoder } from '../../../protocol/generated/messages.ts'
import { pack } from '../../../protocol/generator/pack.ts'
import { messageList } from '../../../protocol/generator/wire.ts'
import { enums, MAX_BYTES, MAX_CHECKPOINT, messages } from '../../../protocol/messages.ts'
import { build, printed, run } from './conformance.ts'
import { anyMessage, exampleFrames, frameOf, toVector, type Values, vectors } from './support.ts'

let folder = ''
let program = ''

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'smmu-cosim-conformance-'))
  program = build(folder)
}, 120_000)

afterAll(() => rmSync(folder, { recursive: true, force: true }))

const fieldsOf = (name: string) => messages[name as keyof typeof messages].fields

/** Framing is not the header's: test/qtest tries it on QEMU itself. */
const payloadOf = (frame: string): string => frame.slice(8)

describe('the C header', () => {
  test('decodes the valid vectors', () => {
    const list = vectors.valid.filter(({ from }) => from !== 'qemu')
    const answers = run(
      program,
      list.map(({ frame }) => `receive ${payloadOf(frame)}`),
    )
    expect(answers).toEqual(list.map(({ message, seq, fields }) => printed(message, fieldsOf(message), seq, fields)))
  })

  test('encodes the valid vectors', () => {
    const list = vectors.valid.filter(({ from }) => from !== 'server')
    const answers = run(
      program,
      list.map(({ frame }) => `send ${payloadOf(frame)}`),
    )
    expect(answers).toEqual(list.map(({ frame, shortest = frame }) => `payload ${payloadOf(shortest)}`))
  })

  test('refuses the invalid vectors', () => {
    const list = vectors.invalid.filter(({ to, error }) => to === 'qemu' && error !== 'frame')
    const answers = run(
      program,
      list.map(({ frame }) => `receive ${payloadOf(frame)}`),
    )
    const codes = answers.map((answer, index) => `${list[index].name}: ${answer.split(' ', 2).join(' ')}`)
    expect(codes).toEqual(list.map(({ name, error }) => `${name}: error ${enums.error[error][0]}`))
  })

  test('agrees with the examples of the specification', () => {
    for (const { from, message, frame } of exampleFrames()) {
      const payload = payloadOf(frame)
      const [answer] = run(program, [`${from === 'qemu' ? 'send' : 'receive'} ${payload}`])
      if (from === 'qemu') expect(answer).toBe(`payload ${payload}`)
      else expect(answer).toMatch(new RegExp(`^ok ${message} `))
    }
  })

  test('knows the limits of long values', () => {
    const { checkpoint, memWrite } = messages
    const cases: [string, Buffer][] = [
      ['ok', pack([memWrite.id, 1, 0, Buffer.alloc(MAX_BYTES)])],
      [
        'error 5 memWrite.bytes: expected bin up to 1048512 bytes',
        pack([memWrite.id, 1, 0, Buffer.alloc(MAX_BYTES + 1)]),
      ],
      ['ok', pack([checkpoint.id, 1, Buffer.alloc(MAX_CHECKPOINT)])],
      [
        'error 5 checkpoint.bytes: expected bin up to 524288 bytes',
        pack([checkpoint.id, 1, Buffer.alloc(MAX_CHECKPOINT + 1)]),
      ],
    ]
    const answers = run(
      program,
      cases.map(([, payload]) => `receive ${payload.toString('hex')}`),
    )
    for (const [index, [start]] of cases.entries()) expect(answers[index].slice(0, start.length)).toBe(start)
  })

  test('agrees with the TypeScript codec about any message, whole or damaged', () => {
    const damage = fc.array(fc.tuple(fc.nat(), fc.integer({ min: 0, max: 255 })), { maxLength: 2 })
    const names = messageList.filter(([, { from }]) => from !== 'qemu').map(([name]) => name)
    const any = fc.constantFrom(...names).chain(anyMessage)
    const list = fc.sample(fc.tuple(any, damage), 5_000).map(([message, changes]) => {
      const payload = frameOf(message).subarray(4)
      for (const [at, byte] of changes) payload[at % payload.length] = byte
      return payload
    })
    const decoder = new Decoder('qemu')
    const expected = list.map(payload => {
      try {
        const message = decoder.decode(payload, 0, payload.length)
        const [name, { fields }] = messageList.find(([, { id }]) => id === message.type) as (typeof messageList)[number]
        return printed(name, fields, message.seq, toVector(fields, message as typeof message & Values))
      } catch (error) {
        if (error instanceof ProtocolError) return 'error'
        throw error
      }
    })
    // where a frame has several faults, either end may name another one of them
    const answers = run(
      program,
      list.map(payload => `receive ${payload.toString('hex')}`),
    )
    expect(answers.map(answer => (answer.startsWith('error') ? 'error' : answer))).toEqual(expected)
  })
})
