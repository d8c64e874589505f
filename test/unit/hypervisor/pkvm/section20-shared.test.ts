// SPDX-License-Identifier: Apache-2.0
/**
 * EL2's tables for its host as the second stage of devices (server/hypervisor/README.md, section 20): what devices reach at each store of EL2 and
 * of the hypervisor, with hardware that caches all it may; what is refused; a hypervisor that takes over.
 */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { Hypervisor } from '../../../../server/hypervisor/pkvm/hypervisor.ts'
import type { PolicyOptions } from '../../../../server/policy/policy.ts'
import { EFAULT, EPERM } from '../../../../server/policy/result.ts'
import { fieldPrep } from '../../../../server/smmu/bits.ts'
import * as C from '../../../../server/smmu/commands.ts'
import type { IdRegisters } from '../../../../server/smmu/features.ts'
import * as r from '../../../../server/smmu/registers.ts'
import type { Outcome } from '../../../../server/smmu/transaction.ts'
import { NO_SSID } from '../../../../server/smmu/transaction.ts'
import { SYNC } from '../../smmu/fields.ts'
import { ANNOTATION_EL2, ANNOTATION_VM } from './el2Support.ts'
import { BLOCK, HostEl2, PAGE } from './hostEl2.ts'
import { idRegisters, SoftBench, type SoftSetUp } from './soft.ts'
import { CARVEOUT_BASE, CARVEOUT_SIZE, Host, idmapEntry, MiB, RAM_BASE, SMMU_BASE, STE } from './support.ts'

const SID = 8
/** Of EL2, in the first range of RAM. */
const EL2_BASE = RAM_BASE + 14 * MiB
const EL2_SIZE = 2 * MiB
/** A second range, in a GiB in which nothing is hidden. */
const FAR = 0x8000_0000
const RAM = [
  { base: RAM_BASE, size: 32 * MiB },
  { base: FAR, size: 4 * MiB },
]
/** Blocks that the tests work on, of either range. */
const NEAR_BLOCK = RAM_BASE + 8 * MiB
const TARGETS = [NEAR_BLOCK, NEAR_BLOCK + PAGE, NEAR_BLOCK + BLOCK, FAR, FAR + 7 * PAGE, FAR + BLOCK]

class SharedBench extends SoftBench {
  readonly el2: HostEl2
  readonly host: Host
  /** Told to the hypervisor and answered; false: it refused. */
  ok = true

  constructor(populate: PolicyOptions['populate'], setUp: SoftSetUp = {}, el2Base = EL2_BASE) {
    // The memory is the bench's: EL2 begins when that is there.
    const late: { el2?: HostEl2 } = {}
    const watch = (page: number, on: boolean): boolean => late.el2?.watch(page, on) ?? false
    const el2 = { watch, hostStage2: () => late.el2?.now ?? null }
    const options = { stage2: 'shared' as const, ...(populate !== undefined && { populate }), ...setUp.options }
    super({ ram: RAM, ...setUp, options, el2 })
    this.hyp.reset()
    this.el2 = new HostEl2(this.memory, el2Base, EL2_SIZE)
    late.el2 = this.el2
    this.el2.onTlbi = () => this.tell()
    this.host = new Host(this).boot()
    this.host.attach(SID, STE.bypass)
  }

  /** EL2 leaves, or has executed a TLBI. */
  tell(all = false): void {
    const change = { ...this.el2.registers, cpu: 0, time: 0, all, pages: this.el2.leave() }
    this.ok = this.hyp.stage2Changed(change) && this.ok
  }

  translate(address: number): Outcome {
    return this.hardware[0].translate({
      ...{ sid: SID, ssid: NO_SSID, lo: address % 2 ** 32, hi: Math.floor(address / 2 ** 32) },
      ...{ write: true, privileged: false, instruction: false },
    })
  }

  /** Where a device gets to; -1: nowhere. */
  reach(address: number): number {
    const outcome = this.translate(address)
    return outcome.kind === 'translated' ? outcome.pa : -1
  }
}

function started(populate: PolicyOptions['populate'], setUp: SoftSetUp = {}, el2Base = EL2_BASE): SharedBench {
  const bench = new SharedBench(populate, setUp, el2Base)
  bench.tell(true)
  expect(bench.ok).toBe(true)
  return bench
}

