// SPDX-License-Identifier: Apache-2.0
/** The register frame, register × width × direction × state (server/hypervisor/README.md, section 4). */
import { beforeEach, describe, expect, test } from 'vitest'
import { QEMU_NESTED_ID_REGISTERS as QEMU } from '../../../../server/smmu/features.ts'
import * as r from '../../../../server/smmu/registers.ts'
import { REGISTERS } from '../../../../server/smmu/registers.ts'
import { command } from '../../smmu/fields.ts'
import { Bench, HOST_CMDQ, HOST_EVTQ, HOST_STRTAB, Host, RAM_BASE } from './support.ts'

/** The table of the reference. 'hw': forwarded. '-': a warning. Anything else has tests of its own below. */
const TABLE: [offset: number, name: string, bits: 32 | 64, read: string, write: string][] = [
  [0x0000, 'IDR0', 32, 'masked', '-'],
  [0x0004, 'IDR1', 32, 'hw', '-'],
  [0x0008, 'IDR2', 32, 'hw', '-'],
  [0x000c, 'IDR3', 32, 'hw', '-'],
  [0x0010, 'IDR4', 32, 'hw', '-'],
  [0x0014, 'IDR5', 32, 'hw', '-'],
  [0x0018, 'IIDR', 32, 'hw', '-'],
  [0x001c, 'AIDR', 32, 'hw', '-'],
  [0x0020, 'CR0', 32, 'hw', 'emulated'],
  [0x0024, 'CR0ACK', 32, 'hw', 'hw'],
  [0x0028, 'CR1', 32, 'hw', 'emulated'],
  [0x002c, 'CR2', 32, 'hw', 'hw'],
  [0x0044, 'GBPA', 32, 'emulated', 'emulated'],
  [0x0050, 'IRQ_CTRL', 32, 'hw', 'hw'],
  [0x0054, 'IRQ_CTRLACK', 32, 'hw', 'hw'],
  [0x0060, 'GERROR', 32, 'hw', '-'],
  [0x0064, 'GERRORN', 32, 'hw', 'active'],
  [0x0068, 'GERROR_IRQ_CFG0', 64, 'hw', 'zero'],
  [0x0070, 'GERROR_IRQ_CFG1', 32, 'hw', 'zero'],
  [0x0074, 'GERROR_IRQ_CFG2', 32, 'hw', 'zero'],
  [0x0080, 'STRTAB_BASE', 64, 'emulated', 'emulated'],
  [0x0088, 'STRTAB_BASE_CFG', 32, 'emulated', 'emulated'],
  [0x0090, 'CMDQ_BASE', 64, 'emulated', 'emulated'],
  [0x0098, 'CMDQ_PROD', 32, 'emulated', 'emulated'],
  [0x009c, 'CMDQ_CONS', 32, 'emulated', 'emulated'],
  [0x00a0, 'EVTQ_BASE', 64, 'hw', 'emulated'],
  [0x00b0, 'EVTQ_IRQ_CFG0', 64, 'hw', 'zero'],
  [0x00b8, 'EVTQ_IRQ_CFG1', 32, 'hw', 'zero'],
  [0x00bc, 'EVTQ_IRQ_CFG2', 32, 'hw', 'zero'],
  [0x00c0, 'PRIQ_BASE', 64, 'hw', 'emulated'],
  [0x00d0, 'PRIQ_IRQ_CFG0', 64, 'hw', 'zero'],
  [0x00d8, 'PRIQ_IRQ_CFG1', 32, 'hw', 'zero'],
  [0x00dc, 'PRIQ_IRQ_CFG2', 32, 'hw', 'zero'],
  [0x100a8, 'EVTQ_PROD', 32, 'hw', 'hw'],
  [0x100ac, 'EVTQ_CONS', 32, 'hw', 'hw'],
  [0x100c8, 'PRIQ_PROD', 32, 'hw', 'hw'],
  [0x100cc, 'PRIQ_CONS', 32, 'hw', 'hw'],
]
const OFFSETS = new Map(TABLE.map(row => [row[0], row]))

let bench: Bench
beforeEach(() => {
  bench = new Bench()
  bench.hyp.reset()
})

test('the table names the registers as the architecture does', () => {
  for (const [offset, name, bits] of TABLE) {
    expect(REGISTERS.find(register => register.offset === offset)).toMatchObject({ name, bits })
  }
})

