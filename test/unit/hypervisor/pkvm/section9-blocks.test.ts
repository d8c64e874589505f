// SPDX-License-Identifier: Apache-2.0
/**
 * The stage-2 idmap with RAM in blocks (server/hypervisor/README.md, section 9): what is mapped by which size, the order of stores and
 * invalidations by BBM level, what devices meet at every step of it, and what is left when memory or the hardware fails.
 */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { Hypervisor } from '../../../../server/hypervisor/pkvm/hypervisor.ts'
import { idmapGeometry, leafAllowed, levelSpan } from '../../../../server/hypervisor/pkvm/idmapGeometry.ts'
import { EFAULT, EIO, ENOMEM, OK } from '../../../../server/policy/result.ts'
import { fieldPrep, fieldPrep64 } from '../../../../server/smmu/bits.ts'
import * as c from '../../../../server/smmu/cd.ts'
import { CMDQ_OP_TLBI_S12_VMALL } from '../../../../server/smmu/commands.ts'
import { QEMU_NESTED_ID_REGISTERS as QEMU } from '../../../../server/smmu/features.ts'
import * as P from '../../../../server/smmu/pagetable.ts'
import * as r from '../../../../server/smmu/registers.ts'
import { CONFIG, ste } from '../../smmu/fields.ts'
import { idRegisters, SoftBench } from './soft.ts'
import { Bench, CARVEOUT_BASE, Host, type IdmapEntry, idmapEntry, MiB, RAM_BASE, type SetUp, STE } from './support.ts'

const GiB = 2 ** 30
const PAGE = 4096
const GRANULES = [4096, 16384, 65536] as const
const LEVELS = [0, 1, 2] as const
type Level = (typeof LEVELS)[number]

const idr3 = (bbml: number) => ((QEMU.idr3 & ~r.IDR3_BBML) | fieldPrep(r.IDR3_BBML, bbml)) >>> 0

/** QEMU's with another BBM level; 36 bits of addresses need fewer tables for devices. */
const ID = (bbml: number) =>
  idRegisters({ idr3: idr3(bbml), idr5: r.IDR5_OAS_36_BIT }, { idr3: r.IDR3_BBML, idr5: r.IDR5_OAS })

/** RAM in whole blocks of each granule, hypervisor memory behind it. */
const BIG: SetUp = {
  ram: [{ base: RAM_BASE, size: 3 * GiB }],
  carveout: { base: RAM_BASE + 3 * GiB - 64 * MiB, size: 64 * MiB },
}
/** One block of 1 GiB, and little beside it. */
const ONE_GIB: SetUp = {
  ram: [{ base: RAM_BASE, size: GiB + 16 * MiB }],
  carveout: { base: RAM_BASE + GiB + 4 * MiB, size: 12 * MiB },
}

function start(setUp: SetUp, bbml: number = 2): Bench {
  const bench = new Bench({
    ...setUp,
    options: { blocks: true, ...setUp.options },
    ids: [{ idr3: idr3(bbml) }],
  })
  bench.hyp.reset()
  expect(bench.report.probes[0]).toBeNull()
  return bench
}

/** Bytes of the leaf that should map an address; 0: none. `others`: what of RAM is not the host's. */
function expectedSize(
  address: number,
  granule: number,
  ram: readonly { base: number; size: number }[],
  others: readonly { base: number; size: number }[],
): number {
  const sizes: Record<number, readonly number[]> = {
    4096: [GiB, 2 * MiB, PAGE],
    16384: [32 * MiB, 16384],
    65536: [512 * MiB, 65536],
  }
  for (const size of sizes[granule]) {
    const base = address - (address % size)
    const inside = ram.some(range => base >= range.base && base + size <= range.base + range.size)
    const foreign = others.some(range => range.base < base + size && base < range.base + range.size)
    if (inside && !foreign) return size
  }
  return 0
}

describe('what is mapped', () => {
  const layouts: [string, SetUp][] = [
    ['3 GiB', BIG],
    [
      'RAM that begins and ends inside of blocks, hypervisor memory at odd pages',
      {
        ram: [{ base: RAM_BASE + 3 * 65536, size: 2 * GiB + 5 * 65536 }],
        carveout: { base: RAM_BASE + GiB + 7 * 65536, size: 64 * MiB },
      },
    ],
    [
      'RAM below and above 4 GiB',
      {
        ram: [
          { base: 3 * GiB, size: GiB },
          { base: 5 * GiB, size: GiB },
        ],
        carveout: { base: 5 * GiB, size: 64 * MiB },
      },
    ],
  ]
  test.each(layouts.flatMap(([name, setUp]) => GRANULES.map(granule => ({ name, setUp, granule }))))(
    '$name, granule $granule',
    ({ setUp, granule }) => {
      const bench = start({ ...setUp, options: { granule } })
      const ram = setUp.ram ?? []
      const carveout = setUp.carveout ?? { base: 0, size: 0 }
      const points = [...ram, carveout].flatMap(({ base, size }) =>
        [0, granule, 2 * MiB, 32 * MiB, 512 * MiB, GiB].flatMap(step => [base - step, base + step, base + size - step]),
      )
      for (const address of new Set(points)) {
        if (!ram.some(({ base, size }) => address >= base && address < base + size)) continue
        const entry = idmapEntry(bench, address)
        expect([address, entry?.size ?? 0]).toEqual([address, expectedSize(address, granule, ram, [carveout])])
        if (entry !== null) expect(entry.target).toBe(entry.base)
      }
      expect(bench.hyp.verify()).toEqual([])
    },
  )

  test('1 GiB: one table, besides those for devices, where pages need 481', () => {
    const setUp = {
      ram: [{ base: RAM_BASE, size: GiB }],
      carveout: { base: RAM_BASE + 960 * MiB, size: 64 * MiB },
    }
    expect(start(setUp).hyp.idmapInfo).toMatchObject({ tables: 36, ram: 960 * MiB, unmapped: 0 })
    const pages = new Bench(setUp)
    pages.hyp.reset()
    expect(pages.hyp.idmapInfo).toMatchObject({ tables: 36 + 480, ram: 960 * MiB })
  })

  test('without --blocks all is pages', () => {
    const bench = new Bench(BIG)
    bench.hyp.reset()
    expect(idmapEntry(bench, RAM_BASE)?.size).toBe(PAGE)
  })
})

