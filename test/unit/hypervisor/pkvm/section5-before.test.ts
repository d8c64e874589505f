// SPDX-License-Identifier: Apache-2.0
/**
 * SMMUEN 0 → 1 uses nothing of before, and what is disabled counts only when CR0ACK says so (server/hypervisor/README.md, section 5).
 * Devices are behind an SMMU whose caches forget nothing by themselves.
 */
import { describe, expect, test } from 'vitest'
import { PAGE_OWNED, PAGE_SHARED } from '../../../../server/hypervisor/pkvm/ownership.ts'
import { EIO, EPERM, OK } from '../../../../server/policy/result.ts'
import { opcodeName } from '../../../../server/smmu/commands.ts'
import * as r from '../../../../server/smmu/registers.ts'
import { idRegisters, SoftBench, type SoftSetUp, softHost } from './soft.ts'
import { Bench, HOST_CMDQ, HOST_EVTQ, HOST_PRIQ, HOST_STRTAB, Host, MiB, RAM_BASE, STE, successor } from './support.ts'

const { CR0_SMMUEN: SMMUEN, CR0_PRIQEN: PRIQEN, CR0_EVTQEN: EVTQEN, CR0_CMDQEN: CMDQEN } = r
const SID = 0x20
const P = RAM_BASE + 10 * MiB
const OTHER = RAM_BASE + 12 * MiB

describe('what was translated before SMMUEN was 0', () => {
  test.each([
    ['SMMUEN alone', 0xc, [0xd]],
    ['CMDQEN and SMMUEN in one write', 0, [0xd]],
    ['one after the other', 0, [8, 0xc, 0xd]],
  ])('a page that was donated meanwhile is not reached: %s', (_, off, on) => {
    const { bench, host } = softHost()
    host.attach(SID, STE.bypass)
    expect(bench.dma(SID, P)).toBe('done')
    bench.write(r.ARM_SMMU_CR0, off)
    expect(bench.hyp.donate(P, 4096, 1)).toBe(OK)
    for (const value of on) bench.write(r.ARM_SMMU_CR0, value)
    expect(bench.dma(SID, P)).toBe('F_TRANSLATION')
    expect(bench.dma(SID, P + 4096)).toBe('done')
    expect(bench.report.take().filter(code => code !== 'HYP_QUEUE_DISABLED_AT_SHUTDOWN')).toEqual([])
  })
})

describe('entries that firmware left in the caches', () => {
  test.each([
    ['disabled', 0],
    ['enabled', SMMUEN],
  ])('are not used; firmware left the SMMU %s', (_, left) => {
    const bench = new SoftBench()
    const { hw, memory } = bench
    memory.poke64(OTHER + 64 * SID, ...STE.bypass)
    hw.write(r.ARM_SMMU_STRTAB_BASE, 8, OTHER, 0)
    bench.poke(r.ARM_SMMU_STRTAB_BASE_CFG, 8)
    bench.poke(r.ARM_SMMU_CR0, SMMUEN)
    expect(bench.dma(SID, P)).toBe('done')
    bench.poke(r.ARM_SMMU_CR0, left)
    bench.hyp.reset()
    const host = new Host(bench)
    host.prepare()
    // No command of the host comes before SMMUEN.
    bench.write(r.ARM_SMMU_CR0, 0xd)
    expect(bench.dma(SID, P)).toBe('C_BAD_STREAMID')
    host.attach(SID, STE.bypass)
    expect(bench.hyp.donate(P, 4096, 1)).toBe(OK)
    expect(bench.dma(SID, P)).toBe('F_TRANSLATION')
    expect(bench.report.take()).toEqual([])
  })
})

