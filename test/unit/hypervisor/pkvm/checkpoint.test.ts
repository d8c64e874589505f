// SPDX-License-Identifier: Apache-2.0
/** A hypervisor that is replaced by another one between any two traps: the host does not notice. */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { CheckpointError, checkpointChecksum } from '../../../../server/hypervisor/pkvm/checkpoint.ts'
import { SERIES_STEPS } from '../../../../server/policy/policy.ts'
import { OK } from '../../../../server/policy/result.ts'
import { fieldPrep } from '../../../../server/smmu/bits.ts'
import { QEMU_NESTED_ID_REGISTERS as QEMU } from '../../../../server/smmu/features.ts'
import * as r from '../../../../server/smmu/registers.ts'
import { command } from '../../smmu/fields.ts'
import {
  Bench,
  CARVEOUT_BASE,
  Host,
  MiB,
  RAM_BASE,
  type SetUp,
  STE,
  shadowSte,
  shadowSteAddress,
  successor,
} from './support.ts'

function takeOver(bench: Bench, setUp: SetUp = {}): void {
  const next = successor(bench, setUp)
  next.restore(bench.hyp.checkpoint().slice())
  expect(next.checkpoint()).toEqual(bench.hyp.checkpoint())
  bench.hyp = next
}

const setUps: [string, SetUp][] = [
  ['QEMU', {}],
  ['a linear table', { ids: [{ idr1: (QEMU.idr1 & ~r.IDR1_SIDSIZE) | 8 }] }],
  ['no range invalidation', { ids: [{ idr3: 0 }] }],
  [
    'big-endian tables',
    { ids: [{ idr0: (QEMU.idr0 & ~r.IDR0_TTENDIAN) | fieldPrep(r.IDR0_TTENDIAN, r.IDR0_TTENDIAN_BE) }] },
  ],
  ['64 KiB granule', { options: { granule: 65536 } }],
  ['a small pool', { options: { poolPages: 60 } }],
  ...SERIES_STEPS.map((until): [string, SetUp] => [`until ${until}`, { options: { until } }]),
]

test('all that a table of the idmap maps was given away', () => {
  const bench = new Bench()
  bench.hyp.reset()
  expect(bench.hyp.donate(RAM_BASE + 16 * MiB, 2 * MiB, 1)).toBe(OK)
  expect(bench.hyp.verify()).toEqual([])
  takeOver(bench)
  expect(bench.hyp.resume()).toEqual([])
})

test.each(setUps)('replaced before every trap: %s', (_, setUp) => {
  /** What a host sees and the hardware is told, with or without being replaced. */
  const run = (replace: boolean) => {
    const bench = new Bench(setUp)
    bench.hyp.reset()
    const log = bench.record()
    const access = bench.trap.bind(bench)
    const answers: number[] = []
    bench.trap = (...args) => {
      if (replace) takeOver(bench, setUp)
      const trap = access(...args)
      answers.push(trap.lo, trap.hi, trap.aborted ? 1 : 0)
      return trap
    }
    const sidBits = bench.hyp.smmus[0].features.sidBits
    const host = new Host(bench).boot(sidBits)
    if (sidBits > 8) {
      host.attach(8, STE.s1)
      host.attach(0x300, STE.bypass)
      host.attach(8, STE.invalid)
    }
    bench.hw.illegal = 0xee
    host.commands(command(0xee), command('SYNC'))
    bench.read(r.ARM_SMMU_CMDQ_CONS)
    bench.hw.illegal = -1
    bench.write(r.ARM_SMMU_GERRORN, bench.read(r.ARM_SMMU_GERROR))
    host.commands(command('TLBI_NH_ALL'), command('SYNC'))
    bench.hyp.donate(RAM_BASE + 16 * MiB, 2 ** 17, 3)
    bench.trap(false, 8, 4)
    if (replace) takeOver(bench, setUp)
    bench.hyp.reclaim(RAM_BASE + 16 * MiB, 2 ** 16, 3)
    bench.write(r.ARM_SMMU_CR0, 0)
    const problems = setUp.options?.until === undefined ? bench.hyp.verify() : []
    return { log, answers, warnings: bench.report.take(), guard: bench.guard.ranges, problems }
  }
  expect(run(true)).toEqual(run(false))
})