describe('any donations and reclaims', () => {
  test.each(GRANULES.flatMap(granule => LEVELS.map(bbml => ({ granule, bbml }))))(
    'granule $granule, BBM level $bbml: sizes are the largest, and all memory comes back',
    ({ granule, bbml }) => {
      const block = levelSpan(idmapGeometry(granule, 44), 2)
      const first = RAM_BASE + GiB
      const unit = fc.record({
        vm: fc.constantFrom(1, 2),
        // Near the ends of two blocks, or the whole of one.
        at: fc.constantFrom(
          0,
          granule,
          block - 2 * granule,
          block - granule,
          block,
          block + granule,
          2 * block - granule,
        ),
        // Zeroing large blocks takes long.
        size: fc.constantFrom(granule, granule, 2 * granule, granule === 4096 ? block : 3 * granule),
      })
      fc.assert(
        fc.property(fc.array(unit, { minLength: 1, maxLength: 8 }), units => {
          const bench = start({ ...BIG, options: { granule } }, bbml)
          const host = new Host(bench).boot()
          host.attach(8, STE.bypass)
          const { used } = bench.hyp.pool
          const { tables } = bench.hyp.idmap?.state ?? { tables: -1 }
          const carveout = BIG.carveout ?? { base: 0, size: 0 }
          const given: { base: number; size: number; vm: number }[] = []
          const check = () => {
            for (const at of units.flatMap(({ at, size }) => [at - granule, at, at + size - granule, at + size])) {
              const address = first + at
              const expected = expectedSize(address, granule, BIG.ram ?? [], [...given, carveout])
              expect([at, idmapEntry(bench, address)?.size ?? 0]).toEqual([at, expected])
            }
            expect(bench.hyp.verify()).toEqual([])
          }
          for (const { vm, at, size } of units) {
            const base = first + at
            if (bench.hyp.donate(base, size, vm) === OK) given.push({ base, size, vm })
            check()
          }
          for (const { base, size, vm } of given.splice(0).reverse()) {
            expect(bench.hyp.reclaim(base, size, vm)).toBe(OK)
            given.length = 0
          }
          check()
          expect(bench.hyp.pool.used).toBe(used)
          expect(bench.hyp.idmap?.state.tables).toBe(tables)
          expect(bench.report.take()).toEqual([])
        }),
        { numRuns: 12 },
      )
    },
  )
})