describe('an invalidation that fails', () => {
  const failures: [string, (bench: Bench, host: Host) => void, string[]][] = [
    ['the hardware takes no commands', bench => Object.assign(bench.hw, { stuck: true }), ['HYP_CMDQ_TIMEOUT']],
    [
      'the hardware has stopped at a command',
      (bench, host) => {
        bench.hw.illegal = 0x0b
        host.commands([0x0b, 0, 0, 0])
        bench.report.take()
      },
      ['HYP_CMDQ_STOPPED'],
    ],
  ]
  test.each(failures)('%s: SMMUEN stays 0, and its table is not shared', (_, fail, codes) => {
    const bench = new Bench()
    bench.hyp.reset()
    const host = new Host(bench)
    host.prepare()
    bench.write(r.ARM_SMMU_CR0, CMDQEN | EVTQEN)
    fail(bench, host)
    bench.write(r.ARM_SMMU_CR0, CMDQEN | EVTQEN | SMMUEN)
    expect(bench.report.take()).toEqual([...codes, 'HYP_SMMUEN_STALE'])
    expect(bench.hw.get(r.ARM_SMMU_CR0)).toBe(CMDQEN | EVTQEN)
    expect(bench.hyp.ownership.stateAt(HOST_STRTAB)).toBe(PAGE_OWNED)
    expect(bench.hyp.ownership.stateAt(HOST_EVTQ)).toBe(PAGE_SHARED)
    // What failed can be put right.
    bench.hw.stuck = false
    bench.hw.illegal = -1
    bench.write(r.ARM_SMMU_GERRORN, bench.read(r.ARM_SMMU_GERROR))
    bench.write(r.ARM_SMMU_CR0, CMDQEN | EVTQEN | SMMUEN)
    expect(bench.report.take()).toEqual([])
    expect(bench.hw.get(r.ARM_SMMU_CR0)).toBe(CMDQEN | EVTQEN | SMMUEN)
  })

  test('CMDQEN that the hardware does not acknowledge, in the same write', () => {
    const bench = new Bench()
    bench.hyp.reset()
    new Host(bench).prepare()
    bench.hw.unacknowledged = CMDQEN
    bench.write(r.ARM_SMMU_CR0, CMDQEN | SMMUEN)
    expect(bench.report.take()).toEqual(['HYP_SMMUEN_STALE'])
    expect(bench.hw.get(r.ARM_SMMU_CR0)).toBe(CMDQEN)
  })
})

test('SMMUEN that a hypervisor died behind is cleared before the shadow table is made anew', () => {
  const bench = new Bench()
  bench.hyp.reset()
  new Host(bench).boot()
  bench.write(r.ARM_SMMU_CR0, CMDQEN | EVTQEN)
  bench.hw.write(r.ARM_SMMU_CR0, 4, CMDQEN | EVTQEN | SMMUEN, 0)
  const next = successor(bench)
  next.restore(bench.hyp.checkpoint().slice())
  next.resume()
  bench.hyp = next
  const log = bench.record()
  bench.write(r.ARM_SMMU_CR0, CMDQEN | EVTQEN | SMMUEN)
  const written = log.filter(entry => entry.what === 'reg' && entry.offset === r.ARM_SMMU_CR0)
  expect(written).toMatchObject([{ value: BigInt(CMDQEN | EVTQEN) }, { value: BigInt(CMDQEN | EVTQEN | SMMUEN) }])
})

test('the command queue cannot be disabled under an SMMU that goes on', () => {
  const { bench, host } = softHost()
  host.attach(SID, STE.bypass)
  bench.write(r.ARM_SMMU_CR0, EVTQEN | SMMUEN)
  expect(bench.report.take()).toEqual(['HYP_CMDQ_DISABLED'])
  expect(bench.read(r.ARM_SMMU_CR0ACK)).toBe(CMDQEN | EVTQEN | SMMUEN)
  expect(bench.hyp.ownership.pinsAt(HOST_CMDQ)).toBe(1)
  expect(bench.hyp.donate(P, 4096, 1)).toBe(OK)
})

