// SPDX-License-Identifier: Apache-2.0
/** The real QEMU's gdbstub while a trap is held: the vCPU stands in front of its instruction, and nothing is done twice. */
import { once } from 'node:events'
import { type AddressInfo, createServer } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, expect, test } from 'vitest'
import type { Session } from '../../server/control/session.ts'
import { ARM_SMMU_STRTAB_BASE } from '../../server/smmu/registers.ts'
import { pcOf } from '../../server/trace/symbols.ts'
import type { BreakpointSpec } from '../../server/trap/breakpoints.ts'
import type { HeldTrap } from '../../server/trap/operations.ts'
import { El2Guest } from './el2Guest.ts'
import { Remote } from './remote.ts'

/** The virt machine's SMMU. */
const FRAME = 0x0905_0000
const REGISTER = FRAME + ARM_SMMU_STRTAB_BASE
const VALUE = 0x4000_1000n
/** `str x3, [x2]`, as it lies in memory. */
const STORE = '430000f9'
const PC = 32
const MAILBOX = 0x4020_0000
const SETTLE_MS = 300

let guest: El2Guest
let session: Session
afterEach(() => guest.dispose())

/** A guest whose stores to STRTAB_BASE are held. */
async function start(smp = 1, reconnectMs = 0): Promise<void> {
  guest = await El2Guest.start(smp, reconnectMs)
  ;({ session } = guest)
  const match = { on: 'register', offset: ARM_SMMU_STRTAB_BASE, access: 'write' } as const
  const spec: BreakpointSpec = { match, skip: 0, once: false, enabled: true }
  await session.thread?.call('addBreakpoint', spec)
}

const ofThread = (): NonNullable<Session['thread']> => {
  const { thread } = session
  if (thread === undefined) throw new Error('the session has no trap thread')
  return thread
}

/** The guest stores, and is held. */
async function store(cpu = 0): Promise<{ readonly held: HeldTrap; readonly stored: Promise<void> }> {
  const held = once(ofThread(), 'held')
  const stored = guest.store(REGISTER, VALUE, cpu)
  stored.catch(() => {})
  const [trap] = (await held) as [HeldTrap]
  return { held: trap, stored }
}

const attach = async () => Remote.attach(await session.openGdb(undefined, AbortSignal.timeout(20_000)))
const release = (action: 'continue' | 'step' | 'abort' = 'continue') => ofThread().call('release', { action })

/** What the policy has there for the guest. */
async function written(): Promise<bigint> {
  const [found] = await ofThread().call('registers', 0, 'host', [ARM_SMMU_STRTAB_BASE])
  return (BigInt(found?.hi ?? 0) << 32n) | BigInt(found?.lo ?? 0)
}

test('gdb attaches to a held trap: registers and memory are there, and it goes on when the trap is released', async () => {
  await start()
  const { held, stored } = await store()
  const traps = session.counters?.traps().total ?? 0
  const gdb = await attach()
  const pc = await gdb.register(PC)
  expect(pc).toBe(pcOf(held.trap))
  expect(await gdb.memory(pc, 4)).toBe(STORE)
  expect([await gdb.register(2), await gdb.register(3)]).toEqual([BigInt(REGISTER), VALUE])

  gdb.go()
  await sleep(SETTLE_MS)
  expect(gdb.quiet).toBe(true)
  expect(await gdb.interrupt()).toMatch(/^T02/)
  expect(await gdb.register(PC)).toBe(pc)
  expect(await written()).toBe(0n)

  gdb.go()
  await release()
  await stored
  expect(await written()).toBe(VALUE)
  // The access that is made again is no other trap.
  expect(session.counters?.traps().total).toBe(traps + 1)
  await gdb.interrupt()
  await gdb.detach()
  const { stored: again } = await store()
  await release()
  await again
})

test('it was attached before: it runs, and finds the vCPU there when it looks', async () => {
  await start()
  const gdb = await attach()
  gdb.go()
  const { held, stored } = await store()
  await gdb.interrupt()
  expect(await gdb.register(PC)).toBe(pcOf(held.trap))
  // Released while gdb looks: the guest goes on when gdb lets it.
  await release()
  await sleep(SETTLE_MS)
  expect(await gdb.register(PC)).toBe(pcOf(held.trap))
  gdb.go()
  await stored
  expect(await written()).toBe(VALUE)
  await gdb.interrupt()
  await gdb.detach()
})

