// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from 'vitest'
import type { Field } from '../../../server/smmu/bits.ts'
import { SoftSmmu } from '../../../server/smmu/soft/softSmmu.ts'
import * as S from '../../../server/smmu/ste.ts'
import { C, Driver, LOG2_EVENTS, R } from './driver.ts'
import { FlatMemory, idRegisters, RAM_BASE, transaction } from './support.ts'

describe('registers (chapter 6)', () => {
  const access = (smmu: SoftSmmu, offset: number, size: number) => {
    const into = { lo: 0x55, hi: 0x55 }
    return smmu.read(offset, size, into) ? [into.lo, into.hi] : 'abort'
  }

  it.each([
    // after reset
    ['IDR0', R.ARM_SMMU_IDR0, 0x0d44101b],
    ['IDR1', R.ARM_SMMU_IDR1, 0x02730010],
    ['IDR3', R.ARM_SMMU_IDR3, 0x1414],
    ['IDR5', R.ARM_SMMU_IDR5, 0x74],
    ['AIDR', R.ARM_SMMU_AIDR, 1],
    ['IIDR', R.ARM_SMMU_IIDR, 0],
    ['GBPA', R.ARM_SMMU_GBPA, 0x1000],
    ['CR0', R.ARM_SMMU_CR0, 0],
    ['STATUSR', R.ARM_SMMU_STATUSR, 0],
  ])('%s resets to %i', (_, offset, value) =>
    expect(access(new SoftSmmu(new FlatMemory()), offset, 4)).toEqual([value, 0]),
  )

  it.each([
    // register, written, read back
    ['CR0', R.ARM_SMMU_CR0, 0xffff_ffff, 0xd],
    ['CR1', R.ARM_SMMU_CR1, 0xffff_ffff, 0xfff],
    ['CR2', R.ARM_SMMU_CR2, 0xffff_ffff, 0x2],
    ['GBPA with UPDATE', R.ARM_SMMU_GBPA, 0xffff_ffff, 0x001f_3f1f],
    ['GBPA without UPDATE', R.ARM_SMMU_GBPA, 0x7fff_ffff, 0x1000],
    ['IRQ_CTRL', R.ARM_SMMU_IRQ_CTRL, 0xffff_ffff, 0x5],
    ['GERRORN', R.ARM_SMMU_GERRORN, 0xffff_ffff, 0x1fd],
    ['GERROR is read-only', R.ARM_SMMU_GERROR, 0xffff_ffff, 0],
    ['IDR0 is read-only', R.ARM_SMMU_IDR0, 0, 0x0d44101b],
    ['CR0ACK is read-only', R.ARM_SMMU_CR0ACK, 0xf, 0],
    ['STRTAB_BASE', R.ARM_SMMU_STRTAB_BASE, 0xffff_ffff, 0xffff_ffc0],
    ['STRTAB_BASE+4', R.ARM_SMMU_STRTAB_BASE + 4, 0xffff_ffff, 0x40ff_ffff],
    ['STRTAB_BASE_CFG', R.ARM_SMMU_STRTAB_BASE_CFG, 0xffff_ffff, 0x307ff],
    ['CMDQ_BASE', R.ARM_SMMU_CMDQ_BASE, 0xffff_ffff, 0xffff_ffff],
    ['CMDQ_BASE+4', R.ARM_SMMU_CMDQ_BASE + 4, 0xffff_ffff, 0x40ff_ffff],
    ['CMDQ_CONS of a queue of one', R.ARM_SMMU_CMDQ_CONS, 0x7f0f_ffff, 0x7f00_0001],
    ['EVTQ_PROD of a queue of one', R.ARM_SMMU_EVTQ_PROD, 0xffff_ffff, 0x8000_0001],
    ['EVTQ_CONS of a queue of one', R.ARM_SMMU_EVTQ_CONS, 0x8000_0001, 0x8000_0001],
    ['EVTQ_PROD has no alias in Page 0', 0xa8, 5, 0],
    ['GERROR_IRQ_CFG0 without MSIs', R.ARM_SMMU_GERROR_IRQ_CFG0, 0xffff_ffff, 0],
    ['EVTQ_IRQ_CFG1 without MSIs', R.ARM_SMMU_EVTQ_IRQ_CFG1, 0xffff_ffff, 0],
    ['PRIQ_BASE without PRI', R.ARM_SMMU_PRIQ_BASE, 0xffff_ffff, 0],
    ['PRIQ_IRQ_CFG2 without PRI', R.ARM_SMMU_PRIQ_IRQ_CFG2, 0xffff_ffff, 0],
    ['a Secure register', 0x8020, 0xffff_ffff, 0],
    ['nothing', 0x1f0, 0xffff_ffff, 0],
  ])('%s', (_, offset, written, read) => {
    const smmu = new SoftSmmu(new FlatMemory())
    expect(smmu.write(offset, 4, written, 0)).toBe(true)
    expect(access(smmu, offset, 4)).toEqual([read, 0])
  })

  it.each([
    ['GERROR_IRQ_CFG0', R.ARM_SMMU_GERROR_IRQ_CFG0, 0xffff_fffc],
    ['GERROR_IRQ_CFG0+4', R.ARM_SMMU_GERROR_IRQ_CFG0 + 4, 0x00ff_ffff],
    ['EVTQ_IRQ_CFG1', R.ARM_SMMU_EVTQ_IRQ_CFG1, 0xffff_ffff],
    ['EVTQ_IRQ_CFG2', R.ARM_SMMU_EVTQ_IRQ_CFG2, 0x3f],
    ['PRIQ_IRQ_CFG2', R.ARM_SMMU_PRIQ_IRQ_CFG2, 0x8000_003f],
    ['PRIQ_BASE', R.ARM_SMMU_PRIQ_BASE, 0xffff_ffff],
    ['CR0', R.ARM_SMMU_CR0, 0x1f],
    ['IRQ_CTRL', R.ARM_SMMU_IRQ_CTRL, 0x7],
  ])('%s with MSIs, ATS and PRI', (_, offset, read) => {
    const id = idRegisters({ idr0: R.IDR0_MSI | R.IDR0_ATS | R.IDR0_PRI, idr1: 19 << 11 })
    const smmu = new SoftSmmu(new FlatMemory(), { id })
    smmu.write(offset, 4, 0xffff_ffff, 0)
    expect(access(smmu, offset, 4)).toEqual([read, 0])
  })

  it.each([
    // guarded register, CR0 or IRQ_CTRL that guards it
    [R.ARM_SMMU_STRTAB_BASE, R.CR0_SMMUEN],
    [R.ARM_SMMU_STRTAB_BASE_CFG, R.CR0_SMMUEN],
    [R.ARM_SMMU_CR2, R.CR0_SMMUEN],
    [R.ARM_SMMU_CMDQ_BASE, R.CR0_CMDQEN],
    [R.ARM_SMMU_CMDQ_BASE + 4, R.CR0_CMDQEN],
    [R.ARM_SMMU_CMDQ_CONS, R.CR0_CMDQEN],
    [R.ARM_SMMU_EVTQ_BASE, R.CR0_EVTQEN],
    [R.ARM_SMMU_EVTQ_PROD, R.CR0_EVTQEN],
  ])('a write to %i is ignored while CR0 is %i', (offset, cr0) => {
    const smmu = new SoftSmmu(new FlatMemory())
    smmu.write(R.ARM_SMMU_CR0, 4, cr0, 0)
    smmu.write(offset, 4, 0xffff_ffff, 0)
    expect(access(smmu, offset, 4)).toEqual([0, 0])
    smmu.write(R.ARM_SMMU_CR0, 4, 0, 0)
    smmu.write(offset, 4, 0xffff_ffff, 0)
    expect(access(smmu, offset, 4)).not.toEqual([0, 0])
  })

  it('takes 64-bit registers whole and in halves, and no other sizes', () => {
    const smmu = new SoftSmmu(new FlatMemory())
    smmu.write(R.ARM_SMMU_STRTAB_BASE, 8, 0x1234_5678, 0x4000_0009)
    expect(access(smmu, R.ARM_SMMU_STRTAB_BASE, 8)).toEqual([0x1234_5640, 0x4000_0009])
    expect(access(smmu, R.ARM_SMMU_STRTAB_BASE + 4, 4)).toEqual([0x4000_0009, 0])
    expect(access(smmu, R.ARM_SMMU_IDR0, 8)).toEqual([0, 0])
    smmu.write(R.ARM_SMMU_CR0, 8, 1, 0)
    expect(access(smmu, R.ARM_SMMU_CR0, 4)).toEqual([0, 0])
    for (const [offset, size] of [
      [0, 1],
      [0, 2],
      [2, 4],
      [0x84, 8],
      [0x20000, 4],
      [-4, 4],
    ]) {
      expect(access(smmu, offset, size)).toBe('abort')
      expect(smmu.write(offset, size, 0, 0)).toBe(false)
    }
  })

  it('refuses ID registers that it does not model', () => {
    expect(() => new SoftSmmu(new FlatMemory(), { id: idRegisters({}, { idr0: R.IDR0_STALL_MODEL }) })).toThrow(
      RangeError,
    )
  })

  it('GBPA.ABORT and reset', () => {
    const d = new Driver()
    expect(d.pa(0, 0x1234n)).toBe('1234')
    d.write(R.ARM_SMMU_GBPA, R.GBPA_UPDATE | R.GBPA_ABORT)
    expect(d.read(R.ARM_SMMU_GBPA)).toBe(R.GBPA_ABORT)
    expect(d.pa(0, 0x1234n)).toBe('abort')
    d.smmu.reset()
    expect(d.pa(0, 0x1234n)).toBe('1234')
    expect(new Driver({ gbpa: R.GBPA_ABORT }).pa(0, 0n)).toBe('abort')
  })
})

