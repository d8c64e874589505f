// SPDX-License-Identifier: Apache-2.0
/**
 * The stage-2 idmap, granule × output size × memory layout, read back by a walker of
 * the test's own; and the invalidation after an unmap (server/hypervisor/README.md, section 9).
 */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { idmapGeometry } from '../../../../server/hypervisor/pkvm/idmapGeometry.ts'
import { EFAULT, EINVAL, ENOMEM, OK } from '../../../../server/policy/result.ts'
import { fieldGet, fieldPrep, getField } from '../../../../server/smmu/bits.ts'
import {
  CMDQ_TLBI_0_NUM,
  CMDQ_TLBI_0_SCALE,
  CMDQ_TLBI_1_TG,
  CMDQ_TLBI_1_TTL,
} from '../../../../server/smmu/commands.ts'
import * as r from '../../../../server/smmu/registers.ts'
import { command } from '../../smmu/fields.ts'
import {
  Bench,
  CARVEOUT_BASE,
  Host,
  idmapEntry,
  MiB,
  RAM_BASE,
  RAM_SIZE,
  type SetUp,
  SMMU_BASE,
  STE,
} from './support.ts'

const GiB = 2 ** 30
const OAS = [32, 36, 40, 42, 44, 48, 52]
const GRANULES = [4096, 16384, 65536] as const
const GRANULE_BITS = { 4096: r.IDR5_GRAN4K, 16384: r.IDR5_GRAN16K, 65536: r.IDR5_GRAN64K }

/** VTCR as a reader of the specification decodes it. */
function decodeVtcr(vtcr: number) {
  const t0sz = vtcr & 0x3f
  const sl0 = (vtcr >>> 6) & 3
  const tg = (vtcr >>> 14) & 3
  const granule = tg === 0 ? 4096 : tg === 1 ? 65536 : 16384
  return {
    inputBits: 64 - t0sz,
    granule,
    startLevel: granule === 4096 ? 2 - sl0 : 3 - sl0,
    ps: (vtcr >>> 16) & 7,
    ir0: (vtcr >>> 8) & 3,
    or0: (vtcr >>> 10) & 3,
    sh0: (vtcr >>> 12) & 3,
  }
}

interface Leaf {
  level: number
  size: bigint
  output: bigint
  memAttr: number
  s2ap: number
  sh: number
  af: boolean
}

/** Stage 2 walk from VTTBR and VTCR alone. */
function walk(bench: Bench, ipa: number, bigEndian = false): Leaf | null {
  const info = bench.hyp.idmapInfo
  if (info === null) throw new Error('there is no idmap')
  const { inputBits, granule, startLevel } = decodeVtcr(info.vtcr)
  const shift = Math.log2(granule)
  const stride = shift - 3
  if (ipa >= 2 ** inputBits) return null
  let table = BigInt(info.vttbr)
  for (let level = startLevel; level <= 3; level++) {
    const low = BigInt(shift + stride * (3 - level))
    const top = level === startLevel ? BigInt(inputBits) : low + BigInt(stride)
    const index = (BigInt(ipa) >> low) & ((1n << (top - low)) - 1n)
    let entry = bench.memory.peek64(Number(table + 8n * index))
    if (bigEndian) entry = Buffer.from(BigUint64Array.of(entry).buffer).readBigUInt64BE()
    if ((entry & 1n) === 0n) return null
    const address = entry & 0x0000_ffff_ffff_f000n
    if (level < 3 && (entry & 3n) === 3n) {
      table = address
      continue
    }
    expect(entry & 3n).toBe(level === 3 ? 3n : 1n)
    expect(address % (1n << low)).toBe(0n)
    expect(entry >> 48n).toBe(0n)
    return {
      level,
      size: 1n << low,
      output: address,
      memAttr: Number((entry >> 2n) & 15n),
      s2ap: Number((entry >> 6n) & 3n),
      sh: Number((entry >> 8n) & 3n),
      af: ((entry >> 10n) & 1n) === 1n,
    }
  }
  return null
}

const RAM_LEAF = { memAttr: 0xf, s2ap: 3, sh: 3, af: true }
const DEVICE_LEAF = { memAttr: 0x1, s2ap: 3, sh: 2, af: true }

function start(setUp: SetUp): Bench {
  const bench = new Bench(setUp)
  bench.hyp.reset()
  expect(bench.report.probes[0]).toBeNull()
  return bench
}

