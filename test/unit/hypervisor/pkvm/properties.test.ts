// SPDX-License-Identifier: Apache-2.0
/**
 * No sequence of host writes makes the hypervisor throw, loop without bound, read outside of RAM, or write outside of
 * hypervisor memory and the hardware's registers; and what must hold for the isolation holds after each of them.
 */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { PAGE_SHARED } from '../../../../server/hypervisor/pkvm/ownership.ts'
import { addressOf } from '../../../../server/smmu/bits.ts'
import { MAX_QUEUE_LOG2SIZE } from '../../../../server/smmu/queue.ts'
import * as r from '../../../../server/smmu/registers.ts'
import {
  Bench,
  CARVEOUT_BASE,
  CARVEOUT_SIZE,
  HOST_CMDQ,
  HOST_EVTQ,
  HOST_L2,
  HOST_LOG2SIZE,
  HOST_PRIQ,
  HOST_STRTAB,
  Host,
  idmapEntry,
  MiB,
  RAM_BASE,
  RAM_SIZE,
  SMMU_BASE,
  shadowSte,
} from './support.ts'

const CARVEOUT_END = CARVEOUT_BASE + CARVEOUT_SIZE

/** Addresses that a host that means harm would try. */
const address = fc.oneof(
  fc.constantFrom(
    0,
    RAM_BASE,
    HOST_CMDQ,
    HOST_EVTQ,
    HOST_STRTAB,
    HOST_L2,
    CARVEOUT_BASE - 4096,
    CARVEOUT_BASE,
    CARVEOUT_BASE + 0x1_0000,
    CARVEOUT_END - 4096,
    RAM_BASE + RAM_SIZE - 4096,
    RAM_BASE + RAM_SIZE,
    SMMU_BASE,
    2 ** 32 - 4096,
    2 ** 48,
    2 ** 52,
    2 ** 56 - 64,
  ),
  fc.nat(RAM_SIZE).map(offset => RAM_BASE + offset),
)
const word = fc.oneof(fc.nat(0xffff_ffff), fc.constantFrom(0, 1, 0xf, 0x1f, 0xffff_ffff, 0x8000_0000))
const offsets = fc.oneof(
  fc.constantFrom(
    ...[0x20, 0x20, 0x20, 0x28, 0x44, 0x64, 0x80, 0x88, 0x90, 0x98, 0x98, 0x98, 0x9c, 0xa0, 0xc0],
    ...[0x100a8, 0x100ac, 0x68, 0xb0, 0xd0, 0x24, 0x2c, 0x50],
  ),
  fc.nat(0x2_0010),
)
const command = fc.tuple(
  fc.oneof(fc.constantFrom(3, 3, 4, 5, 0x10, 0x11, 0x12, 0x13, 0x20, 0x28, 0x2a, 0x30, 0x46, 0x1046), word),
  fc.oneof(fc.constantFrom(0, 8, 0x108, 0xffff, 0x1_0000), word),
  fc.oneof(fc.constantFrom(0, 1, 31), word),
  word,
)
const ste = fc.tuple(
  fc.oneof(fc.nat(7), word).map(config => (config << 1) | 1),
  fc.array(word, { minLength: 15, maxLength: 15 }),
)