describe('command queue (IHI 0070 sections 4.1, 7.1)', () => {
  it('consumes on a write of PROD, wraps, and on CMDQEN', () => {
    const d = new Driver().on()
    for (let i = 0; i < 40; i++) {
      d.command(C.CMDQ_OP_CMD_SYNC)
      expect(d.read(R.ARM_SMMU_CMDQ_CONS)).toBe((i + 1) % 32)
    }
    for (let i = 0; i < 16; i++) d.post(C.CMDQ_OP_CMD_SYNC)
    d.go()
    expect(d.read(R.ARM_SMMU_CMDQ_CONS)).toBe(56 % 32)
    const late = new Driver().on(0)
    late.command(C.CMDQ_OP_CMD_SYNC)
    expect(late.read(R.ARM_SMMU_CMDQ_CONS)).toBe(0)
    late.write(R.ARM_SMMU_CR0, R.CR0_CMDQEN)
    expect(late.read(R.ARM_SMMU_CMDQ_CONS)).toBe(1)
  })

  it('consumes nothing while PROD and CONS describe no queue', () => {
    const d = new Driver().on()
    d.write(R.ARM_SMMU_CMDQ_PROD, 17)
    expect(d.read(R.ARM_SMMU_CMDQ_CONS)).toBe(0)
    expect(d.read(R.ARM_SMMU_GERROR)).toBe(0)
  })

  it('stops at an illegal command, keeps its place, and goes on when it is acknowledged', () => {
    const d = new Driver().on()
    d.post(C.CMDQ_OP_CMD_SYNC).post(0xff).command(C.CMDQ_OP_CMD_SYNC)
    expect(d.read(R.ARM_SMMU_CMDQ_CONS)).toBe(0x0100_0001)
    expect(d.read(R.ARM_SMMU_GERROR)).toBe(R.GERROR_CMDQ_ERR)
    expect(d.irqs).toEqual(['gerror'])
    d.command(C.CMDQ_OP_CMD_SYNC)
    expect(d.read(R.ARM_SMMU_CMDQ_CONS) & 0xf_ffff).toBe(1)
    // Acknowledged without a repair: the same error again.
    d.write(R.ARM_SMMU_GERRORN, R.GERROR_CMDQ_ERR)
    expect(d.read(R.ARM_SMMU_GERROR)).toBe(0)
    expect(d.read(R.ARM_SMMU_CMDQ_CONS)).toBe(0x0100_0001)
    d.memory.set64(d.cmdq + 16, BigInt(C.CMDQ_OP_CMD_SYNC))
    d.write(R.ARM_SMMU_GERRORN, 0)
    expect(d.read(R.ARM_SMMU_CMDQ_CONS) & 0xf_ffff).toBe(4)
    expect(d.irqs).toEqual(['gerror', 'gerror'])
  })

  it('reports a queue that is not memory with CERROR_ABT, at the first command that cannot be read', () => {
    const d = new Driver().on(0)
    const end = RAM_BASE + d.memory.bytes.length
    for (let i = 0; i < 4; i++) d.memory.set64(end - 64 + 16 * i, BigInt(C.CMDQ_OP_CMD_SYNC))
    d.write64(R.ARM_SMMU_CMDQ_BASE, end - 64 + 5)
    d.write64(R.ARM_SMMU_CMDQ_BASE, end - 512 + 5)
    d.write(R.ARM_SMMU_CR0, R.CR0_CMDQEN)
    d.write(R.ARM_SMMU_CMDQ_PROD, 1)
    expect(d.read(R.ARM_SMMU_CMDQ_CONS) >>> 24).toBe(R.CMDQ_ERR_CERROR_ILL_IDX)
    const outside = new Driver().on(0)
    outside.write64(R.ARM_SMMU_CMDQ_BASE, 0x1000 + 4)
    outside.write(R.ARM_SMMU_CR0, R.CR0_CMDQEN)
    outside.write(R.ARM_SMMU_CMDQ_PROD, 3)
    expect(outside.read(R.ARM_SMMU_CMDQ_CONS)).toBe(R.CMDQ_ERR_CERROR_ABT_IDX << 24)
    expect(outside.read(R.ARM_SMMU_GERROR)).toBe(R.GERROR_CMDQ_ERR)
  })

  const NONE: readonly [Field, number][] = []
  it.each<[string, number, readonly [Field, number][], Record<string, number>, Record<string, number>, boolean]>([
    ['PREFETCH_CFG', C.CMDQ_OP_PREFETCH_CFG, NONE, {}, {}, true],
    ['PREFETCH_ADDR', C.CMDQ_OP_PREFETCH_ADDR, NONE, {}, {}, true],
    ['CFGI_STE', C.CMDQ_OP_CFGI_STE, NONE, {}, {}, true],
    ['CFGI_STE Secure', C.CMDQ_OP_CFGI_STE, [[C.CMDQ_0_SSEC, 1]], {}, {}, false],
    ['CFGI_ALL', C.CMDQ_OP_CFGI_ALL, [[C.CMDQ_CFGI_1_RANGE, 31]], {}, {}, true],
    ['CFGI_ALL Secure', C.CMDQ_OP_CFGI_ALL, [[C.CMDQ_0_SSEC, 1]], {}, {}, false],
    ['CFGI_CD', C.CMDQ_OP_CFGI_CD, NONE, {}, {}, true],
    ['CFGI_CD without stage 1', C.CMDQ_OP_CFGI_CD, NONE, {}, { idr0: R.IDR0_S1P }, false],
    ['CFGI_CD_ALL', C.CMDQ_OP_CFGI_CD_ALL, NONE, {}, {}, true],
    ['CFGI_VMS_PIDM', C.CMDQ_OP_CFGI_VMS_PIDM, NONE, {}, {}, false],
    ['TLBI_NH_ALL', C.CMDQ_OP_TLBI_NH_ALL, NONE, {}, {}, true],
    ['TLBI_NH_ALL without stage 1', C.CMDQ_OP_TLBI_NH_ALL, NONE, {}, { idr0: R.IDR0_S1P }, false],
    ['TLBI_NH_ASID', C.CMDQ_OP_TLBI_NH_ASID, NONE, {}, {}, true],
    ['TLBI_NH_VA', C.CMDQ_OP_TLBI_NH_VA, NONE, {}, {}, true],
    ['TLBI_NH_VA with TG and nothing else', C.CMDQ_OP_TLBI_NH_VA, [[C.CMDQ_TLBI_1_TG, 1]], {}, {}, false],
    ['the same without RIL', C.CMDQ_OP_TLBI_NH_VA, [[C.CMDQ_TLBI_1_TG, 1]], {}, { idr3: R.IDR3_RIL }, true],
    [
      'TG and TTL',
      C.CMDQ_OP_TLBI_NH_VA,
      [
        [C.CMDQ_TLBI_1_TG, 1],
        [C.CMDQ_TLBI_1_TTL, 3],
      ],
      {},
      {},
      true,
    ],
    [
      'TG 16K and TTL 1',
      C.CMDQ_OP_TLBI_NH_VA,
      [
        [C.CMDQ_TLBI_1_TG, 2],
        [C.CMDQ_TLBI_1_TTL, 1],
      ],
      {},
      {},
      false,
    ],
    [
      'TG and NUM',
      C.CMDQ_OP_TLBI_NH_VAA,
      [
        [C.CMDQ_TLBI_1_TG, 3],
        [C.CMDQ_TLBI_0_NUM, 1],
      ],
      {},
      {},
      true,
    ],
    ['TLBI_EL3_ALL', C.CMDQ_OP_TLBI_EL3_ALL, NONE, {}, {}, false],
    ['TLBI_EL2_ALL', C.CMDQ_OP_TLBI_EL2_ALL, NONE, {}, {}, false],
    ['TLBI_EL2_ALL with HYP', C.CMDQ_OP_TLBI_EL2_ALL, NONE, { idr0: R.IDR0_HYP }, {}, true],
    ['TLBI_EL2_ASID', C.CMDQ_OP_TLBI_EL2_ASID, NONE, {}, {}, false],
    ['TLBI_EL2_VA', C.CMDQ_OP_TLBI_EL2_VA, NONE, {}, {}, false],
    ['TLBI_EL2_VAA with HYP', C.CMDQ_OP_TLBI_EL2_VAA, NONE, { idr0: R.IDR0_HYP }, {}, true],
    ['TLBI_S12_VMALL', C.CMDQ_OP_TLBI_S12_VMALL, NONE, {}, {}, true],
    ['TLBI_S12_VMALL without stage 2', C.CMDQ_OP_TLBI_S12_VMALL, NONE, {}, { idr0: R.IDR0_S2P }, false],
    ['TLBI_S2_IPA', C.CMDQ_OP_TLBI_S2_IPA, NONE, {}, {}, true],
    ['TLBI_S2_IPA without stage 2', C.CMDQ_OP_TLBI_S2_IPA, NONE, {}, { idr0: R.IDR0_S2P }, false],
    ['TLBI_NSNH_ALL', C.CMDQ_OP_TLBI_NSNH_ALL, NONE, {}, {}, true],
    ['TLBI_SNH_ALL', C.CMDQ_OP_TLBI_SNH_ALL, NONE, {}, {}, false],
    ['ATC_INV', C.CMDQ_OP_ATC_INV, NONE, {}, {}, false],
    ['ATC_INV with ATS', C.CMDQ_OP_ATC_INV, NONE, { idr0: R.IDR0_ATS }, {}, true],
    ['PRI_RESP', C.CMDQ_OP_PRI_RESP, NONE, {}, {}, false],
    ['PRI_RESP with PRI', C.CMDQ_OP_PRI_RESP, NONE, { idr0: R.IDR0_PRI }, {}, true],
    ['PRI_RESP Reserved', C.CMDQ_OP_PRI_RESP, [[C.CMDQ_PRI_1_RESP, 3]], { idr0: R.IDR0_PRI }, {}, false],
    ['RESUME', C.CMDQ_OP_RESUME, NONE, {}, {}, false],
    ['STALL_TERM', C.CMDQ_OP_STALL_TERM, NONE, {}, {}, false],
    ['SYNC', C.CMDQ_OP_CMD_SYNC, [[C.CMDQ_SYNC_0_CS, 2]], {}, {}, true],
    ['SYNC Reserved', C.CMDQ_OP_CMD_SYNC, [[C.CMDQ_SYNC_0_CS, 3]], {}, {}, false],
    ['DPTI_ALL', C.CMDQ_OP_DPTI_ALL, NONE, {}, {}, false],
    ['0x00', 0, NONE, {}, {}, false],
    ['0x80', 0x80, NONE, {}, {}, false],
  ])('%s: legal or CERROR_ILL', (_, opcode, fields, set, clear, legal) => {
    for (const caching of ['none', 'architectural', 'walks', 'maximal'] as const) {
      const d = new Driver({ id: idRegisters(set, clear), caching }).on()
      d.command(opcode, ...fields)
      expect(d.read(R.ARM_SMMU_CMDQ_CONS)).toBe(legal ? 1 : 0x0100_0000)
    }
  })

  it('CMD_SYNC: interrupt, and MSI if there are MSIs', () => {
    const d = new Driver().on()
    d.postRaw(C.CMDQ_OP_CMD_SYNC, d.evtq, [C.CMDQ_SYNC_0_CS, 1], [C.CMDQ_SYNC_0_MSIDATA, 0x1234]).go()
    expect(d.irqs).toEqual(['sync'])
    expect(d.memory.get64(d.evtq)).toBe(0n)
    const m = new Driver({ id: idRegisters({ idr0: R.IDR0_MSI }) }).on()
    m.postRaw(C.CMDQ_OP_CMD_SYNC, m.evtq, [C.CMDQ_SYNC_0_CS, 1], [C.CMDQ_SYNC_0_MSIDATA, 0x1234]).go()
    expect(m.memory.get64(m.evtq)).toBe(0x1234n)
    m.postRaw(C.CMDQ_OP_CMD_SYNC, 0x1000, [C.CMDQ_SYNC_0_CS, 1]).go()
    expect(m.read(R.ARM_SMMU_GERROR)).toBe(R.GERROR_MSI_CMDQ_ABT_ERR)
    expect(m.read(R.ARM_SMMU_CMDQ_CONS)).toBe(2)
  })

  it('CERROR_ATC_INV_SYNC: the CMD_SYNC after an invalidation that timed out', () => {
    const answers = [true, false]
    const d = new Driver({ id: idRegisters({ idr0: R.IDR0_ATS }), onAtcInvalidate: () => answers.shift() ?? true }).on()
    d.post(C.CMDQ_OP_ATC_INV).command(C.CMDQ_OP_CMD_SYNC)
    expect(d.read(R.ARM_SMMU_CMDQ_CONS)).toBe(2)
    d.post(C.CMDQ_OP_ATC_INV).command(C.CMDQ_OP_CMD_SYNC)
    expect(d.read(R.ARM_SMMU_CMDQ_CONS)).toBe((R.CMDQ_ERR_CERROR_ATC_INV_IDX << 24) | 3)
    d.write(R.ARM_SMMU_GERRORN, R.GERROR_CMDQ_ERR)
    expect(d.read(R.ARM_SMMU_CMDQ_CONS)).toBe(4)
  })
})

