// SPDX-License-Identifier: Apache-2.0
import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { outputs } from '../../../protocol/generate.ts'
import { messageArity, messageList } from '../../../protocol/generator/wire.ts'
import { MAX_BYTES, MAX_CHECKPOINT, MAX_FRAME } from '../../../protocol/messages.ts'

test.each([...outputs()])('%s is up to date (npm run generate)', (path, text) => {
  expect(readFileSync(new URL(`../../../protocol/${path}`, import.meta.url), 'utf8')).toBe(text)
})

test('the QEMU patch carries the C header', () => {
  const folder = new URL('../../../qemu-patches/', import.meta.url)
  const patches = readFileSync(new URL('series', folder), 'utf8').trim().split('\n')
  const file = patches
    .flatMap(patch => readFileSync(new URL(patch, folder), 'utf8').split(/^diff --git /m))
    .filter(part => part.startsWith('a/hw/arm/smmu-cosim/protocol.h '))
  expect(file).toHaveLength(1)
  const added = file[0]
    .slice(file[0].indexOf('\n@@'))
    .split('\n')
    .filter(line => line.startsWith('+'))
  expect(`${added.map(line => line.slice(1)).join('\n')}\n`).toBe(outputs().get('generated/smmu-cosim-protocol.h'))
})

test('ids are unique, ascending and fit into one byte', () => {
  const ids = messageList.map(([, { id }]) => id)
  expect(ids).toEqual([...new Set(ids)].sort((a, b) => a - b))
  expect(Math.min(...ids)).toBeGreaterThan(0)
  expect(Math.max(...ids)).toBeLessThan(0x80)
})

test('every request names an answer that its receiver sends', () => {
  for (const [name, { kind, answer, from }] of messageList) {
    expect(answer !== undefined, name).toBe(kind === 'request')
    if (answer === undefined) continue
    const reply = messageList.find(([key]) => key === answer)?.[1]
    expect(reply, name).toMatchObject({ kind: 'answer', from: from === 'qemu' ? 'server' : 'qemu' })
  }
})

test('hot messages consist of integers', () => {
  for (const [name, { hot, fields }] of messageList) {
    for (const { type } of hot === true ? fields : []) expect(type, name).toMatch(/^u/)
  }
})

test('the largest messages with bytes fit into a frame', () => {
  for (const [name, message] of messageList) {
    const bytes = message.fields.filter(({ type }) => type === 'bin')
    if (bytes.length === 0 || name === 'hello') continue
    const body = Math.max(...bytes.map(({ max = MAX_BYTES }) => max))
    expect(9 * messageArity(message) + body, name).toBeLessThanOrEqual(MAX_FRAME)
  }
  expect(MAX_CHECKPOINT).toBeLessThanOrEqual(MAX_FRAME / 2)
})