describe('what devices reach', () => {
  test('before EL2 has tables: nothing', () => {
    const bench = new SharedBench('ahead')
    for (const address of [...TARGETS, CARVEOUT_BASE]) expect(bench.reach(address)).toBe(-1)
    expect(bench.hyp.isolates).toBe(true)
    expect(bench.hyp.verify()).toEqual([])
  })

  test('never ahead: what EL2 has mapped, by its own tables', () => {
    const bench = started('never')
    for (const address of [NEAR_BLOCK, NEAR_BLOCK + BLOCK, FAR, FAR + BLOCK]) {
      expect(bench.reach(address)).toBe(-1)
      bench.el2.touch(address)
      bench.tell()
      expect(bench.reach(address)).toBe(address)
    }
    expect(bench.reach(EL2_BASE)).toBe(-1)
    expect(bench.hyp.verify()).toEqual([])
    // Ours: the root, and level 1, and level 2 of three GiB at most; EL2's: the last level of what it keeps.
    expect(bench.hyp.sharedInfo).toMatchObject({ populate: 'never', own: 5, linked: 1, ahead: 0 })
  })

  test('where EL2’s own table is linked, its store alone is enough', () => {
    const bench = started('never')
    for (const page of TARGETS) bench.el2.touch(page)
    bench.tell()
    bench.el2.take(FAR + 9 * PAGE, ANNOTATION_VM)
    bench.tell()
    // Not cached, and nobody is told.
    bench.el2.touch(FAR + 8 * PAGE)
    expect(bench.reach(FAR + 8 * PAGE)).toBe(FAR + 8 * PAGE)
    expect(bench.reach(FAR + 9 * PAGE)).toBe(-1)
  })

  test('ahead: all that is the host’s, RAM or not', () => {
    const bench = started('ahead')
    for (const address of [...TARGETS, RAM_BASE, 0x0800_0000, 0xff00_0000, 2 ** 39]) {
      expect(bench.reach(address)).toBe(address)
    }
    expect(bench.reach(EL2_BASE)).toBe(-1)
    expect(bench.reach(EL2_BASE + EL2_SIZE - PAGE)).toBe(-1)
    expect(bench.reach(EL2_BASE + EL2_SIZE)).toBe(EL2_BASE + EL2_SIZE)
    // Beyond what EL2's tables translate.
    expect(bench.reach(2 ** 40)).toBe(-1)
    expect(bench.hyp.verify()).toEqual([])
  })

  test('a table that is full is EL2’s again, and ours goes back to the pool', () => {
    const bench = started('ahead')
    const { used } = bench.hyp.pool
    bench.el2.take(FAR + PAGE, ANNOTATION_VM)
    bench.tell()
    expect(bench.hyp.pool.used).toBe(used + 1)
    for (let page = FAR; page < FAR + BLOCK; page += PAGE) bench.el2.touch(page)
    bench.tell()
    expect(bench.hyp.pool.used).toBe(used)
    expect(bench.reach(FAR)).toBe(FAR)
    expect(bench.reach(FAR + PAGE)).toBe(-1)
    expect(bench.hyp.verify()).toEqual([])
  })

  test.each(['ahead', 'never'] as const)(
    '%s: hypervisor memory and frames, whatever EL2’s tables say of them',
    populate => {
      const bench = started(populate)
      // EL2 takes both for the host's: a block of 1 GiB over devices, one of 2 MiB over hypervisor memory.
      bench.el2.store(bench.el2.level1(0), (1n << 54n) | 0x7c5n)
      bench.el2.touch(CARVEOUT_BASE)
      bench.el2.touch(CARVEOUT_BASE + CARVEOUT_SIZE - PAGE)
      bench.tell()
      for (const hidden of [CARVEOUT_BASE, CARVEOUT_BASE + CARVEOUT_SIZE - PAGE, SMMU_BASE, SMMU_BASE + 0x1_f000]) {
        expect(bench.reach(hidden)).toBe(-1)
      }
      for (const beside of [SMMU_BASE - PAGE, SMMU_BASE + 0x2_0000, 0x0808_0000])
        expect(bench.reach(beside)).toBe(beside)
      expect(bench.hyp.verify()).toEqual([])
    },
  )

  test('attributes are EL2’s, but that a descriptor of ours is no part of a contiguous range', () => {
    const bench = started('never')
    bench.el2.store(bench.el2.level2(NEAR_BLOCK), BigInt(NEAR_BLOCK) | (1n << 52n) | (1n << 54n) | 0x7fdn)
    bench.tell()
    expect(idmapEntry(bench, NEAR_BLOCK)).toMatchObject({ size: BLOCK, hi: 1 << 22 })
  })

  test('a page that the host may only read stays so', () => {
    const bench = started('never')
    bench.el2.touch(NEAR_BLOCK)
    bench.el2.store(bench.el2.level2(NEAR_BLOCK), (BigInt(NEAR_BLOCK) | 0x77dn) & ~0x80n)
    bench.tell()
    expect(bench.translate(NEAR_BLOCK)).toMatchObject({ kind: 'fault' })
  })
})

type Op = { readonly op: 'touch' | 'takeEl2' | 'takeVm' | 'give' | 'merge'; readonly at: number; readonly page: number }

const operation = fc.record({
  op: fc.constantFrom<Op['op'][]>('touch', 'takeEl2', 'takeVm', 'give', 'merge'),
  at: fc.constantFrom(NEAR_BLOCK, NEAR_BLOCK + BLOCK, FAR, FAR + BLOCK),
  page: fc.constantFrom(0, 1, 7, 511),
})

/** EL2 does what it is asked for if that makes sense. */
function act(el2: HostEl2, { op, at, page }: Op): void {
  const address = at + page * PAGE
  const found = el2.descriptor(address)
  const kept = found !== 0n && (found & 1n) === 0n
  if (op === 'touch') el2.touch(address)
  else if (op === 'merge') el2.merge(at)
  else if (op === 'give') {
    if (kept) el2.give(address)
  } else if (!kept || found === ANNOTATION_EL2) el2.take(address, op === 'takeEl2' ? ANNOTATION_EL2 : ANNOTATION_VM)
}