describe('CR0ACK', () => {
  const PRI: SoftSetUp = { options: { ats: true }, soft: { id: idRegisters({ idr0: r.IDR0_PRI | r.IDR0_ATS }) } }

  /** An SMMU with everything enabled that acknowledges after `accesses` of them. */
  function late(accesses: number, early = false): { bench: SoftBench; host: Host; slow(to?: number): void } {
    let wait = 0
    const lag = { update: () => wait, early: () => early, command: () => 0 }
    const bench = new SoftBench({ ...PRI, soft: { ...PRI.soft, lag } })
    bench.hyp.reset()
    const host = new Host(bench).boot()
    bench.write64(r.ARM_SMMU_PRIQ_BASE, HOST_PRIQ + 3)
    bench.write(r.ARM_SMMU_CR0, 0xf)
    host.attach(SID, STE.bypass)
    const slow = (to = accesses) => {
      wait = to
    }
    return { bench, host, slow }
  }

  const QUEUES = [
    ['EVTQEN', EVTQEN, HOST_EVTQ],
    ['PRIQEN', PRIQEN, HOST_PRIQ],
    ['CMDQEN', CMDQEN | SMMUEN, HOST_CMDQ],
    ['SMMUEN', SMMUEN, HOST_STRTAB],
  ] as const

  test.each(QUEUES)('%s: waited for, then unshared', (_, bits, base) => {
    const { bench, slow } = late(20)
    slow()
    bench.write(r.ARM_SMMU_CR0, 0xf & ~bits)
    expect(bench.peek(r.ARM_SMMU_CR0ACK) & 0xf).toBe(0xf & ~bits)
    expect(bench.hyp.ownership.stateAt(base)).toBe(PAGE_OWNED)
    expect(bench.report.take()).not.toContain('HYP_CR0ACK')
  })

  test.each(QUEUES)('%s: shared and pinned until the host reads that it is off', (_, bits, base) => {
    const { bench, slow } = late(1000)
    slow()
    bench.write(r.ARM_SMMU_CR0, 0xf & ~bits)
    expect(bench.report.take()).toContain('HYP_CR0ACK')
    expect(bench.read(r.ARM_SMMU_CR0)).toBe(0xf & ~bits)
    expect(bench.read(r.ARM_SMMU_CR0ACK)).toBe(0xf)
    expect(bench.hyp.ownership.pinsAt(base)).toBe(1)
    expect(bench.hyp.donate(base, 4096, 1)).toBe(EPERM)
    bench.hw.step()
    expect(bench.hyp.ownership.pinsAt(base)).toBe(1)
    expect(bench.read(r.ARM_SMMU_CR0ACK)).toBe(0xf & ~bits)
    expect(bench.hyp.ownership.stateAt(base)).toBe(PAGE_OWNED)
    expect(bench.hyp.donate(base, 4096, 1)).toBe(OK)
    expect(bench.report.take()).toEqual([])
  })

  test.each(QUEUES)('%s: written again before it is acknowledged', (_, bits, base) => {
    const { bench, slow } = late(1000)
    slow()
    bench.write(r.ARM_SMMU_CR0, 0xf & ~bits)
    bench.report.take()
    bench.write(r.ARM_SMMU_CR0, 0xf)
    expect(bench.report.take()).toEqual(['HYP_CR0ACK'])
    expect(bench.peek(r.ARM_SMMU_CR0) & 0xf).toBe(0xf & ~bits)
    bench.hw.step()
    slow(0)
    bench.write(r.ARM_SMMU_CR0, 0xf)
    expect(bench.peek(r.ARM_SMMU_CR0ACK) & 0xf).toBe(0xf)
    expect(bench.hyp.ownership.pinsAt(base)).toBe(1)
    expect(bench.report.take()).toEqual([])
  })

  test.each([false, true])('an SMMU that may still translate gets its invalidations (early use: %s)', early => {
    const { bench, slow } = late(1000, early)
    expect(bench.dma(SID, P)).toBe('done')
    slow()
    bench.write(r.ARM_SMMU_CR0, CMDQEN)
    expect(bench.hyp.donate(P, 4096, 1)).toBe(OK)
    expect(bench.dma(SID, P)).not.toBe('done')
    bench.hw.step()
    expect(bench.dma(SID, P)).toBe('abort')
  })

  /** An SMMU whose SMMUEN was cleared, which CR0ACK does not show. */
  function unacknowledged(): Bench {
    const bench = new Bench()
    bench.hyp.reset()
    new Host(bench).boot()
    bench.hw.unacknowledged = SMMUEN
    bench.write(r.ARM_SMMU_CR0, CMDQEN)
    expect(bench.report.take()).toEqual(['HYP_QUEUE_DISABLED_AT_SUSPEND', 'HYP_CR0ACK'])
    bench.hw.consumed = []
    return bench
  }

  test('a write before it does not reach the hardware', () => {
    const bench = unacknowledged()
    const log = bench.record()
    bench.write(r.ARM_SMMU_CR0, CMDQEN | SMMUEN)
    expect(log).toEqual([])
    expect(bench.report.take()).toEqual(['HYP_CR0ACK'])
  })

  test('a write after it, without a read of CR0ACK: SMMUEN 0 → 1 like any other', () => {
    const bench = unacknowledged()
    bench.hw.unacknowledged = 0
    bench.hw.set(r.ARM_SMMU_CR0ACK, CMDQEN)
    bench.write(r.ARM_SMMU_CR0, CMDQEN | SMMUEN)
    expect(bench.hw.takeCommands()).toEqual(['CFGI_STE_RANGE', 'TLBI_NSNH_ALL', 'SYNC'])
    expect(bench.report.take()).toEqual([])
  })

  test.each([
    ['EVTQEN', EVTQEN, HOST_EVTQ],
    ['SMMUEN', SMMUEN, HOST_STRTAB],
  ])('%s that is set but not yet acknowledged keeps its pages', (_, bit, base) => {
    const bench = new Bench()
    bench.hyp.reset()
    new Host(bench).prepare()
    bench.write(r.ARM_SMMU_CR0, CMDQEN)
    bench.hw.unacknowledged = bit
    bench.write(r.ARM_SMMU_CR0, CMDQEN | bit)
    expect(bench.read(r.ARM_SMMU_CR0ACK)).toBe(CMDQEN)
    expect(bench.hyp.ownership.pinsAt(base)).toBe(1)
    expect(bench.hyp.donate(base, 4096, 1)).toBe(EPERM)
    expect(bench.report.take()).toEqual([])
  })

  test('base registers are not written before', () => {
    const { bench, slow } = late(1000)
    slow()
    bench.write(r.ARM_SMMU_CR0, CMDQEN)
    bench.report.take()
    bench.write64(r.ARM_SMMU_EVTQ_BASE, P)
    bench.write64(r.ARM_SMMU_STRTAB_BASE, P)
    expect(bench.report.take()).toEqual(['HYP_EVTQ_BASE_LIVE', 'HYP_STRTAB_BASE_LIVE'])
  })
})