const idr5 = (oas: number, granule: keyof typeof GRANULE_BITS) => OAS.indexOf(oas) | GRANULE_BITS[granule]

describe('geometry', () => {
  // granule, OAS, input, start level, concatenated tables
  const rows: [number, number, number, number, number][] = [
    [4096, 32, 32, 2, 4],
    [4096, 36, 36, 1, 1],
    [4096, 40, 40, 1, 2],
    [4096, 42, 42, 1, 8],
    [4096, 44, 44, 0, 1],
    [4096, 48, 48, 0, 1],
    [4096, 52, 48, 0, 1],
    [16384, 32, 32, 2, 1],
    [16384, 36, 36, 2, 1],
    [16384, 40, 40, 2, 16],
    [16384, 42, 42, 1, 1],
    [16384, 44, 44, 1, 1],
    [16384, 48, 48, 1, 2],
    [16384, 52, 48, 1, 2],
    [65536, 32, 32, 3, 8],
    [65536, 36, 36, 2, 1],
    [65536, 40, 40, 2, 1],
    [65536, 42, 42, 2, 1],
    [65536, 44, 44, 2, 4],
    [65536, 48, 48, 1, 1],
    [65536, 52, 48, 1, 1],
  ]
  test.each(rows)('granule %i, OAS %i: input %i, level %i, %i tables', (granule, oas, inputBits, level, tables) => {
    const geometry = idmapGeometry(granule, oas)
    expect(geometry).toMatchObject({ inputBits, startLevel: level, concatenated: tables, outputBits: oas })
    expect(decodeVtcr(geometry.vtcr)).toEqual({
      inputBits,
      granule,
      startLevel: level,
      ps: OAS.indexOf(oas),
      ir0: 1,
      or0: 1,
      sh0: 3,
    })
  })
})

describe('every granule and output size', () => {
  const rows = GRANULES.flatMap(granule => OAS.map(oas => ({ granule, oas })))
  test.each(rows)('granule $granule, OAS $oas', ({ granule, oas }) => {
    const bench = start({ ids: [{ idr5: idr5(oas, granule) }], options: { granule } })
    const info = bench.hyp.idmapInfo
    expect(info).toMatchObject({ granule, outputBits: oas, inputBits: Math.min(48, oas) })
    expect(info?.vttbr ?? 1).toSatisfy(
      (root: number) => root % Math.max(64, idmapGeometry(granule, oas).rootBytes) === 0,
    )
    const at = (ipa: number) => walk(bench, ipa)
    // RAM, both ends: pages.
    for (const address of [RAM_BASE, RAM_BASE + 5 * MiB + 8, CARVEOUT_BASE - 1]) {
      const page = BigInt(address - (address % granule))
      expect(at(address)).toEqual({ level: 3, size: BigInt(granule), output: page, ...RAM_LEAF })
    }
    // Hypervisor memory and the SMMU: holes.
    for (const address of [CARVEOUT_BASE, CARVEOUT_BASE + 8 * MiB, RAM_BASE + RAM_SIZE - 1])
      expect(at(address)).toBeNull()
    for (const address of [SMMU_BASE, SMMU_BASE + 0x1_ffff]) expect(at(address)).toBeNull()
    // Devices around it.
    for (const address of [0, SMMU_BASE - 1, SMMU_BASE + 0x2_0000, RAM_BASE - 1, RAM_BASE + RAM_SIZE]) {
      const leaf = at(address)
      expect(leaf).toMatchObject(DEVICE_LEAF)
      const size = leaf?.size ?? 1n
      expect(leaf?.output).toBe((BigInt(address) / size) * size)
    }
    expect(at(2 ** Math.min(48, oas))).toBeNull()
    // The last address, unless hypervisor memory was too small for so many tables.
    const last = at(2 ** Math.min(48, oas) - 1)
    if (info?.unmapped === 0) expect(last).toMatchObject(DEVICE_LEAF)
    else expect(bench.hyp.pool.free).toBeGreaterThan(100)
  })

  test('only the 16 KiB granule at 48 bits needs more tables than this machine has', () => {
    const lacking = rows.filter(({ granule, oas }) => {
      const bench = start({ ids: [{ idr5: idr5(oas, granule) }], options: { granule } })
      return (bench.hyp.idmapInfo?.unmapped ?? 0) > 0
    })
    expect(lacking).toEqual([
      { granule: 16384, oas: 48 },
      { granule: 16384, oas: 52 },
    ])
  })

  test.each([
    [4096, 48, 3 * 2 ** 40, 2 ** 30],
    [4096, 44, 2 ** 43, 2 ** 30],
    [16384, 44, 2 ** 43, 2 ** 25],
    [65536, 44, 2 ** 43, 2 ** 29],
    [65536, 48, 2 ** 45, 2 ** 29],
    [65536, 52, 2 ** 45, 2 ** 42],
  ] as const)('granule %i, OAS %i: devices at 0x%s in blocks of %i', (granule, oas, address, size) => {
    const bench = start({ ids: [{ idr5: idr5(oas, granule) }], options: { granule } })
    expect(walk(bench, address)?.size).toBe(BigInt(size))
  })

  test('big-endian tables', () => {
    const idr0 = 0xffff_ffff & ~r.IDR0_ST_LVL & ~r.IDR0_RME_IMPL
    const bench = start({ ids: [{ idr0: idr0 | fieldPrep(r.IDR0_TTENDIAN, r.IDR0_TTENDIAN_BE) }] })
    expect(walk(bench, RAM_BASE, true)).toMatchObject({ level: 3, output: BigInt(RAM_BASE), ...RAM_LEAF })
    expect(bench.hyp.donate(RAM_BASE, 4096, 1)).toBe(OK)
    expect(walk(bench, RAM_BASE, true)).toBeNull()
    expect(idmapEntry(bench, RAM_BASE)).toBeNull()
    expect(bench.hyp.reclaim(RAM_BASE, 4096, 1)).toBe(OK)
    expect(walk(bench, RAM_BASE, true)).toMatchObject(RAM_LEAF)
  })
})

