// SPDX-License-Identifier: Apache-2.0
import { once } from 'node:events'
import { rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { Id } from '../../../protocol/generated/messages.ts'
import { enums, MAX_FRAME } from '../../../protocol/messages.ts'
import { TrapThread } from '../../../server/control/trapThread.ts'
import { privateFolder } from '../../../server/machine/scratch.ts'
import { Counters, createCounters } from '../../../server/trace/counters.ts'
import { createRing, RingReader } from '../../../server/trace/ring.ts'
import { FakeQemu } from './fakeQemu.ts'

let folder: string
let thread: TrapThread
let counters: Counters
let ring: RingReader

const start = async (policy: string, policyOptions: Readonly<Record<string, unknown>> = {}): Promise<TrapThread> => {
  const counterBuffer = createCounters()
  const ringBuffer = createRing(1 << 20)
  counters = new Counters(counterBuffer)
  ring = new RingReader(ringBuffer)
  return TrapThread.start({
    listen: join(folder, 'trap'),
    policy,
    policyOptions,
    ramFile: join(folder, 'ram'),
    ring: ringBuffer,
    counters: counterBuffer,
    panicOnWarn: false,
  })
}

beforeEach(() => {
  folder = privateFolder(tmpdir(), 'test-')
})

afterEach(async () => {
  await thread?.stop()
  rmSync(folder, { recursive: true })
})

describe('passthrough', () => {
  test('reads and writes reach the hardware with their own size, outcomes come back, and all is counted', async () => {
    thread = await start('passthrough')
    const qemu = await FakeQemu.connect(join(folder, 'trap'))
    expect(await qemu.hello()).toMatchObject({ type: Id.welcome, version: 1 })
    expect(await qemu.reset()).toMatchObject({ type: Id.reply, status: enums.status.ok[0] })
    expect(await qemu.write(0x20, 4, 0xffff_fff1)).toMatchObject({ status: enums.status.ok[0] })
    expect(qemu.registers.get(0x20)).toBe(0xffff_fff1)
    expect(await qemu.read(0x20, 4)).toMatchObject({ status: enums.status.ok[0], valueHi: 0, valueLo: 0xffff_fff1 })
    expect(await qemu.read(0x21, 1)).toMatchObject({ status: enums.status.aborted[0], valueLo: 0 })
    expect(await qemu.write(0x80, 8, 1, 2)).toMatchObject({ status: enums.status.aborted[0] })
    await expect.poll(() => counters.traps()).toMatchObject({ total: 4, reads: 2, writes: 2 })
    const kinds: string[] = []
    ring.drain(layout => kinds.push(layout.name))
    expect(kinds.filter(k => k === 'trap')).toHaveLength(4)
    expect(kinds.filter(k => k === 'hardware')).toHaveLength(4)
    const ended = once(thread, 'shutdown')
    qemu.shutdown()
    await ended
  })
})

describe('handshake', () => {
  test('a peer of another version is refused with a text that names both', async () => {
    thread = await start('passthrough')
    const qemu = await FakeQemu.connect(join(folder, 'trap'))
    expect(await qemu.hello([7, 9])).toMatchObject({
      type: Id.refuse,
      text: 'QEMU speaks protocol versions 7 to 9, this server 1 to 1',
    })
  })

  const { stage2, stage2Tlbi, postedWrites } = enums.feature
  const follows = stage2[0] | stage2Tlbi[0] | postedWrites[0]

  test("EL2's TLBI is told to whoever shares its tables", async () => {
    thread = await start('pkvm', { stage2: 'shared' })
    const qemu = await FakeQemu.connect(join(folder, 'trap'))
    expect(await qemu.hello([1, 1], { features: follows })).toMatchObject({ type: Id.welcome, features: follows })
  })

  test('to nobody else', async () => {
    thread = await start('pkvm')
    const qemu = await FakeQemu.connect(join(folder, 'trap'))
    const features = follows & ~stage2Tlbi[0]
    expect(await qemu.hello([1, 1], { features: follows })).toMatchObject({ type: Id.welcome, features })
  })

  test('a QEMU that does not tell of it has no tables shared', async () => {
    thread = await start('pkvm', { stage2: 'shared' })
    const qemu = await FakeQemu.connect(join(folder, 'trap'))
    expect(await qemu.hello([1, 1], { features: follows & ~stage2Tlbi[0] })).toMatchObject({
      type: Id.refuse,
      text: "stage2 shared: QEMU does not tell of EL2's TLBI, behind which tables are used again",
    })
  })

  test('a second machine is turned away and the first goes on', async () => {
    thread = await start('passthrough')
    const first = await FakeQemu.connect(join(folder, 'trap'))
    await first.hello()
    const second = await FakeQemu.connect(join(folder, 'trap'))
    await expect(second.hello()).rejects.toThrow('closed')
    expect(await first.reset()).toMatchObject({ type: Id.reply })
  })
})

describe('a peer that misbehaves gets an error that names the frame, and the next one is served', () => {
  const cases: [string, Buffer, number][] = [
    ['length 0', Buffer.from([0, 0, 0, 0]), enums.error.frame[0]],
    ['length above the limit', Buffer.from(Uint32Array.of(MAX_FRAME + 1).buffer), enums.error.frame[0]],
    ['no msgpack', Buffer.from([1, 0, 0, 0, 0xc1]), enums.error.msgpack[0]],
    ['not an array', Buffer.from([1, 0, 0, 0, 0x05]), enums.error.msgpack[0]],
    ['unknown type', Buffer.from([3, 0, 0, 0, 0x92, 0x7e, 0x01]), enums.error.type[0]],
    ['a message of the server', Buffer.from([3, 0, 0, 0, 0x92, 0x24, 0x01]), enums.error.type[0]],
    ['wrong arity', Buffer.from([3, 0, 0, 0, 0x92, 0x02, 0x01]), enums.error.arity[0]],
    ['negative integer', Buffer.from([5, 0, 0, 0, 0x94, 0x07, 0x01, 0xff, 0x00]), enums.error.value[0]],
    ['answer to nothing', Buffer.from([6, 0, 0, 0, 0x95, 0x0a, 0x01, 0, 0, 0]), enums.error.sequence[0]],
  ]
  test.each(cases)('%s', async (_name, bytes, code) => {
    thread = await start('passthrough')
    const qemu = await FakeQemu.connect(join(folder, 'trap'))
    await qemu.hello()
    const disconnected = once(thread, 'disconnected')
    const closed = once(qemu.socket, 'close')
    qemu.socket.write(bytes)
    await Promise.all([disconnected, closed])
    const errors = qemu.received.filter(m => m.type === Id.error)
    expect(errors).toMatchObject([{ code }])
    const next = await FakeQemu.connect(join(folder, 'trap'))
    expect(await next.hello()).toMatchObject({ type: Id.welcome })
  })
})

describe('starting', () => {
  test('a socket in use', async () => {
    thread = await start('passthrough')
    await expect(start('passthrough')).rejects.toThrow('in use')
  })

  test('a policy that does not exist', async () => {
    await expect(start('nonsense')).rejects.toThrow('no policy "nonsense"')
    await expect(start('/nowhere/policy.ts')).rejects.toThrow('/nowhere/policy.ts does not exist')
  })

  test("a policy file of one's own decides", async () => {
    const file = join(folder, 'policy.ts')
    writeFileSync(
      file,
      `export default () => ({ name: 'mine', reset() {}, access(trap: { lo: number }) { trap.lo = 0x1234 } })`,
    )
    thread = await start(file)
    const qemu = await FakeQemu.connect(join(folder, 'trap'))
    await qemu.hello()
    expect(await qemu.read(0, 4)).toMatchObject({ valueLo: 0x1234 })
  })

  test('a policy that throws ends the connection with its stack, not the thread', async () => {
    const file = join(folder, 'policy.ts')
    writeFileSync(file, `export default () => ({ name: 'bad', reset() {}, access() { throw new Error('my bug') } })`)
    thread = await start(file)
    const qemu = await FakeQemu.connect(join(folder, 'trap'))
    await qemu.hello()
    const disconnected = once(thread, 'disconnected')
    await expect(qemu.read(0, 4)).rejects.toThrow('closed')
    expect((await disconnected)[0]).toMatch(/my bug[\s\S]*policy\.ts/)
  })
})
