// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from 'vitest'
import type { SmmuWrite, SoftSmmuOptions } from '../../../../server/smmu/soft/options.ts'
import { C, R } from '../driver.ts'
import { Everything, pageRequest, SID } from './world.ts'

/** Every source, how it is configured, and what makes it interrupt. */
const SOURCES = [
  {
    irq: 'gerror',
    cfg0: R.ARM_SMMU_GERROR_IRQ_CFG0,
    enable: R.IRQ_CTRL_GERROR_IRQEN,
    error: R.GERROR_MSI_GERROR_ABT_ERR,
    trigger: (e: Everything) => e.command(0xff),
  },
  {
    irq: 'evtq',
    cfg0: R.ARM_SMMU_EVTQ_IRQ_CFG0,
    enable: R.IRQ_CTRL_EVTQ_IRQEN,
    error: R.GERROR_MSI_EVTQ_ABT_ERR,
    trigger: (e: Everything) => e.to(SID.invalid, 0n),
  },
  {
    irq: 'priq',
    cfg0: R.ARM_SMMU_PRIQ_IRQ_CFG0,
    enable: R.IRQ_CTRL_PRIQ_IRQEN,
    error: R.GERROR_MSI_PRIQ_ABT_ERR,
    trigger: (e: Everything) => e.smmu.pageRequest(pageRequest()),
  },
] as const

class Watched extends Everything {
  readonly writes: [SmmuWrite, number, number][] = []
  constructor(options: SoftSmmuOptions = {}) {
    const writes: [SmmuWrite, number, number][] = []
    super({ onWrite: (...write) => writes.push(write), ...options })
    this.writes = writes
  }

  msis(): number[] {
    return this.writes.filter(([what]) => what.startsWith('msi-')).map(([, address]) => address)
  }
}

describe.each(SOURCES)(
  'MSI of $irq (IHI 0070 sections 3.18, 6.3.17 to 6.3.36)',
  ({ irq, cfg0, enable, error, trigger }) => {
    function armed(address: number, enabled = enable): Watched {
      const e = new Watched()
      e.on()
      e.write(R.ARM_SMMU_IRQ_CTRL, 0)
      e.write64(cfg0, address)
      e.write(cfg0 + 8, 0x1234_5678)
      e.write(cfg0 + 12, 0x1f)
      e.write(R.ARM_SMMU_IRQ_CTRL, enabled)
      return e
    }

    it('writes 32 bits of data where CFG0 says, once', () => {
      const target = new Everything().target + 8
      const e = armed(target)
      e.memory.set64(target, 0xffff_ffff_ffff_ffffn)
      trigger(e)
      expect(e.memory.get64(target)).toBe(0xffff_ffff_1234_5678n)
      expect(e.msis()).toEqual([target])
      expect(e.irqs).toEqual([irq])
    })

    it('an address of 0 is no MSI, and the wire still tells', () => {
      const e = armed(0)
      trigger(e)
      expect(e.msis()).toEqual([])
      expect(e.irqs).toEqual([irq])
    })

    it('a disabled source writes nothing', () => {
      const e = armed(new Everything().target, 0)
      trigger(e)
      expect([e.msis(), e.irqs]).toEqual([[], []])
    })

    it('an MSI that is aborted is a global error', () => {
      const e = armed(0x1000)
      trigger(e)
      expect(e.read(R.ARM_SMMU_GERROR) & error).toBe(error)
    })

    it('address bits above OAS do not count, and [1:0] are RES0', () => {
      const target = new Everything().target
      const e = armed(target + 2 ** 44 + 3)
      expect(e.read(cfg0)).toBe(target)
      trigger(e)
      expect(e.msis()).toEqual([target])
    })

    it('the registers are read-only while the source is enabled', () => {
      const e = armed(0)
      for (const offset of [0, 4, 8, 12]) e.write(cfg0 + offset, 0)
      expect([0, 8, 12].map(offset => e.read(cfg0 + offset))).toEqual([0, 0x1234_5678, 0x1f])
    })
  },
)

describe('CMD_SYNC (IHI 0070 section 4.7.3)', () => {
  it.each([
    // CS, address, MSIs
    [C.CMDQ_SYNC_0_CS_NONE, true, []],
    [C.CMDQ_SYNC_0_CS_IRQ, true, ['here']],
    [C.CMDQ_SYNC_0_CS_IRQ, false, []],
    [C.CMDQ_SYNC_0_CS_SEV, true, []],
  ])('CS %i with an address: %s', (cs, address, msis) => {
    const e = new Watched()
    e.on()
    e.postRaw(C.CMDQ_OP_CMD_SYNC, address ? e.target : 0, [C.CMDQ_SYNC_0_CS, cs], [C.CMDQ_SYNC_0_MSIDATA, 7]).go()
    expect(e.msis()).toEqual(msis.map(() => e.target))
    expect(e.memory.get64(e.target)).toBe(msis.length > 0 ? 7n : 0n)
  })

  it('IRQ_CTRL does not concern it', () => {
    const e = new Watched()
    e.on()
    e.write(R.ARM_SMMU_IRQ_CTRL, 0)
    e.postRaw(C.CMDQ_OP_CMD_SYNC, e.target, [C.CMDQ_SYNC_0_CS, C.CMDQ_SYNC_0_CS_IRQ]).go()
    expect(e.msis()).toEqual([e.target])
  })
})

it('every write of the SMMU is told before it is made', () => {
  const seen: [SmmuWrite, number, number, bigint][] = []
  const e: Everything = new Everything({ onWrite: (...write) => seen.push([...write, e.memory.get64(write[1])]) })
  e.on()
  e.to(SID.invalid, 0n)
  e.smmu.pageRequest(pageRequest())
  e.postRaw(C.CMDQ_OP_CMD_SYNC, e.target, [C.CMDQ_SYNC_0_CS, C.CMDQ_SYNC_0_CS_IRQ], [C.CMDQ_SYNC_0_MSIDATA, 1]).go()
  expect(seen).toEqual([
    ['event', e.evtq, 32, 0n],
    ['page-request', e.priq, 16, 0n],
    ['msi-sync', e.target, 4, 0n],
  ])
  for (const [, address] of seen) expect(e.memory.get64(address)).not.toBe(0n)
})

it('every fetch of the SMMU is told', () => {
  const seen: [number, number][] = []
  const e = new Everything({ onRead: (...read) => seen.push(read) }).on()
  e.to(SID.s1, e.va)
  expect(seen[0]).toEqual([e.strtab + 64 * SID.s1, 64])
  // STE, CD, three levels of stage 1.
  expect(seen.map(([, length]) => length)).toEqual([64, 64, 8, 8, 8])
  seen.length = 0
  e.command(C.CMDQ_OP_CMD_SYNC)
  expect(seen).toEqual([[e.cmdq, 16]])
})