describe('order', () => {
  const TARGET = RAM_BASE + 6 * MiB + 5 * PAGE
  /** Stores to the idmap and commands, in order: `table` for a whole one, else the kind of descriptor. */
  function order(bench: Bench, act: () => void): string[] {
    const log = bench.record()
    act()
    const { idmap } = bench.hyp
    return log.flatMap(entry => {
      if (entry.what === 'cmd')
        return [
          ['TLBI_S2_IPA', 'TLBI_NH_ALL', 'SYNC', 'TLBI_S12_VMALL'][
            [0x2a, 0x10, 0x46, 0x28].indexOf(entry.words[0] & 0xff)
          ],
        ]
      if (entry.what !== 'mem' || idmap === null || entry.address < idmap.root) return []
      const words = new BigUint64Array(entry.bytes.slice().buffer)
      if (words.length > 2) return [`table of ${words.filter(word => word !== 0n).length}`]
      const [word] = words
      return [word === 0n ? 'invalid' : word & 2n ? 'table or page' : word & 0x1_0000n ? 'nT' : 'block']
    })
  }
  const INVALIDATION = ['TLBI_S2_IPA', 'SYNC', 'TLBI_NH_ALL', 'SYNC']

  test.each([
    [0, ['table of 511', 'invalid', ...INVALIDATION, 'table or page']],
    [1, ['table of 511', 'nT', ...INVALIDATION, 'table or page', ...INVALIDATION]],
    [2, ['table of 511', 'table or page', ...INVALIDATION]],
  ] as const)('level %i: a block is split', (bbml, expected) => {
    const bench = start({}, bbml)
    new Host(bench).boot()
    expect(order(bench, () => expect(bench.hyp.donate(TARGET, PAGE, 1)).toBe(OK))).toEqual(expected)
  })

  test.each([
    [0, ['invalid', 'TLBI_S12_VMALL', 'SYNC', 'block']],
    [1, ['nT', 'TLBI_S12_VMALL', 'SYNC', 'block']],
    [2, ['block', 'TLBI_S12_VMALL', 'SYNC']],
  ] as const)('level %i: a table becomes a block', (bbml, expected) => {
    const bench = start({}, bbml)
    new Host(bench).boot()
    bench.hyp.donate(TARGET, PAGE, 1)
    expect(order(bench, () => expect(bench.hyp.reclaim(TARGET, PAGE, 1)).toBe(OK))).toEqual(expected)
  })

  test.each(LEVELS)('level %i: a page more or less of a table is one store', bbml => {
    const bench = start({}, bbml)
    new Host(bench).boot()
    bench.hyp.donate(TARGET, PAGE, 1)
    expect(order(bench, () => bench.hyp.donate(TARGET + PAGE, PAGE, 1))).toEqual(['invalid', ...INVALIDATION])
    expect(order(bench, () => bench.hyp.reclaim(TARGET + PAGE, PAGE, 1))).toEqual(['table or page'])
  })

  test.each(LEVELS)('level %i: a whole block needs no table', bbml => {
    const bench = start({}, bbml)
    new Host(bench).boot()
    const base = RAM_BASE + 6 * MiB
    expect(order(bench, () => bench.hyp.donate(base, 2 * MiB, 1))).toEqual(['invalid', ...INVALIDATION])
    expect(order(bench, () => bench.hyp.reclaim(base, 2 * MiB, 1))).toEqual(['block'])
  })

  test.each(LEVELS)('level %i: a block of 1 GiB becomes two tables, and they are counted', bbml => {
    const bench = start(ONE_GIB, bbml)
    new Host(bench).boot()
    const { used } = bench.hyp.pool
    const tables = () => bench.hyp.idmap?.state.tables ?? -1
    const before = tables()
    const page = RAM_BASE + 512 * MiB
    expect(bench.hyp.donate(page, PAGE, 1)).toBe(OK)
    expect([tables(), bench.hyp.pool.used]).toEqual([before + 2, used + 2])
    expect(bench.hyp.donate(page + 4 * MiB, PAGE, 1)).toBe(OK)
    expect([tables(), bench.hyp.pool.used]).toEqual([before + 3, used + 3])
    expect(bench.hyp.reclaim(page, PAGE, 1)).toBe(OK)
    expect([tables(), bench.hyp.pool.used]).toEqual([before + 2, used + 2])
    expect(bench.hyp.reclaim(page + 4 * MiB, PAGE, 1)).toBe(OK)
    expect([tables(), bench.hyp.pool.used]).toEqual([before, used])
  })

  test('--bbm is not more than all SMMUs have, and the Reserved 3 is nothing', () => {
    const levels = (own: readonly number[], bbm?: Level) => {
      const bench = new Bench({
        options: { blocks: true, ...(bbm !== undefined && { bbm }) },
        smmus: own.length,
        ids: own.map(bbml => ({ idr3: idr3(bbml) })),
      })
      bench.hyp.reset()
      new Host(bench).boot()
      const [, first] = order(bench, () => bench.hyp.donate(TARGET, PAGE, 1))
      return ['invalid', 'nT', 'table or page'].indexOf(first)
    }
    expect(levels([2])).toBe(2)
    expect(levels([2], 1)).toBe(1)
    expect(levels([2], 0)).toBe(0)
    expect(levels([1], 2)).toBe(1)
    expect(levels([0], 2)).toBe(0)
    expect(levels([2, 1])).toBe(1)
    expect(levels([2, 0, 1])).toBe(0)
    expect(levels([3])).toBe(0)
  })
})

// Devices in the middle of it.

const BYPASS = 8
const STAGE1 = 9
const CD = RAM_BASE + 10 * MiB
const TABLES = RAM_BASE + 11 * MiB
/** Stage 1 maps each address of the first GiB of RAM to itself. */
function stage1(bench: SoftBench): readonly bigint[] {
  const { memory } = bench
  const leaf = P.ARM_LPAE_PTE_AF | P.ARM_LPAE_PTE_SH_IS | P.ARM_LPAE_PTE_AP_UNPRIV | P.ARM_LPAE_PTE_nG
  const l1 = TABLES
  for (let gib = 1; gib < 3; gib++) {
    memory.poke64(l1 + 8 * gib, BigInt(gib * GiB + leaf + P.ARM_LPAE_PTE_TYPE_BLOCK))
  }
  memory.poke64(
    CD,
    fieldPrep64(c.CTXDESC_CD_0_TCR_T0SZ, 25) |
      fieldPrep64(c.CTXDESC_CD_0_TCR_IRGN0, 1) |
      fieldPrep64(c.CTXDESC_CD_0_TCR_ORGN0, 1) |
      fieldPrep64(c.CTXDESC_CD_0_TCR_SH0, 3) |
      fieldPrep64(c.CTXDESC_CD_0_TCR_IPS, 4) |
      c.CTXDESC_CD_0_TCR_EPD1 |
      c.CTXDESC_CD_0_V |
      c.CTXDESC_CD_0_AA64 |
      c.CTXDESC_CD_0_R |
      c.CTXDESC_CD_0_A |
      c.CTXDESC_CD_0_ASET |
      fieldPrep64(c.CTXDESC_CD_0_ASID, 1),
    BigInt(TABLES),
    0n,
    0xffn,
  )
  return ste({ config: CONFIG.s1, s1ContextPtr: CD, s1Cir: 1, s1Cor: 1, s1Csh: 3, shCfg: 1 })
}