describe('any changes of EL2', () => {
  const PROBES = [0, 1, 7, 511].flatMap(page =>
    [NEAR_BLOCK, NEAR_BLOCK + BLOCK, FAR, FAR + BLOCK].map(at => at + page * PAGE),
  )
  const NEVER = [CARVEOUT_BASE, CARVEOUT_BASE + CARVEOUT_SIZE - PAGE, SMMU_BASE, EL2_BASE, EL2_BASE + 4 * PAGE]

  test.each(['ahead', 'never'] as const)(
    '%s: devices try all the time, and reach nothing that EL2 has kept when it leaves',
    populate => {
      // A stay in EL2 may have many changes of several vCPUs, with stores of one that are told with those of another.
      const stays = fc.array(fc.array(operation, { minLength: 1, maxLength: 5 }), { minLength: 1, maxLength: 8 })
      fc.assert(
        fc.property(stays, script => {
          const bench = started(populate)
          const { el2, memory } = bench
          // Whose the pages are as EL2 last left: those that it kept, kept all through a stay, are reached at no moment.
          let kept = new Set<number>()
          // What EL2 had mapped when the hypervisor last looked, and what it had unmapped since then when it executed a TLBI.
          let mapped = new Set<number>()
          const unmapped = new Set<number>()
          const isMapped = (address: number): boolean => (el2.descriptor(address) & 1n) !== 0n
          const probe = () => {
            for (const address of PROBES) {
              // Nowhere else, though tables become others while EL2 stays: it executes a TLBI before.
              expect([-1, address]).toContain(bench.reach(address))
              if (kept.has(address) || unmapped.has(address))
                expect([address, bench.reach(address)]).toEqual([address, -1])
            }
            for (const address of NEVER) expect(bench.reach(address)).toBe(-1)
          }
          const look = () => {
            bench.tell()
            // What it has not mapped is mapped ahead otherwise.
            if (populate === 'never') for (const address of mapped) if (!isMapped(address)) unmapped.add(address)
            mapped = new Set(PROBES.filter(isMapped))
          }
          el2.onTlbi = () => {
            look()
            probe()
          }
          el2.onStore = () => {
            // What is given back, or taken, in this stay is nobody's until EL2 leaves.
            kept = new Set([...kept].filter(address => isKept(el2, address)))
            for (const address of unmapped) if (isMapped(address)) unmapped.delete(address)
            probe()
          }
          memory.onWrite = probe
          for (const stay of script) {
            for (const op of stay) act(el2, op)
            look()
            expect(bench.ok).toBe(true)
            kept = new Set(PROBES.filter(address => isKept(el2, address)))
            probe()
            for (const address of PROBES) {
              // What the host owns and EL2 has unmapped may still be cached.
              const reached = populate === 'ahead' ? !kept.has(address) : isMapped(address)
              const allowed = kept.has(address) ? [-1] : reached ? [address] : [address, -1]
              expect(allowed, `0x${address.toString(16)}`).toContain(bench.reach(address))
            }
            expect(bench.hyp.verify()).toEqual([])
          }
          expect(bench.report.take()).toEqual([])
        }),
        { numRuns: 60 },
      )
    },
  )

  const isKept = (el2: HostEl2, address: number): boolean => {
    const found = el2.descriptor(address)
    return found !== 0n && (found & 1n) === 0n
  }

  test('a page of a table in which nothing is kept yet: not reached behind the TLBI, before it is annotated', () => {
    const bench = started('never')
    const page = FAR + 7 * PAGE
    bench.el2.take(FAR, ANNOTATION_VM)
    bench.el2.give(FAR)
    bench.el2.touch(page)
    bench.tell()
    expect(bench.reach(page)).toBe(page)
    let behind = 0
    bench.el2.onTlbi = () => {
      bench.tell()
      behind = bench.reach(page)
    }
    bench.el2.take(page, ANNOTATION_VM)
    expect(behind).toBe(-1)
  })

  test('a table of ours that is linked no longer is no other one before hardware has forgotten it', () => {
    const bench = started('ahead')
    const { el2, memory } = bench
    el2.take(NEAR_BLOCK, ANNOTATION_VM)
    bench.tell()
    expect(bench.reach(NEAR_BLOCK + PAGE)).toBe(NEAR_BLOCK + PAGE)
    // EL2's table is linked instead, and another block needs one of ours: without a TLBI, all in one look.
    for (let page = NEAR_BLOCK + PAGE; page < NEAR_BLOCK + BLOCK; page += PAGE) el2.touch(page)
    el2.take(FAR + PAGE, ANNOTATION_VM)
    let tried = NEAR_BLOCK + PAGE
    memory.onWrite = () => {
      // By an address of which no more than the walk is cached.
      tried += PAGE
      expect([-1, tried]).toContain(bench.reach(tried))
    }
    bench.tell()
    expect(tried).toBeGreaterThan(NEAR_BLOCK + 3 * PAGE)
    memory.onWrite = null
    expect(bench.reach(FAR + PAGE)).toBe(-1)
  })

  test('a page that comes and goes within a stay, so that its descriptor is as it was', () => {
    const bench = started('never')
    const page = FAR + 7 * PAGE
    bench.el2.take(page, ANNOTATION_VM)
    bench.tell()
    bench.el2.give(page)
    bench.el2.touch(page)
    expect(bench.reach(page)).toBe(page)
    bench.el2.take(page, ANNOTATION_VM)
    bench.tell()
    expect(bench.reach(page)).toBe(-1)
  })
})

