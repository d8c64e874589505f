// SPDX-License-Identifier: Apache-2.0
/**
 * A hypervisor that dies at a chosen access of a trap, and another one that goes on from the last checkpoint: wherever it
 * was, the end is the same as if nothing had happened.
 */
import { describe, expect, test } from 'vitest'
import { Hypervisor } from '../../../server/hypervisor/pkvm/hypervisor.ts'
import { PAGE_OWNED, PAGE_VM } from '../../../server/hypervisor/pkvm/ownership.ts'
import type { CpuGuard, Machine } from '../../../server/machine/ports.ts'
import type { Trap } from '../../../server/policy/policy.ts'
import { SERIES_STEPS, type SeriesStep } from '../../../server/policy/policy.ts'
import type { Halves } from '../../../server/smmu/bits.ts'
import { queueIndex } from '../../../server/smmu/queue.ts'
import * as r from '../../../server/smmu/registers.ts'
import {
  Bench,
  CARVEOUT_BASE,
  CARVEOUT_SIZE,
  Host,
  MiB,
  RAM_BASE,
  STE,
  shadowSte,
} from '../../unit/hypervisor/pkvm/support.ts'
import { cfgiSte, command, tlbiNhVa } from '../../unit/smmu/fields.ts'

class Killed extends Error {}

const VM = 7
const TARGET = RAM_BASE + 8 * MiB

/** A machine whose hypervisor can be killed before or after any access to the outside. */
class Mortal extends Bench {
  /** Accesses to the outside so far, and the one that is not survived. */
  accesses = 0
  deadline = Number.POSITIVE_INFINITY
  deaths = 0
  /** What QEMU keeps. */
  checkpoint: Uint8Array = new Uint8Array(0)
  readonly #until: SeriesStep
  readonly #outside: Machine

  constructor(until: SeriesStep) {
    super({ options: { until } })
    this.#until = until
    const { memory, guard } = this
    const alive = () => {
      if (this.accesses++ === this.deadline) throw new Killed()
    }
    const around = <T>(act: () => T): T => {
      alive()
      const result = act()
      alive()
      return result
    }
    const mortalGuard: CpuGuard = {
      add: (base, size) => around(() => guard.add(base, size)),
      remove: (base, size) => around(() => guard.remove(base, size)),
    }
    this.#outside = {
      ...this.machine,
      memory: {
        ram: memory.ram,
        read: (address, target, at, length) => memory.read(address, target, at, length),
        write: (address, source, at, length) => around(() => memory.write(address, source, at, length)),
      },
      smmus: this.machine.smmus.map(smmu => ({
        ...smmu,
        hardware: {
          read: (offset: number, size: number, into: Halves) => around(() => smmu.hardware.read(offset, size, into)),
          write: (offset: number, size: number, lo: number, hi: number) =>
            around(() => smmu.hardware.write(offset, size, lo, hi)),
        },
      })),
      guard: mortalGuard,
    }
    this.hyp = this.#born()
    this.hyp.reset()
    this.keep()
  }

  #born(): Hypervisor {
    return new Hypervisor(this.#outside, {
      options: { until: this.#until, waitPolls: 50 },
      report: this.report,
      clock: () => this.now++,
      persist: () => this.keep(),
    })
  }

  keep(): void {
    this.checkpoint = this.hyp.checkpoint().slice()
  }

  /** Runs to its end, however often it takes a new hypervisor. `again` false: what was cut is not asked for again. */
  survive<T>(act: () => T, again = true): T | undefined {
    for (;;) {
      try {
        const result = act()
        this.keep()
        return result
      } catch (error) {
        if (!(error instanceof Killed)) throw error
        this.deaths++
        this.deadline = Number.POSITIVE_INFINITY
        this.hyp = this.#born()
        this.hyp.restore(this.checkpoint)
        this.hyp.resume()
        this.keep()
        if (!again) return undefined
      }
    }
  }

  override trap(write: boolean, offset: number, size: number, lo = 0, hi = 0, smmu = 0): Trap {
    return this.survive(() => super.trap(write, offset, size, lo, hi, smmu)) as Trap
  }
}