interface Scene {
  readonly name: string
  readonly setUp: SetUp
  /** Before devices are warm. */
  readonly before?: (hyp: Hypervisor) => void
  readonly act: (hyp: Hypervisor) => number
  /** Pages of the host before, meanwhile, and afterwards; pages that are nobody's of it afterwards. */
  readonly kept: readonly number[]
  readonly taken: readonly number[]
  /** Pages that are the host's afterwards. */
  readonly returned: readonly number[]
}

const BLOCK = RAM_BASE + 6 * MiB
const TARGET = BLOCK + 5 * PAGE
const NEIGHBOURS = [BLOCK, TARGET - PAGE, TARGET + PAGE, BLOCK + 2 * MiB - PAGE, BLOCK + 2 * MiB]
const GIB_BLOCK = RAM_BASE
const scenes: readonly Scene[] = [
  {
    name: 'a page is donated',
    setUp: {},
    act: hyp => hyp.donate(TARGET, PAGE, 1),
    ...{ kept: NEIGHBOURS, taken: [TARGET], returned: [] },
  },
  {
    name: 'pages on both sides of a block’s end are donated',
    setUp: {},
    act: hyp => hyp.donate(BLOCK - PAGE, 2 * PAGE, 1),
    ...{ kept: [BLOCK - 2 * PAGE, BLOCK + PAGE, BLOCK - 2 * MiB], taken: [BLOCK - PAGE, BLOCK], returned: [] },
  },
  {
    name: 'a page of a block of 1 GiB is donated',
    setUp: ONE_GIB,
    act: hyp => hyp.donate(GIB_BLOCK + 512 * MiB, PAGE, 1),
    ...{
      kept: [GIB_BLOCK, GIB_BLOCK + 512 * MiB - PAGE, GIB_BLOCK + 512 * MiB + PAGE, GIB_BLOCK + 256 * MiB],
      ...{ taken: [GIB_BLOCK + 512 * MiB], returned: [] },
    },
  },
  {
    name: 'a block is donated',
    setUp: {},
    act: hyp => hyp.donate(BLOCK, 2 * MiB, 1),
    ...{ kept: [BLOCK - PAGE, BLOCK + 2 * MiB], taken: [BLOCK, BLOCK + MiB], returned: [] },
  },
  {
    name: 'the only foreign page comes back',
    setUp: {},
    before: hyp => hyp.donate(TARGET, PAGE, 1),
    act: hyp => hyp.reclaim(TARGET, PAGE, 1),
    ...{ kept: NEIGHBOURS, taken: [], returned: [TARGET] },
  },
  {
    name: 'the only foreign page of 1 GiB comes back',
    setUp: ONE_GIB,
    before: hyp => hyp.donate(GIB_BLOCK + 512 * MiB, PAGE, 1),
    act: hyp => hyp.reclaim(GIB_BLOCK + 512 * MiB, PAGE, 1),
    ...{
      kept: [GIB_BLOCK, GIB_BLOCK + 512 * MiB + PAGE, GIB_BLOCK + 256 * MiB],
      ...{ taken: [], returned: [GIB_BLOCK + 512 * MiB] },
    },
  },
]

interface Seen {
  /** Names of events of pages that the host keeps, meanwhile. */
  readonly meanwhile: Set<string>
  readonly conflicts: number[]
  /** Accesses of the hypervisor. */
  accesses: number
}

/** One run, with DMA to all pages of the scene when `chosen` says so of the number of the hypervisor's access. */
function run(
  scene: Scene,
  bbml: number,
  caching: 'maximal' | 'architectural' | 'none',
  chosen: (access: number) => boolean,
  claimed?: number,
): Seen {
  const seen: Seen = { meanwhile: new Set(), conflicts: [], accesses: 0 }
  const bench = new SoftBench({
    ...scene.setUp,
    options: { blocks: true },
    soft: {
      id: ID(bbml),
      caching,
      onConflict: ipa => seen.conflicts.push(ipa),
    },
  })
  const { hardware, memory } = bench
  if (claimed !== undefined) {
    const read = hardware[0].read.bind(hardware[0])
    hardware[0].read = (offset, size, into) => {
      const ok = read(offset, size, into)
      if (offset === r.ARM_SMMU_IDR3) into.lo = idr3(claimed)
      return ok
    }
  }
  bench.hyp.reset()
  const host = new Host(bench).boot()
  host.attach(BYPASS, STE.bypass)
  host.attach(STAGE1, stage1(bench))
  scene.before?.(bench.hyp)
  const touch = (page: number) => [BYPASS, STAGE1].map(sid => bench.dma(sid, page + 0x10))
  const all = [...scene.kept, ...scene.taken, ...scene.returned]
  const accessed = () => {
    seen.accesses++
    if (!chosen(seen.accesses)) return
    for (const page of scene.kept) for (const outcome of touch(page)) seen.meanwhile.add(outcome)
    for (const page of [...scene.taken, ...scene.returned]) touch(page)
  }
  for (const page of all) touch(page)
  const write = memory.write.bind(memory)
  memory.write = (address, source, offset, length) => {
    const ok = write(address, source, offset, length)
    accessed()
    return ok
  }
  for (const method of ['read', 'write'] as const) {
    const original = hardware[0][method].bind(hardware[0]) as (...parameters: unknown[]) => boolean
    hardware[0][method] = (...parameters: unknown[]) => {
      const ok = original(...parameters)
      accessed()
      return ok
    }
  }
  expect(scene.act(bench.hyp)).toBe(OK)
  const done = seen.accesses
  for (const page of scene.taken) expect(touch(page)).toEqual(['F_TRANSLATION', 'F_TRANSLATION'])
  for (const page of [...scene.kept, ...scene.returned]) expect(touch(page)).toEqual(['done', 'done'])
  expect(bench.report.take()).toEqual([])
  expect(bench.hyp.verify()).toEqual([])
  seen.accesses = done
  return seen
}