describe('size and cost', () => {
  test('a few hundred bytes', () => {
    const bench = new Bench()
    bench.hyp.reset()
    const host = new Host(bench).boot()
    for (const sid of [8, 16, 24]) host.attach(sid, STE.s1)
    expect(bench.hyp.checkpoint().length).toBeLessThan(800)
  })

  test('while only commands flow nothing but the queue is encoded', () => {
    const bench = new Bench()
    bench.hyp.reset()
    const host = new Host(bench).boot()
    const before = bench.hyp.checkpoint().slice()
    const { generation } = bench.hyp
    bench.read(r.ARM_SMMU_CMDQ_CONS)
    expect(bench.hyp.generation).toBe(generation)
    let scans = 0
    const { ranges } = bench.hyp
    bench.hyp.ranges = (...args) => {
      scans++
      return ranges.apply(bench.hyp, args)
    }
    host.commands(command('SYNC'))
    expect(bench.hyp.generation).toBeGreaterThan(generation)
    const after = bench.hyp.checkpoint()
    expect(scans).toBe(0)
    expect(after).not.toEqual(before)
    expect(after.length).toBe(before.length)
    host.attach(8, STE.s1)
    bench.hyp.checkpoint()
    expect(scans).toBe(1)
  })

  test('everything that changes the checkpoint counts as a change', () => {
    const bench = new Bench()
    bench.hyp.reset()
    const host = new Host(bench).boot()
    const acts: (() => void)[] = [
      () => host.commands(command('SYNC')),
      () => host.attach(8, STE.s1),
      () => host.attach(8, STE.abort),
      () => bench.hyp.donate(RAM_BASE + 16 * MiB, 4096, 1),
      () => bench.hyp.reclaim(RAM_BASE + 16 * MiB, 4096, 1),
      () => bench.write(r.ARM_SMMU_CR0, 0x40d),
      () => bench.write(r.ARM_SMMU_CR0, 0),
      () => bench.write64(r.ARM_SMMU_STRTAB_BASE, 0x40),
      () => bench.write(r.ARM_SMMU_STRTAB_BASE_CFG, 3),
      () => bench.write64(r.ARM_SMMU_CMDQ_BASE, 0x80),
      () => bench.write(r.ARM_SMMU_CMDQ_PROD, 0x55),
      () => bench.write(r.ARM_SMMU_CMDQ_CONS, 0x55),
      () => bench.hyp.reset(),
    ]
    for (const act of acts) {
      const before = bench.hyp.checkpoint().slice()
      const { generation } = bench.hyp
      act()
      expect(bench.hyp.checkpoint()).not.toEqual(before)
      expect(bench.hyp.generation).toBeGreaterThan(generation)
    }
  })
})

test('a machine without isolation stays one', () => {
  const setUp: SetUp = { ids: [{ idr0: 0 }] }
  const bench = new Bench(setUp)
  bench.hyp.reset()
  takeOver(bench, setUp)
  expect(bench.hyp.isolated).toBe(false)
  bench.write(r.ARM_SMMU_GBPA, (r.GBPA_UPDATE | 1) >>> 0)
  expect(bench.hw.get(r.ARM_SMMU_GBPA)).toBe(1)
})

test('a checkpoint with more StreamID bits than there can be is taken with 32', () => {
  const bench = new Bench()
  bench.hyp.reset()
  bench.hyp.smmus[0].features.sidBits = 40
  bench.hyp.changed()
  const next = successor(bench)
  next.restore(bench.hyp.checkpoint().slice())
  expect(next.smmus[0].features.sidBits).toBe(32)
})

test.each(Array.from({ length: 40 }, (_, i) => i))(
  'with %i pages and streams: what is taken over is what was kept',
  n => {
    const bench = new Bench()
    bench.hyp.reset()
    const host = new Host(bench).boot()
    for (let i = 0; i < n; i++) {
      expect(bench.hyp.donate(RAM_BASE + 8 * MiB + 2 * i * 4096, 4096, i + 1)).toBe(OK)
      host.attach(i, STE.s1)
      takeOver(bench)
    }
    expect(bench.hyp.resume()).toEqual([])
    expect(bench.hyp.donated).toHaveLength(n)
    expect(bench.hyp.streams().map(({ sid }) => sid)).toEqual(Array.from({ length: n }, (_, i) => i))
  },
)

