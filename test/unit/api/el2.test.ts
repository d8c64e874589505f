// SPDX-License-Identifier: Apache-2.0
/** What EL2 says of pages, beside what the server says, and attacks as they are made. */
import { EventEmitter } from 'node:events'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import type { Hello } from '../../../protocol/generated/messages.ts'
import { AttackControl } from '../../../server/api/attacks.ts'
import { Inspection } from '../../../server/api/inspection.ts'
import type { Verdicts } from '../../../server/api/verdicts.ts'
import type { Session } from '../../../server/control/session.ts'
import type { TrapThread } from '../../../server/control/trapThread.ts'
import type { FileMemory } from '../../../server/machine/fileMemory.ts'
import type { HostStage2Registers } from '../../../server/machine/ports.ts'
import type { Sink } from '../../../server/trace/pump.ts'
import type { Connection } from '../../../server/trap/connection.ts'
import type { Thread } from '../../../server/trap/thread.ts'
import { ThreadOperations } from '../../../server/trap/threadOperations.ts'
import { ANNOTATION_EL2, ANNOTATION_VM, El2Bench, L2, PAGE, REGION, registers } from '../hypervisor/pkvm/el2Support.ts'
import { RAM_BASE, RAM_SIZE } from '../hypervisor/pkvm/support.ts'

const END = RAM_BASE + RAM_SIZE

describe("pages as EL2's own tables have them", () => {
  const bench = new El2Bench()
  bench.store(PAGE, ANNOTATION_VM)
  bench.store(PAGE + 4096, ANNOTATION_VM + (2n << 4n))
  // Of this nobody told the server: what is shown is EL2's word all the same.
  bench.memory.poke64(L2 + 8 * (((REGION + 2 ** 21) / 2 ** 21) % 512), ANNOTATION_EL2)

  const inspection = (told: HostStage2Registers | null) => {
    const thread = { call: async () => told } as unknown as TrapThread
    const hello = { ram: [{ base: RAM_BASE, size: RAM_SIZE }] } as unknown as Hello
    return new Inspection(thread, hello, bench.memory as unknown as FileMemory, {} as Verdicts, () => {})
  }

  test('all of RAM', async () => {
    expect(await inspection(registers).el2Ownership(RAM_BASE, END, 100)).toEqual([
      { base: RAM_BASE, size: PAGE - RAM_BASE, state: 'owned', vm: 0 },
      { base: PAGE, size: 4096, state: 'vm', vm: 1 },
      { base: PAGE + 4096, size: 4096, state: 'vm', vm: 3 },
      { base: PAGE + 8192, size: REGION + 2 ** 21 - PAGE - 8192, state: 'owned', vm: 0 },
      { base: REGION + 2 ** 21, size: 2 ** 21, state: 'hyp', vm: 0 },
      { base: REGION + 2 ** 22, size: END - REGION - 2 ** 22, state: 'owned', vm: 0 },
    ])
  })

  test('a part of it', async () => {
    expect(await inspection(registers).el2Ownership(PAGE, PAGE + 4096, 100)).toEqual([
      { base: PAGE, size: 4096, state: 'vm', vm: 1 },
    ])
  })

  test('in as many ranges as were asked for', async () => {
    const ranges = (await inspection(registers).el2Ownership(RAM_BASE, END, 4)) ?? []
    expect(ranges.length).toBeLessThanOrEqual(4)
    expect(ranges.map(({ state }) => state)).toContain('mixed')
  })

  test('a machine whose EL2 keeps no tables', async () => {
    expect(await inspection(null).el2Ownership(RAM_BASE, END, 100)).toBeNull()
  })

  test('tables that make no sense are a problem, not an answer', async () => {
    await expect(inspection({ ...registers, vtcrLo: 3 << 14 }).el2Ownership(RAM_BASE, END, 100)).rejects.toMatchObject({
      status: 409,
      message: "EL2's tables cannot be read: VTCR_EL2.TG0 is reserved",
    })
  })
})

test.each(['donate', 'reclaim'] as const)('%s by hand is refused while EL2 owns the pages', what => {
  const bench = new El2Bench()
  const { hyp } = bench
  const operator = { followed: hyp.followed, donate: () => 0, reclaim: () => 0 }
  const operations = new ThreadOperations({} as Thread, () => ({ operator }) as unknown as Connection)
  expect(() => operations[what](PAGE, 4096, 1)).toThrow(
    `EL2 owns the pages and alone gives and takes them: nothing to ${what} by hand`,
  )
})

describe('attacks as they are made', () => {
  beforeEach(() => {
    vi.useFakeTimers()
  })
  afterEach(() => {
    vi.useRealTimers()
  })

  const machine = () => {
    const sinks: Sink[] = []
    const session = {
      console: new EventEmitter(),
      pump: { add: (sink: Sink) => sinks.push(sink), drain: () => {} },
    } as unknown as Session
    let seq = 0
    const say = (fields: object) =>
      session.console.emit('line', `@cosim ${JSON.stringify({ seq: seq++, ok: true, ...fields })}`)
    return { session, say, sinks }
  }
  const attack = (target: string, result: string) => ({
    event: 'attack',
    who: 'dma',
    what: 'read',
    target,
    address: '0x48000000',
    result,
    from: 1,
    to: 2,
  })

  test('each is in the table a moment after the guest told of it', () => {
    const control = new AttackControl()
    const { session, say } = machine()
    control.follow(session)
    say(attack('own', 'reached'))
    expect(control.feed.last?.attacks.attacks).toEqual([])
    vi.advanceTimersByTime(400)
    expect(control.feed.last?.attacks.attacks).toMatchObject([{ target: 'own', result: 'reached', stoppedBy: null }])
    say(attack('secret', 'zeros'))
    say({ event: 'pvm', state: 'checked', changed: 0 })
    vi.advanceTimersByTime(400)
    expect(control.feed.last?.attacks).toMatchObject({ attacks: [{}, { target: 'secret' }], secretChanged: 0 })
    expect(control.report()).toEqual(control.feed.last?.attacks)
  })

  test('the next machine begins with an empty table', () => {
    const control = new AttackControl()
    const first = machine()
    control.follow(first.session)
    first.say(attack('own', 'reached'))
    vi.advanceTimersByTime(400)
    control.follow(machine().session)
    first.say(attack('secret', 'reached'))
    vi.advanceTimersByTime(400)
    expect(control.feed.last).toMatchObject({ run: 2, attacks: { attacks: [], secretChanged: null, storm: null } })
  })

  test('a guest that tells of attacks without end fills no memory', () => {
    const control = new AttackControl()
    const { session, say } = machine()
    control.follow(session)
    for (let i = 0; i < 5_000; i++) say(attack('own', 'reached'))
    expect(control.report().attacks.length).toBeLessThanOrEqual(1_000)
  })
})