describe('devices meanwhile', () => {
  const rows = scenes.flatMap(scene => LEVELS.map(bbml => ({ ...scene, bbml })))
  test.each(rows)('BBM level $bbml: $name', scene => {
    const { bbml } = scene
    const whole = run(scene, bbml, 'maximal', () => true)
    const allowed = bbml === 0 ? ['done', 'F_TRANSLATION'] : ['done']
    for (const caching of ['maximal', 'architectural', 'none'] as const) {
      const seen = new Set<string>()
      // Each access alone, and each with all behind it; what keeps less in its caches meets no more than this.
      const choices = Array.from({ length: whole.accesses + 1 }, (_, n) => [
        (at: number) => at === n,
        (at: number) => at >= n,
      ]).flat()
      for (const chosen of caching === 'maximal' ? choices : [() => true]) {
        const { meanwhile, conflicts } = run(scene, bbml, caching, chosen)
        for (const outcome of meanwhile) seen.add(outcome)
        expect(conflicts).toEqual([])
      }
      for (const outcome of seen) expect(allowed).toContain(outcome)
      // At level 0 neighbours of the page are aborted for as long as their block is broken.
      const splits = scene.name !== 'a block is donated'
      expect([caching, seen.has('F_TRANSLATION')]).toEqual([caching, bbml === 0 && splits])
    }
  })

  test.each([
    ['a page is donated', 0, 2],
    ['a page is donated', 0, 1],
    ['a page is donated', 1, 2],
    ['the only foreign page comes back', 0, 2],
    ['the only foreign page comes back', 1, 2],
    ['the only foreign page comes back', 0, 1],
  ] as const)('%s on hardware of level %i as if it had %i: a conflict', (name, bbml, claimed) => {
    const scene = scenes.find(scene => scene.name === name)
    if (scene === undefined) throw new Error(name)
    expect(run(scene, bbml, 'maximal', () => true, claimed).conflicts).not.toEqual([])
  })
})

// Failures.

/** All that maps the blocks around TARGET. */
const picture = (bench: Bench) =>
  [BLOCK - PAGE, BLOCK, TARGET - PAGE, TARGET, TARGET + PAGE, BLOCK + 2 * MiB, GIB_BLOCK, GIB_BLOCK + 512 * MiB].map(
    address => idmapEntry(bench, address),
  )

