// SPDX-License-Identifier: Apache-2.0
/**
 * What a host may do that Linux does not, by tables from IHI 0070: registers, stream tables, invalidations, commands, enables
 * (server/hypervisor/README.md, section 18).
 */
import { describe, expect, test } from 'vitest'
import { fullOverrides } from '../../../../server/hypervisor/full/policy.ts'
import { OK } from '../../../../server/policy/result.ts'
import * as r from '../../../../server/smmu/registers.ts'
import { CFGI_ALL, CONFIG, CS_IRQ, command, linearCfg, SYNC, ste, tlbiNhVa, twoLevelCfg } from '../../smmu/fields.ts'
import { idRegisters } from '../pkvm/soft.ts'
import { CARVEOUT_BASE, Host, STE, shadowSte, shadowSteAddress, successor } from '../pkvm/support.ts'
import { Beside, CMDQ_LOG2, EVTQ_LOG2, fullBench, PLACE, putStage1, told, transaction } from './support.ts'

const SMMUEN = r.CR0_SMMUEN
const CMDQEN = r.CR0_CMDQEN
const EVTQEN = r.CR0_EVTQEN

/** A driver with everything in one page, and a stream table of any format. */
class Driver extends Beside {
  #prod = 0

  /** Registers as before the enables. */
  prepare(strtab: number, cfg: number, halves = false): this {
    this.write64(r.ARM_SMMU_STRTAB_BASE, strtab, 0, halves)
    this.write(r.ARM_SMMU_STRTAB_BASE_CFG, cfg)
    this.write64(r.ARM_SMMU_CMDQ_BASE, PLACE.cmdq, CMDQ_LOG2, halves)
    this.write64(r.ARM_SMMU_EVTQ_BASE, PLACE.evtq, EVTQ_LOG2, halves)
    this.write(r.ARM_SMMU_CR2, r.CR2_RECINVSID)
    return this
  }