describe('memory layouts', () => {
  const P = 4096
  const layouts: [string, SetUp][] = [
    ['RAM that begins and ends inside of a 2 MiB block', { ram: [{ base: RAM_BASE + 3 * P, size: 21 * MiB + 5 * P }] }],
    [
      'two ranges with a hole of one page',
      {
        ram: [
          { base: RAM_BASE, size: 20 * MiB },
          { base: RAM_BASE + 20 * MiB + P, size: 16 * MiB },
        ],
      },
    ],
    [
      'RAM below and above 4 GiB',
      {
        ram: [
          { base: 2 ** 32 - 20 * MiB, size: 20 * MiB },
          { base: 2 ** 32 + GiB, size: 8 * MiB },
        ],
        carveout: { base: 2 ** 32 - 18 * MiB, size: 10 * MiB },
      },
    ],
    [
      'RAM across 4 GiB',
      { ram: [{ base: 2 ** 32 - 20 * MiB, size: 40 * MiB }], carveout: { base: 2 ** 32, size: 12 * MiB } },
    ],
    ['hypervisor memory at the start of RAM', { carveout: { base: RAM_BASE, size: 12 * MiB } }],
    ['hypervisor memory at odd pages', { carveout: { base: RAM_BASE + 7 * P, size: 12 * MiB + 3 * P } }],
    ['an SMMU in the last page below RAM', { frames: [{ base: RAM_BASE - 0x2_0000, size: 0x2_0000 }] }],
    ['an SMMU at 0', { frames: [{ base: 0, size: 0x2_0000 }] }],
    ['an SMMU far above', { frames: [{ base: 2 ** 43 + 0x1_0000, size: 0x2_0000 }] }],
  ]
  const carveoutOf = (setUp: SetUp, ram: readonly { base: number; size: number }[]) =>
    setUp.carveout ?? { base: ram[0].base + 4 * MiB + P, size: 12 * MiB }

  test.each(layouts)('%s', (_, setUp) => {
    const ram = setUp.ram ?? [{ base: RAM_BASE, size: RAM_SIZE }]
    const carveout = carveoutOf(setUp, ram)
    const bench = start({ ...setUp, carveout })
    const frame = { base: SMMU_BASE, size: 0x2_0000, ...setUp.frames?.[0] }
    const inside = (address: number, range: { base: number; size: number }) =>
      address >= range.base && address < range.base + range.size
    const interesting = [...ram, carveout, frame].flatMap(({ base, size }) => [
      base - P,
      base - 1,
      base,
      base + P,
      base + size - 1,
      base + size,
      base + size + P,
    ])
    for (const address of [...interesting, 0, GiB, 2 ** 40, 2 ** 44 - 1].filter(a => a >= 0)) {
      const leaf = walk(bench, address)
      if (inside(address, carveout) || inside(address, frame)) expect(leaf).toBeNull()
      else if (ram.some(range => inside(address, range))) expect(leaf).toMatchObject({ level: 3, ...RAM_LEAF })
      else expect(leaf).toMatchObject(DEVICE_LEAF)
    }
    const total = ram.reduce((sum, { size }) => sum + size, 0) - carveout.size
    expect(bench.hyp.idmapInfo).toMatchObject({
      ram: total,
      devices: 2 ** 44 - total - carveout.size - frame.size,
      unmapped: 0,
    })
    expect(bench.hyp.verify()).toEqual([])
  })

  test('granules that are only partly RAM, or partly hypervisor memory, are holes', () => {
    const bench = start({
      options: { granule: 65536 },
      ids: [{ idr5: idr5(44, 65536) }],
      ram: [{ base: RAM_BASE + 0x1_3000, size: 24 * MiB }],
      carveout: { base: RAM_BASE + 4 * MiB + 0x5000, size: 12 * MiB },
    })
    expect(walk(bench, RAM_BASE + 0x1_3000)).toBeNull()
    expect(walk(bench, RAM_BASE + 0x2_0000)).toMatchObject(RAM_LEAF)
    expect(walk(bench, RAM_BASE + 4 * MiB)).toBeNull()
    expect(walk(bench, RAM_BASE + 16 * MiB)).toBeNull()
    expect(walk(bench, RAM_BASE + 16 * MiB + 0x1_0000)).toMatchObject(RAM_LEAF)
  })

  test('every page of RAM, and lookup agrees with the walk', () => {
    const bench = start({})
    for (let address = RAM_BASE; address < RAM_BASE + RAM_SIZE; address += P) {
      const leaf = walk(bench, address)
      const entry = idmapEntry(bench, address)
      if (address >= CARVEOUT_BASE) {
        if (leaf !== null || entry !== null) expect.fail(`0x${address.toString(16)} is mapped`)
      } else if (leaf?.output !== BigInt(address) || entry?.target !== address) {
        expect.fail(`0x${address.toString(16)} is not mapped to itself`)
      }
    }
  })
})