describe('failures', () => {
  const rows: [string, SetUp, number, number, number][] = [
    ['one block', {}, TARGET, PAGE, 1],
    ['two blocks', {}, BLOCK - PAGE, 2 * PAGE, 2],
    ['1 GiB', ONE_GIB, GIB_BLOCK + 512 * MiB, PAGE, 2],
    ['1 GiB, parts of two blocks below', ONE_GIB, GIB_BLOCK + 512 * MiB - PAGE, 4 * MiB + 2 * PAGE, 3],
    ['from the middle of one block to that of another', BIG, RAM_BASE + GiB - 3 * MiB, 6 * MiB + PAGE, 4],
  ]
  test.each(
    rows.flatMap(([name, setUp, base, size, tables]) =>
      LEVELS.map(bbml => ({ name, setUp, base, size, tables, bbml })),
    ),
  )('no memory for a table, each in turn: $name, level $bbml', ({ setUp, base, size, tables, bbml }) => {
    for (let failing = 1; ; failing++) {
      const bench = start(setUp, bbml)
      new Host(bench).boot()
      const before = picture(bench)
      const { used } = bench.hyp.pool
      const { allocate } = bench.hyp.pool
      let calls = 0
      bench.hyp.pool.allocate = (...parameters) =>
        ++calls === failing ? ENOMEM : allocate.apply(bench.hyp.pool, parameters)
      const log = bench.record()
      const result = bench.hyp.donate(base, size, 1)
      if (calls < failing) {
        expect(result).toBe(OK)
        expect(failing).toBe(tables + 1)
        break
      }
      expect(result).toBe(ENOMEM)
      expect(bench.report.take()).toEqual(['HYP_UNMAP'])
      expect(log.filter(({ what }) => what === 'cmd')).toEqual([])
      expect(picture(bench)).toEqual(before)
      expect(bench.hyp.ownership.hostReachesAll(base, size)).toBe(true)
      expect(bench.hyp.pool.used).toBe(used)
      expect(bench.hyp.verify()).toEqual([])
      bench.hyp.pool.allocate = allocate
      expect(bench.hyp.donate(base, size, 1)).toBe(OK)
      expect(bench.hyp.verify()).toEqual([])
    }
  })

  test.each([1, 2, 3])('a table that cannot be filled, number %i: all are given back', failing => {
    const bench = start(ONE_GIB)
    new Host(bench).boot()
    const before = picture(bench)
    const { used } = bench.hyp.pool
    const { write } = bench.memory
    let tables = 0
    bench.memory.write = (at, source, offset, length) =>
      length === PAGE && ++tables === failing ? false : write.call(bench.memory, at, source, offset, length)
    expect(bench.hyp.donate(GIB_BLOCK + 512 * MiB - PAGE, 4 * MiB + 2 * PAGE, 1)).toBe(EFAULT)
    bench.memory.write = write
    expect(bench.hyp.pool.used).toBe(used)
    expect(picture(bench)).toEqual(before)
    expect(bench.hyp.verify()).toEqual([])
  })

  test('no memory for the table of a part that comes back: it stays a hole', () => {
    const bench = start({})
    new Host(bench).boot()
    expect(bench.hyp.donate(BLOCK, 2 * MiB, 1)).toBe(OK)
    const { allocate } = bench.hyp.pool
    bench.hyp.pool.allocate = () => ENOMEM
    expect(bench.hyp.reclaim(TARGET, PAGE, 1)).toBe(OK)
    expect(idmapEntry(bench, TARGET)).toBeNull()
    expect(bench.hyp.idmapInfo?.unmapped).toBe(PAGE)
    expect(bench.hyp.verify()).toEqual([])
    bench.hyp.pool.allocate = allocate
    expect(bench.hyp.reclaim(TARGET + PAGE, PAGE, 1)).toBe(OK)
    expect(idmapEntry(bench, TARGET + PAGE)).toMatchObject({ size: PAGE, target: TARGET + PAGE })
    expect(idmapEntry(bench, TARGET + 2 * PAGE)).toBeNull()
  })

  test.each(LEVELS)('level %i: commands that are not consumed leave everything reachable', bbml => {
    const bench = start({}, bbml)
    new Host(bench).boot()
    const { used } = bench.hyp.pool
    bench.hw.stuck = true
    expect(bench.hyp.donate(TARGET, PAGE, 1)).toBe(EIO)
    expect(bench.report.take()).toContain('HYP_UNMAP')
    for (const page of [...NEIGHBOURS, TARGET]) expect(idmapEntry(bench, page)?.target).toBeDefined()
    expect(bench.hyp.verify()).toEqual([])
    // A table that was linked may be cached: it stays.
    expect(bench.hyp.pool.used).toBe(used + (bbml === 2 ? 1 : 0))
    bench.hw.stuck = false
    bench.hw.consume()
    expect(bench.hyp.donate(TARGET, PAGE, 1)).toBe(OK)
    bench.hw.stuck = true
    expect(bench.hyp.reclaim(TARGET, PAGE, 1)).toBe(OK)
    bench.report.take()
    for (const page of [...NEIGHBOURS, TARGET]) expect(idmapEntry(bench, page)?.target).toBe(page)
    expect(bench.hyp.verify()).toEqual([])
    expect(bench.hyp.pool.used).toBe(used + 1)
    bench.hw.stuck = false
    bench.hw.consume()
    expect(bench.hyp.donate(TARGET, PAGE, 1)).toBe(OK)
    expect(bench.hyp.reclaim(TARGET, PAGE, 1)).toBe(OK)
    expect(idmapEntry(bench, TARGET)?.size).toBe(2 * MiB)
    expect(bench.hyp.pool.used).toBe(used)
  })

  test.each(LEVELS)('level %i: no store that fails lets a page be donated, or opens another', bbml => {
    for (let failing = 1; ; failing++) {
      const bench = start({}, bbml)
      new Host(bench).boot()
      const root = bench.hyp.idmap?.root ?? 0
      const end = root + PAGE * (bench.hyp.pool.used + 16)
      const { write } = bench.memory
      let stores = 0
      bench.memory.write = (at, source, offset, length) =>
        at >= root && at < end && ++stores === failing ? false : write.call(bench.memory, at, source, offset, length)
      const result = bench.hyp.donate(TARGET, PAGE, 1)
      bench.memory.write = write
      if (stores < failing) {
        expect(result).toBe(OK)
        expect(failing).toBeGreaterThan(2)
        break
      }
      expect(result).toBe(EFAULT)
      expect(bench.report.take()).toContain('HYP_UNMAP')
      expect(bench.hyp.ownership.hostReachesAll(BLOCK, 2 * MiB)).toBe(true)
      for (const page of NEIGHBOURS)
        expect(idmapEntry(bench, page)).toSatisfy(
          (leaf: IdmapEntry | null) => leaf === null || leaf.target - (leaf.target % leaf.size) === leaf.base,
        )
      expect(idmapEntry(bench, CARVEOUT_BASE)).toBeNull()
      expect(bench.hyp.donate(TARGET, PAGE, 1)).toBe(OK)
      expect(idmapEntry(bench, TARGET)).toBeNull()
    }
  })
})