test('the checksum stays the same from one server to the next', () => {
  expect(checkpointChecksum(Uint32Array.from([1, 2, 3, 4, 5, 6, 7, 0, 9, 10, 11]))).toBe(2_444_984_419)
})

test.each([
  ['CR0 without CR0ACK', r.ARM_SMMU_CR0ACK],
  ['CR0ACK without CR0', r.ARM_SMMU_CR0],
])('SMMUEN in %s: entries are rewritten as those that the hardware may use', (_, clear) => {
  const bench = new Bench()
  bench.hyp.reset()
  new Host(bench).boot().attach(8, STE.s1)
  bench.hw.set(clear, bench.hw.get(clear) & ~r.CR0_SMMUEN)
  const entry = shadowSte(bench, 8)
  bench.memory.poke64(shadowSteAddress(bench, 8) + 16, entry[2] ^ (1n << 63n))
  bench.hw.consumed = []
  takeOver(bench)
  expect(bench.hyp.resume()).toEqual(['SMMU 0, stream 0x8 was rewritten'])
  expect(shadowSte(bench, 8)).toEqual(entry)
  expect(bench.hw.takeCommands()).toContain('CFGI_STE')
})

describe('a shadow table that is not what the state says', () => {
  const running = (setUp: SetUp = {}) => {
    const bench = new Bench(setUp)
    bench.hyp.reset()
    const host = new Host(bench).boot()
    host.attach(8, STE.s1)
    host.attach(0x300, STE.bypass)
    return { bench, host }
  }

  test('entries that it does not know are taken back, whole', () => {
    const { bench } = running()
    const at = shadowSteAddress(bench, 9)
    bench.memory.poke64(at, ...shadowSte(bench, 8))
    takeOver(bench)
    expect(bench.hyp.resume()).toEqual(['SMMU 0, stream 0x9 was taken back, unfinished'])
    expect(shadowSte(bench, 9)).toEqual(new Array(8).fill(0n))
    expect(bench.hw.takeCommands()).toContain('CFGI_STE')
  })

  test.each(['strtab', 'nested'] as const)('entries that it knows are made of the host’s again: %s', until => {
    const { bench } = running({ options: { until } })
    const before = [shadowSte(bench, 8), shadowSte(bench, 0x300)]
    for (const sid of [8, 0x300]) bench.memory.poke64(shadowSteAddress(bench, sid), 0n)
    const kept = bench.hyp.checkpoint().slice()
    bench.hyp = successor(bench, { options: { until } })
    bench.hyp.restore(kept)
    expect(bench.hyp.resume()).toEqual(['SMMU 0, stream 0x8 was rewritten', 'SMMU 0, stream 0x300 was rewritten'])
    expect([shadowSte(bench, 8), shadowSte(bench, 0x300)]).toEqual(before)
  })

  describe('while the hardware stands at a command', () => {
    const stopped = () => {
      const { bench } = running()
      bench.hw.stuck = true
      bench.hw.set(r.ARM_SMMU_GERROR, r.GERROR_CMDQ_ERR)
      bench.hw.consumed = []
      return bench
    }
    const goOn = (bench: Bench) => {
      bench.hw.stuck = false
      bench.write(r.ARM_SMMU_GERRORN, bench.read(r.ARM_SMMU_GERROR))
      return bench.hw.takeCommands()
    }

    test('entries that it does not know are taken back, and forgotten by the hardware when it goes on', () => {
      const bench = stopped()
      bench.memory.poke64(shadowSteAddress(bench, 9), ...shadowSte(bench, 8))
      takeOver(bench)
      expect(bench.hyp.resume()).toEqual(['SMMU 0, stream 0x9 was taken back, unfinished'])
      expect(shadowSte(bench, 9)[0]).toBe(0n)
      // Known from here on: what the hardware has of it is not gone yet.
      expect(bench.hyp.streams().map(({ sid }) => sid)).toEqual([8, 9, 0x300])
      expect(bench.hw.takeCommands()).toEqual([])
      expect(goOn(bench)).toContain('CFGI_STE_RANGE')
    })

    test('an entry that could be changed in part only aborts until the host has acknowledged the error, whoever takes over meanwhile', () => {
      const bench = stopped()
      const before = shadowSte(bench, 8)
      const at = shadowSteAddress(bench, 8)
      for (const word of [at + 16, at + 24]) bench.memory.poke64(word, bench.memory.peek64(word) ^ (1n << 63n))
      for (let i = 0; i < 2; i++) {
        takeOver(bench)
        expect(bench.hyp.resume()).toEqual(['SMMU 0, stream 0x8 aborts until the host acknowledges CMDQ_ERR'])
        // V, and Config = abort.
        expect(shadowSte(bench, 8)[0]).toBe(1n)
      }
      expect(bench.report.take()).toContain('HYP_CMDQ_STOPPED')
      expect(goOn(bench)).toContain('CFGI_STE')
      expect(shadowSte(bench, 8)).toEqual(before)
      expect(bench.report.take()).toEqual([])
    })

    test('an entry that was invalid and is to be valid: so', () => {
      const bench = stopped()
      const before = shadowSte(bench, 8)
      bench.memory.poke64(shadowSteAddress(bench, 8), ...Array<bigint>(8).fill(0n))
      takeOver(bench)
      expect(bench.hyp.resume()).toEqual(['SMMU 0, stream 0x8 aborts until the host acknowledges CMDQ_ERR'])
      goOn(bench)
      expect(shadowSte(bench, 8)).toEqual(before)
    })

    test('an entry that cannot be put right even then is warned of', () => {
      const bench = stopped()
      bench.memory.poke64(shadowSteAddress(bench, 8), ...Array<bigint>(8).fill(0n))
      takeOver(bench)
      bench.hyp.resume()
      bench.report.take()
      // The hardware stays stuck, without an error.
      bench.write(r.ARM_SMMU_GERRORN, bench.read(r.ARM_SMMU_GERROR))
      expect(bench.report.take()).toContain('HYP_CFGI_STE')
      expect(shadowSte(bench, 8)[0]).toBe(1n)
    })

    test('an entry that cannot be written, and has the same word 0: it does not go on', () => {
      const bench = stopped()
      const at = shadowSteAddress(bench, 8)
      bench.memory.poke64(at + 16, bench.memory.peek64(at + 16) ^ (1n << 63n))
      takeOver(bench)
      const { memory } = bench
      const write = memory.write.bind(memory)
      memory.write = (address, ...rest) => Math.floor(address / 64) !== at / 64 && write(address, ...rest)
      expect(() => bench.hyp.resume()).toThrow(
        'the shadow entry of stream 0x8 cannot be put right: it cannot be written',
      )
    })

    test('hardware that takes no command and tells no error: it does not go on', () => {
      const bench = stopped()
      bench.hw.set(r.ARM_SMMU_GERROR, 0)
      bench.memory.poke64(shadowSteAddress(bench, 9), ...shadowSte(bench, 8))
      takeOver(bench)
      expect(() => bench.hyp.resume()).toThrow(
        'the shadow entry of stream 0x9 cannot be put right: the hardware takes no commands, and tells no error',
      )
    })

    test('a queue without room for the invalidation: all is forgotten when the host has acknowledged', () => {
      const bench = stopped()
      const { state } = bench.hyp.smmus[0].shadowCmdq
      state.prod = (state.cons ^ 0x1000) >>> 0
      state.submitted = state.prod
      bench.hw.set(r.ARM_SMMU_CMDQ_PROD, state.prod)
      bench.hyp.changed()
      bench.memory.poke64(shadowSteAddress(bench, 9), ...shadowSte(bench, 8))
      takeOver(bench)
      expect(bench.hyp.resume()).toEqual(['SMMU 0, stream 0x9 was taken back, unfinished'])
      expect(bench.report.take()).toContain('HYP_CMDQ_ROOM')
      expect(goOn(bench)[0]).toBe('CFGI_STE_RANGE')
    })
  })

  test.each([0x1_0000, 0x1_0001, 0xffff_ffff])(
    'a stream that there cannot be, 0x%s: nothing is written for it',
    sid => {
      const { bench } = running()
      const [first] = bench.hyp.smmus[0].shadowStrtab.streams.values()
      if (first === undefined) throw new Error('there is no stream')
      bench.hyp.smmus[0].shadowStrtab.streams.set(sid, { ...first, sid })
      bench.hyp.changed()
      const kept = bench.hyp.checkpoint().slice()
      bench.hyp = successor(bench)
      bench.hyp.restore(kept)
      const log = bench.record()
      expect(() => bench.hyp.resume()).toThrow('its shadow stream table is damaged')
      expect(log).toEqual([])
    },
  )
})