const step = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      do: fc.constant('write' as const),
      offset: offsets,
      size: fc.constantFrom(1, 2, 4, 4, 4, 8, 8),
      lo: word,
      hi: word,
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({ do: fc.constant('read' as const), offset: offsets, size: fc.constantFrom(1, 2, 4, 4, 8) }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constant('base' as const),
      offset: fc.constantFrom(0x80, 0x90, 0xa0, 0xc0),
      base: address,
      log2size: fc.nat(31),
    }),
  },
  { weight: 5, arbitrary: fc.record({ do: fc.constant('cr0' as const), value: fc.nat(15) }) },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant('cfg' as const),
      value: fc.constantFrom(0, 8, 0x1_0210, 0x1_0219, 0x1_0209, 0x1_0190, 0x3_ffff),
    }),
  },
  {
    weight: 8,
    arbitrary: fc.record({
      do: fc.constant('commands' as const),
      commands: fc.array(command, { minLength: 1, maxLength: 20 }),
      ahead: fc.oneof(fc.constant(0), fc.nat(5000)),
    }),
  },
  { weight: 4, arbitrary: fc.record({ do: fc.constant('ste' as const), index: fc.constantFrom(0, 8, 0xff), ste }) },
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constant('l1' as const),
      index: fc.constantFrom(0, 1, 0xff),
      base: address,
      span: fc.oneof(fc.constant(9), fc.nat(31)),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constant('hardware' as const),
      stuck: fc.boolean(),
      illegal: fc.constantFrom(-1, -1, 0x12, 0x46, 3),
    }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('boot' as const) }) },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constant('donate' as const),
      page: fc.nat(20 * 256),
      count: fc.integer({ min: 1, max: 40 }),
      vm: fc.constantFrom(1, 2),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constant('reclaim' as const),
      page: fc.nat(20 * 256),
      count: fc.integer({ min: 1, max: 40 }),
      vm: fc.constantFrom(1, 2),
    }),
  },
)
type Step = typeof step extends fc.Arbitrary<infer T> ? T : never

const REFUSED = new Set([0x20, 0x21, 0x22, 0x23, 0x28])

const text = (command: readonly bigint[]): string => command.map(word => word.toString(16)).join(' ')
const doublewords = (words: readonly number[]): bigint[] =>
  [0, 2].map(i => (BigInt((words[i + 1] ?? 0) >>> 0) << 32n) | BigInt((words[i] ?? 0) >>> 0))

class Adversary {
  readonly bench = new Bench({ options: { waitPolls: 4 } })
  readonly host: Host
  /** Host memory changes whenever the hypervisor looks at it. */
  restless: Uint8Array | null = null
  zeroing = false
  #sids = new Set<number>([0, 8, 0xff, 0x108, 0xffff])
  /** Commands of the hypervisor's own that the hardware has not taken yet. */
  #own: string[] = []

  constructor() {
    const { memory } = this.bench
    this.bench.hyp.reset()
    this.host = new Host(this.bench).boot()
    memory.onWrite = (at, length) => {
      if (this.zeroing || (at >= CARVEOUT_BASE && at + length <= CARVEOUT_END)) return
      throw new Error(`wrote ${length} bytes to 0x${at.toString(16)}`)
    }
    memory.beforeRead = (at, length) => {
      // Its own tables are read in pieces of at most an entry; the host's data never comes from there.
      if (at + length > CARVEOUT_BASE && at < CARVEOUT_END && length > 64) {
        throw new Error(`read ${length} bytes of hypervisor memory at 0x${at.toString(16)}`)
      }
    }
    memory.afterRead = at => {
      if (this.restless !== null && at < CARVEOUT_BASE) memory.poke(at - (at % 64), this.restless)
    }
  }