/** All that counts: what the host reads, what the hardware uses, and who owns what. */
function outcome(bench: Mortal) {
  const { hyp, hw } = bench
  const { prod, cons } = hyp.smmus[0].shadowCmdq.state
  return {
    host: [r.ARM_SMMU_CMDQ_PROD, r.ARM_SMMU_CMDQ_CONS, r.ARM_SMMU_CR0, r.ARM_SMMU_STRTAB_BASE_CFG].map(offset =>
      bench.read(offset),
    ),
    hardware: [r.ARM_SMMU_CR0, r.ARM_SMMU_STRTAB_BASE, r.ARM_SMMU_STRTAB_BASE_CFG, r.ARM_SMMU_CMDQ_BASE].map(offset =>
      hw.get(offset),
    ),
    idle: [hw.get(r.ARM_SMMU_CMDQ_PROD) === hw.get(r.ARM_SMMU_CMDQ_CONS), prod === cons],
    streams: hyp.streams().map(({ sid, host, shadow }) => ({ sid, host: [...host], shadow: [...shadow] })),
    shadow: [8, 0x300].map(sid => shadowSte(bench, sid)),
    ranges: hyp.ranges(),
    donated: hyp.donated,
    guard: [...bench.guard.ranges].sort((a, b) => a.base - b.base),
    used: hyp.pool.used,
    problems: hyp.verify(),
  }
}

interface Scenario {
  readonly name: string
  readonly stages: readonly SeriesStep[]
  /** Before anything can go wrong. */
  readonly prepare: (bench: Mortal, host: Host) => void
  /** May be cut anywhere. */
  readonly act: (bench: Mortal, host: Host) => void
}

const all = SERIES_STEPS
const from = (stage: SeriesStep): SeriesStep[] => SERIES_STEPS.slice(SERIES_STEPS.indexOf(stage))
const boot = (_: Mortal, host: Host) => void host.boot()

const scenarios: Scenario[] = [
  { name: 'the driver’s start', stages: all, prepare() {}, act: (_, host) => void host.boot() },
  {
    name: 'a batch of invalidations',
    stages: all,
    prepare: boot,
    act: (_, host) =>
      host.commands(tlbiNhVa(0x1000), tlbiNhVa(0x2000), command('TLBI_NH_ASID', { asid: 5 }), command('SYNC')),
  },
  {
    name: 'the first entry of a stream, which needs a table',
    stages: from('strtab'),
    prepare(_, host) {
      host.boot()
      host.l1(8)
      host.ste(8, STE.s1)
    },
    act: (_, host) => host.cfgiSte(8),
  },
  {
    name: 'an entry goes from abort to stage 1',
    stages: from('strtab'),
    prepare(_, host) {
      host.boot().attach(8, STE.abort)
      host.ste(8, STE.s1)
    },
    act: (_, host) => host.cfgiSte(8),
  },
  {
    name: 'an entry goes away',
    stages: from('strtab'),
    prepare(_, host) {
      host.boot().attach(8, STE.s1)
      host.ste(8, STE.invalid)
    },
    act: (_, host) => host.cfgiSte(8),
  },
  {
    name: 'two entries and an invalidation in one batch',
    stages: from('strtab'),
    prepare(_, host) {
      host.boot()
      host.l1(8)
      host.l1(0x300, host.l2 + 0x8000)
      host.ste(8, STE.s1)
      host.bench.memory.poke64(host.l2 + 0x8000, ...STE.bypass)
    },
    act: (_, host) => host.commands(cfgiSte(8), tlbiNhVa(0x1000), cfgiSte(0x300), command('SYNC')),
  },
  { name: 'the driver’s end', stages: all, prepare: boot, act: (_, host) => host.write(r.ARM_SMMU_CR0, 0) },
  {
    name: 'a donation',
    stages: ['nested'],
    prepare: (_, host) => void host.boot().attach(8, STE.s1),
    act: bench =>
      void bench.survive(
        () => bench.hyp.donate(TARGET, 3 * 4096, VM),
        bench.hyp.ownership.stateAt(TARGET) === PAGE_OWNED,
      ),
  },
  {
    name: 'a reclaim of the middle of what was donated',
    stages: ['nested'],
    prepare(bench, host) {
      host.boot().attach(8, STE.s1)
      bench.hyp.donate(TARGET, 3 * 4096, VM)
      bench.keep()
    },
    act: bench => void bench.survive(() => bench.hyp.reclaim(TARGET + 4096, 4096, VM), false),
  },
]

/** CFGI_STE and CMD_SYNC, which a hypervisor issues to put its table right. */
const isInvalidation = (command: string): boolean => [0x03, 0x46].includes(Number(command.split(',')[0]) & 0xff)