describe('hypervisor memory that fails', () => {
  test('no write of a table that fails at the start goes unnoticed', () => {
    const good = start({})
    const tables: number[] = []
    good.memory.onWrite = address => tables.push(address)
    good.hyp.reset()
    const root = good.hyp.idmap?.root ?? 0
    const lost = tables.filter(address => address >= root)
    expect(lost.length).toBeGreaterThan(3)
    for (const address of lost) {
      const bench = start({})
      const { write } = bench.memory
      bench.memory.write = (at, source, offset, length) =>
        at !== address && write.call(bench.memory, at, source, offset, length)
      bench.hyp.reset()
      expect(bench.report.probes.at(-1)).toBe('hypervisor memory cannot be written')
      expect(bench.hyp.isolated).toBe(false)
    }
  })

  test.each(['read', 'write'] as const)('no %s of a table that fails lets a page be donated', what => {
    const bench = start({})
    new Host(bench).boot()
    const root = bench.hyp.idmap?.root ?? 0
    const tables = root + 4096 * (bench.hyp.pool.used + 16)
    const touched: number[] = []
    const hook = (address: number) => {
      if (address >= root && address < tables) touched.push(address)
    }
    if (what === 'read') bench.memory.beforeRead = hook
    else bench.memory.onWrite = hook
    expect(bench.hyp.donate(RAM_BASE, 4096, 1)).toBe(OK)
    expect(bench.hyp.reclaim(RAM_BASE, 4096, 1)).toBe(OK)
    const lost = [...new Set(touched)]
    expect(lost.length).toBeGreaterThan(0)
    const real = bench.memory[what]
    for (const address of lost) {
      bench.memory[what] = (at, bytes, offset, length) =>
        at !== address && real.call(bench.memory, at, bytes, offset, length)
      expect(bench.hyp.donate(RAM_BASE, 4096, 1)).toBe(EFAULT)
      expect(bench.hyp.ownership.hostReaches(RAM_BASE)).toBe(true)
      expect(bench.report.take()).toContain('HYP_UNMAP')
      bench.memory[what] = real
    }
  })
})