describe('right width', () => {
  test.each(TABLE.filter(row => row[3] === 'hw'))('%#: 0x%s %s is read from the hardware', (offset, _name, bits) => {
    bench.hw.set(offset, 0x8765_4321)
    if (bits === 64) bench.hw.set(offset + 4, 0x00ab_cdef)
    bench.hw.logReads = true
    const trap = bench.trap(false, offset, bits / 8, 0xdead, 0xbeef)
    expect([trap.lo, trap.hi, trap.aborted]).toEqual([0x8765_4321, bits === 64 ? 0x00ab_cdef : 0, false])
    expect(bench.hw.reads).toEqual([offset])
    expect(bench.report.take()).toEqual([])
  })

  test.each(TABLE.filter(row => row[4] === 'hw'))('0x%s %s is written to the hardware', (offset, _name, bits) => {
    const log = bench.record()
    const trap = bench.trap(true, offset, bits / 8, 0x8765_4321, bits === 64 ? 0x00ab_cdef : 0)
    expect(trap.aborted).toBe(false)
    const value = bits === 64 ? 0x00ab_cdef_8765_4321n : 0x8765_4321n
    expect(log).toEqual([{ what: 'reg', smmu: 0, offset, value }])
    expect(bench.report.take()).toEqual([])
  })

  test.each(TABLE.filter(row => row[3] === 'hw'))(
    '0x%s %s: an abort of the hardware is passed on',
    (offset, _, bits) => {
      bench.hw.aborting.add(offset)
      expect(bench.trap(false, offset, bits / 8).aborted).toBe(true)
    },
  )

  test.each(TABLE.filter(row => ['hw', 'zero'].includes(row[4]) || row[1] === 'CR1'))(
    '0x%s %s: an abort of a write is passed on',
    (offset, _, bits) => {
      bench.hw.aborting.add(offset)
      expect(bench.trap(true, offset, bits / 8).aborted).toBe(true)
    },
  )

  test.each(TABLE.filter(row => row[4] === '-'))('a write of 0x%s %s is a warning and dropped', (offset, _, bits) => {
    const log = bench.record()
    const trap = bench.trap(true, offset, bits / 8, 0x1234_5678)
    expect(bench.report.warnings).toMatchObject([
      { code: 'HYP_ACCESS_DIRECTION', trap: trap.seq, smmu: 0, values: [offset, bits / 8, 0x1234_5678, 0] },
    ])
    expect(log).toEqual([])
    expect(trap.aborted).toBe(false)
  })
})

describe('wrong width', () => {
  const rows = TABLE.flatMap(([offset, name, bits]) =>
    [1, 2, 4, 8].filter(size => size !== bits / 8).map(size => ({ offset, name, size })),
  )
  test.each(rows)('$name, $size bytes: a warning; the read answers 0, the write is dropped', ({ offset, size }) => {
    const log = bench.record()
    bench.hw.logReads = true
    const read = bench.trap(false, offset, size, 0xdead, 0xbeef)
    expect([read.lo, read.hi, read.aborted]).toEqual([0, 0, false])
    bench.trap(true, offset, size, 0x55)
    expect(bench.report.warnings).toMatchObject([
      { code: 'HYP_ACCESS_WIDTH', values: [offset, size, 0, 0] },
      { code: 'HYP_ACCESS_WIDTH', values: [offset, size, 0x55, 0] },
    ])
    expect(log).toEqual([])
    expect(bench.hw.reads).toEqual([])
  })

  test.each(TABLE.filter(row => row[2] === 64))('the high half of 0x%s %s alone', offset => {
    const log = bench.record()
    expect(bench.trap(false, offset + 4, 4).lo).toBe(0)
    bench.trap(true, offset + 4, 4, 1)
    expect(bench.report.take()).toEqual(['HYP_ACCESS_WIDTH', 'HYP_ACCESS_WIDTH'])
    expect(log).toEqual([])
  })

  test.each([1, 2, 3])('unaligned by %i', by => {
    for (const [offset, , bits] of TABLE) {
      expect(bench.trap(false, offset + by, bits / 8, 1, 1).lo).toBe(0)
      bench.trap(true, offset + by, bits / 8, 1, 1)
    }
    expect(new Set(bench.report.take())).toEqual(new Set(['HYP_ACCESS_WIDTH']))
  })
})

