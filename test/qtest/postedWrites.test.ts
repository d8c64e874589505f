// SPDX-License-Identifier: Apache-2.0
/** QEMU's end of hwPost: writes without an answer, predicted reads. */
import { once } from 'node:events'
import type { Server } from 'node:net'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { FrameWriter } from '../../protocol/framing.ts'
import {
  encodeHwPost,
  encodeHwRead,
  encodeReply,
  encodeWelcome,
  Id,
  type MessageFromQemu,
} from '../../protocol/generated/messages.ts'
import { enums } from '../../protocol/messages.ts'
import { HostDriver } from './driver.ts'
import { QtestMachine, SMMU } from './machine.ts'
import { serve as serveAt } from './server.ts'

/** Registers that the model takes and gives back as they are. */
const CFG = 0x88
const BASE = 0x80
const ANSWER = 0xa5a5_5a5a

let machine: QtestMachine
let server: Server | undefined
let heard: MessageFromQemu[]
let hello: MessageFromQemu | undefined

/** Answers everything; in front of the answer to a write goes what `post` encodes. */
async function serve(post: (out: FrameWriter) => void): Promise<void> {
  heard = []
  server = await serveAt(machine.socket, (message, out) => {
    heard.push(message)
    if (message.type === Id.hello) {
      hello = message
      encodeWelcome(out, message.seq, 1, 0, 'test')
    } else if (message.type === Id.trapWrite) {
      post(out)
      encodeReply(out, message.seq, 0, 0, 0)
    } else if (message.type === Id.reset || message.type === Id.trapRead) encodeReply(out, message.seq, 0, 0, 7)
  })
}

const count = (type: MessageFromQemu['type']) => heard.filter(message => message.type === type).length

beforeEach(() => {
  machine = new QtestMachine()
})
afterEach(async () => {
  server?.close()
  server = undefined
  await machine.dispose()
})

describe('hwPost', () => {
  test('a predicted read does not trap, and is told before what the guest does next', async () => {
    await serve(out => encodeHwPost(out, 9, 0, CFG, 0x10, CFG, 0x10, ANSWER))
    await machine.start()
    expect(hello).toMatchObject({ type: Id.hello })
    if (hello?.type === Id.hello) expect(hello.features & enums.feature.postedWrites[0]).not.toBe(0)
    await machine.qtest.write(SMMU + BASE, 4, 0)
    expect(await machine.qtest.read(SMMU + CFG, 4)).toBe(BigInt(ANSWER))
    expect(await machine.qtest.read(SMMU + CFG, 4)).toBe(BigInt(ANSWER))
    expect(count(Id.trapRead)).toBe(0)
    expect(await machine.qtest.read(SMMU, 4)).toBe(7n)
    const told = heard.filter(({ type }) => type === Id.predictedRead || type === Id.trapRead)
    expect(told).toMatchObject([
      { type: Id.predictedRead, smmu: 0, cpu: 0xffff, offset: CFG, value: ANSWER },
      { type: Id.predictedRead, smmu: 0, cpu: 0xffff, offset: CFG, value: ANSWER },
      { type: Id.trapRead, offset: 0 },
    ])
    const seqs = heard.map(({ seq }) => seq)
    expect(seqs).toEqual(seqs.toSorted((a, b) => a - b))
  })

  test('it is told soon, also when nothing follows', async () => {
    await serve(out => encodeHwPost(out, 9, 0, CFG, 0x10, CFG, 0x10, ANSWER))
    await machine.start()
    await machine.qtest.write(SMMU + BASE, 4, 0)
    await machine.qtest.read(SMMU + CFG, 4)
    await expect.poll(() => count(Id.predictedRead)).toBe(1)
  })

  test('many such reads arrive, all of them', async () => {
    await serve(out => encodeHwPost(out, 9, 0, CFG, 0x10, CFG, 0x10, ANSWER))
    await machine.start()
    await machine.qtest.write(SMMU + BASE, 4, 0)
    for (let i = 0; i < 2000; i++) await machine.qtest.read(SMMU + CFG, 4)
    await expect.poll(() => count(Id.predictedRead)).toBe(2000)
  })

  test.each([
    ['another trap', () => machine.qtest.read(SMMU, 4)],
    ['another width at that place traps, and ends it', () => machine.qtest.read(SMMU + CFG, 8)],
  ])('no read is predicted after %s', async (_, access) => {
    await serve(out => encodeHwPost(out, 9, 0, CFG, 0x10, CFG, 0x10, ANSWER))
    await machine.start()
    await machine.qtest.write(SMMU + BASE, 4, 0)
    await access()
    expect(await machine.qtest.read(SMMU + CFG, 4)).toBe(7n)
    expect(count(Id.trapRead)).toBe(2)
  })

  test('nor after the server has looked at the model', async () => {
    await serve(out => {
      encodeHwPost(out, 9, 0, CFG, 0x10, CFG, 0x10, ANSWER)
      encodeHwRead(out, 10, 0, 0, 4)
    })
    await machine.start()
    await machine.qtest.write(SMMU + BASE, 4, 0)
    expect(await machine.qtest.read(SMMU + CFG, 4)).toBe(7n)
    expect(count(Id.predictedRead)).toBe(0)
  })

  test.each([
    ['the model holds something else', CFG, 0x10, CFG, 0x11, 0x10],
    ['the write is refused', CFG + 4, 1, CFG, 0x55, 0],
  ])('%s: it is told before the guest goes on, and its reads trap', async (_, at, value, check, expected, found) => {
    await serve(out => encodeHwPost(out, 9, 0, at, value, check, expected, ANSWER))
    await machine.start()
    await machine.qtest.write(SMMU + BASE, 4, 0)
    expect(await machine.qtest.read(SMMU + check, 4)).toBe(7n)
    expect(heard.filter(({ type }) => type === Id.postMismatch || type === Id.trapRead)).toMatchObject([
      { type: Id.postMismatch, smmu: 0, offset: check, value: found },
      { type: Id.trapRead },
    ])
  })

  test.each([
    ['an SMMU that is not there', 1, CFG, CFG],
    ['a place behind the frame', 0, 0x2_0000, CFG],
    ['a place that is not aligned', 0, CFG + 2, CFG],
    ['a place to look at behind the frame', 0, CFG, 0xffff_fffc],
  ])('%s is a protocol error', async (_, smmu, at, check) => {
    await serve(out => encodeHwPost(out, 9, smmu, at, 0, check, 0, ANSWER))
    await machine.start()
    await machine.qtest.write(SMMU + BASE, 4, 0).catch(() => {})
    expect(await machine.exit()).toBe(1)
    expect(machine.errors).toContain('hwPost')
  })
})

test('a breakpoint sees the next read of CMDQ_CONS, also where it had been predicted', async () => {
  await machine.serve('pkvm')
  await machine.start({ properties: ['carveout=32M'] })
  const driver = await HostDriver.probe(machine)
  const CONS = SMMU + 0x9c
  // CMD_SYNC; what the guest reads next is predicted.
  await driver.command(Uint32Array.of(0x46 | (2 << 12), 0, 0, 0))
  expect(machine.counters?.get('predicted')).toBeGreaterThan(0)
  const held = once(machine.server, 'held')
  await machine.server.call('addBreakpoint', {
    match: { on: 'register', offset: 0x9c, access: 'read' },
    skip: 0,
    once: true,
    enabled: true,
  })
  const read = machine.qtest.read(CONS, 4)
  await held
  await machine.server.call('release', { action: 'continue' })
  await read
  driver.dispose()
})