test('a shadow table that is taken over has no streams but those that are put back', () => {
  const bench = new Bench()
  bench.hyp.reset()
  new Host(bench).boot().attach(8, STE.s1)
  const { shadowStrtab } = bench.hyp.smmus[0]
  expect(shadowStrtab.streams.size).toBe(1)
  shadowStrtab.restore({ ...shadowStrtab.state })
  expect(shadowStrtab.streams.size).toBe(0)
})

test('a machine that is reset after it was taken over', () => {
  const bench = new Bench()
  bench.hyp.reset()
  new Host(bench).boot().attach(8, STE.s1)
  bench.hyp.donate(RAM_BASE + 16 * MiB, 8192, 1)
  takeOver(bench)
  bench.hw.words.fill(0, r.ARM_SMMU_CR0 / 4)
  bench.hyp.reset()
  expect(bench.guard.ranges.length).toBe(1)
  const fresh = new Bench()
  fresh.hyp.reset()
  expect(bench.hyp.checkpoint()).toEqual(fresh.hyp.checkpoint())
  new Host(bench).boot().attach(8, STE.s1)
  expect(bench.report.take()).toEqual([])
})

describe('refused', () => {
  const made = () => {
    const bench = new Bench()
    bench.hyp.reset()
    new Host(bench).boot().attach(8, STE.s1)
    bench.hyp.donate(RAM_BASE + 16 * MiB, 4096, 1)
    return { bench, checkpoint: bench.hyp.checkpoint().slice() }
  }
  const rows: [string, (bytes: Uint8Array) => Uint8Array, RegExp][] = [
    ['nothing', () => new Uint8Array(0), /no checkpoint/],
    ['an odd number of bytes', bytes => bytes.subarray(0, 33), /no checkpoint/],
    ['something else', bytes => bytes.fill(0x41, 0, 4), /no checkpoint/],
    ['a newer version', bytes => bytes.fill(8, 4, 5), /version 8, this hypervisor reads 7/],
    ['the version before', bytes => bytes.fill(6, 4, 5), /version 6, this hypervisor reads 7/],
    ['cut short', bytes => bytes.subarray(0, bytes.length - 4), /shorter/],
    ['one bit flipped', bytes => bytes.fill(bytes[100] ^ 1, 100, 101), /damaged/],
  ]
  test.each(rows)('%s', (_, change, reason) => {
    const { bench, checkpoint } = made()
    const next = successor(bench)
    expect(() => next.restore(change(checkpoint.slice()))).toThrow(CheckpointError)
    expect(() => next.restore(change(checkpoint.slice()))).toThrow(reason)
  })

  test.each([
    ['another stage', { options: { until: 'queues' } }, /until nested/],
    ['another granule', { options: { granule: 65536 } }, /granule of 4096/],
    ['another carve-out', { carveout: { base: CARVEOUT_BASE - 4096, size: 4 * MiB } }, /other memory/],
    ['other RAM', { ram: [{ base: RAM_BASE, size: 64 * MiB }] }, /other memory/],
    ['another SMMU', { frames: [{ base: 0x0a00_0000, size: 0x2_0000 }] }, /other memory/],
    ['more SMMUs', { smmus: 2 }, /other memory/],
  ] as [string, SetUp, RegExp][])('for %s', (_, setUp, reason) => {
    const { checkpoint } = made()
    const other = new Bench(setUp)
    expect(() => other.hyp.restore(checkpoint)).toThrow(reason)
  })

  test('for blocks, or of blocks', () => {
    const { checkpoint } = made()
    const blocks: SetUp = { options: { blocks: true } }
    expect(() => new Bench(blocks).hyp.restore(checkpoint)).toThrow(/nested with a granule of 4096$/)
    const bench = new Bench(blocks)
    bench.hyp.reset()
    expect(() => new Bench().hyp.restore(bench.hyp.checkpoint())).toThrow(/nested with a granule of 4096 and blocks$/)
  })

  test('one that ends anywhere before its end, and says so itself', () => {
    const { bench, checkpoint } = made()
    for (let length = 8 + 13 + 1; length < checkpoint.length / 4; length++) {
      const words = new Uint32Array(checkpoint.slice(0, 4 * length).buffer)
      words[2] = length
      words[3] = checkpointChecksum(words)
      expect(() => successor(bench).restore(new Uint8Array(words.buffer)), `${length} words`).toThrow(/shorter/)
    }
  })

  test('any damage that the checksum does not show: an error of its kind, or a state', () => {
    const { bench, checkpoint } = made()
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.nat(checkpoint.length / 4 - 1), fc.nat(0xffff_ffff)), { minLength: 1, maxLength: 4 }),
        fc.nat(8),
        (changes, cut) => {
          const words = new Uint32Array(checkpoint.slice().buffer)
          for (const [at, value] of changes) words[at] = value
          const bytes = new Uint8Array(words.buffer, 0, 4 * (words.length - cut))
          words[2] = bytes.length / 4
          words[3] = checkpointChecksum(words.subarray(0, bytes.length / 4))
          try {
            successor(bench).restore(bytes)
          } catch (error) {
            expect(error).toBeInstanceOf(CheckpointError)
          }
        },
      ),
      { numRuns: 500 },
    )
  })
})

