// SPDX-License-Identifier: Apache-2.0
/** Hardware that takes its time, that guards nothing, or that does not align: behaviours that the architecture leaves open. */
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { Lag } from '../../../../server/smmu/soft/options.ts'
import { C, Driver, LOG2_CMDS, R } from '../driver.ts'
import { RAM_BASE } from '../support.ts'
import { Everything, pageRequest, SID } from './world.ts'

const lag = (update: number, early = false, command = 0): Lag => ({
  update: () => update,
  early: () => early,
  command: () => command,
})
const ON = R.CR0_SMMUEN | R.CR0_CMDQEN | R.CR0_EVTQEN

describe('CR0 and CR0ACK (IHI 0070 section 6.3.9)', () => {
  it.each([1, 3, 7])('an update of %i accesses is acknowledged by the access after that', accesses => {
    const d = new Driver({ lag: lag(accesses) })
    d.write(R.ARM_SMMU_CR0, ON)
    for (let i = 1; i < accesses; i++) expect(d.read(R.ARM_SMMU_CR0ACK)).toBe(0)
    expect(d.read(R.ARM_SMMU_CR0ACK)).toBe(ON)
  })

  it('the written value reads back at once', () => {
    const d = new Driver({ lag: lag(5) })
    d.write(R.ARM_SMMU_CR0, ON)
    expect([d.read(R.ARM_SMMU_CR0), d.read(R.ARM_SMMU_CR0ACK)]).toEqual([ON, 0])
  })

  it.each([
    // early, what a transaction meets before the acknowledgement of SMMUEN = 1
    [true, 'C_BAD_STE sid=0x0'],
    [false, '1234'],
  ])('early %s: used %s', (early, result) => {
    const d = new Driver({ lag: lag(100, early) })
    d.on()
    expect(d.pa(0, 0x1234n)).toBe(result)
    d.smmu.step()
    expect(d.pa(0, 0x1234n)).toBe('C_BAD_STE sid=0x0')
    expect(d.read(R.ARM_SMMU_CR0ACK)).toBe(ON)
  })

  it.each([true, false])('SMMUEN 1 → 0, early %s: translation or bypass until it is acknowledged', early => {
    const options = lag(0)
    const d = new Driver({ lag: { ...options, update: () => due, early: () => early } })
    let due = 0
    d.on()
    due = 10
    d.write(R.ARM_SMMU_CR0, R.CR0_CMDQEN | R.CR0_EVTQEN)
    expect(d.pa(0, 0x1234n)).toBe(early ? '1234' : 'C_BAD_STE sid=0x0')
    d.smmu.step()
    expect(d.pa(0, 0x1234n)).toBe('1234')
  })

  it('a field that waits keeps its first value; others are taken', () => {
    const d = new Driver({ lag: lag(100) })
    d.write(R.ARM_SMMU_CR0, R.CR0_CMDQEN)
    d.write(R.ARM_SMMU_CR0, R.CR0_EVTQEN)
    expect(d.read(R.ARM_SMMU_CR0)).toBe(R.CR0_CMDQEN | R.CR0_EVTQEN)
    d.smmu.step()
    expect(d.read(R.ARM_SMMU_CR0ACK)).toBe(R.CR0_CMDQEN | R.CR0_EVTQEN)
  })

  it('a register stays guarded until the 0 is acknowledged, and is from when the 1 is written', () => {
    let due = 0
    const d = new Driver({ lag: { ...lag(0), update: () => due } })
    d.write64(R.ARM_SMMU_STRTAB_BASE, 0x4000)
    due = 100
    d.write(R.ARM_SMMU_CR0, R.CR0_SMMUEN)
    d.write64(R.ARM_SMMU_STRTAB_BASE, 0x8000)
    expect(d.read(R.ARM_SMMU_STRTAB_BASE)).toBe(0x4000)
    d.smmu.step()
    d.write(R.ARM_SMMU_CR0, 0)
    d.write64(R.ARM_SMMU_STRTAB_BASE, 0x8000)
    expect(d.read(R.ARM_SMMU_STRTAB_BASE)).toBe(0x4000)
    d.smmu.step()
    d.write64(R.ARM_SMMU_STRTAB_BASE, 0x8000)
    expect(d.read(R.ARM_SMMU_STRTAB_BASE)).toBe(0x8000)
  })

  it('IRQ_CTRL and IRQ_CTRLACK, GBPA.UPDATE', () => {
    const d = new Driver({ lag: lag(100) })
    d.write(R.ARM_SMMU_IRQ_CTRL, 5)
    expect([d.read(R.ARM_SMMU_IRQ_CTRL), d.read(R.ARM_SMMU_IRQ_CTRLACK)]).toEqual([5, 0])
    d.write(R.ARM_SMMU_GBPA, R.GBPA_UPDATE | R.GBPA_ABORT)
    expect(d.read(R.ARM_SMMU_GBPA)).toBe((R.GBPA_UPDATE | 0x1000) >>> 0)
    expect(d.pa(0, 0x1234n)).toBe('1234')
    d.smmu.step()
    expect([d.read(R.ARM_SMMU_IRQ_CTRLACK), d.read(R.ARM_SMMU_GBPA)]).toEqual([5, R.GBPA_ABORT])
    expect(d.pa(0, 0x1234n)).toBe('abort')
  })

  it('a stall is terminated when SMMUEN = 0 is acknowledged', () => {
    let due = 0
    let ended = 0
    const s = new Everything({ lag: { ...lag(0), update: () => due }, onResume: () => ended++ })
    s.stalling().on()
    s.to(SID.s1, 0x5000n)
    due = 3
    s.write(R.ARM_SMMU_CR0, 0)
    expect(ended).toBe(0)
    s.smmu.step()
    expect(ended).toBe(1)
  })
})