describe('descriptors that cannot be read', () => {
  test.each(LEVELS)('level %i: each in turn lets no page be donated, and moves none', bbml => {
    for (let failing = 1; ; failing++) {
      const bench = start({}, bbml)
      new Host(bench).boot()
      const before = picture(bench)
      const root = bench.hyp.idmap?.root ?? 0
      const { read } = bench.memory
      let reads = 0
      const broken: typeof read = (at, target, offset, length) =>
        at >= root && length === 8 && ++reads === failing ? false : read.call(bench.memory, at, target, offset, length)
      bench.memory.read = broken
      const result = bench.hyp.donate(TARGET, PAGE, 1)
      bench.memory.read = read
      if (reads < failing) {
        expect(result).toBe(OK)
        expect(failing).toBeGreaterThan(2)
        break
      }
      expect(result).toBe(EFAULT)
      expect(bench.report.take()).toEqual(['HYP_UNMAP'])
      expect(picture(bench)).toEqual(before)
      expect(bench.hyp.donate(TARGET, PAGE, 1)).toBe(OK)
      expect(idmapEntry(bench, TARGET)).toBeNull()
      // A merge that cannot look leaves what is there.
      reads = failing - 2
      bench.memory.read = broken
      expect(bench.hyp.reclaim(TARGET, PAGE, 1)).toBe(OK)
      bench.memory.read = read
      for (const page of NEIGHBOURS) expect(idmapEntry(bench, page)?.target).toBeDefined()
    }
  })
})

/** A line of hypervisors, each of which goes on where the one before was killed. */
class Succession {
  /** What the last one told. */
  kept = new Uint8Array()
  readonly #bench: Pick<Bench, 'machine' | 'report' | 'now'>

  constructor(bench: Pick<Bench, 'machine' | 'report' | 'now'>) {
    this.#bench = bench
  }

  /** One that has not begun. */
  born(): Hypervisor {
    const hyp: Hypervisor = new Hypervisor(this.#bench.machine, {
      options: { blocks: true, waitPolls: 50 },
      report: this.#bench.report,
      clock: () => this.#bench.now++,
      persist: () => {
        this.kept = hyp.checkpoint().slice()
      },
    })
    return hyp
  }

  /** One that takes over. */
  next(from = this.kept): Hypervisor {
    const hyp = this.born()
    hyp.restore(from)
    hyp.resume()
    return hyp
  }
}