test('one step of gdb is the instruction, once the trap is released', async () => {
  await start()
  const { held, stored } = await store()
  const gdb = await attach()
  gdb.step()
  await sleep(SETTLE_MS)
  expect(gdb.quiet).toBe(true)
  await release()
  expect(await gdb.next()).toMatch(/^T05/)
  expect(await gdb.register(PC)).toBe(pcOf(held.trap) + 4n)
  await gdb.detach()
  await stored
  expect(await written()).toBe(VALUE)
})

test('the other vCPU stands still as well, and makes no trap meanwhile', async () => {
  await start(2)
  await guest.cpuOn(1)
  await guest.store(MAILBOX + 0x8000, 1n, 1)
  const { stored } = await store()
  const gdb = await attach()
  gdb.go()
  // It runs until the vCPU is at its access again, and then stands still as well.
  await sleep(SETTLE_MS)
  const other = guest.store(MAILBOX + 0x8000, 2n, 1)
  await sleep(SETTLE_MS)
  expect(guest.peek(MAILBOX + 0x8000)).toBe(1n)
  await release()
  await Promise.all([stored, other])
  expect(guest.peek(MAILBOX + 0x8000)).toBe(2n)
  await gdb.interrupt()
  await gdb.detach()
})

test('QEMU answers while a trap is parked: its monitor does, and a reset waits for the release', async () => {
  await start()
  const { stored } = await store()
  const gdb = await attach()
  gdb.go()
  const qmp = await session.qmp(AbortSignal.timeout(20_000))
  // Nothing answers the continue: QEMU may hear of it after this.
  await expect.poll(() => qmp.execute('query-status')).toMatchObject({ running: true })
  const reset = once(ofThread(), 'reset')
  const asked = session.reset(AbortSignal.timeout(20_000))
  await sleep(SETTLE_MS)
  await release()
  await Promise.all([asked, reset])
  stored.catch(() => {})
  expect(await written()).toBe(0n)
  await gdb.interrupt()
  await gdb.detach()
})

test('a server that takes over finds the trap parked, and holds it again', async () => {
  await start(1, 20_000)
  const { held, stored } = await store()
  const gdb = await attach()
  const again = once(ofThread(), 'held')
  await ofThread().swap()
  const [second] = (await again) as [HeldTrap]
  expect(second.trap).toMatchObject({ offset: ARM_SMMU_STRTAB_BASE, lo: Number(VALUE) })
  expect(await gdb.register(PC)).toBe(pcOf(held.trap))
  gdb.go()
  await release()
  await stored
  expect(await written()).toBe(VALUE)
  await gdb.interrupt()
  await gdb.detach()
})

test('a machine with a parked trap is not saved', async () => {
  await start()
  const { stored } = await store()
  const gdb = await attach()
  const folder = guest.folder
  await expect(session.save({ ram: `${folder}/ram`, devices: `${folder}/devices` })).rejects.toThrow()
  expect(session.qemu.errors).toContain('a trap is held for a debugger')
  await release()
  gdb.go()
  await stored
})

test('a port where somebody listens is refused, and leaves nothing: another place is still to be had, one for all who ask', async () => {
  await start()
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  const soon = () => AbortSignal.timeout(20_000)
  await expect(session.openGdb(port, soon())).rejects.toThrow('Address already in use')
  server.close()
  await once(server, 'close')
  expect(session.gdb).toBeUndefined()
  const [first, second] = await Promise.all([session.openGdb(undefined, soon()), session.openGdb(port, soon())])
  expect(second).toBe(first)
  await (await Remote.attach(first)).detach()
})

test('a gdb that is gone without a word leaves the guest as it stands: it goes on when it is told to', async () => {
  await start()
  const { stored } = await store()
  const gdb = await attach()
  gdb.vanish()
  await release()
  const qmp = await session.qmp(AbortSignal.timeout(20_000))
  expect(await qmp.execute('query-status')).toMatchObject({ running: false })
  await qmp.execute('cont')
  await stored
  expect(await written()).toBe(VALUE)
  // Another one may come.
  const another = await attach()
  await another.detach()
})