test.each([
  ['EVTQ', EVTQEN, r.ARM_SMMU_EVTQ_BASE, HOST_EVTQ],
  ['PRIQ', PRIQEN, r.ARM_SMMU_PRIQ_BASE, HOST_PRIQ],
])('%s_BASE: a write that the hardware ignored is not believed', (_, bit, register, base) => {
  const bench = new SoftBench({ options: { ats: true }, soft: { id: idRegisters({ idr0: r.IDR0_PRI | r.IDR0_ATS }) } })
  bench.hyp.reset()
  bench.write64(register, base + 4)
  const write = bench.hw.write.bind(bench.hw)
  bench.hw.write = (offset, ...rest) => offset === register || write(offset, ...rest)
  bench.write64(register, P + 4)
  bench.write(r.ARM_SMMU_CR0, bit)
  expect(bench.hyp.ownership.stateAt(base)).toBe(PAGE_SHARED)
  expect(bench.hyp.ownership.stateAt(P)).toBe(PAGE_OWNED)
  expect(bench.hyp.donate(base, 4096, 1)).toBe(EPERM)
  bench.write(r.ARM_SMMU_CR0, 0)
  expect(bench.hyp.ownership.stateAt(base)).toBe(PAGE_OWNED)
})

test('EVTQ_BASE that cannot be read: the queue stays disabled', () => {
  const bench = new Bench()
  bench.hyp.reset()
  new Host(bench).prepare()
  bench.hw.aborting.add(r.ARM_SMMU_EVTQ_BASE)
  bench.write(r.ARM_SMMU_CR0, CMDQEN | EVTQEN)
  expect(bench.report.warnings.map(({ code, values }) => [code, values[3]])).toEqual([['HYP_EVTQ_SHARE', EIO]])
  expect(bench.hw.get(r.ARM_SMMU_CR0)).toBe(CMDQEN)
})

test('the hardware gets SMMUEN behind CFGI_ALL, TLBI_NSNH_ALL and SYNC', () => {
  const bench = new Bench()
  bench.hyp.reset()
  new Host(bench).prepare()
  const log = bench.record()
  bench.write(r.ARM_SMMU_CR0, CMDQEN)
  bench.write(r.ARM_SMMU_CR0, CMDQEN | SMMUEN)
  bench.write(r.ARM_SMMU_CR0, CMDQEN)
  bench.write(r.ARM_SMMU_CR0, CMDQEN | SMMUEN)
  const seen = log.flatMap((entry): (string | number)[] => {
    if (entry.what === 'cmd') return [opcodeName((entry.words[0] ?? 0) & 0xff)]
    return entry.what === 'reg' && entry.offset === r.ARM_SMMU_CR0 ? [Number(entry.value)] : []
  })
  const enabling = ['CFGI_STE_RANGE', 'TLBI_NSNH_ALL', 'SYNC', 9]
  expect(seen).toEqual([8, ...enabling, 8, ...enabling])
})