describe('a table of EL2 that becomes another one before EL2 leaves', () => {
  /** Unlinks the level 2 table of an address. @returns the table, zeroed */
  const unlink = ({ el2, memory }: SharedBench, address: number): number => {
    const table = el2.level2(address) - (el2.level2(address) % PAGE)
    el2.store(el2.level1(address), 0n)
    memory.poke(table, new Uint8Array(PAGE))
    return table
  }

  test.each(['ahead', 'never'] as const)(
    '%s: one of level 2, of the last one: what the host wrote to a page is no table',
    populate => {
      const bench = started(populate)
      const { el2, memory } = bench
      // The host has touched all that the table maps, and a device has been there.
      const blocks = Array.from({ length: 512 }, (_, i) => FAR + i * BLOCK)
      for (const block of blocks) el2.touch(block)
      bench.tell()
      expect(bench.reach(FAR)).toBe(FAR)
      for (let i = 0; i < 512; i++) memory.poke64(NEAR_BLOCK + 8 * i, BigInt(EL2_BASE) | 0x7ffn)
      const table = unlink(bench, FAR)
      // Last-level descriptors of that page, for addresses of which nothing is cached.
      for (let i = 0; i < 512; i++) el2.store(table + 8 * i, BigInt(NEAR_BLOCK) | 0x7ffn)
      el2.store(el2.level2(RAM_BASE + 4 * MiB), BigInt(table) | 3n)
      for (const block of blocks) expect([-1, block + PAGE]).toContain(bench.reach(block + PAGE))
      bench.tell()
      for (const block of blocks) expect([-1, block + PAGE]).toContain(bench.reach(block + PAGE))
      expect(bench.hyp.verify()).toEqual([])
    },
  )

  test.each([
    ['not reached behind its TLBI', true],
    ['reached until it leaves, of an EL2 that executes none, which its own CPUs would not survive', false],
  ])('one of the last level, of hypervisor memory: %s', (_, tlbi) => {
    const bench = started('never')
    const { el2 } = bench
    el2.take(FAR, ANNOTATION_VM)
    bench.tell()
    el2.give(FAR)
    el2.touch(FAR + PAGE)
    bench.tell()
    expect(bench.reach(FAR + PAGE)).toBe(FAR + PAGE)
    if (!tlbi) el2.onTlbi = () => {}
    el2.merge(FAR)
    el2.take(CARVEOUT_BASE + PAGE, ANNOTATION_VM)
    el2.touch(CARVEOUT_BASE)
    expect(bench.reach(FAR)).toBe(tlbi ? -1 : CARVEOUT_BASE)
    bench.tell()
    expect(bench.reach(FAR)).toBe(FAR)
    expect(bench.reach(CARVEOUT_BASE)).toBe(-1)
  })

  test.each(['ahead', 'never'] as const)('%s: tables that translate fewer bits than those before', populate => {
    const bench = started(populate)
    const high = 2 ** 39 + FAR
    bench.el2.touch(high)
    bench.tell()
    expect(bench.reach(high)).toBe(high)
    const vtcrLo = (64 - 39) | (1 << 6) | (2 << 16)
    const change = { ...bench.el2.registers, vtcrLo, cpu: 0, time: 0, all: true, pages: [] }
    expect(bench.hyp.stage2Changed(change)).toBe(true)
    expect(bench.reach(high)).toBe(-1)
    expect(bench.hyp.verify()).toEqual([])
  })
})

/** Above 4 GiB: RAM, and a GiB that has none. */
const HIGH = 0x1_4000_0000
const HIGH_RAM = [...RAM, { base: HIGH, size: 16 * MiB }]
const NO_RAM = 3 * 2 ** 30
const HIGH_NO_RAM = 2 ** 39 + NO_RAM
const CARVEOUTS = [
  ['below 4 GiB', { base: CARVEOUT_BASE, size: CARVEOUT_SIZE }],
  ['above', { base: HIGH + 4 * MiB, size: CARVEOUT_SIZE }],
] as const

/** The table of the second stage that maps an address, one level above its descriptor. */
function tableFor(bench: SharedBench, address: number, level: number): number {
  const { idmap } = bench.hyp
  if (idmap === null) throw new Error('there is no second stage')
  let table = idmap.root
  for (let at = 0; at < level; at++) {
    const index = Math.floor(address / 2 ** (39 - 9 * at)) % 512
    table = Number(bench.memory.peek64(table + 8 * index) & 0xffff_ffff_f000n)
  }
  return table
}