describe('commands that are consumed late', () => {
  it('one in so many accesses, in order, and CONS says which', () => {
    const d = new Driver({ lag: lag(0, false, 2) }).on()
    for (let i = 0; i < 3; i++) d.post(C.CMDQ_OP_CMD_SYNC)
    d.go()
    expect(Array.from({ length: 7 }, () => d.read(R.ARM_SMMU_CMDQ_CONS))).toEqual([0, 1, 1, 2, 2, 3, 3])
  })

  it('a TLB entry is used until its invalidation is consumed', () => {
    const d = new Everything({ lag: lag(0, false, 1) })
    d.on()
    expect(d.pa(SID.s1, d.va)).toBe(d.ipa.toString(16))
    d.memory.set64(d.entry(d.t0, d.va), 0n)
    d.command(C.CMDQ_OP_TLBI_NSNH_ALL)
    expect(d.pa(SID.s1, d.va)).toBe(d.ipa.toString(16))
    d.read(R.ARM_SMMU_CMDQ_CONS)
    expect(d.pa(SID.s1, d.va)).toMatch(/F_TRANSLATION/)
  })

  it('step consumes all; CMDQEN = 0 none', () => {
    const d = new Driver({ lag: lag(0, false, 9) }).on()
    for (let i = 0; i < 5; i++) d.post(C.CMDQ_OP_CMD_SYNC)
    d.go()
    d.write(R.ARM_SMMU_CR0, 0)
    d.smmu.step()
    expect(d.read(R.ARM_SMMU_CMDQ_CONS)).toBe(0)
    d.write(R.ARM_SMMU_CR0, R.CR0_CMDQEN)
    d.smmu.step()
    expect(d.read(R.ARM_SMMU_CMDQ_CONS)).toBe(5)
  })

  it('property: whatever the delays, step leads to the state of hardware without delays', () => {
    const delays = fc.array(fc.nat(4), { minLength: 1, maxLength: 8 })
    const action = fc.constantFrom('sync', 'illegal', 'go', 'read', 'acknowledge')
    fc.assert(
      fc.property(delays, fc.array(action, { maxLength: LOG2_CMDS ** 2 - 2 }), (waits, actions) => {
        let i = 0
        const late = new Driver({ lag: { ...lag(0), command: () => waits[i++ % waits.length] } }).on()
        const prompt = new Driver().on()
        for (const what of actions) {
          for (const d of [late, prompt]) {
            if (what === 'sync') d.post(C.CMDQ_OP_CMD_SYNC)
            else if (what === 'illegal') d.post(0xff)
            else if (what === 'go') d.go()
            else if (what === 'read') d.read(R.ARM_SMMU_CMDQ_CONS)
          }
          // Software acknowledges what it has seen.
          late.smmu.step()
          if (what === 'acknowledge')
            for (const d of [late, prompt]) d.write(R.ARM_SMMU_GERRORN, d.read(R.ARM_SMMU_GERROR))
        }
        late.smmu.step()
        for (const offset of [R.ARM_SMMU_CMDQ_CONS, R.ARM_SMMU_GERROR])
          expect(late.read(offset)).toBe(prompt.read(offset))
      }),
    )
  })
})