describe('verify', () => {
  const started = () => {
    const bench = new Bench()
    bench.hyp.reset()
    const host = new Host(bench).boot()
    host.attach(8, STE.s1)
    expect(bench.hyp.donate(RAM_BASE + 16 * MiB, 8192, 1)).toBe(OK)
    expect(bench.hyp.verify()).toEqual([])
    return bench
  }
  const entryOf = (bench: Bench, address: number) => {
    // The last-level entry, found by changing it: tables lie one after the other.
    for (let at = CARVEOUT_BASE; at < CARVEOUT_BASE + MiB; at += 8) {
      if (
        (bench.memory.peek64(at) & 0xffff_ffff_f000n) === BigInt(address) &&
        (bench.memory.peek64(at) & 0x7c3n) === 0x7c3n
      )
        return at
    }
    throw new Error('there is no such entry')
  }

  test('a page that leads elsewhere', () => {
    const bench = started()
    const at = entryOf(bench, RAM_BASE + 5 * 4096)
    bench.memory.poke64(at, bench.memory.peek64(at) ^ 0x1000n)
    expect(bench.hyp.verify()).toEqual(['idmap, level 3, 0x40005000 to 0x40006000: 0x400047ff instead of 0x400057ff'])
  })

  test.each([
    ['is in the pages of the host', RAM_BASE + 5 * MiB],
    ['is the idmap', undefined],
  ])('an L2 table of the shadow %s: whoever takes over does not go on', (_, l2) => {
    const bench = started()
    const table = bench.hyp.smmus[0].shadowStrtab.state.base
    bench.memory.poke64(table + 8, BigInt((l2 ?? bench.hyp.idmapInfo?.vttbr ?? 0) + 9))
    takeOver(bench)
    expect(() => bench.hyp.resume()).toThrow('its shadow stream table is damaged')
  })

  test('a page that leads elsewhere: whoever takes over does not go on', () => {
    const bench = started()
    const at = entryOf(bench, RAM_BASE + 5 * 4096)
    bench.memory.poke64(at, bench.memory.peek64(at) ^ 0x1000n)
    takeOver(bench)
    expect(() => bench.hyp.resume()).toThrow(CheckpointError)
  })

  test('a donated page that is mapped again, a hole, lost permissions', () => {
    const bench = started()
    const first = entryOf(bench, RAM_BASE)
    bench.memory.poke64(first + 8 * 4096, 0x4100_07ffn)
    bench.memory.poke64(first + 8, 0n)
    bench.memory.poke64(first + 16, bench.memory.peek64(first + 16) & ~0xc0n)
    expect(bench.hyp.verify()).toEqual([
      'idmap, level 3, 0x40001000 to 0x40002000: 0x0 instead of 0x400017ff',
      'idmap, level 3, 0x40002000 to 0x40003000: 0x4000273f instead of 0x400027ff',
      'idmap, level 3, 0x41000000 to 0x41001000: 0x410007ff instead of 0x0',
    ])
    expect(bench.hyp.verify(1).length).toBe(1)
  })

  test('a table that is not one of ours, or none at all', () => {
    const bench = started()
    const root = bench.hyp.idmapInfo?.vttbr ?? 0
    const good = bench.memory.peek64(root)
    bench.memory.poke64(root, BigInt(RAM_BASE + 3))
    expect(bench.hyp.verify()).toEqual(['idmap, level 0, 0x0 to 0x8000000000: 0x40000003 instead of a table'])
    bench.memory.poke64(root, 0n)
    expect(bench.hyp.verify()).toEqual(['idmap, level 0, 0x0 to 0x8000000000: 0x0 instead of a table'])
    bench.memory.poke64(root, good)
    expect(bench.hyp.verify()).toEqual([])
  })

  test("a stream's entry", () => {
    const bench = started()
    const at = shadowSteAddress(bench, 8)
    const [, , word2, word3] = shadowSte(bench, 8)
    // VTCR.S2T0SZ, S2TTB.
    for (const [offset, word, other] of [
      [16, word2, word2 ^ (1n << 32n)],
      [24, word3, word3 ^ 0x1000n],
    ] as const) {
      bench.memory.poke64(at + offset, other)
      expect(bench.hyp.verify()).toEqual(['SMMU 0, stream 0x8: its entry does not lead through the idmap'])
      bench.memory.poke64(at + offset, word)
    }
    bench.memory.poke64(at, STE.s1[0])
    expect(bench.hyp.verify().length).toBe(1)
    bench.memory.poke64(at, 1n)
    expect(bench.hyp.verify()).toEqual([])
  })

  test.each([
    [r.ARM_SMMU_CMDQ_BASE, 'CMDQ_BASE'],
    [r.ARM_SMMU_CMDQ_BASE + 4, 'CMDQ_BASE, high half'],
    [r.ARM_SMMU_STRTAB_BASE, 'STRTAB_BASE'],
    [r.ARM_SMMU_STRTAB_BASE + 4, 'STRTAB_BASE, high half'],
  ])('the register at 0x%s', (offset, name) => {
    const bench = started()
    bench.hw.set(offset, bench.hw.get(offset) ^ 0x1000)
    expect(bench.hyp.verify()[0]).toMatch(`SMMU 0: ${name} is 0x`)
  })

  test.each([
    ['CMDQ_BASE', r.ARM_SMMU_CMDQ_BASE],
    ['STRTAB_BASE', r.ARM_SMMU_STRTAB_BASE],
    ['STRTAB_BASE_CFG', r.ARM_SMMU_STRTAB_BASE_CFG],
  ])('%s that somebody changed', (name, offset) => {
    const bench = started()
    const good = bench.hw.get(offset)
    bench.hw.set(offset, good ^ 1)
    const hex = (value: number) => `0x${value.toString(16)}`
    expect(bench.hyp.verify()).toEqual([`SMMU 0: ${name} is ${hex(good ^ 1)} instead of ${hex(good)}`])
  })

  test('GBPA that lets transactions pass', () => {
    const bench = started()
    bench.hw.set(r.ARM_SMMU_GBPA, 0)
    expect(bench.hyp.verify()).toEqual(['SMMU 0: GBPA is 0x0 instead of 0x100000'])
  })

  test('every granule and endianness is as it was built; nothing to say without isolation', () => {
    for (const [, setUp] of setUps) {
      const bench = new Bench(setUp)
      bench.hyp.reset()
      expect(bench.hyp.verify()).toEqual([])
    }
    const bench = new Bench({ ids: [{ idr0: 0 }] })
    bench.hyp.reset()
    expect(bench.hyp.verify()).toEqual([])
  })
})