describe('tables of ours, and EL2’s that they lead to', () => {
  test.each(['ahead', 'never'] as const)('%s: EL2’s lie above 4 GiB', populate => {
    const bench = started(populate, { ram: HIGH_RAM }, HIGH + 8 * MiB)
    const { el2 } = bench
    el2.take(FAR + PAGE, ANNOTATION_VM)
    for (let page = FAR; page < FAR + BLOCK; page += PAGE) el2.touch(page)
    bench.tell()
    // That of what EL2 keeps as well.
    expect(bench.hyp.sharedInfo?.linked).toBe(2)
    expect([FAR, FAR + PAGE, FAR + 2 * PAGE].map(page => bench.reach(page))).toEqual([FAR, -1, FAR + 2 * PAGE])
    expect(bench.hyp.verify()).toEqual([])
  })

  for (const [where, carveout] of CARVEOUTS) {
    test.each([NO_RAM, HIGH_NO_RAM])(`hypervisor memory ${where}: those for %d stay while they are linked`, address => {
      const bench = started('ahead', { ram: HIGH_RAM, carveout })
      const { el2, hyp } = bench
      const { used } = hyp.pool
      const at = address + 100 * BLOCK
      el2.take(at, ANNOTATION_VM)
      el2.take(at + 3 * BLOCK, ANNOTATION_VM)
      bench.tell()
      expect(hyp.pool.used).toBe(used + 3)
      el2.touch(at + PAGE)
      bench.tell()
      expect(hyp.pool.used).toBe(used + 3)
      const near = [at - BLOCK, at, at + PAGE, at + BLOCK, at + 3 * BLOCK, at + 3 * BLOCK + PAGE]
      expect(near.map(page => bench.reach(page))).toEqual(near.map((page, i) => (i === 1 || i === 4 ? -1 : page)))
      expect(hyp.verify()).toEqual([])
      // The successor knows those that are linked, and no others.
      const next = new Hypervisor(bench.machine, {
        ...{ options: { waitPolls: 50, stage2: 'shared' }, report: bench.report, clock: () => bench.now++ },
      })
      next.restore(hyp.checkpoint().slice())
      next.resume()
      bench.hyp = next
      expect([next.pool.used, next.verify()]).toEqual([used + 3, []])
      // One of them, then the others at once. What stands behind the last one's table is nobody's business.
      el2.give(at)
      el2.merge(at)
      bench.tell()
      expect(next.pool.used).toBe(used + 2)
      el2.give(at + 3 * BLOCK)
      bench.tell()
      const behind = tableFor(bench, at, 2) + PAGE
      const read = bench.memory.read.bind(bench.memory)
      bench.memory.read = (from, ...rest) => from !== behind && read(from, ...rest)
      el2.store(el2.level1(at), 0n)
      bench.tell()
      bench.memory.read = read
      expect([bench.ok, next.pool.used, next.verify()]).toEqual([true, used, []])
    })
  }

  test('those for addresses that EL2’s do not translate any more go back', () => {
    const used = (...taken: number[]): number => {
      const bench = started('ahead')
      for (const page of taken) bench.el2.take(page, ANNOTATION_VM)
      bench.tell()
      const vtcrLo = (64 - 39) | (1 << 6) | (2 << 16)
      bench.hyp.stage2Changed({ ...bench.el2.registers, vtcrLo, cpu: 0, time: 0, all: true, pages: [] })
      return bench.hyp.pool.used
    }
    expect(used(HIGH_NO_RAM + 100 * BLOCK, HIGH_NO_RAM + 300 * BLOCK)).toBe(used())
  })

  test('a table of EL2 right behind hypervisor memory is EL2’s', () => {
    const carveout = { base: RAM_BASE + 18 * MiB, size: CARVEOUT_SIZE }
    const bench = started('never', { carveout })
    const { el2 } = bench
    const table = carveout.base + carveout.size
    el2.store(table, BigInt(FAR) | 0x7ffn)
    el2.store(el2.level2(FAR), BigInt(table) | 3n)
    bench.tell()
    expect(bench.reach(FAR)).toBe(FAR)
    expect(bench.hyp.sharedInfo).toMatchObject({ own: 5, linked: 2 })
  })

  test('what stands for nothing that EL2 has changed is not looked at', () => {
    const bench = started('never')
    const { el2, memory } = bench
    el2.touch(FAR)
    bench.tell()
    const lengths: number[] = []
    memory.beforeRead = (address, length) => {
      if (address >= CARVEOUT_BASE && address < CARVEOUT_BASE + CARVEOUT_SIZE) lengths.push(length)
    }
    el2.touch(FAR + BLOCK)
    bench.tell()
    // A descriptor of the levels 0, 1 and 2 each.
    expect(lengths).toEqual([8, 8, 8])
    expect(bench.reach(FAR + BLOCK)).toBe(FAR + BLOCK)
  })

  test('all of EL2’s are read again: what changed beside what did not', () => {
    const bench = started('ahead')
    const { el2 } = bench
    el2.touch(NEAR_BLOCK)
    bench.tell()
    el2.touch(NEAR_BLOCK + BLOCK)
    bench.tell(true)
    expect([bench.ok, bench.hyp.verify()]).toEqual([true, []])
  })

  test('what EL2’s translate beyond the SMMUs’ addresses is nothing to them', () => {
    const bench = started('never')
    const { memory, el2 } = bench
    // 48 bits from level 0, and a table of the last half TiB.
    const [root, last] = [FAR + 2 * MiB, FAR + 2 * MiB + PAGE]
    memory.poke64(root + 8 * 511, BigInt(last) | 3n)
    const registers = {
      vttbrLo: root,
      vttbrHi: 0,
      vtcrLo: (64 - 48) | (2 << 6) | (5 << 16),
      vtcrHi: 0,
      cpu: 0,
      time: 0,
    }
    el2.now = registers
    expect(bench.hyp.stage2Changed({ ...registers, all: true, pages: [] })).toBe(true)
    const block = 511 * 2 ** 39
    memory.poke64(last, BigInt(block) | 0x7fdn)
    expect(bench.hyp.stage2Changed({ ...registers, all: false, pages: [last] })).toBe(true)
    expect(bench.reach(block)).toBe(-1)
    expect(bench.hyp.verify()).toEqual([])
  })

  test('what they are made of, where all that EL2 has not mapped is', () => {
    const none = { own: 1, linked: 0, ahead: 0 }
    expect(new SharedBench('ahead').hyp.sharedInfo).toMatchObject(none)
    const bench = started('ahead')
    const { el2 } = bench
    const ahead = 2 ** 40 - CARVEOUT_SIZE - 0x2_0000 - EL2_SIZE
    const { own } = bench.hyp.sharedInfo ?? none
    expect(bench.hyp.sharedInfo).toMatchObject({ ahead })
    el2.touch(FAR)
    bench.tell()
    expect(bench.hyp.sharedInfo).toMatchObject({ own, ahead: ahead - BLOCK })
    // Of an EL2 that has no bits of software in its descriptors.
    el2.store(el2.level2(FAR), BigInt(FAR) | 0x7fdn)
    bench.tell()
    expect(bench.hyp.sharedInfo).toMatchObject({ own, ahead: ahead - BLOCK })
    el2.take(FAR + BLOCK + PAGE, ANNOTATION_VM)
    bench.tell()
    expect(bench.hyp.sharedInfo).toMatchObject({ own: own + 1, ahead: ahead - BLOCK - PAGE })
  })

  test('memory and devices have their attributes ahead: write-back, Device-nGnRE', () => {
    const bench = started('ahead')
    const memAttr = (address: number) => ((idmapEntry(bench, address)?.lo ?? 0) >>> 2) & 0xf
    expect([FAR, NEAR_BLOCK].map(memAttr)).toEqual([0xf, 0xf])
    expect([0x0808_0000, NO_RAM, HIGH_NO_RAM].map(memAttr)).toEqual([1, 1, 1])
  })
})

