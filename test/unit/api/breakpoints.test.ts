// SPDX-License-Identifier: Apache-2.0
import { once } from 'node:events'
import { rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { Id } from '../../../protocol/generated/messages.ts'
import { enums } from '../../../protocol/messages.ts'
import { TrapThread } from '../../../server/control/trapThread.ts'
import { privateFolder } from '../../../server/machine/scratch.ts'
import { CMDQ_OP_CFGI_STE, CMDQ_OP_TLBI_NH_VA, cfgiSte, cmdSync } from '../../../server/smmu/commands.ts'
import {
  ARM_SMMU_CMDQ_CONS,
  ARM_SMMU_CMDQ_PROD,
  ARM_SMMU_CR0,
  ARM_SMMU_GBPA,
  CR0_CMDQEN,
} from '../../../server/smmu/registers.ts'
import { createCounters } from '../../../server/trace/counters.ts'
import { createRing } from '../../../server/trace/ring.ts'
import type { BreakpointMatch, BreakpointSpec } from '../../../server/trap/breakpoints.ts'
import type { HeldTrap } from '../../../server/trap/operations.ts'
import { FakeQemu } from '../trap/fakeQemu.ts'

const OK = enums.status.ok[0]
const ABORTED = enums.status.aborted[0]
const QUEUE = 0x4000_8000
const LOG2SIZE = 8

let folder: string
let thread: TrapThread
let qemu: FakeQemu

beforeEach(async () => {
  folder = privateFolder(tmpdir(), 'test-')
  thread = await TrapThread.start({
    listen: join(folder, 'trap'),
    policy: 'passthrough',
    policyOptions: {},
    ramFile: join(folder, 'ram'),
    ring: createRing(1 << 20),
    counters: createCounters(),
    panicOnWarn: false,
  })
  qemu = await FakeQemu.connect(join(folder, 'trap'))
  await qemu.hello()
  await qemu.reset()
})

afterEach(async () => {
  await thread.stop()
  qemu.socket.destroy()
  rmSync(folder, { recursive: true })
})

const set = (match: BreakpointMatch, more: Partial<BreakpointSpec> = {}) =>
  thread.call('addBreakpoint', { match, skip: 0, once: false, enabled: true, ...more })

/** Starts an access that is to be held. */
async function held(access: () => Promise<unknown>): Promise<{ held: HeldTrap; answer: Promise<unknown> }> {
  const stopped = once(thread, 'held')
  const answer = access()
  const [trap] = (await stopped) as [HeldTrap]
  return { held: trap, answer }
}

describe('registers', () => {
  test('a write is held before it happens, state can be read meanwhile, and it continues', async () => {
    const { id } = await set({ on: 'register', offset: ARM_SMMU_GBPA, access: 'write' })
    qemu.registers.set(ARM_SMMU_GBPA, 5)
    const { held: stop, answer } = await held(() => qemu.write(ARM_SMMU_GBPA, 4, 7))
    expect(stop).toMatchObject({ hit: { breakpoint: id, phase: 'before' }, trap: { offset: ARM_SMMU_GBPA, lo: 7 } })
    expect(await thread.call('registers', 0, 'hardware', [ARM_SMMU_GBPA])).toMatchObject([{ lo: 5, ok: true }])
    expect(qemu.received.some(({ type }) => type === Id.hold)).toBe(true)
    expect(await thread.call('held')).toEqual(stop)
    await thread.call('release', { action: 'continue' })
    expect(await answer).toMatchObject({ status: OK })
    expect(qemu.registers.get(ARM_SMMU_GBPA)).toBe(7)
    expect(await thread.call('held')).toBeNull()
  })

  test('the value written can be changed, the write dropped or aborted', async () => {
    await set({ on: 'register', offset: ARM_SMMU_GBPA, access: 'write' })
    for (const [release, value, status] of [
      [{ action: 'continue', value: { lo: 9, hi: 0 } }, 9, OK],
      [{ action: 'drop' }, 9, OK],
      [{ action: 'abort' }, 9, ABORTED],
    ] as const) {
      const { answer } = await held(() => qemu.write(ARM_SMMU_GBPA, 4, 7))
      await thread.call('release', release)
      expect(await answer).toMatchObject({ status })
      expect(qemu.registers.get(ARM_SMMU_GBPA)).toBe(value)
    }
  })

  test('a read is held with its value, which can be replaced', async () => {
    await set({ on: 'register', offset: ARM_SMMU_GBPA, access: 'read', mask: [0xf0, 0], want: [0x40, 0] })
    qemu.registers.set(ARM_SMMU_GBPA, 0x30)
    expect(await qemu.read(ARM_SMMU_GBPA, 4)).toMatchObject({ valueLo: 0x30 })
    qemu.registers.set(ARM_SMMU_GBPA, 0x4f)
    const { held: stop, answer } = await held(() => qemu.read(ARM_SMMU_GBPA, 4))
    expect(stop).toMatchObject({ hit: { phase: 'after' }, trap: { lo: 0x4f } })
    await thread.call('release', { action: 'continue', value: { lo: 0x1234, hi: 0 } })
    expect(await answer).toMatchObject({ status: OK, valueLo: 0x1234 })
  })

  test('skip, once, disable and remove', async () => {
    const match = { on: 'register', access: 'any' } as const
    const { id } = await set(match, { skip: 2, once: true })
    await qemu.write(ARM_SMMU_GBPA, 4, 1)
    await qemu.write(ARM_SMMU_GBPA, 4, 2)
    const { answer } = await held(() => qemu.write(ARM_SMMU_GBPA, 4, 3))
    await thread.call('release', { action: 'continue' })
    await answer
    expect(await thread.call('breakpoints')).toEqual([])
    await expect(thread.call('removeBreakpoint', id)).rejects.toMatchObject({ failure: 'absent' })
    const second = await set(match)
    await thread.call('enableBreakpoint', second.id, false)
    await qemu.write(ARM_SMMU_GBPA, 4, 4)
    expect(await thread.call('breakpoints')).toMatchObject([{ id: second.id, enabled: false, matches: 0 }])
  })
})

test('step goes to the next trap, breakNext stops at any', async () => {
  await thread.call('breakNext', true)
  const { held: first, answer } = await held(() => qemu.write(ARM_SMMU_GBPA, 4, 1))
  expect(first.hit).toEqual({ breakpoint: 0, phase: 'before' })
  const next = once(thread, 'held')
  await thread.call('release', { action: 'step' })
  await answer
  const second = qemu.read(ARM_SMMU_GBPA, 4)
  expect(((await next) as [HeldTrap])[0].trap.seq).toBe(first.trap.seq + 1)
  await thread.call('release', { action: 'continue' })
  expect(await second).toMatchObject({ valueLo: 1 })
})

describe('commands', () => {
  beforeEach(() => {
    // QEMU's fake takes accesses of 4 bytes only, so CMDQ_BASE, of 8, is 0 to the server: its queue has one entry at 0.
    qemu.registers.set(ARM_SMMU_CR0, CR0_CMDQEN)
  })

  /** Answers CMDQ_BASE as a real SMMU. */
  function queue(): Uint32Array {
    qemu.wide.set(0x90, [QUEUE | LOG2SIZE, 0])
    qemu.registers.set(ARM_SMMU_CMDQ_CONS, 0)
    return new Uint32Array(qemu.memory.buffer, qemu.memory.byteOffset + QUEUE - 0x4000_0000, 4 << LOG2SIZE)
  }

  test('an opcode is found among the commands that a write of PROD hands over, before they are consumed', async () => {
    const words = queue()
    cmdSync(words, 0, 0)
    cfgiSte(words, 0x18, true, 4)
    cmdSync(words, 0, 8)
    await set({ on: 'command', opcode: CMDQ_OP_TLBI_NH_VA })
    const { id } = await set({ on: 'command', opcode: CMDQ_OP_CFGI_STE })
    const { held: stop, answer } = await held(() => qemu.write(ARM_SMMU_CMDQ_PROD, 4, 3))
    expect(stop.hit).toEqual({ breakpoint: id, phase: 'before', command: [CMDQ_OP_CFGI_STE, 0x18, 1, 0] })
    await thread.call('release', { action: 'continue' })
    await answer
    qemu.registers.set(ARM_SMMU_CMDQ_CONS, 3)
    expect(await qemu.write(ARM_SMMU_CMDQ_PROD, 4, 3)).toMatchObject({ status: OK })
  })

  test('by StreamID and by address', async () => {
    const words = queue()
    cfgiSte(words, 0x18, true, 0)
    words.set([CMDQ_OP_TLBI_NH_VA, 0, 0x1234_5001, 7], 4)
    const stream = await set({ on: 'stream', sid: 0x18 }, { once: true })
    const { held: first, answer: one } = await held(() => qemu.write(ARM_SMMU_CMDQ_PROD, 4, 2))
    expect(first.hit.breakpoint).toBe(stream.id)
    await thread.call('release', { action: 'drop' })
    await one
    await set({ on: 'address', base: 0x7_1234_6000, size: 4096 })
    const address = await set({ on: 'address', base: 0x7_1234_5800, size: 1 })
    const { held: second, answer: two } = await held(() => qemu.write(ARM_SMMU_CMDQ_PROD, 4, 2))
    expect(second.hit.breakpoint).toBe(address.id)
    await thread.call('release', { action: 'continue' })
    await two
  })
})

test('an event between two traps stops the next one', async () => {
  await set({ on: 'event', event: 0x10 })
  qemu.event(0x10, 0x18)
  const { held: stop, answer } = await held(() => qemu.read(ARM_SMMU_GBPA, 4))
  expect(stop.hit).toMatchObject({ phase: 'before', late: true, event: 0x10 })
  await thread.call('release', { action: 'continue' })
  expect(await answer).toMatchObject({ status: OK })
})

test('operations that cannot be are refused: nothing held, no ownership, no RAM', async () => {
  await expect(thread.call('release', { action: 'continue' })).rejects.toMatchObject({ failure: 'state' })
  await expect(thread.call('donate', 0x4000_0000, 4096, 1)).rejects.toMatchObject({ failure: 'state' })
  await expect(thread.call('memory', 0x1000, 16)).rejects.toMatchObject({ failure: 'invalid' })
  expect(await thread.call('memory', 0x4000_0000, 16)).toHaveLength(16)
})

test('QEMU may go away while a trap is held', async () => {
  await thread.call('breakNext', true)
  const { answer } = await held(() => qemu.write(ARM_SMMU_GBPA, 4, 1))
  answer.catch(() => {})
  const gone = once(thread, 'disconnected')
  qemu.socket.destroy()
  await gone
  expect(await thread.call('held')).toBeNull()
  await expect(thread.call('release', { action: 'continue' })).rejects.toMatchObject({ failure: 'state' })
})