describe('take-over', () => {
  const acts: [string, (hyp: Hypervisor) => number, boolean][] = [
    ['a donation', hyp => hyp.donate(TARGET, PAGE, 1), false],
    ['a reclaim', hyp => hyp.reclaim(TARGET, PAGE, 1), true],
  ]
  test.each(acts.flatMap(([name, act, given]) => LEVELS.map(bbml => ({ name, act, given, bbml }))))(
    'level $bbml: killed after each access in the middle of $name',
    ({ act, given, bbml }) => {
      for (let last = 1; ; last++) {
        const conflicts: number[] = []
        const bench = new SoftBench({
          options: { blocks: true },
          soft: {
            id: ID(bbml),
            onConflict: ipa => conflicts.push(ipa),
          },
        })
        const line = new Succession(bench)
        bench.hyp = line.born()
        bench.hyp.reset()
        const host = new Host(bench).boot()
        host.attach(BYPASS, STE.bypass)
        const { used } = bench.hyp.pool
        const { tables } = bench.hyp.idmap?.state ?? { tables: -1 }
        if (given) expect(bench.hyp.donate(TARGET, PAGE, 1)).toBe(OK)
        line.kept = bench.hyp.checkpoint().slice()
        const pages = [...NEIGHBOURS, TARGET]
        const touch = () => pages.map(page => bench.dma(BYPASS, page))
        touch()
        let accesses = 0
        const { write } = bench.memory
        const soft = bench.hw.write
        const accessed = () => {
          touch()
          if (++accesses === last) throw new Error('killed')
        }
        bench.memory.write = (...parameters) => {
          const ok = write.apply(bench.memory, parameters)
          accessed()
          return ok
        }
        bench.hw.write = (...parameters) => {
          const ok = soft.apply(bench.hw, parameters)
          accessed()
          return ok
        }
        let killed = false
        try {
          act(bench.hyp)
        } catch {
          killed = true
        }
        bench.memory.write = (...parameters) => {
          const ok = write.apply(bench.memory, parameters)
          touch()
          return ok
        }
        bench.hw.write = soft
        if (!killed) {
          expect(last).toBeGreaterThan(4)
          break
        }
        const next = line.next()
        bench.hyp = next
        // Begun or not: who owns the page is known.
        const foreign = !next.ownership.hostReachesAll(TARGET, PAGE)
        expect(touch()).toEqual(pages.map(page => (page === TARGET && foreign ? 'F_TRANSLATION' : 'done')))
        expect(conflicts).toEqual([])
        expect(next.verify()).toEqual([])
        bench.report.own = []
        if (foreign) expect(next.reclaim(TARGET, PAGE, 1)).toBe(OK)
        else {
          expect(next.donate(TARGET, PAGE, 1)).toBe(OK)
          expect(next.reclaim(TARGET, PAGE, 1)).toBe(OK)
        }
        // The merge's; all was forgotten once, at the take-over.
        expect(bench.report.own.filter(opcode => opcode === CMDQ_OP_TLBI_S12_VMALL)).toHaveLength(1)
        expect(next.pool.used).toBe(used)
        expect(next.idmap?.state.tables).toBe(tables)
        expect(idmapEntry(bench, TARGET)?.size).toBe(2 * MiB)
        expect(touch()).toEqual(pages.map(() => 'done'))
        expect(conflicts).toEqual([])
      }
    },
  )

  test('hardware that consumes nothing: no descriptor becomes valid before all is forgotten', () => {
    const bench = start({}, 0)
    new Host(bench).boot()
    const line = new Succession(bench)
    const first = line.next(bench.hyp.checkpoint().slice())
    const { write } = bench.hw
    bench.hw.write = () => {
      throw new Error('killed')
    }
    expect(() => first.donate(TARGET, PAGE, 1)).toThrow('killed')
    bench.hw.write = write
    // Broken, and not made: the block may be cached.
    const broken = picture(bench)
    expect(broken).toContain(null)
    bench.hw.stuck = true
    bench.hyp = line.next()
    expect(bench.report.operations.at(-1)).toMatchObject({ base: TARGET, result: EIO })
    expect(picture(bench)).toEqual(broken)
    bench.hw.stuck = false
    bench.hw.consume()
    expect(bench.hyp.donate(TARGET, PAGE, 1)).toBe(OK)
    for (const page of NEIGHBOURS) expect(idmapEntry(bench, page)?.target).toBe(page)
    expect(bench.hyp.verify()).toEqual([])
  })

  test.each([0, 1] as const)('level %i: hardware that consumes nothing, and two hypervisors after another', bbml => {
    const bench = start({}, bbml)
    new Host(bench).boot()
    const line = new Succession(bench)
    line.kept = bench.hyp.checkpoint().slice()
    const takeOver = () => {
      bench.hyp = line.next()
      line.kept = bench.hyp.checkpoint().slice()
    }
    takeOver()
    const whole = picture(bench)
    const { write } = bench.hw
    bench.hw.write = () => {
      throw new Error('killed')
    }
    expect(() => bench.hyp.donate(TARGET, PAGE, 1)).toThrow('killed')
    bench.hw.write = write
    const broken = picture(bench)
    expect(broken).not.toEqual(whole)
    bench.hw.stuck = true
    for (let i = 0; i < 3; i++) {
      takeOver()
      expect(picture(bench)).toEqual(broken)
    }
    // Nothing is a hole for want of a table.
    expect(bench.hyp.idmapInfo?.unmapped).toBe(0)
    bench.hw.stuck = false
    bench.hw.consume()
    // Far away from there.
    expect(bench.hyp.donate(BLOCK + 4 * MiB, PAGE, 1)).toBe(OK)
    expect(picture(bench)).toEqual(whole)
    expect(bench.hyp.verify()).toEqual([])
    expect(bench.hyp.idmapInfo?.unmapped).toBe(0)
  })

  test('what comes back while nothing may become valid is mapped later', () => {
    const bench = start({}, 0)
    new Host(bench).boot()
    expect(bench.hyp.donate(BLOCK + 4 * MiB, PAGE, 1)).toBe(OK)
    const line = new Succession(bench)
    const first = line.next(bench.hyp.checkpoint().slice())
    const { write } = bench.hw
    bench.hw.write = () => {
      throw new Error('killed')
    }
    expect(() => first.donate(TARGET, PAGE, 1)).toThrow('killed')
    bench.hw.write = write
    bench.hw.stuck = true
    bench.hyp = line.next()
    expect(bench.hyp.reclaim(BLOCK + 4 * MiB, PAGE, 1)).toBe(OK)
    expect(idmapEntry(bench, BLOCK + 4 * MiB)).toBeNull()
    expect(bench.hyp.idmapInfo?.unmapped).toBe(0)
    bench.hw.stuck = false
    bench.hw.consume()
    expect(bench.hyp.donate(TARGET, PAGE, 1)).toBe(OK)
    for (const page of [...NEIGHBOURS, BLOCK + 4 * MiB]) expect(idmapEntry(bench, page)?.target).toBe(page)
    expect(bench.hyp.verify()).toEqual([])
  })

  test('a checkpoint of a machine without blocks is not one with them', () => {
    const bench = new Bench()
    bench.hyp.reset()
    const kept = bench.hyp.checkpoint().slice()
    const other = new Bench({ options: { blocks: true } })
    other.hyp.reset()
    expect(() => other.hyp.restore(kept)).toThrow(/made until nested with a granule of 4096$/)
    expect(() => bench.hyp.restore(other.hyp.checkpoint().slice())).toThrow(/4096 and blocks$/)
  })
})

test('blocks are where the granule has them', () => {
  expect(GRANULES.map(granule => [1, 2, 3].filter(level => leafAllowed(idmapGeometry(granule, 44), level)))).toEqual([
    [1, 2, 3],
    [2, 3],
    [2, 3],
  ])
})