describe('what hardware is told', () => {
  const own = (bench: SharedBench) => bench.report.own.splice(0).map(C.opcodeName)
  const FORGET = ['TLBI_S12_VMALL', 'SYNC']

  test.each(['ahead', 'never'] as const)(
    '%s: of a page that EL2 maps nothing, of one that it takes to forget all',
    populate => {
      const bench = started(populate)
      bench.el2.touch(FAR)
      bench.tell()
      own(bench)
      bench.el2.touch(FAR + BLOCK)
      bench.tell()
      expect(own(bench)).toEqual([])
      bench.el2.take(FAR + BLOCK, ANNOTATION_VM)
      // Behind EL2's TLBI.
      expect(own(bench)).toEqual(FORGET)
      bench.tell()
      expect(own(bench)).toEqual(FORGET)
      bench.tell()
      expect(own(bench)).toEqual([])
    },
  )

  test.each(CARVEOUTS)(
    'ahead, hypervisor memory %s: of a block that is mapped as it was to forget nothing',
    (_, carveout) => {
      const bench = started('ahead', { ram: HIGH_RAM, carveout })
      const { used } = bench.hyp.pool
      own(bench)
      bench.el2.touch(HIGH)
      bench.tell()
      expect([own(bench), bench.hyp.pool.used]).toEqual([[], used])
      expect(bench.reach(HIGH)).toBe(HIGH)
    },
  )

  /** Block `FAR` is mapped by a table in which nothing is kept. */
  const inPages = (populate: PolicyOptions['populate']): SharedBench => {
    const bench = started(populate)
    bench.el2.take(FAR, ANNOTATION_VM)
    bench.tell()
    bench.el2.give(FAR)
    bench.tell()
    own(bench)
    return bench
  }

  test('a table that EL2 links no longer: it may become another one', () => {
    const bench = inPages('never')
    bench.el2.merge(FAR)
    bench.tell()
    expect(own(bench)).toEqual(FORGET)
  })

  test('a table of ours that is linked no longer', () => {
    const bench = inPages('ahead')
    for (let page = FAR; page < FAR + BLOCK; page += PAGE) bench.el2.touch(page)
    bench.tell()
    expect(own(bench)).toEqual(FORGET)
  })
})

describe('what cannot be shared is refused', () => {
  const refusal = (populate: PolicyOptions['populate'], setUp: SoftSetUp = {}): string => {
    try {
      new SharedBench(populate, setUp).tell(true)
    } catch (error) {
      return `${(error as Error).name}: ${(error as Error).message}`
    }
    return 'none'
  }
  const id = (set: Partial<IdRegisters>, clear: Partial<IdRegisters> = {}): SoftSetUp => ({
    soft: { id: idRegisters(set, clear) },
  })

  test.each([
    ['another granule', 'ahead', { options: { granule: 16384 } }, 'EL2 gives and takes pages of 4 KiB'],
    ['no stalls', 'stall', {}, 'SMMU 0: no stalls (IDR0.STALL_MODEL)'],
    [
      'hardware that does not do without break-before-make',
      'ahead',
      id({ idr3: fieldPrep(r.IDR3_BBML, 1) }, { idr3: r.IDR3_BBML }),
      'IDR3.BBML',
    ],
    [
      'the same, which could hear of TLBI if the host let it (CR2.PTM)',
      'ahead',
      id({ idr0: r.IDR0_BTM, idr3: fieldPrep(r.IDR3_BBML, 1) }, { idr3: r.IDR3_BBML }),
      'IDR3.BBML',
    ],
  ] as const)('%s', (_, populate, setUp, reason) => {
    const said = refusal(populate, setUp)
    expect(said).toMatch(/^HypFatal: /)
    expect(said).toContain(reason)
  })

  test.each([
    ['descriptors of 52-bit addresses', { vtcrHi: 1 }, 'VTCR_EL2.DS'],
    ['permissions by index', { vtcrHi: 1 << 4 }, 'VTCR_EL2.S2PIE'],
    ['permissions with an overlay', { vtcrHi: 1 << 5 }, 'S2POE'],
    ['descriptors of 128 bits', { vtcrHi: 1 << 6 }, 'D128'],
    ['a granule of 64 KiB', { vtcrLo: (64 - 40) | (1 << 6) | (1 << 14) | (2 << 16) }, 'VTCR_EL2.TG0'],
  ])('%s', (_, registers, reason) => {
    const bench = new SharedBench('ahead')
    const change = { ...bench.el2.registers, ...registers, cpu: 0, time: 0, all: true, pages: [] }
    expect(() => bench.hyp.stage2Changed(change)).toThrow(reason)
  })

  test('attributes of HCR_EL2.FWB, also when they come later', () => {
    const bench = started('never')
    bench.el2.store(bench.el2.level2(FAR), BigInt(FAR) | 0x7d9n)
    expect(() => bench.tell()).toThrow('HCR_EL2.FWB')
  })

  test('a machine without an EL2', () => {
    const bench = new SoftBench({ options: { stage2: 'shared' } })
    expect(() => bench.hyp.reset()).toThrow('there is no EL2 whose tables could be shared')
  })

  test('nobody but EL2 gives pages', () => {
    const bench = started('ahead')
    expect(bench.hyp.donate(NEAR_BLOCK, PAGE, 1)).toBe(EPERM)
    expect(bench.hyp.reclaim(NEAR_BLOCK, PAGE, 1)).toBe(EPERM)
  })
})