  place(...commands: readonly (readonly number[])[]): number {
    for (const words of commands) {
      const at = PLACE.cmdq + 16 * (this.#prod % 2 ** CMDQ_LOG2)
      this.bench.memory.poke(at, new Uint8Array(Uint32Array.from(words).buffer))
      this.#prod = (this.#prod + 1) % 2 ** (CMDQ_LOG2 + 1)
    }
    return this.#prod
  }

  commands(...commands: readonly (readonly number[])[]): void {
    this.write(r.ARM_SMMU_CMDQ_PROD, this.place(...commands))
  }

  linear(sid: number, words: readonly bigint[], strtab: number = PLACE.linear): void {
    this.bench.memory.poke64(strtab + 64 * sid, ...words)
  }

  /** In an L2 table for the L1 descriptor, all with SPLIT. */
  twoLevel(sid: number, words: readonly bigint[], split: number): void {
    const l2 = PLACE.l2 + (sid >>> split) * 2 ** (split + 6)
    this.bench.memory.poke64(l2 + 64 * (sid % 2 ** split), ...words)
    this.bench.memory.poke64(PLACE.strtab + 8 * (sid >>> split), BigInt(l2 + split + 1))
  }

  /** Outcome with the hypervisor, which has to be that without. */
  dma(sid: number, address: number): string {
    const both = this.translate(transaction(sid, address))
    if (both === undefined) throw new Error('an invalidation is missing')
    expect(both[0]).toBe(both[1])
    return both[0]
  }

  /** What was warned. */
  warned(): string[] {
    return this.bench.report.take()
  }
}

const HERE = PLACE.data.toString(16)

describe('the frame (IHI 0070 sections 6.2 and 6.3)', () => {
  const HALVES = [
    ['STRTAB_BASE', r.ARM_SMMU_STRTAB_BASE, 0x4141_0000, 0x4000_0001],
    ['CMDQ_BASE', r.ARM_SMMU_CMDQ_BASE, 0x4142_0008, 0x4000_0002],
    ['EVTQ_BASE', r.ARM_SMMU_EVTQ_BASE, 0x4143_0008, 0x4000_0003],
  ] as const

  test.each(HALVES)('%s by its halves, in either order', (_name, offset, lo, hi) => {
    for (const order of [0, 4]) {
      const bench = fullBench()
      bench.write(offset + order, order === 0 ? lo : hi)
      expect([bench.read(offset), bench.read(offset + 4)]).toEqual(order === 0 ? [lo, 0] : [0, hi])
      bench.write(offset + 4 - order, order === 0 ? hi : lo)
      expect([bench.read(offset), bench.read(offset + 4)]).toEqual([lo, hi])
      expect(bench.read64(offset)).toBe((BigInt(hi) << 32n) | BigInt(lo))
      expect(bench.report.take()).toEqual([])
    }
  })

  test('a half of a base register is as guarded as the whole', () => {
    const driver = new Driver().prepare(PLACE.linear, linearCfg(3))
    driver.write(r.ARM_SMMU_CR0, CMDQEN | SMMUEN)
    for (const offset of [r.ARM_SMMU_STRTAB_BASE, r.ARM_SMMU_CMDQ_BASE + 4]) {
      const before = driver.read(offset)
      driver.write(offset, 0x4700_0000)
      expect(driver.read(offset)).toEqual(before)
    }
    expect(driver.warned()).toEqual(['HYP_STRTAB_BASE_LIVE', 'HYP_CMDQ_BASE_LIVE'])
  })

  test.each([
    [
      'IDR0',
      r.ARM_SMMU_IDR0,
      0xffff_ffff,
      r.IDR0_S2P | r.IDR0_HYP | r.IDR0_MSI | r.IDR0_VMID16 | r.IDR0_ATOS | r.IDR0_VATOS,
    ],
    [
      'IDR0, ATS and PRI',
      r.ARM_SMMU_IDR0,
      0xffff_ffff,
      r.IDR0_ATS | r.IDR0_PRI | r.IDR0_ATSRECERR | r.IDR0_NS1ATS | r.IDR0_VMW,
    ],
    ['IDR2', r.ARM_SMMU_IDR2, 0xffff_ffff, r.IDR2_BA_VATOS],
    [
      'IDR3',
      r.ARM_SMMU_IDR3,
      0xffff_ffff,
      r.IDR3_MPAM | r.IDR3_DPT | r.IDR3_FWB | r.IDR3_XNX | r.IDR3_S1PI | r.IDR3_S2PI | r.IDR3_THE,
    ],
  ])('%s does not show what is not followed', (_name, offset, hardware, hidden) => {
    const bench = fullBench()
    bench.hw.set(offset, hardware)
    expect(bench.read(offset) & hidden).toBe(0)
    expect(bench.report.take()).toEqual([])
  })

  test.each([
    ['IDR4', r.ARM_SMMU_IDR4],
    ['IIDR', r.ARM_SMMU_IIDR],
    ['AIDR', r.ARM_SMMU_AIDR],
    ['STATUSR', r.ARM_SMMU_STATUSR],
    ['identification, the first', 0xfd0],
    ['identification, the last', 0xffc],
  ])('%s is the hardware’s, and a write is ignored', (_name, offset) => {
    const bench = fullBench()
    bench.hw.set(offset, 0x1234_5679)
    const log = bench.record()
    bench.write(offset, 0xffff_ffff)
    expect(bench.read(offset)).toBe(0x1234_5679)
    expect(log).toEqual([])
    expect(bench.report.take()).toEqual([])
  })

  test.each([
    0x30, 0x48, 0xa8, 0xac, 0x100, 0x130, 0x180, 0x190, 0x200, 0x4000, 0x8000, 0x8020, 0x1_0000, 0x1_0ffc, 0x1_fffc,
  ])('0x%s is reserved, or of a feature that is not shown: zero, whatever was written', offset => {
    const bench = fullBench()
    bench.hw.set(offset, 0xffff_ffff)
    const log = bench.record()
    bench.write(offset, 0xffff_ffff)
    bench.trap(true, offset - (offset % 8), 8, 1, 1)
    expect(bench.read(offset)).toBe(0)
    expect(log).toEqual([])
    expect(bench.report.take()).toEqual([])
  })

  test.each([
    ['a byte', r.ARM_SMMU_CR0, 1],
    ['two bytes', r.ARM_SMMU_CR0, 2],
    ['64 bits of two registers of 32', r.ARM_SMMU_CR0, 8],
    ['64 bits, not aligned', r.ARM_SMMU_CMDQ_BASE + 4, 8],
  ])('%s: IHI 0070 does not say', (_name, offset, size) => {
    const bench = fullBench()
    expect(bench.trap(false, offset, size).lo).toBe(0)
    expect(bench.report.take()).toEqual(['HYP_ACCESS_WIDTH'])
  })

  test('CR1 reads as written, as far as it is not in use; the hardware has the hypervisor’s from the reset on', () => {
    const driver = new Driver()
    expect(driver.bench.peek(r.ARM_SMMU_CR1)).toBe(0xd75)
    driver.write(r.ARM_SMMU_CR1, 0xffff_f5a5)
    expect(driver.read(r.ARM_SMMU_CR1)).toEqual([0x5a5, 0x5a5])
    driver.prepare(PLACE.linear, linearCfg(3)).write(r.ARM_SMMU_CR0, CMDQEN)
    driver.write(r.ARM_SMMU_CR1, 0xd75)
    expect(driver.read(r.ARM_SMMU_CR1)).toEqual([0xd65, 0xd65])
    driver.write(r.ARM_SMMU_CR0, CMDQEN | SMMUEN)
    driver.write(r.ARM_SMMU_CR1, 0)
    expect(driver.read(r.ARM_SMMU_CR1)).toEqual([0xd65, 0xd65])
    expect(driver.bench.peek(r.ARM_SMMU_CR1)).toBe(0xd75)
    expect(driver.warned()).toEqual([])
  })

  test('CR2 has no E2H without IDR0.HYP, and does not change while SMMUEN is 1', () => {
    const driver = new Driver().prepare(PLACE.linear, linearCfg(3))
    driver.write(r.ARM_SMMU_CR2, 0xffff_ffff)
    expect(driver.read(r.ARM_SMMU_CR2)).toEqual([r.CR2_RECINVSID, r.CR2_RECINVSID])
    driver.write(r.ARM_SMMU_CR0, SMMUEN)
    driver.write(r.ARM_SMMU_CR2, 0)
    expect(driver.read(r.ARM_SMMU_CR2)).toEqual([r.CR2_RECINVSID, r.CR2_RECINVSID])
  })

  test('GBPA: attributes are the host’s, and nothing passes', () => {
    const driver = new Driver()
    driver.write(r.ARM_SMMU_GBPA, 0x3_0f00)
    expect(driver.read(r.ARM_SMMU_GBPA)[0]).toBe(0x1000 | r.GBPA_ABORT)
    driver.write(r.ARM_SMMU_GBPA, 0x3_0f00 | r.GBPA_UPDATE)
    expect(driver.read(r.ARM_SMMU_GBPA)[0]).toBe(0x3_0f00 | r.GBPA_ABORT)
    expect(told(driver.bench.hw.translate(transaction(1, PLACE.data)))).toBe('abort')
    expect(driver.warned()).toEqual([])
  })

  test('registers for MSIs and the PRI queue are RES0 where these are not shown', () => {
    const id = idRegisters({ idr0: r.IDR0_MSI | r.IDR0_ATS | r.IDR0_PRI, idr1: 5 << 11 })
    const driver = new Driver({}, { id })
    for (const offset of [0x68, 0x70, 0x74, 0xb0, 0xb8, 0xbc, 0xc0, 0xd0, 0xd8, 0xdc, 0x100c8, 0x100cc]) {
      driver.write(offset, 0xffff_ffff)
      expect([offset, driver.read(offset)]).toEqual([offset, [0, 0]])
      expect(driver.bench.peek(offset)).toBe(0)
    }
    expect(driver.warned()).toEqual([])
  })

  test('with --ats the PRI queue is there, and PRIQ_IRQ_CFG2 has LO', () => {
    const id = idRegisters({ idr0: r.IDR0_MSI | r.IDR0_ATS | r.IDR0_PRI, idr1: 5 << 11 })
    const driver = new Driver({ ats: true }, { id })
    driver.write(r.ARM_SMMU_PRIQ_IRQ_CFG2, 0xffff_ffff)
    expect(driver.read(r.ARM_SMMU_PRIQ_IRQ_CFG2)).toEqual([r.PRIQ_IRQ_CFG2_LO, r.PRIQ_IRQ_CFG2_LO])
    driver.write64(r.ARM_SMMU_PRIQ_BASE, PLACE.data, 4, true)
    expect(driver.read(r.ARM_SMMU_PRIQ_BASE)).toEqual([PLACE.data + 4, PLACE.data + 4])
  })
})

/** [name, where, STRTAB_BASE_CFG, split (0: linear), StreamIDs] */
const TABLES: readonly (readonly [string, number, number, number, readonly number[]])[] = [
  ['linear, 8 entries in a page with the queues', PLACE.linear, linearCfg(3), 0, [0, 7]],
  ['linear, one entry', PLACE.strtab, linearCfg(0), 0, [0]],
  ['linear, 1,024', PLACE.strtab, linearCfg(10), 0, [0, 255, 256, 1023]],
  ['linear, 4,096', PLACE.strtab, linearCfg(12), 0, [8, 300, 4095]],
  ['SPLIT 6', PLACE.strtab, twoLevelCfg(12, 6), 6, [0, 63, 64, 300, 4095]],
  ['SPLIT 8', PLACE.strtab, twoLevelCfg(16, 8), 8, [0, 255, 256, 0x1234]],
  ['SPLIT 10', PLACE.strtab, twoLevelCfg(16, 10), 10, [0, 255, 256, 1023, 1024]],
  ['SPLIT Reserved, which is 6', PLACE.strtab, twoLevelCfg(12, 7), 6, [0, 64]],
  ['2-level, and no larger than an L2 table', PLACE.strtab, twoLevelCfg(6, 8), 8, [0, 63]],
  ['2-level, LOG2SIZE beyond SIDSIZE', PLACE.strtab, twoLevelCfg(20, 8), 8, [0, 0xffff]],
]

describe.each(TABLES)('a stream table: %s', (_name, where, cfg, split, sids) => {
  const put = (driver: Driver, sid: number, words: readonly bigint[]) =>
    split === 0 ? driver.linear(sid, words, where) : driver.twoLevel(sid, words, split)

  /** Each with the entries of all, and one that is not there. */
  const looks = (driver: Driver, entry: string) => {
    for (const sid of sids) expect([sid, driver.dma(sid, PLACE.data)]).toEqual([sid, entry])
  }

  test('what stands in it when SMMUEN is set is used', () => {
    const driver = new Driver().prepare(where, cfg)
    for (const sid of sids) put(driver, sid, STE.bypass)
    driver.write(r.ARM_SMMU_CR0, SMMUEN | CMDQEN | EVTQEN)
    looks(driver, HERE)
    expect(driver.warned()).toEqual([])
  })

  test('what was stored later, from an invalidation on', () => {
    const tell: readonly (readonly [string, readonly number[]])[] = [
      ['CFGI_STE_RANGE of all', command('CFGI_STE_RANGE', { sid: 0, range: 16 })],
      ['CFGI_ALL', CFGI_ALL],
    ]
    for (const [name, words] of tell) {
      const driver = new Driver().prepare(where, cfg)
      driver.write(r.ARM_SMMU_CR0, SMMUEN | CMDQEN | EVTQEN)
      for (const sid of sids) put(driver, sid, STE.bypass)
      driver.commands(words, SYNC)
      looks(driver, HERE)
      for (const sid of sids) put(driver, sid, STE.invalid)
      driver.commands(words, SYNC)
      for (const sid of sids) expect([name, driver.dma(sid, PLACE.data)]).toEqual([name, 'C_BAD_STE'])
      expect(driver.warned()).toEqual([])
    }
  })

  test.each([0, 1])('each by CFGI_STE with Leaf = %i', leaf => {
    const driver = new Driver().prepare(where, cfg)
    if (split !== 0) for (const sid of sids) put(driver, sid, STE.invalid)
    driver.write(r.ARM_SMMU_CR0, SMMUEN | CMDQEN | EVTQEN)
    for (const sid of sids) {
      put(driver, sid, STE.bypass)
      driver.commands(command('CFGI_STE', { sid, leaf }), SYNC)
    }
    looks(driver, HERE)
    for (const sid of sids) {
      put(driver, sid, STE.abort)
      driver.commands(command('CFGI_STE', { sid, leaf }), SYNC)
    }
    looks(driver, 'abort')
    expect(driver.warned()).toEqual([])
  })
})

test('Leaf = 0 for one StreamID: others of its L1 descriptor may be other entries by now', () => {
  const driver = new Driver().prepare(PLACE.strtab, twoLevelCfg(16, 8))
  driver.write(r.ARM_SMMU_CR0, SMMUEN | CMDQEN | EVTQEN)
  for (const sid of [0x10, 0x11, 0x12]) driver.twoLevel(sid, STE.bypass, 8)
  driver.commands(command('CFGI_STE', { sid: 0x11, leaf: 0 }), SYNC)
  for (const sid of [0x10, 0x11, 0x12]) expect(driver.dma(sid, PLACE.data)).toBe(HERE)
  expect(driver.warned()).toEqual([])
})

test.each([
  ['stage 2', ste({ config: CONFIG.s2, s2Aa64: 1, s2T0sz: 25, s2Sl0: 1, s2Ps: 2, s2ttb: PLACE.tables })],
  ['nested', ste({ config: CONFIG.nested, s1ContextPtr: PLACE.cd })],
])('%s is ILLEGAL without IDR0.S2P', (_name, words) => {
  const driver = new Driver().prepare(PLACE.linear, linearCfg(3))
  driver.linear(1, STE.bypass)
  driver.write(r.ARM_SMMU_CR0, SMMUEN | CMDQEN | EVTQEN)
  expect(driver.dma(1, PLACE.data)).toBe(HERE)
  driver.linear(1, words)
  driver.commands(command('CFGI_STE', { sid: 1, leaf: 1 }), SYNC)
  expect(driver.dma(1, PLACE.data)).toBe('C_BAD_STE')
  driver.linear(1, STE.bypass)
  driver.commands(command('CFGI_STE', { sid: 1, leaf: 1 }), SYNC)
  expect(driver.dma(1, PLACE.data)).toBe(HERE)
  expect(driver.warned()).toEqual([])
})

test('a CFGI_STE of a StreamID beyond the table, or while SMMUEN is 0, is no mistake', () => {
  const driver = new Driver().prepare(PLACE.linear, linearCfg(3))
  driver.write(r.ARM_SMMU_CR0, CMDQEN)
  driver.commands(command('CFGI_STE', { sid: 1, leaf: 1 }), CFGI_ALL, SYNC)
  driver.write(r.ARM_SMMU_CR0, CMDQEN | SMMUEN | EVTQEN)
  driver.commands(command('CFGI_STE', { sid: 0xffff_ffff, leaf: 1 }), SYNC)
  expect(driver.read(r.ARM_SMMU_CMDQ_CONS)).toEqual([5, 5])
  expect(driver.dma(8, PLACE.data)).toBe('C_BAD_STREAMID')
  expect(driver.warned()).toEqual([])
})

describe('commands (IHI 0070 chapter 4)', () => {
  function ready(options = {}, soft = {}): Driver {
    const driver = new Driver(options, soft).prepare(PLACE.linear, linearCfg(3))
    putStage1(driver.bench)
    driver.linear(1, ste({ config: CONFIG.s1, s1ContextPtr: PLACE.cd, s1Cir: 1, s1Cor: 1, s1Csh: 3 }))
    driver.write(r.ARM_SMMU_CR0, SMMUEN | CMDQEN | EVTQEN)
    expect(driver.dma(1, 0x5000)).toBe((PLACE.data + 0x5000).toString(16))
    return driver
  }

  test.each([
    ['TLBI_EL2_ALL', command('TLBI_EL2_ALL')],
    ['TLBI_EL2_ASID', command('TLBI_EL2_ASID')],
    ['TLBI_EL2_VA', command('TLBI_EL2_VA')],
    ['TLBI_EL2_VAA', command('TLBI_EL2_VAA')],
    ['TLBI_S12_VMALL', command('TLBI_S12_VMALL')],
    ['TLBI_S2_IPA', command('TLBI_S2_IPA')],
    ['ATC_INV', command('ATC_INV', { sid: 1 })],
    ['PRI_RESP', command('PRI_RESP', { sid: 1 })],
    ['CFGI_VMS_PIDM', command(0x07)],
    ['DPTI_ALL', command(0x70)],
    ['DPTI_PA', command(0x73)],
    ['a reserved one', command(0)],
  ])('%s: CERROR_ILL, and the queue goes on when the host has replaced it', (_name, words) => {
    const id = idRegisters({ idr0: r.IDR0_ATS | r.IDR0_PRI, idr1: 5 << 11 })
    const driver = ready({}, { id })
    driver.commands(SYNC, words, SYNC)
    expect(driver.read(r.ARM_SMMU_CMDQ_CONS)).toEqual([0x0100_0001, 0x0100_0001])
    expect(driver.read(r.ARM_SMMU_GERROR)).toEqual([r.GERROR_CMDQ_ERR, r.GERROR_CMDQ_ERR])
    driver.bench.memory.poke(PLACE.cmdq + 16, new Uint8Array(Uint32Array.from(SYNC).buffer))
    driver.write(r.ARM_SMMU_GERRORN, r.GERROR_CMDQ_ERR)
    expect(driver.read(r.ARM_SMMU_CMDQ_CONS).map(cons => cons & 0xf_ffff)).toEqual([3, 3])
  })

  test.each([
    ['TLBI_NH_ALL', command('TLBI_NH_ALL')],
    ['TLBI_NH_ALL with a VMID', command('TLBI_NH_ALL', { vmid: 0x1234 })],
    ['TLBI_NH_ASID with a VMID', command('TLBI_NH_ASID', { vmid: 7, asid: 1 })],
    ['TLBI_NH_VA with a VMID', tlbiNhVa(0x5000, { vmid: 7, asid: 1 })],
    ['TLBI_NH_VAA with a VMID', command('TLBI_NH_VAA', { vmid: 7, address: 0x5000 })],
    ['TLBI_NSNH_ALL', command('TLBI_NSNH_ALL')],
  ])('%s reaches what the host has cached', (_name, words) => {
    const driver = ready()
    const leaf = PLACE.tables + 8192 + 8 * 5
    driver.bench.memory.poke64(leaf, BigInt(PLACE.data) | 0xf43n)
    driver.commands(words, SYNC)
    expect(driver.dma(1, 0x5000)).toBe(HERE)
    expect(driver.warned()).toEqual([])
  })

  test('a host cannot invalidate what is the hypervisor’s: it has no stage 2 to name', () => {
    const driver = ready()
    const before = driver.bench.report.commands.length
    driver.commands(command('TLBI_NH_VA', { vmid: 9, asid: 1, address: 0x5000 }), SYNC)
    expect(driver.bench.report.commands.slice(before).map(({ opcode }) => opcode)).toEqual([0x12, 0x46])
  })

  test('CMD_SYNC with CS = IRQ interrupts by its wire, and writes nothing', () => {
    const irqs: string[] = []
    const writes: string[] = []
    const driver = ready(
      {},
      {
        id: idRegisters({ idr0: r.IDR0_MSI }),
        onIrq: (irq: string) => irqs.push(irq),
        onWrite: (what: string) => writes.push(what),
      },
    )
    irqs.length = 0
    driver.commands(command('SYNC', { cs: CS_IRQ, msiData: 0x5a, msiAddress: CARVEOUT_BASE }))
    expect(irqs.filter(irq => irq === 'sync').length).toBeGreaterThan(0)
    expect(writes.filter(what => what.startsWith('msi'))).toEqual([])
    expect(driver.read(r.ARM_SMMU_CMDQ_CONS)).toEqual([1, 1])
    expect(driver.warned()).toEqual([])
  })
})

describe('enables (IHI 0070 section 6.3.9)', () => {
  const RUNS = SMMUEN | EVTQEN

  test('SMMUEN without CMDQEN, and a queue that comes and goes while devices are translated', () => {
    const driver = new Driver().prepare(PLACE.linear, linearCfg(3))
    driver.linear(1, STE.bypass)
    driver.write(r.ARM_SMMU_CR0, RUNS)
    expect([driver.read(r.ARM_SMMU_CR0), driver.read(r.ARM_SMMU_CR0ACK)]).toEqual([
      [RUNS, RUNS],
      [RUNS, RUNS],
    ])
    expect(driver.dma(1, PLACE.data)).toBe(HERE)
    driver.write(r.ARM_SMMU_CR0, RUNS | CMDQEN)
    driver.linear(1, STE.abort)
    driver.commands(command('CFGI_STE', { sid: 1, leaf: 1 }), SYNC)
    expect(driver.dma(1, PLACE.data)).toBe('abort')
    driver.write(r.ARM_SMMU_CR0, RUNS)
    expect(driver.read(r.ARM_SMMU_CR0ACK)).toEqual([RUNS, RUNS])
    // The queue is the host's again, to write to and to give away.
    driver.write64(r.ARM_SMMU_CMDQ_BASE, PLACE.cmdq, CMDQ_LOG2, true)
    expect(driver.read(r.ARM_SMMU_CMDQ_CONS)).toEqual([2, 2])
    expect(driver.warned()).toEqual([])
  })

  test('pages are taken from devices whether or not the host has a queue', () => {
    const driver = new Driver().prepare(PLACE.strtab, linearCfg(3))
    driver.linear(1, STE.bypass, PLACE.strtab)
    driver.write(r.ARM_SMMU_CR0, RUNS)
    expect(driver.dma(1, PLACE.data)).toBe(HERE)
    expect(driver.bench.hyp.donate(PLACE.data, 4096, 1)).toBe(OK)
    expect(told(driver.bench.hw.translate(transaction(1, PLACE.data)))).toBe('F_TRANSLATION')
  })

  test('what lies in the queue when it is enabled is consumed', () => {
    const driver = new Driver().prepare(PLACE.linear, linearCfg(3))
    driver.commands(CFGI_ALL, SYNC, SYNC)
    expect(driver.read(r.ARM_SMMU_CMDQ_CONS)).toEqual([0, 0])
    driver.write(r.ARM_SMMU_CR0, CMDQEN)
    expect(driver.read(r.ARM_SMMU_CMDQ_CONS)).toEqual([3, 3])
  })

  describe('a queue that stands at a command (IHI 0070 section 7.1)', () => {
    const ILL = command(0xee)
    const CONS = r.ARM_SMMU_CMDQ_CONS
    const at = (driver: Driver): readonly number[] => driver.read(CONS).map(cons => cons & 0xf_ffff)
    const replace = ({ bench }: Driver, index: number): void =>
      bench.memory.poke(PLACE.cmdq + 16 * index, new Uint8Array(Uint32Array.from(SYNC).buffer))

    function standing(enables: number): Driver {
      const driver = new Driver().prepare(PLACE.linear, linearCfg(3))
      driver.linear(1, STE.bypass)
      driver.write(r.ARM_SMMU_CR0, enables | CMDQEN)
      driver.commands(SYNC, SYNC, ILL, SYNC, SYNC)
      expect(at(driver)).toEqual([2, 2])
      return driver
    }

    test.each([
      ['CMDQEN', RUNS],
      ['all', 0],
    ])('is disabled, with %s, and enabled again: it stands there still, and goes on from there', (_name, others) => {
      const driver = standing(RUNS)
      driver.write(r.ARM_SMMU_CR0, others)
      expect(at(driver)).toEqual([2, 2])
      driver.write(r.ARM_SMMU_CR0, others | CMDQEN)
      expect(at(driver)).toEqual([2, 2])
      replace(driver, 2)
      driver.linear(1, STE.abort)
      const sent = driver.place(command('CFGI_STE', { sid: 1, leaf: 1 }), SYNC)
      driver.write(r.ARM_SMMU_CMDQ_PROD, sent)
      expect(at(driver)).toEqual([2, 2])
      driver.write(r.ARM_SMMU_GERRORN, r.GERROR_CMDQ_ERR)
      expect(at(driver)).toEqual([7, 7])
    })

    test('is disabled and acknowledged: it goes on from there when it is enabled', () => {
      const driver = standing(RUNS)
      driver.write(r.ARM_SMMU_CR0, RUNS)
      driver.write(r.ARM_SMMU_GERRORN, r.GERROR_CMDQ_ERR)
      expect(at(driver)).toEqual([2, 2])
      replace(driver, 2)
      driver.write(r.ARM_SMMU_CR0, RUNS | CMDQEN)
      expect(at(driver)).toEqual([5, 5])
    })

    test.each([
      ['before', true],
      ['after', false],
    ])('is disabled, and put elsewhere %s it is acknowledged: it begins where the host says', (_name, early) => {
      const driver = standing(RUNS)
      driver.write(r.ARM_SMMU_CR0, RUNS)
      if (!early) driver.write(r.ARM_SMMU_GERRORN, r.GERROR_CMDQ_ERR)
      driver.write(r.ARM_SMMU_CMDQ_PROD, 1)
      driver.write(CONS, 1)
      expect(at(driver)).toEqual([1, 1])
      if (early) driver.write(r.ARM_SMMU_GERRORN, r.GERROR_CMDQ_ERR)
      expect(at(driver)).toEqual([1, 1])
      driver.write(r.ARM_SMMU_CR0, RUNS | CMDQEN)
      expect(at(driver)).toEqual([1, 1])
      driver.write(r.ARM_SMMU_CMDQ_PROD, 2)
      expect(at(driver)).toEqual([2, 2])
      expect(driver.warned().filter(code => code !== 'HYP_CMDQ_STOPPED')).toEqual([])
    })
  })

  test('an entry that waits for an acknowledgement since a take-over is put right also when the host has no queue', () => {
    const bench = fullBench()
    const host = new Host(bench).boot()
    host.attach(8, STE.bypass)
    const before = shadowSte(bench, 8)
    bench.hw.stuck = true
    bench.hw.set(r.ARM_SMMU_GERROR, r.GERROR_CMDQ_ERR)
    bench.memory.poke64(shadowSteAddress(bench, 8), ...Array<bigint>(8).fill(0n))
    const kept = bench.hyp.checkpoint().slice()
    bench.hyp = successor(bench, { overrides: fullOverrides({}) })
    bench.hyp.restore(kept)
    expect(bench.hyp.resume()).toEqual(['SMMU 0, stream 0x8 aborts until the host acknowledges CMDQ_ERR'])
    bench.write(r.ARM_SMMU_CR0, RUNS)
    bench.hw.stuck = false
    bench.write(r.ARM_SMMU_GERRORN, bench.read(r.ARM_SMMU_GERROR))
    expect(shadowSte(bench, 8)).toEqual(before)
  })

  test('a queue is no larger than IDR1.CMDQS says, whatever LOG2SIZE is', () => {
    const driver = new Driver({}, { id: idRegisters({ idr1: 12 << 21 }, { idr1: r.IDR1_CMDQS }) })
    driver.write64(r.ARM_SMMU_CMDQ_BASE, PLACE.strtab, 13, false)
    for (let i = 0; i < 2 ** 12; i++) {
      driver.bench.memory.poke(PLACE.strtab + 16 * i, new Uint8Array(Uint32Array.from(SYNC).buffer))
    }
    driver.write(r.ARM_SMMU_CR0, CMDQEN)
    for (const prod of [2 ** 12, 0, 5]) {
      driver.write(r.ARM_SMMU_CMDQ_PROD, prod)
      expect(driver.read(r.ARM_SMMU_CMDQ_CONS)).toEqual([prod, prod])
    }
    expect(driver.warned()).toEqual([])
  })

  test('an event queue that is turned off is no warning', () => {
    const driver = new Driver().prepare(PLACE.linear, linearCfg(3))
    driver.write(r.ARM_SMMU_CR0, RUNS | CMDQEN)
    driver.write(r.ARM_SMMU_CR0, SMMUEN | CMDQEN)
    expect(driver.warned()).toEqual([])
  })
})

test('structures of one page: each may go, and the page is the host’s again with the last', () => {
  const driver = new Driver().prepare(PLACE.linear, linearCfg(3))
  const page = PLACE.cmdq
  const { ownership } = driver.bench.hyp
  driver.write(r.ARM_SMMU_CR0, CMDQEN | EVTQEN | SMMUEN)
  expect(ownership.pinsAt(page)).toBe(3)
  driver.write(r.ARM_SMMU_CR0, CMDQEN | SMMUEN)
  expect(ownership.pinsAt(page)).toBe(2)
  expect(driver.bench.hyp.donate(page, 4096, 1)).toBeLessThan(0)
  driver.write(r.ARM_SMMU_CR0, 0)
  expect(ownership.pinsAt(page)).toBe(0)
  expect(driver.bench.hyp.donate(page, 4096, 1)).toBe(OK)
})

test('a table in hypervisor memory is refused: nothing of it is read', () => {
  const driver = new Driver()
  const { bench } = driver
  bench.write64(r.ARM_SMMU_STRTAB_BASE, CARVEOUT_BASE)
  bench.write(r.ARM_SMMU_STRTAB_BASE_CFG, linearCfg(6))
  bench.write(r.ARM_SMMU_CR0, SMMUEN)
  expect(bench.read(r.ARM_SMMU_CR0) & SMMUEN).toBe(0)
  expect(driver.warned()).toEqual(['HYP_STRTAB_SHARE'])
})

test('an L2 table in a page of a VM is not read', () => {
  const driver = new Driver().prepare(PLACE.strtab, twoLevelCfg(16, 8))
  const { bench } = driver
  expect(bench.hyp.donate(PLACE.l2, 0x4000, 1)).toBe(OK)
  driver.twoLevel(1, STE.bypass, 8)
  const reads: number[] = []
  bench.memory.beforeRead = address => reads.push(address)
  driver.write(r.ARM_SMMU_CR0, SMMUEN | CMDQEN)
  driver.commands(CFGI_ALL, command('CFGI_STE', { sid: 1, leaf: 1 }), SYNC)
  expect(reads.filter(address => address >= PLACE.l2 && address < PLACE.l2 + 0x4000)).toEqual([])
  expect(driver.warned()).toEqual(['HYP_CFGI_STE'])
})

test('more entries than streams: as many as there is room for, and it is said', () => {
  const driver = new Driver().prepare(PLACE.strtab, linearCfg(13))
  for (let sid = 0; sid < 2 ** 13; sid++) driver.linear(sid, STE.bypass, PLACE.strtab)
  driver.write(r.ARM_SMMU_CR0, SMMUEN | CMDQEN)
  expect(driver.bench.hyp.streamCount()).toBeLessThanOrEqual(4096)
  expect(driver.dma(0, PLACE.data)).toBe(HERE)
  expect(driver.warned()).toEqual(['HYP_CFGI_STE'])
})