describe('not in the table', () => {
  const known = new Set(TABLE.flatMap(([offset, , bits]) => (bits === 64 ? [offset, offset + 4] : [offset])))

  test('every other word of the frame is a warning in both directions, and nothing reaches the hardware', () => {
    const log = bench.record()
    bench.hw.logReads = true
    for (let offset = 0; offset < 0x2_0000; offset += 4) {
      if (known.has(offset)) continue
      const trap = bench.trap(false, offset, 4, 0xdead, 0xbeef)
      if (trap.lo !== 0 || trap.hi !== 0 || trap.aborted) expect.fail(`0x${offset.toString(16)} answered`)
      bench.trap(true, offset, 4, 1)
      const codes = bench.report.take()
      if (codes.join() !== 'HYP_UNKNOWN_REGISTER,HYP_UNKNOWN_REGISTER')
        expect.fail(`0x${offset.toString(16)}: ${codes}`)
    }
    expect(log).toEqual([])
    expect(bench.hw.reads).toEqual([])
  })

  test.each([0x2_0000, 0x3_0000, 0xffff_fff8])('0x%s, outside of the frame', offset => {
    expect(bench.trap(false, offset, 4, 1).lo).toBe(0)
    expect(bench.report.take()).toEqual(['HYP_UNKNOWN_REGISTER'])
  })

  test('an SMMU that does not exist is an abort', () => {
    expect(bench.trap(false, 0, 4, 0, 0, 7).aborted).toBe(true)
  })

  test('the page 1 aliases of page 0 registers are not in the table', () => {
    for (const [offset] of TABLE.filter(row => row[0] < 0x10000)) {
      if (!OFFSETS.has(offset + 0x10000)) bench.trap(false, offset + 0x10000, 4)
    }
    expect(new Set(bench.report.take())).toEqual(new Set(['HYP_UNKNOWN_REGISTER']))
  })
})

describe('IDR0', () => {
  // ATS is bit 10, PRI 16, ATSRECERR 23.
  test.each([
    ['ATS, PRI and ATSRECERR', false, (1 << 10) | (1 << 16) | (1 << 23)],
    ['with ATS let through nothing more', true, 0],
  ])('S2P, HYP, MSI, VMID16 and %s are hidden, all else is seen', (_, ats, more) => {
    bench = new Bench({ options: { ats } })
    bench.hyp.reset()
    bench.hw.set(r.ARM_SMMU_IDR0, 0xffff_ffff)
    expect(bench.read(r.ARM_SMMU_IDR0)).toBe(
      (~((1 << 0) | (1 << 9) | (1 << 13) | (1 << 18) | more) & 0xffff_ffff) >>> 0,
    )
  })
  test("QEMU's", () => {
    expect(bench.read(r.ARM_SMMU_IDR0)).toBe((QEMU.idr0 & ~0x4_2201) >>> 0)
  })
  test('does not answer from an aborted read', () => {
    bench.hw.aborting.add(0)
    const trap = bench.trap(false, 0, 4, 5)
    expect([trap.lo, trap.aborted]).toEqual([0, true])
  })
})

describe('CR1', () => {
  test('0xd75 is written', () => {
    bench.write(r.ARM_SMMU_CR1, 0xd75)
    expect(bench.hw.get(r.ARM_SMMU_CR1)).toBe(0xd75)
    expect(bench.report.take()).toEqual([])
  })
  test.each([0, 0xd74, 0xd7f, 0x1d75, 0xffff_ffff])('0x%s is a warning, and 0xd75 is written', value => {
    bench.write(r.ARM_SMMU_CR1, value)
    expect(bench.hw.get(r.ARM_SMMU_CR1)).toBe(0xd75)
    expect(bench.report.warnings).toMatchObject([{ code: 'HYP_CR1_VALUE', values: [value, 0xd75] }])
  })
})

describe('GBPA', () => {
  test('reads as abort whatever the hardware says', () => {
    for (const value of [0, 0xffff_ffff, r.GBPA_UPDATE]) {
      bench.hw.set(r.ARM_SMMU_GBPA, value)
      expect(bench.read(r.ARM_SMMU_GBPA)).toBe(r.GBPA_ABORT)
    }
  })
  test('writes are ignored without a warning', () => {
    const log = bench.record()
    bench.write(r.ARM_SMMU_GBPA, r.GBPA_UPDATE)
    bench.write(r.ARM_SMMU_GBPA, 0xffff_ffff)
    expect(log).toEqual([])
    expect(bench.report.take()).toEqual([])
  })
})

describe('interrupts as messages', () => {
  const rows = TABLE.filter(row => row[4] === 'zero')
  test.each(rows)('0x%s %s: 0 is written to the hardware', (offset, _, bits) => {
    const log = bench.record()
    bench.trap(true, offset, bits / 8, 0, 0)
    expect(log).toEqual([{ what: 'reg', smmu: 0, offset, value: 0n }])
    expect(bench.report.take()).toEqual([])
  })

  test.each(rows)('0x%s %s: anything else is a warning, and dropped', (offset, _, bits) => {
    const values = bits === 64 ? [[4, 0], [0, 1]] : [[1, 0]] // biome-ignore format: pairs
    for (const [lo, hi] of values) {
      const log = bench.record()
      const trap = bench.trap(true, offset, bits / 8, lo, hi)
      expect(bench.report.warnings).toMatchObject([{ code: 'HYP_MSI_REGISTER', values: [offset, lo, hi] }])
      bench.report.take()
      expect(log).toEqual([])
      expect(trap.aborted).toBe(false)
    }
  })
})