describe('what fails', () => {
  test('hardware that does not invalidate keeps EL2 where it is', () => {
    const bench = started('never')
    bench.el2.touch(FAR)
    bench.tell()
    bench.poke(r.ARM_SMMU_CR0, 0)
    bench.el2.take(FAR, ANNOTATION_VM)
    bench.tell()
    expect(bench.ok).toBe(false)
    expect(bench.report.take()).toContain('HYP_UNMAP')
  })

  test('without memory for a table a hole is left, and no more than that', () => {
    const bench = started('ahead')
    bench.hyp.pool.limit = bench.hyp.pool.used
    bench.el2.take(FAR, ANNOTATION_VM)
    bench.tell()
    expect(bench.ok).toBe(true)
    expect(bench.reach(FAR)).toBe(-1)
    expect(bench.reach(FAR + PAGE)).toBe(-1)
    expect(bench.reach(FAR + BLOCK)).toBe(FAR + BLOCK)
    expect(bench.hyp.verify()).toEqual([])
  })

  test('hypervisor memory that cannot be written', () => {
    const bench = started('never')
    bench.memory.write = () => false
    bench.el2.touch(NEAR_BLOCK)
    bench.tell()
    expect(bench.ok).toBe(false)
    expect(bench.report.warnings).toMatchObject([{ code: 'HYP_UNMAP', values: [NEAR_BLOCK, 0, 512, EFAULT] }])
  })

  /** EL2 has taken pages of two blocks, and does what needs tables of ours to be read. @returns whether EL2 is let go on */
  const acts = [
    [
      'a GiB has nothing any more',
      NO_RAM,
      (bench: SharedBench, at: number) => {
        bench.el2.give(at)
        bench.el2.give(at + BLOCK)
        bench.el2.store(bench.el2.level1(at), 0n)
        bench.el2.take(FAR + PAGE, ANNOTATION_VM)
        bench.tell()
        return bench.ok
      },
    ],
    [
      'tables translate fewer bits',
      HIGH_NO_RAM,
      (bench: SharedBench) => {
        const vtcrLo = (64 - 39) | (1 << 6) | (2 << 16)
        return bench.hyp.stage2Changed({ ...bench.el2.registers, vtcrLo, cpu: 0, time: 0, all: true, pages: [] })
      },
    ],
  ] as const
  test.each(acts)('hypervisor memory of which any one part cannot be read: %s', (_, at, act) => {
    const failing = (limit: number): boolean => {
      const bench = started('ahead')
      bench.el2.take(at, ANNOTATION_VM)
      bench.el2.take(at + BLOCK, ANNOTATION_VM)
      bench.tell()
      const read = bench.memory.read.bind(bench.memory)
      let [reads, failed] = [0, false]
      bench.memory.read = (address, ...rest) => {
        const own = address >= CARVEOUT_BASE && address < CARVEOUT_BASE + CARVEOUT_SIZE
        if (own && reads++ === limit) failed = true
        return !(own && reads === limit + 1) && read(address, ...rest)
      }
      const ok = act(bench, at)
      expect(ok, `read ${limit}`).toBe(!failed)
      return failed
    }
    // Of all descriptors of a table that is linked no longer some are enough.
    let limit = 0
    while (failing(limit)) limit += limit < 16 ? 1 : 61
    expect(limit).toBeGreaterThan(16)
  })

  test('tables that are not what they should be, or cannot be read, are told', () => {
    const bench = started('ahead')
    bench.el2.take(FAR + PAGE, ANNOTATION_VM)
    bench.tell()
    const [level2, level3] = [tableFor(bench, FAR, 2), tableFor(bench, FAR, 3)]
    const read = bench.memory.read.bind(bench.memory)
    bench.memory.read = (address, ...rest) => address !== level3 && read(address, ...rest)
    expect(bench.hyp.verify()).toEqual([`second stage: the table at 0x${level3.toString(16)} cannot be followed`])
    bench.memory.read = read
    // A block that lets devices get to the page.
    bench.memory.poke64(level2, BigInt(FAR) | 0x7fdn)
    expect(bench.hyp.verify()).toEqual(['second stage, level 2, 0x80000000: 0x800007fd instead of 0x0'])
  })

  test('a table that somebody changed is found', () => {
    const bench = started('ahead')
    const { idmap } = bench.hyp
    if (idmap === null) throw new Error('there is no second stage')
    bench.memory.poke64(idmap.root + 8 * 2, 0x8000_07fdn)
    expect(bench.hyp.verify()).toEqual(['second stage, level 0, 0x10000000000: 0x800007fd instead of 0x0'])
  })
})