describe('registers that take writes while they are enabled', () => {
  it.each([
    [R.ARM_SMMU_STRTAB_BASE, R.CR0_SMMUEN],
    [R.ARM_SMMU_STRTAB_BASE_CFG, R.CR0_SMMUEN],
    [R.ARM_SMMU_CR2, R.CR0_SMMUEN],
    [R.ARM_SMMU_CMDQ_BASE, R.CR0_CMDQEN],
    [R.ARM_SMMU_CMDQ_CONS, R.CR0_CMDQEN],
    [R.ARM_SMMU_EVTQ_BASE, R.CR0_EVTQEN],
    [R.ARM_SMMU_EVTQ_PROD, R.CR0_EVTQEN],
    [R.ARM_SMMU_PRIQ_BASE, R.CR0_PRIQEN],
    [R.ARM_SMMU_PRIQ_PROD, R.CR0_PRIQEN],
  ])('%i while CR0 is %i', (offset, cr0) => {
    for (const unguarded of [false, true]) {
      const e = new Everything({ unguarded })
      e.write(R.ARM_SMMU_CR0, cr0)
      const before = e.read(offset)
      e.write(offset, 0xffff_ffff)
      expect(e.read(offset) !== before).toBe(unguarded)
    }
  })

  it('a new STRTAB_BASE is in use at once', () => {
    const e = new Everything({ unguarded: true })
    e.on()
    e.write64(R.ARM_SMMU_STRTAB_BASE, e.strtab + 4096 * 16)
    expect(e.pa(SID.bypass, 0n)).toBe('C_BAD_STE sid=0x2')
  })
})

describe('a queue base that is not aligned to the size of the queue (IHI 0070 section 6.3.26)', () => {
  const OFFSET = 0x60
  it.each([
    // unaligned, where the first entry is
    [false, 0],
    [true, OFFSET],
  ])('unaligned %s', (unalignedQueues, offset) => {
    const seen: number[] = []
    const e = new Everything({ unalignedQueues, onWrite: (_, address) => seen.push(address) })
    const base = RAM_BASE + 0x10_0000
    e.on(0)
    e.write64(R.ARM_SMMU_EVTQ_BASE, base + OFFSET + 3)
    e.write64(R.ARM_SMMU_PRIQ_BASE, base + OFFSET + 4)
    e.write64(R.ARM_SMMU_CMDQ_BASE, base + 0x1000 + OFFSET + LOG2_CMDS)
    e.memory.set64(base + 0x1000 + offset, BigInt(C.CMDQ_OP_CMD_SYNC))
    e.write(R.ARM_SMMU_CR0, ON | R.CR0_PRIQEN)
    e.to(SID.invalid, 0n)
    e.smmu.pageRequest(pageRequest())
    e.write(R.ARM_SMMU_CMDQ_PROD, 1)
    expect(seen).toEqual([base + offset, base + offset])
    expect(e.read(R.ARM_SMMU_CMDQ_CONS)).toBe(1)
  })
})

describe('caches outlive SMMUEN (IHI 0070 section 6.3.9.6)', () => {
  it('configuration and translations are used again until commands name them', () => {
    const e = new Everything({ caching: 'maximal' })
    e.on()
    expect(e.pa(SID.s1, e.va)).toBe(e.ipa.toString(16))
    e.write(R.ARM_SMMU_CR0, R.CR0_CMDQEN | R.CR0_EVTQEN)
    e.memory.set64(e.strtab + 64 * SID.s1, 0n)
    e.write64(R.ARM_SMMU_STRTAB_BASE, e.strtab + 4096)
    e.write(R.ARM_SMMU_CR0, ON)
    expect(e.pa(SID.s1, e.va)).toBe(e.ipa.toString(16))
    e.command(C.CMDQ_OP_CFGI_ALL, [C.CMDQ_CFGI_1_RANGE, C.CMDQ_CFGI_RANGE_ALL])
    expect(e.pa(SID.s1, e.va)).toBe('C_BAD_STE sid=0x3')
  })
})