describe('what map and unmap cannot do', () => {
  const idmapOf = (bench: Bench) => {
    const { idmap } = bench.hyp
    if (idmap === null) throw new Error('there is no idmap')
    return idmap
  }

  test.each([
    ['nothing', RAM_BASE, 0],
    ['less than nothing', RAM_BASE, -4096],
    ['no number', Number.NaN, 4096],
    ['no number of bytes', RAM_BASE, Number.NaN],
    ['below 0', -4096, 4096],
    ['below 0, and nothing', -4096, 0],
    ['half a granule more', RAM_BASE, 6144],
    ['from half a granule on', RAM_BASE + 2048, 4096],
  ])('%s', (_, base, size) => {
    const bench = start({})
    const log = bench.record()
    expect(idmapOf(bench).map(base, size)).toBe(EINVAL)
    expect(idmapOf(bench).unmap(base, size)).toBe(EINVAL)
    expect(log).toEqual([])
  })

  test('address 0 is one like any other', () => {
    const ram = [{ base: 0, size: 20 * MiB }]
    const bench = start({ ram, carveout: { base: 8 * MiB, size: 12 * MiB } })
    expect(idmapOf(bench).unmap(0, 4096)).toBe(OK)
    expect(walk(bench, 0)).toBeNull()
    expect(idmapOf(bench).map(0, 4096)).toBe(OK)
    expect(walk(bench, 0)).toMatchObject({ level: 3, ...RAM_LEAF })
  })

  test('a part of a block stays as it is', () => {
    const bench = start({})
    const log = bench.record()
    expect(idmapOf(bench).unmap(2 ** 33, 4096)).toBe(EINVAL)
    expect(idmapOf(bench).map(2 ** 33, 4096)).toBe(EINVAL)
    expect(log).toEqual([])
  })

  test('where there is no table nothing is unmapped, and nothing written', () => {
    const ram = [
      { base: 0, size: 2 * MiB },
      { base: RAM_BASE, size: RAM_SIZE },
    ]
    const bench = start({ ram, options: { poolPages: 3 } })
    expect(walk(bench, RAM_BASE)).toBeNull()
    const log = bench.record()
    expect(idmapOf(bench).unmap(RAM_BASE, 4 * MiB)).toBe(OK)
    expect(log).toEqual([])
  })

  test('what has no table stays a hole, what has one is mapped', () => {
    const bench = start({ options: { poolPages: 3 } })
    const { pool } = bench.hyp
    pool.limit = pool.capacity
    expect(idmapOf(bench).map(RAM_BASE + 2 * MiB, 2 * MiB)).toBe(OK)
    expect(idmapOf(bench).unmap(RAM_BASE + 2 * MiB, 2 * MiB)).toBe(OK)
    pool.limit = pool.used
    expect(idmapOf(bench).map(RAM_BASE, 4 * MiB)).toBe(ENOMEM)
    expect(walk(bench, RAM_BASE + 2 * MiB - 1)).toBeNull()
    expect(walk(bench, RAM_BASE + 2 * MiB)).toMatchObject(RAM_LEAF)
  })

  test('a table that cannot be written into the one above', () => {
    const bench = start({ options: { poolPages: 3 } })
    bench.hyp.pool.limit = bench.hyp.pool.capacity
    const { write } = bench.memory
    bench.memory.write = (at, source, offset, length) =>
      length !== 8 && write.call(bench.memory, at, source, offset, length)
    expect(idmapOf(bench).map(RAM_BASE, 4096)).toBe(EFAULT)
    bench.memory.write = write
    expect(walk(bench, RAM_BASE)).toBeNull()
  })
})