describe('a hypervisor that takes over', () => {
  const successor = (bench: SharedBench, options: PolicyOptions = { stage2: 'shared' }) =>
    new Hypervisor(bench.machine, {
      options: { waitPolls: 50, ...options },
      report: bench.report,
      clock: () => bench.now++,
    })

  test.each(['ahead', 'never'] as const)('%s: with what EL2 did meanwhile', populate => {
    const bench = started(populate)
    for (const page of TARGETS) bench.el2.touch(page)
    bench.tell()
    const checkpoint = bench.hyp.checkpoint().slice()
    bench.el2.take(NEAR_BLOCK, ANNOTATION_VM)
    bench.el2.take(FAR, ANNOTATION_VM)
    bench.el2.leave()
    const next = successor(bench, { stage2: 'shared', populate })
    next.restore(checkpoint)
    expect(next.resume()).toEqual(['pages that EL2 took or gave back meanwhile were followed'])
    bench.hyp = next
    expect([NEAR_BLOCK, FAR, CARVEOUT_BASE].map(address => bench.reach(address))).toEqual([-1, -1, -1])
    expect(bench.reach(FAR + BLOCK)).toBe(FAR + BLOCK)
    expect(next.verify()).toEqual([])
  })

  test('from one that died between any two stores: no table is lost, none is given away twice', () => {
    const at = (limit: number): boolean => {
      const bench = started('ahead')
      const checkpoint = bench.hyp.checkpoint().slice()
      let stores = 0
      bench.memory.onWrite = () => {
        if (stores++ === limit) throw new Error('killed')
      }
      bench.el2.take(NEAR_BLOCK, ANNOTATION_VM)
      bench.el2.take(FAR, ANNOTATION_VM)
      let died = false
      try {
        bench.tell()
      } catch {
        died = true
      }
      bench.memory.onWrite = null
      const next = successor(bench)
      next.restore(checkpoint)
      next.resume()
      bench.hyp = next
      expect([NEAR_BLOCK, FAR].map(address => bench.reach(address))).toEqual([-1, -1])
      expect(next.verify()).toEqual([])
      const fresh = started('ahead')
      fresh.el2.take(NEAR_BLOCK, ANNOTATION_VM)
      fresh.el2.take(FAR, ANNOTATION_VM)
      fresh.tell()
      expect(next.pool.used).toBe(fresh.hyp.pool.used)
      return died
    }
    let limit = 0
    while (at(limit)) limit++
    expect(limit).toBeGreaterThan(3)
  })

  test('from one that died when hardware was off, and nobody had been told', () => {
    const bench = started('ahead')
    const checkpoint = bench.hyp.checkpoint().slice()
    const soft = bench.hw.write
    bench.hw.write = (offset, size, lo, hi) => {
      soft.call(bench.hw, offset, size, lo, hi)
      if (offset === r.ARM_SMMU_CR0) throw new Error('killed')
      return true
    }
    expect(() => bench.write(r.ARM_SMMU_CR0, 0)).toThrow('killed')
    bench.hw.write = soft
    bench.el2.take(NEAR_BLOCK, ANNOTATION_VM)
    bench.el2.leave()
    // Its command queue consumes nothing.
    const next = successor(bench)
    next.restore(checkpoint)
    next.resume()
    bench.hyp = next
    expect(next.verify()).toEqual([])
    bench.write(r.ARM_SMMU_CR0, 0)
    bench.host.boot()
    bench.host.attach(SID, STE.bypass)
    expect([NEAR_BLOCK, NEAR_BLOCK + PAGE].map(address => bench.reach(address))).toEqual([-1, NEAR_BLOCK + PAGE])
  })

  test('and cannot read all of the tables gives none of them to anybody', () => {
    const failing = (limit: number): boolean => {
      const bench = started('ahead')
      bench.el2.take(FAR, ANNOTATION_VM)
      bench.el2.take(NO_RAM, ANNOTATION_VM)
      bench.tell()
      const own = new Set([0, 1, 2, 3].flatMap(level => [FAR, NO_RAM].map(address => tableFor(bench, address, level))))
      const { used } = bench.hyp.pool
      const checkpoint = bench.hyp.checkpoint().slice()
      const next = successor(bench)
      next.restore(checkpoint)
      const read = bench.memory.read.bind(bench.memory)
      let reads = 0
      bench.memory.read = (address, ...rest) =>
        !(own.has(address - (address % PAGE)) && reads++ === limit) && read(address, ...rest)
      try {
        next.resume()
      } catch (error) {
        expect((error as Error).name).toBe('CheckpointError')
        return true
      }
      expect(next.pool.used, `read ${limit}`).toBe(used)
      return reads > limit
    }
    let limit = 0
    while (failing(limit)) limit++
    expect(limit).toBeGreaterThan(8)
  })

  test('and has tables of its own does not', () => {
    const bench = started('ahead')
    expect(() => successor(bench, {}).restore(bench.hyp.checkpoint().slice())).toThrow("and EL2's tables")
  })
})

describe('stalls', () => {
  const STALLS: SoftSetUp = {
    soft: { id: idRegisters({ idr5: 4 << 16 }, { idr0: r.IDR0_STALL_MODEL }) },
  }

  /** CMD_RESUME with Action = retry, for the STAG in word 1 of an event (IHI 0070 sections 4.7.2 and 7.3). */
  const retry = (event: bigint): number[] => [
    C.CMDQ_OP_RESUME | (C.CMDQ_RESUME_0_RESP_RETRY << 12),
    SID,
    Number(event & 0xffffn),
    0,
  ]

  test('an access to what EL2 has not mapped waits until the host has touched it', () => {
    const resumed: (Outcome | 'raz-wi')[] = []
    const bench = started('stall', {
      soft: { ...STALLS.soft, onResume: (_stag, _t, result) => resumed.push(result) },
    })
    const outcome = bench.translate(FAR)
    expect(outcome).toMatchObject({ kind: 'fault', response: 'stall' })
    const stag = bench.memory.peek64(bench.host.evtq)
    // Event F_TRANSLATION, with STAG in word 1 bits 15:0 and Stall in bit 31 (IHI 0070 section 7.3).
    expect(Number(stag & 0xffn)).toBe(0x10)
    const word1 = bench.memory.peek64(bench.host.evtq + 8)
    expect((word1 >> 31n) & 1n).toBe(1n)
    bench.el2.touch(FAR)
    bench.tell()
    bench.host.commands(retry(word1), SYNC)
    expect(resumed).toMatchObject([{ kind: 'translated', pa: FAR }])
  })

  test('one to what EL2 keeps is as far when it is resumed', () => {
    const resumed: (Outcome | 'raz-wi')[] = []
    const bench = started('stall', { soft: { ...STALLS.soft, onResume: (_stag, _t, result) => resumed.push(result) } })
    bench.translate(EL2_BASE)
    const word1 = bench.memory.peek64(bench.host.evtq + 8)
    bench.host.commands(retry(word1), SYNC)
    expect(resumed).toMatchObject([{ kind: 'fault', response: 'stall' }])
  })
})