  run(what: Step): void {
    const { bench, host } = this
    const { memory } = bench
    switch (what.do) {
      case 'write':
        bench.trap(true, what.offset, what.size, what.lo, what.size === 8 ? what.hi : 0)
        break
      case 'read':
        bench.trap(false, what.offset, what.size)
        break
      case 'base':
        bench.trap(
          true,
          what.offset,
          8,
          ((what.base % 2 ** 32) & ~0x1f) | what.log2size,
          Math.floor(what.base / 2 ** 32),
        )
        break
      case 'cr0':
        bench.write(r.ARM_SMMU_CR0, what.value)
        break
      case 'cfg':
        bench.write(r.ARM_SMMU_STRTAB_BASE_CFG, what.value)
        break
      case 'commands':
        for (const words of what.commands) if ((words[0] & 0xff) === 3) this.#sids.add(words[1])
        bench.write(r.ARM_SMMU_CMDQ_PROD, host.place(...what.commands) + what.ahead)
        break
      case 'ste':
        memory.poke(HOST_L2 + 64 * what.index, new Uint8Array(Uint32Array.from([what.ste[0], ...what.ste[1]]).buffer))
        break
      case 'l1':
        memory.poke64(HOST_STRTAB + 8 * what.index, BigInt(what.base) + BigInt(what.span))
        break
      case 'hardware':
        bench.hw.stuck = what.stuck
        bench.hw.illegal = what.illegal
        break
      case 'boot':
        bench.hw.stuck = false
        bench.hw.illegal = -1
        bench.write(r.ARM_SMMU_GERRORN, bench.hw.get(r.ARM_SMMU_GERROR))
        host.boot()
        bench.write64(r.ARM_SMMU_PRIQ_BASE, HOST_PRIQ + HOST_LOG2SIZE)
        break
      case 'donate':
        this.#invalidating(() => bench.hyp.donate(RAM_BASE + 4096 * what.page, 4096 * what.count, what.vm))
        break
      case 'reclaim':
        this.zeroing = true
        this.#invalidating(() => bench.hyp.reclaim(RAM_BASE + 4096 * what.page, 4096 * what.count, what.vm))
        this.zeroing = false
        break
    }
  }

  /** What the hypervisor puts into its queue by itself, which hardware that is stuck takes at any later time. */
  #invalidating(act: () => void): void {
    const { hw, memory } = this.bench
    const before = hw.get(r.ARM_SMMU_CMDQ_PROD)
    act()
    const queue = addressOf((hw.get(0x90) & ~0x1f) >>> 0, hw.get(0x94) & 0xff_ffff)
    const indices = 2 ** ((hw.get(0x90) & 0x1f) + 1)
    for (let at = before; at !== hw.get(r.ARM_SMMU_CMDQ_PROD); at = (at + 1) % indices)
      this.#own.push(text(memory.peekWords(queue + 16 * (at % (indices / 2)), 2)))
  }

  /** What the isolation rests on. */
  check(): void {
    const { bench } = this
    const { hw, hyp, memory } = bench
    expect(memory.outside).toBe(0)
    const inCarveout = (at: number) => at >= CARVEOUT_BASE && at < CARVEOUT_END
    const base = (offset: number) => addressOf(hw.get(offset) & ~0x1f, hw.get(offset + 4) & 0xff_ffff)
    expect(inCarveout(addressOf((hw.get(0x90) & ~0x1f) >>> 0, hw.get(0x94) & 0xff_ffff))).toBe(true)
    expect(inCarveout(addressOf((hw.get(0x80) & ~0x3f) >>> 0, hw.get(0x84) & 0xff_ffff))).toBe(true)
    expect(hw.get(0x90) & 0x1f).toBe(12)
    expect(hw.get(r.ARM_SMMU_GBPA)).toBe(0x1000 | r.GBPA_ABORT)
    // Where the hardware writes events is shared memory of the host.
    for (const [bit, offset, size] of [
      [r.CR0_EVTQEN, 0xa0, 32],
      [r.CR0_PRIQEN, 0xc0, 16],
    ]) {
      if ((hw.get(r.ARM_SMMU_CR0) & bit) === 0) continue
      const from = base(offset) >>> 0
      const bytes = size * 2 ** Math.min(hw.get(offset) & 0x1f, MAX_QUEUE_LOG2SIZE)
      for (let at = from - (from % 4096); at < from + bytes; at += 4096) {
        expect(hyp.ownership.stateAt(at)).toBe(PAGE_SHARED)
        expect(hyp.ownership.pinsAt(at)).toBeGreaterThan(0)
      }
    }
    for (const words of hw.consumed) {
      const opcode = words[0] & 0xff
      expect(REFUSED.has(opcode)).toBe(false)
      if (opcode === 0x10 || opcode === 0x2a) {
        const own = this.#own.indexOf(text(doublewords(words)))
        if (own < 0) expect.fail('the host invalidated stage 2')
        this.#own.splice(own, 1)
      }
      if (opcode >= 0x11 && opcode <= 0x13) expect(words[1] & 0xffff).toBe(0)
      if (opcode === 0x46) expect((words[0] >>> 12) & 3).not.toBe(1)
    }
    hw.consumed = []
    // Every entry that is live has the hypervisor's second stage, or lets nothing pass.
    const root = BigInt(hyp.idmapInfo?.vttbr ?? 0)
    const vtcr = BigInt(hyp.idmapInfo?.vtcr ?? 0)
    for (const sid of this.#sids) {
      if (sid >= 0x1_0000) continue
      const [word0, , word2, word3] = shadowSte(bench, sid)
      if (word0 === undefined || (word0 & 1n) === 0n) continue
      const config = (word0 >> 1n) & 7n
      if (config < 4n) expect([word2, word3]).toEqual([0n, 0n])
      else {
        expect([6n, 7n]).toContain(config)
        expect([word2 & 0xffffn, (word2 >> 32n) & 0x7_ffffn, word3]).toEqual([0n, vtcr, root])
      }
    }
    // Hypervisor memory and what was donated is out of reach.
    for (const at of [CARVEOUT_BASE, CARVEOUT_BASE + 5 * MiB, CARVEOUT_END - 1, SMMU_BASE]) {
      expect(idmapEntry(bench, at)).toBeNull()
    }
    for (const { base: at, size } of hyp.donated) {
      expect(idmapEntry(bench, at)).toBeNull()
      expect(idmapEntry(bench, at + size - 1)).toBeNull()
    }
  }
}