describe('a pool that is too small', () => {
  test('parts are not mapped, the machine is isolated all the same, RAM before devices', () => {
    const bench = start({ options: { poolPages: 40 } })
    expect(bench.hyp.isolated).toBe(true)
    expect(bench.hyp.idmapInfo?.unmapped).toBeGreaterThan(0)
    expect(walk(bench, RAM_BASE)).toMatchObject(RAM_LEAF)
    expect(walk(bench, 2 ** 44 - 1)).toBeNull()
    expect(walk(bench, CARVEOUT_BASE)).toBeNull()
    expect(bench.report.take()).toEqual([])
    // Tables for devices leave a quarter of the limit, to the page.
    expect(bench.hyp.pool.free).toBe(Math.floor(bench.hyp.pool.limit / 4))
    expect(bench.hyp.idmapInfo?.buildUs).toBe(1000)
  })

  test.each([512, 515, 520, 530, 600, 1000])('of %i pages, for 2 GiB of RAM', poolPages => {
    const bench = start({
      ram: [{ base: RAM_BASE, size: 2 * GiB }],
      carveout: { base: RAM_BASE + 2 * GiB - 64 * MiB, size: 64 * MiB },
      options: { poolPages },
    })
    for (let address = 0; address < 4 * GiB; address += 2 * MiB) {
      const leaf = walk(bench, address)
      if (leaf !== null) expect(leaf.output).toBe(BigInt(address - (address % Number(leaf.size))))
      if (address >= RAM_BASE + 2 * GiB - 64 * MiB && address < RAM_BASE + 2 * GiB) expect(leaf).toBeNull()
    }
    expect(bench.hyp.verify()).toEqual([])
  })

  test.each([1, 2, 3, 5, 8])('of %i pages: nothing is mapped that should not be', poolPages => {
    const bench = start({ options: { poolPages } })
    expect(walk(bench, CARVEOUT_BASE)).toBeNull()
    expect(walk(bench, SMMU_BASE)).toBeNull()
    expect(bench.hyp.pool.used).toBeLessThanOrEqual(bench.hyp.pool.limit)
  })

  test('a map that fails is tolerated', () => {
    const bench = start({ options: { poolPages: 3 } })
    expect(bench.hyp.idmap?.map(RAM_BASE, 4096)).toBe(ENOMEM)
    expect(bench.hyp.donate(RAM_BASE, 4096, 1)).toBe(OK)
    expect(bench.hyp.reclaim(RAM_BASE, 4096, 1)).toBe(OK)
    expect(bench.report.take()).toEqual([])
  })

  test('map makes the tables that are missing', () => {
    const bench = start({ options: { poolPages: 3 } })
    bench.hyp.pool.limit = bench.hyp.pool.capacity
    expect(walk(bench, RAM_BASE)).toBeNull()
    expect(bench.hyp.idmap?.map(RAM_BASE, 8192)).toBe(OK)
    expect(walk(bench, RAM_BASE + 4096)).toMatchObject({ output: BigInt(RAM_BASE + 4096), ...RAM_LEAF })
    expect(walk(bench, RAM_BASE + 8192)).toBeNull()
  })
})

test('map and unmap against the set of mapped pages', () => {
  const pages = 600 // more than a table
  const change = fc.record({
    map: fc.boolean(),
    first: fc.nat(pages - 1),
    count: fc.integer({ min: 1, max: 530 }),
  })
  fc.assert(
    fc.property(fc.array(change, { maxLength: 12 }), changes => {
      const bench = start({ ids: [{ idr5: idr5(36, 4096) }] })
      const mapped = new Set(Array.from({ length: pages }, (_, i) => i))
      for (const { map, first, count } of changes) {
        const n = Math.min(count, pages - first)
        const idmap = bench.hyp.idmap
        expect(
          map ? idmap?.map(RAM_BASE + first * 4096, n * 4096) : idmap?.unmap(RAM_BASE + first * 4096, n * 4096),
        ).toBe(OK)
        for (let i = first; i < first + n; i++) map ? mapped.add(i) : mapped.delete(i)
      }
      for (let i = 0; i < pages; i++) {
        const leaf = walk(bench, RAM_BASE + i * 4096)
        if (mapped.has(i)) expect(leaf).toMatchObject({ output: BigInt(RAM_BASE + i * 4096) })
        else expect(leaf).toBeNull()
      }
    }),
    { numRuns: 15 },
  )
})