describe('event queue (IHI 0070 sections 7.2, 7.4)', () => {
  it('records, interrupts when it becomes non-empty, overflows, and is acknowledged', () => {
    const d = new Driver().on()
    const size = 1 << LOG2_EVENTS
    for (let i = 0; i < size; i++) d.to(i, 0n)
    expect(d.irqs).toEqual(['evtq'])
    expect(d.read(R.ARM_SMMU_EVTQ_PROD)).toBe(size)
    d.to(9, 0n)
    d.to(10, 0n)
    expect(d.read(R.ARM_SMMU_EVTQ_PROD)).toBe((R.Q_OVERFLOW_FLAG | size) >>> 0)
    expect(d.events()).toEqual([0, 1, 2, 3].map(sid => `C_BAD_STE sid=0x${sid}`))
    d.to(11, 0n)
    expect(d.read(R.ARM_SMMU_EVTQ_PROD)).toBe((R.Q_OVERFLOW_FLAG | (size + 1)) >>> 0)
    expect(d.events()).toEqual(['C_BAD_STE sid=0xb'])
    for (let i = 0; i <= size; i++) d.to(i, 0n)
    // The second overflow toggles the flag back.
    expect(d.read(R.ARM_SMMU_EVTQ_PROD) & R.Q_OVERFLOW_FLAG).toBe(0)
    expect(d.irqs).toEqual(['evtq', 'evtq', 'evtq'])
    expect(d.read(R.ARM_SMMU_GERROR)).toBe(0)
  })

  it('is silent while disabled, and about what is not to be recorded', () => {
    const d = new Driver().on(R.CR0_SMMUEN | R.CR0_CMDQEN)
    d.to(0, 0n)
    d.write(R.ARM_SMMU_CR0, R.CR0_SMMUEN | R.CR0_EVTQEN)
    expect(d.events()).toEqual([])
    d.write(R.ARM_SMMU_CR0, R.CR0_EVTQEN)
    d.write(R.ARM_SMMU_CR2, 0)
    d.write(R.ARM_SMMU_CR0, R.CR0_SMMUEN | R.CR0_EVTQEN)
    expect(d.to(99, 0n)).toMatchObject({ kind: 'fault', record: false })
    expect(d.events()).toEqual([])
  })

  it('a queue that is not memory: EVTQ_ABT_ERR, and nothing more until that is acknowledged', () => {
    const d = new Driver().on(0)
    d.write64(R.ARM_SMMU_EVTQ_BASE, 0x1000 + 4)
    d.write(R.ARM_SMMU_CR0, R.CR0_SMMUEN | R.CR0_EVTQEN)
    d.to(0, 0n)
    expect(d.read(R.ARM_SMMU_GERROR)).toBe(R.GERROR_EVTQ_ABT_ERR)
    expect(d.read(R.ARM_SMMU_EVTQ_PROD)).toBe(0)
    d.to(0, 0n)
    expect(d.irqs).toEqual(['gerror'])
    d.write(R.ARM_SMMU_GERRORN, R.GERROR_EVTQ_ABT_ERR)
    d.to(0, 0n)
    expect(d.read(R.ARM_SMMU_GERROR)).toBe(0)
    expect(d.irqs).toEqual(['gerror', 'gerror'])
  })

  it('interrupts by MSI, whose abort is a global error', () => {
    const d = new Driver({ id: idRegisters({ idr0: R.IDR0_MSI }) })
    d.write64(R.ARM_SMMU_EVTQ_IRQ_CFG0, d.cmdq)
    d.write(R.ARM_SMMU_EVTQ_IRQ_CFG1, 0x77)
    d.write64(R.ARM_SMMU_GERROR_IRQ_CFG0, 0x1000)
    d.on()
    d.to(0, 0n)
    expect(d.memory.get64(d.cmdq)).toBe(0x77n)
    d.command(0xff)
    expect(d.read(R.ARM_SMMU_GERROR)).toBe(R.GERROR_CMDQ_ERR | R.GERROR_MSI_GERROR_ABT_ERR)
    expect(d.irqs).toEqual(['evtq', 'gerror'])
    // The registers are guarded by IRQ_CTRL.
    d.write(R.ARM_SMMU_EVTQ_IRQ_CFG1, 0x88)
    expect(d.read(R.ARM_SMMU_EVTQ_IRQ_CFG1)).toBe(0x77)
  })
})