test('whatever the host writes', () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), steps => {
      const adversary = new Adversary()
      for (const what of steps) {
        adversary.run(what)
        adversary.check()
      }
    }),
    { numRuns: 150 },
  )
})

test('memory that changes after every look at it', () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 40 }), fc.uint8Array({ minLength: 64, maxLength: 64 }), (steps, bytes) => {
      const adversary = new Adversary()
      adversary.restless = bytes
      for (const what of steps) {
        adversary.run(what)
        adversary.check()
      }
    }),
    { numRuns: 100 },
  )
})

test('what the hypervisor invalidates while the hardware is stuck is not the host’s when it is taken later', () => {
  const adversary = new Adversary()
  for (const what of [
    { do: 'hardware', stuck: true, illegal: -1 },
    { do: 'donate', page: 0, count: 1, vm: 1 },
    { do: 'hardware', stuck: false, illegal: -1 },
    { do: 'cr0', value: 3 },
  ] satisfies Step[]) {
    adversary.run(what)
    adversary.check()
  }
})

test('one trap is bounded: a host queue as long as can be, of commands that each do the most', () => {
  const bench = new Bench({
    ram: [{ base: RAM_BASE, size: 64 * MiB }],
    options: { waitPolls: 1_000_000 },
    ids: [{ idr1: (19 << 21) | (19 << 16) | 16 }],
  })
  bench.hyp.reset()
  const queue = RAM_BASE + 32 * MiB
  const host = new Host(bench)
  host.prepare()
  bench.write64(r.ARM_SMMU_CMDQ_BASE, queue + 19)
  bench.write(r.ARM_SMMU_CR0, r.CR0_CMDQEN | r.CR0_SMMUEN)
  bench.memory.poke64(HOST_STRTAB, BigInt(HOST_L2 + 9))
  const words = new Uint32Array(4 * 1024)
  for (let i = 0; i < 1024; i++) words.set([3, i % 256, 1, 0], 4 * i)
  for (let i = 0; i < 2 ** 19; i += 1024) bench.memory.poke(queue + 16 * i, new Uint8Array(words.buffer))
  bench.hw.stuck = true
  const before = bench.now
  bench.write(r.ARM_SMMU_CMDQ_PROD, 2 ** 19)
  expect(bench.now - before).toBeLessThan(1100)
  // The first is waited for, in vain; the others stay in the queue.
  expect(bench.read(r.ARM_SMMU_CMDQ_CONS)).toBe(0)
  expect(bench.report.commands.length).toBeLessThan(4)
})
