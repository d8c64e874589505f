// SPDX-License-Identifier: Apache-2.0
/** Who causes a trap: call stacks with traps, breakpoints in functions of the kernel, and traps that are parked for gdb. */
import { once } from 'node:events'
import { rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { TrapThread } from '../../../server/control/trapThread.ts'
import { privateFolder } from '../../../server/machine/scratch.ts'
import { ARM_SMMU_CR0, ARM_SMMU_GBPA, ARM_SMMU_IDR0 } from '../../../server/smmu/registers.ts'
import { createCounters } from '../../../server/trace/counters.ts'
import { flame } from '../../../server/trace/flame.ts'
import { groups, isGroup } from '../../../server/trace/groups.ts'
import type { TraceRecord } from '../../../server/trace/records.ts'
import { createRing, RingReader } from '../../../server/trace/ring.ts'
import { functionTable, returnAddresses, Symbols } from '../../../server/trace/symbols.ts'
import type { ThreadOptions } from '../../../server/trap/messages.ts'
import type { HeldTrap } from '../../../server/trap/operations.ts'
import { FakeQemu } from './fakeQemu.ts'

const BASE = 0xffff_8000_8000_0000n
/** How far it was moved: by a multiple of 64 KiB. */
const MOVED = 0x5_4321_0000n
const NAMES = ['caller', 'arm_smmu_probe', 'arm_smmu_attach_dev', 'arm_smmu_issue', 'other', 'end']
const TABLE = functionTable(NAMES.map((name, i) => ({ name, address: BASE + BigInt(i) * 0x1000n })))
const within = (name: string, distance = 0x10n): bigint =>
  BASE + MOVED + BigInt(NAMES.indexOf(name)) * 0x1000n + distance

let folder: string
let ring: SharedArrayBuffer
let thread: TrapThread
let qemu: FakeQemu

beforeEach(() => {
  folder = privateFolder(tmpdir(), 'test-')
  ring = createRing(1 << 20)
})

afterEach(async () => {
  await thread.stop()
  qemu.socket.destroy()
  rmSync(folder, { recursive: true })
})

async function start(frames: readonly bigint[] | undefined, options: Partial<ThreadOptions> = {}): Promise<void> {
  thread = await TrapThread.start({
    listen: join(folder, 'trap'),
    policy: 'passthrough',
    policyOptions: {},
    ramFile: join(folder, 'ram'),
    ring,
    counters: createCounters(),
    panicOnWarn: false,
    ...options,
  })
  qemu = await FakeQemu.connect(join(folder, 'trap'))
  qemu.frames = frames
  await qemu.hello()
  await qemu.reset()
}

/** A trap is on the trace once the thread does something else. */
async function records(): Promise<TraceRecord[]> {
  await thread.call('held')
  const found: TraceRecord[] = []
  const reader = new RingReader(ring)
  reader.drain((layout, at) => found.push(reader.decode(layout, at)))
  return found
}

/** Traps of the driver: then it is known where the kernel is. */
async function probe(): Promise<void> {
  for (let i = 0n; i < 6n; i++) {
    qemu.pc = within('arm_smmu_probe', 0x100n * i)
    await qemu.read(ARM_SMMU_IDR0, 4)
  }
}

/** Starts an access that is to be held. */
async function held(access: () => Promise<unknown>): Promise<readonly [held: HeldTrap, answer: Promise<unknown>]> {
  const stopped = once(thread, 'held')
  const answer = access()
  return [((await stopped) as [HeldTrap])[0], answer]
}

test('with call stacks each trap has one on the trace, and a flame graph has who called', async () => {
  // The outermost frame record has no return address.
  await start([within('arm_smmu_attach_dev'), within('caller'), 0n], { callStacks: 8 })
  qemu.pc = within('arm_smmu_issue')
  await qemu.write(ARM_SMMU_GBPA, 4, 1)
  const all = await records()
  const [trap] = [...groups(all)].filter(isGroup).filter(({ root }) => root.kind === 'trap')
  const stack = trap?.children.find(child => child.kind === 'stack')
  expect(stack && returnAddresses(stack.bytes)).toEqual([within('arm_smmu_attach_dev'), within('caller')])
  const symbols = new Symbols(TABLE)
  symbols.offset = MOVED
  expect([...flame(all, symbols, 'traps')]).toEqual([['caller;arm_smmu_attach_dev;arm_smmu_issue;W GBPA', 1]])
})

test('only so many return addresses; signed ones are those that were signed', async () => {
  await start([0xffed_8000_8000_1234n, within('caller')], { callStacks: 1 })
  await qemu.write(ARM_SMMU_GBPA, 4, 1)
  const stack = (await records()).find(record => record.kind === 'stack')
  expect(stack?.kind === 'stack' && returnAddresses(stack.bytes)).toEqual([0xffff_8000_8000_1234n])
})

test('more of them than were asked for are none', async () => {
  await start([within('arm_smmu_attach_dev'), within('caller')], { callStacks: 1 })
  qemu.generous = true
  await qemu.write(ARM_SMMU_GBPA, 4, 1)
  expect(qemu.stacks).toBe(1)
  expect((await records()).some(({ kind }) => kind === 'stack')).toBe(false)
})

test('without call stacks nobody asks for them', async () => {
  await start([within('caller')])
  await probe()
  expect(qemu.stacks).toBe(0)
  expect((await records()).some(({ kind }) => kind === 'stack')).toBe(false)
})

test('a QEMU that has no call stacks is not asked, and a trap is held as ever', async () => {
  await start(undefined, { callStacks: 8, debugged: true })
  await thread.call('breakNext', true)
  const [trap, answer] = await held(() => qemu.write(ARM_SMMU_GBPA, 4, 1))
  expect(trap.callers).toEqual([])
  expect([qemu.stacks, qemu.parks]).toEqual([0, 0])
  await thread.call('release', { action: 'continue' })
  await answer
})

test('a breakpoint in a function holds what it does itself, and what it calls', async () => {
  await start([within('arm_smmu_attach_dev'), within('caller')])
  await thread.call('kernel', TABLE)
  const match = { on: 'function', name: 'arm_smmu_attach_dev' } as const
  await thread.call('addBreakpoint', { match, skip: 0, once: false, enabled: true })
  qemu.frames = [within('other')]
  await probe()

  qemu.pc = within('arm_smmu_attach_dev')
  const [own, first] = await held(() => qemu.write(ARM_SMMU_GBPA, 4, 1))
  expect(own.hit).toMatchObject({ breakpoint: 1, phase: 'before' })
  await thread.call('release', { action: 'continue' })
  await first

  qemu.pc = within('arm_smmu_issue')
  // Called from elsewhere; and by the function in front, whose last instruction is the call.
  qemu.frames = [within('other'), within('arm_smmu_attach_dev', 0n)]
  await qemu.write(ARM_SMMU_CR0, 4, 1)
  qemu.frames = [within('other'), within('arm_smmu_issue', 0n)]
  const [called, second] = await held(() => qemu.write(ARM_SMMU_CR0, 4, 1))
  expect(called.callers).toEqual(qemu.frames)
  await thread.call('release', { action: 'continue' })
  await second
  expect((await thread.call('breakpoints'))[0]?.matches).toBe(2)
})

test('however many functions have breakpoints, a trap asks for its callers once', async () => {
  await start([within('other'), within('caller')])
  await thread.call('kernel', TABLE)
  for (const name of ['arm_smmu_attach_dev', 'arm_smmu_issue', 'caller']) {
    const match = { on: 'function', name } as const
    await thread.call('addBreakpoint', { match, skip: 0, once: false, enabled: true })
  }
  qemu.frames = []
  await probe()
  const before = qemu.stacks
  qemu.pc = within('other')
  await qemu.write(ARM_SMMU_GBPA, 4, 1)
  expect(qemu.stacks).toBe(before + 1)
  // And so does one that is held, with the callers of this trap.
  qemu.frames = [within('caller')]
  const [trap, answer] = await held(() => qemu.write(ARM_SMMU_GBPA, 4, 1))
  expect(qemu.stacks).toBe(before + 2)
  expect([trap.hit.breakpoint, trap.callers]).toEqual([3, qemu.frames])
  await thread.call('release', { action: 'continue' })
  await answer
})

test('a kernel that starts again is somewhere else', async () => {
  await start([])
  await thread.call('kernel', TABLE)
  const match = { on: 'function', name: 'arm_smmu_issue' } as const
  await thread.call('addBreakpoint', { match, skip: 0, once: false, enabled: true })
  await probe()
  await qemu.reset()
  // Where the function was before the reset.
  qemu.pc = within('arm_smmu_issue')
  await qemu.write(ARM_SMMU_GBPA, 4, 1)
  expect((await thread.call('breakpoints'))[0]?.matches).toBe(0)
})

test('for gdb a trap is parked: when it is held, or when it was and somebody wants to look', async () => {
  await start([])
  await thread.call('breakNext', true)
  const [, first] = await held(() => qemu.write(ARM_SMMU_GBPA, 4, 1))
  expect(qemu.parks).toBe(0)
  await thread.call('debug')
  await thread.call('debug')
  expect(qemu.parks).toBe(1)
  await thread.call('release', { action: 'step' })
  await first
  const [, second] = await held(() => qemu.write(ARM_SMMU_GBPA, 4, 2))
  expect(qemu.parks).toBe(2)
  await thread.call('release', { action: 'continue' })
  await second
  expect(qemu.registers.get(ARM_SMMU_GBPA)).toBe(2)
})