describe('GERRORN', () => {
  const written = (gerror: number, gerrorn: number, value: number): number => {
    bench.hw.set(r.ARM_SMMU_GERROR, gerror)
    bench.hw.set(r.ARM_SMMU_GERRORN, gerrorn)
    expect(bench.trap(true, r.ARM_SMMU_GERRORN, 4, value).aborted).toBe(false)
    return bench.hw.get(r.ARM_SMMU_GERRORN)
  }

  test.each([0, 1, 4, 0x1fd])('0x%s: all active errors are acknowledged', gerror => {
    expect(written(gerror, 0, gerror)).toBe(gerror)
    expect(bench.report.take()).toEqual([])
  })

  test('an active error that is not acknowledged stays active', () => {
    expect(written(0b101, 0, 0b100)).toBe(0b100)
    expect(bench.report.take()).toEqual([])
  })

  test.each([
    [0, 0, 1, 0],
    [1, 1, 0, 1],
    [0b100, 0, 0b101, 0b100],
    [0, 0, 0xffff_fffe, 0],
  ])('GERROR %i, GERRORN %i := %i: what is not active stays, with a warning', (gerror, gerrorn, value, result) => {
    expect(written(gerror, gerrorn, value)).toBe(result)
    expect(bench.report.warnings).toMatchObject([{ code: 'HYP_GERRORN_INACTIVE', values: [value, gerror, gerrorn] }])
  })

  test('an abort of the hardware is passed on', () => {
    bench.hw.aborting.add(r.ARM_SMMU_GERRORN)
    expect(bench.trap(true, r.ARM_SMMU_GERRORN, 4, 0).aborted).toBe(true)
  })
})

describe('emulated registers are stored and read back, and never reach the hardware', () => {
  const VALUES = [0, 1, 0x8765_4321, 0xffff_ffff]
  test.each([
    ['STRTAB_BASE', r.ARM_SMMU_STRTAB_BASE, 64],
    ['STRTAB_BASE_CFG', r.ARM_SMMU_STRTAB_BASE_CFG, 32],
    ['CMDQ_BASE', r.ARM_SMMU_CMDQ_BASE, 64],
    ['CMDQ_PROD', r.ARM_SMMU_CMDQ_PROD, 32],
  ])('%s', (_, offset, bits) => {
    const log = bench.record()
    bench.hw.logReads = true
    for (const lo of VALUES) {
      const hi = bits === 64 ? lo ^ 0xff : 0
      bench.trap(true, offset, bits / 8, lo, hi)
      const trap = bench.trap(false, offset, bits / 8)
      expect([trap.lo, trap.hi]).toEqual([lo, hi >>> 0])
    }
    expect(log).toEqual([])
    expect(bench.hw.reads).toEqual([])
    expect(bench.report.take()).toEqual([])
  })

  test("CMDQ_CONS: the host's value with the hardware's ERR", () => {
    const log = bench.record()
    bench.write(r.ARM_SMMU_CMDQ_CONS, 0xff12_3456)
    expect(bench.read(r.ARM_SMMU_CMDQ_CONS)).toBe(0x8012_3456)
    expect(log).toEqual([])
  })
})