describe('invalidation after an unmap', () => {
  interface Covered {
    from: number
    to: number
    leaf: boolean
    vmid: number
    range: boolean
  }
  /** What a TLBI_S2_IPA covers, by the rules of IHI 0070 section 4.4.1.1. */
  function covered(words: readonly number[], granule: number): Covered {
    const command = Uint32Array.from(words)
    const tg = getField(command, CMDQ_TLBI_1_TG)
    const from = (command[3] & 0xf_ffff) * 2 ** 32 + ((command[2] & 0xffff_f000) >>> 0)
    const num = getField(command, CMDQ_TLBI_0_NUM)
    const scale = getField(command, CMDQ_TLBI_0_SCALE)
    if (tg === 0) expect([num, scale]).toEqual([0, 0])
    else {
      expect(2 ** (10 + 2 * tg)).toBe(granule)
      expect(getField(command, CMDQ_TLBI_1_TTL) !== 0 || num !== 0 || scale !== 0).toBe(true)
    }
    const size = tg === 0 ? granule : (num + 1) * 2 ** scale * granule
    return { from, to: from + size, leaf: (command[2] & 1) === 1, vmid: command[1] & 0xffff, range: tg !== 0 }
  }

  const sizes = [1, 2, 3, 5, 31, 32, 33, 63, 100, 511, 512, 513, 1023, 1500]
  const rows = GRANULES.flatMap(granule => [true, false].flatMap(ril => sizes.map(count => ({ granule, ril, count }))))
  test.each(rows.filter(({ granule, count }) => granule * count <= 12 * MiB))(
    'granule $granule, range commands $ril, $count granules',
    ({ granule, ril, count }) => {
      const bench = start({
        options: { granule },
        ids: [{ idr5: idr5(44, granule), ...(ril ? {} : { idr3: 0 }) }],
      })
      new Host(bench).boot()
      const base = RAM_BASE + 7 * MiB + 3 * 65536
      const size = granule * count
      expect(bench.hyp.donate(base, size, 9)).toBe(OK)
      const names = bench.hw.consumed.map(words => words[0] & 0xff)
      expect(names.slice(-3)).toEqual([0x46, 0x10, 0x46])
      expect(bench.hw.consumed.at(-2)).toEqual(command('TLBI_NH_ALL'))
      const ipas = bench.hw.consumed.slice(0, -3).map(words => covered(words, granule))
      expect(names.slice(0, -3).every(opcode => opcode === 0x2a)).toBe(true)
      let at = base
      for (const { from, to, leaf, vmid } of ipas) {
        expect([from, leaf, vmid]).toEqual([at, true, 0])
        at = to
      }
      expect(at).toBe(base + size)
      if (ril) expect(ipas.length).toBeLessThanOrEqual(1 + Math.ceil(Math.log2(count) / 5) + 1)
      else expect(ipas.length).toBe(count)
      expect(bench.report.take()).toEqual([])
    },
  )

  test('more commands than the shadow queue holds', () => {
    const bench = start({ ids: [{ idr3: 0 }], ram: [{ base: RAM_BASE, size: 64 * MiB }] })
    new Host(bench).boot()
    expect(bench.hyp.donate(RAM_BASE + 34 * MiB, 4500 * 4096, 9)).toBe(OK)
    expect(bench.hw.consumed.filter(words => words[0] === 0x2a).length).toBe(4500)
    expect(bench.report.take()).toEqual([])
  })

  test('each SMMU that is on, with the commands that it has', () => {
    const bench = start({ smmus: 3, ids: [{}, { idr3: 0 }, {}] })
    new Host(bench, 0).boot()
    new Host(bench, 1, 0x10_0000 * 6).boot()
    bench.hw.takeCommands()
    expect(bench.hyp.donate(RAM_BASE + 19 * MiB, 4 * 4096, 9)).toBe(OK)
    expect(bench.hardware.map(hardware => hardware.takeCommands())).toEqual([
      ['TLBI_S2_IPA', 'SYNC', 'TLBI_NH_ALL', 'SYNC'],
      ['TLBI_S2_IPA', 'TLBI_S2_IPA', 'TLBI_S2_IPA', 'TLBI_S2_IPA', 'SYNC', 'TLBI_NH_ALL', 'SYNC'],
      [],
    ])
  })

  test('sharing takes nothing away, so nothing is invalidated', () => {
    const bench = start({})
    const host = new Host(bench).boot()
    host.attach(8, STE.s1)
    expect(bench.hw.takeCommands().filter(name => name.startsWith('TLBI'))).toEqual([])
    expect(walk(bench, host.cmdq)).toMatchObject(RAM_LEAF)
  })
})

test('1 GiB in pages', () => {
  const bench = start({
    ram: [{ base: RAM_BASE, size: GiB }],
    carveout: { base: RAM_BASE + 960 * MiB, size: 64 * MiB },
  })
  expect(bench.hyp.idmapInfo).toMatchObject({ tables: 516, pages: 516, ram: 960 * MiB, unmapped: 0 })
  expect(fieldGet(0x3f, bench.hyp.idmapInfo?.vtcr ?? 0)).toBe(20)
  expect(walk(bench, RAM_BASE + 959 * MiB)).toMatchObject(RAM_LEAF)
  expect(walk(bench, RAM_BASE + 960 * MiB)).toBeNull()
})