describe('dma', () => {
  it('moves data page by page as translated', () => {
    const d = new Driver().on()
    const t0 = d.stage(false, 39)
    const [a, b] = [d.alloc(4096), d.alloc(4096)]
    d.map(t0, 0x1000n, BigInt(b))
    d.map(t0, 0x2000n, BigInt(a))
    d.ste({ config: S.STRTAB_STE_0_CFG_S1_TRANS, cd: d.cd({ t0 }) }, d.strtab)
    const data = Uint8Array.from({ length: 32 }, (_, i) => i)
    expect(d.smmu.dma(transaction(0, 0x1ff0n, { write: true }), data)).toBeUndefined()
    expect(d.memory.bytes.subarray(b - RAM_BASE + 0xff0, b - RAM_BASE + 0x1000)).toEqual(data.subarray(0, 16))
    expect(d.memory.bytes.subarray(a - RAM_BASE, a - RAM_BASE + 16)).toEqual(data.subarray(16))
    const back = new Uint8Array(32)
    expect(d.smmu.dma(transaction(0, 0x1ff0n), back)).toBeUndefined()
    expect(back).toEqual(data)
    expect(d.smmu.dma(transaction(0, 0x2ff0n), back)).toMatchObject({ kind: 'fault' })
    expect(d.events()).toEqual(['F_TRANSLATION sid=0x0 read S1 IN input=0x3000'])
    d.map(t0, 0x3000n, 0x1000n)
    expect(d.smmu.dma(transaction(0, 0x3000n), back)).toEqual({ kind: 'abort' })
  })
})