describe.each(scenarios)('killed in: $name', ({ stages, prepare, act }) => {
  test.each(stages)('%s', until => {
    const run = (deadline: number) => {
      const bench = new Mortal(until)
      const host = new Host(bench)
      prepare(bench, host)
      const start = bench.accesses
      bench.deadline = start + deadline
      act(bench, host)
      bench.deadline = Number.POSITIVE_INFINITY
      return { bench, accesses: bench.accesses - start, end: outcome(bench) }
    }
    const whole = run(Number.POSITIVE_INFINITY)
    expect(whole.bench.deaths).toBe(0)
    expect(whole.end.problems).toEqual([])
    whole.bench.report.take()
    for (let deadline = 0; deadline < whole.accesses; deadline++) {
      const { bench, end } = run(deadline)
      expect(bench.deaths, `access ${deadline}`).toBe(1)
      expect(end, `access ${deadline}`).toEqual(whole.end)
      const unexpected = bench.report.take().filter(code => code !== 'HYP_QUEUE_DISABLED_AT_SHUTDOWN')
      expect(unexpected, `access ${deadline}`).toEqual([])
      expect(bench.memory.outside, `access ${deadline}`).toBe(0)
      // Invalidations may come twice; what never was a command must not come at all.
      const consumed = bench.hw.consumed.map(words => words.join())
      const legal = new Set(whole.bench.hw.consumed.map(words => words.join()))
      expect(consumed.filter(command => !legal.has(command) && !isInvalidation(command))).toEqual([])
      expect(consumed.length, `access ${deadline}`).toBeLessThanOrEqual(2 * whole.bench.hw.consumed.length + 8)
    }
  })
})

test('an answer to the hardware is given once', () => {
  // PRI_RESP, RESUME and STALL_TERM answer a device: a second one could be taken for the answer to something else.
  const once = [
    command('PRI_RESP', { sid: 8, prgIndex: 3 }),
    command('RESUME', { sid: 8, stag: 5 }),
    command('STALL_TERM', { sid: 8 }),
  ]
  for (let deadline = 0; deadline < 12; deadline++) {
    const bench = new Mortal('nested')
    const host = new Host(bench).boot()
    bench.deadline = bench.accesses + deadline
    host.commands(...once, tlbiNhVa(0x1000), command('SYNC'))
    const opcodes = bench.hw.consumed.map(([word]) => word & 0xff)
    for (const [opcode] of once) expect(opcodes.filter(found => found === opcode)).toHaveLength(1)
  }
})

test('the host’s queue changes between the death and the repetition: nothing is lost but the host’s own', () => {
  const bench = new Mortal('nested')
  const host = new Host(bench).boot()
  const before = host.prod
  // After the commands were handed over, before the answer.
  const survive = bench.survive.bind(bench)
  bench.survive = (act, again) =>
    survive(() => {
      const result = act()
      if (bench.deaths === 0 && host.cmdq > 0 && bench.hw.get(r.ARM_SMMU_CMDQ_PROD) !== 0 && armed) {
        armed = false
        const at = host.cmdq + 16 * queueIndex(before, host.log2size)
        bench.memory.poke(at, new Uint8Array(Uint32Array.of(0x10, 0, 0, 0).buffer))
        throw new Killed()
      }
      return result
    }, again)
  let armed = false
  const prod = host.place(tlbiNhVa(0x1000), command('SYNC'))
  armed = true
  host.write(r.ARM_SMMU_CMDQ_PROD, prod)
  expect(bench.deaths).toBe(1)
  expect(bench.report.take()).toEqual(['HYP_COMMAND_REFUSED'])
  expect(bench.read(r.ARM_SMMU_CMDQ_CONS)).toBe(prod)
  expect(bench.hyp.verify()).toEqual([])
})

test('what cannot be taken over is refused in words', () => {
  const bench = new Mortal('nested')
  new Host(bench).boot().attach(8, STE.s1)
  const successor = () => {
    const next = new Hypervisor(bench.machine, {
      options: { waitPolls: 50 },
      report: bench.report,
      clock: () => bench.now++,
    })
    bench.guard.ranges = []
    next.restore(bench.checkpoint)
    return next
  }
  expect(successor().resume()).toEqual([])
  bench.hw.set(r.ARM_SMMU_CMDQ_BASE, 0)
  expect(() => successor().resume()).toThrow(/SMMU 0: CMDQ_BASE is 0x0 instead of/)
  bench.hw.set(r.ARM_SMMU_CMDQ_BASE, bench.hyp.smmus[0].shadowCmdq.state.base + 12)
  bench.memory.poke(CARVEOUT_BASE, new Uint8Array(CARVEOUT_SIZE))
  expect(() => successor().resume()).toThrow(/stream table is damaged|idmap/)
})

test('pages of a donation that was cut before it began stay the host’s, afterwards they are the VM’s', () => {
  const states = new Set<number>()
  for (let deadline = 0; deadline < 40; deadline++) {
    const bench = new Mortal('nested')
    new Host(bench).boot()
    bench.deadline = bench.accesses + deadline
    bench.survive(() => bench.hyp.donate(TARGET, 4096, VM), false)
    bench.deadline = Number.POSITIVE_INFINITY
    states.add(bench.hyp.ownership.stateAt(TARGET))
    expect(bench.hyp.verify()).toEqual([])
  }
  expect([...states].every(state => state === PAGE_OWNED || state === PAGE_VM)).toBe(true)
})