describe('state', () => {
  let host: Host
  beforeEach(() => {
    host = new Host(bench)
  })
  const live: [string, number, number, string, number][] = [
    ['STRTAB_BASE', r.ARM_SMMU_STRTAB_BASE, 8, 'HYP_STRTAB_BASE_LIVE', r.CR0_SMMUEN],
    ['STRTAB_BASE_CFG', r.ARM_SMMU_STRTAB_BASE_CFG, 4, 'HYP_STRTAB_BASE_CFG_LIVE', r.CR0_SMMUEN],
    ['CMDQ_BASE', r.ARM_SMMU_CMDQ_BASE, 8, 'HYP_CMDQ_BASE_LIVE', r.CR0_CMDQEN],
    ['CMDQ_CONS', r.ARM_SMMU_CMDQ_CONS, 4, 'HYP_CMDQ_CONS_LIVE', r.CR0_CMDQEN],
    ['EVTQ_BASE', r.ARM_SMMU_EVTQ_BASE, 8, 'HYP_EVTQ_BASE_LIVE', r.CR0_EVTQEN],
    ['PRIQ_BASE', r.ARM_SMMU_PRIQ_BASE, 8, 'HYP_PRIQ_BASE_LIVE', r.CR0_PRIQEN],
  ]
  test.each(live)('%s cannot be written while it is in use', (_, offset, size, code) => {
    bench = new Bench({ options: { ats: true }, ids: [{ idr0: QEMU.idr0 | r.IDR0_PRI }] })
    bench.hyp.reset()
    host = new Host(bench)
    bench.write64(r.ARM_SMMU_PRIQ_BASE, host.priq + 8)
    host.boot()
    bench.write(r.ARM_SMMU_CR0, 0xf)
    expect(bench.report.take()).toEqual([])
    const before = bench.trap(false, offset, size)
    const [lo, hi] = [before.lo, before.hi]
    const log = bench.record()
    bench.trap(true, offset, size, 0x1234_5000, 0)
    expect(bench.report.warnings).toMatchObject([{ code, values: size === 8 ? [0x1234_5000, 0] : [0x1234_5000] }])
    expect(log).toEqual([])
    expect(bench.trap(false, offset, size)).toMatchObject({ lo, hi })
  })

  test.each(live)('%s can be written while only the other enables are set', (_, offset, size, _code, bit) => {
    host.prepare()
    bench.write64(r.ARM_SMMU_PRIQ_BASE, host.priq + 8)
    const enables = 0xf & ~bit & (bit === r.CR0_CMDQEN ? ~r.CR0_SMMUEN : ~0)
    bench.write(r.ARM_SMMU_CR0, enables)
    bench.trap(true, offset, size, 0x40, 0)
    expect(bench.report.take()).toEqual([])
    expect(bench.trap(false, offset, size).lo & 0xff).toBe(0x40)
  })

  test('event and PRI queue base are written to the hardware', () => {
    bench.write64(r.ARM_SMMU_EVTQ_BASE, HOST_EVTQ + 7)
    bench.write64(r.ARM_SMMU_PRIQ_BASE, HOST_EVTQ + 0x1_0000 + 6)
    expect(bench.hw.get64(r.ARM_SMMU_EVTQ_BASE)).toBe(BigInt(HOST_EVTQ + 7))
    expect(bench.hw.get64(r.ARM_SMMU_PRIQ_BASE)).toBe(BigInt(HOST_EVTQ + 0x1_0000 + 6))
  })

  test("the host's queue and table never reach the hardware's registers", () => {
    host.boot()
    expect(Number(bench.hw.get64(r.ARM_SMMU_CMDQ_BASE) & ~0x1fn)).not.toBe(HOST_CMDQ)
    expect(Number(bench.hw.get64(r.ARM_SMMU_STRTAB_BASE) & 0xff_ffff_ffff_ffc0n)).not.toBe(HOST_STRTAB)
    expect(bench.read64(r.ARM_SMMU_STRTAB_BASE) & 0xff_ffff_ffff_ffffn).toBe(BigInt(HOST_STRTAB))
  })

  test('CMDQ_CONS shows an error that the hardware reports, and keeps it', () => {
    host.boot()
    bench.hw.illegal = 0x05
    host.commands(command('CFGI_CD', { sid: 1, leaf: 1 }))
    expect(bench.report.take()).toEqual(['HYP_CMDQ_STOPPED'])
    expect(bench.read(r.ARM_SMMU_CMDQ_CONS) >>> 24).toBe(r.CMDQ_ERR_CERROR_ILL_IDX)
    expect(bench.read(r.ARM_SMMU_CMDQ_CONS) & 0xfffff).toBe(host.prod - 1)
    // Fixed and acknowledged: the hardware goes on, ERR stays as the hardware keeps it.
    bench.hw.illegal = -1
    bench.write(r.ARM_SMMU_GERRORN, bench.read(r.ARM_SMMU_GERROR))
    expect(bench.read(r.ARM_SMMU_CMDQ_CONS) >>> 24).toBe(r.CMDQ_ERR_CERROR_ILL_IDX)
    host.commands(command('SYNC'))
    expect(bench.report.take()).toEqual([])
    expect(bench.read(r.ARM_SMMU_CMDQ_CONS) >>> 24).toBe(r.CMDQ_ERR_CERROR_ILL_IDX)
  })

  test('a warning carries the number of its trap', () => {
    bench.trap(false, 0x40, 4)
    const { seq } = bench.trap(true, r.ARM_SMMU_CR1, 4, RAM_BASE)
    expect(bench.report.warnings.map(({ trap }) => trap)).toEqual([seq - 1, seq])
  })
})
