// SPDX-License-Identifier: Apache-2.0
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { enums, NO_STREAM } from '../../../protocol/messages.ts'
import { ACTIONS, type FaultRule } from '../../../server/faults/rule.ts'
import { Trigger } from '../../../server/faults/trigger.ts'
import { decodeEvent } from '../../../server/smmu/events.ts'
import { newAnswer } from '../../../server/translate/answer.ts'
import { HOST_EVTQ, MiB, RAM_BASE, STE, shadowSte } from '../hypervisor/pkvm/support.ts'
import { CFGI_ALL, cfgiSte, command, SYNC, tlbiNhVa } from '../smmu/fields.ts'
import { Cut, FaultyBench, Host, r, running, tlbi } from './support.ts'

const rule = (where: FaultRule['where'], what: FaultRule['what'], when?: FaultRule['when']): FaultRule => ({
  name: 'fault',
  where,
  what,
  ...(when && { when }),
})
const reads = (register: string, what: FaultRule['what'], when?: FaultRule['when']) =>
  rule({ at: 'register', register, access: 'read' }, what, when)
const writes = (register: string, what: FaultRule['what'], when?: FaultRule['when']) =>
  rule({ at: 'register', register, access: 'write' }, what, when)
const ALWAYS = { times: 'always' } as const

describe('registers', () => {
  test('set, change and abort what a read answers', () => {
    const { bench } = running([reads('ARM_SMMU_CR0ACK', { do: 'set', value: 0 })])
    expect(bench.read(r.ARM_SMMU_CR0ACK)).toBe(0)
    expect(bench.read(r.ARM_SMMU_CR0ACK)).not.toBe(0)
    bench.arm([reads('IDR5', { do: 'change', and: '0xfffffff8', or: 1, xor: 2 })])
    const idr5 = bench.hw.get(r.ARM_SMMU_IDR5)
    expect(bench.read(r.ARM_SMMU_IDR5)).toBe(((idr5 & ~7) | 3) >>> 0)
    bench.arm([reads('IDR1', { do: 'abort' })])
    const trap = bench.trap(false, r.ARM_SMMU_IDR1, 4)
    expect(trap).toMatchObject({ aborted: true, lo: 0 })
  })

  test('freeze answers what the last read before answered', () => {
    const { bench, host } = running([reads('CMDQ_CONS', { do: 'freeze' }, { skip: 1, times: 2 })])
    const before = bench.read(r.ARM_SMMU_CMDQ_CONS)
    host.commands(CFGI_ALL, SYNC)
    expect(bench.read(r.ARM_SMMU_CMDQ_CONS)).toBe(before)
    expect(bench.read(r.ARM_SMMU_CMDQ_CONS)).toBe(before)
    expect(bench.read(r.ARM_SMMU_CMDQ_CONS)).toBe(before + 2)
  })

  test('drop, alter, abort a write; the trap keeps what the guest wrote', () => {
    const { bench } = running([writes('IRQ_CTRL', { do: 'drop' })])
    bench.write(r.ARM_SMMU_IRQ_CTRL, 7)
    expect(bench.hw.get(r.ARM_SMMU_IRQ_CTRL)).toBe(0)
    bench.arm([writes('IRQ_CTRL', { do: 'change', xor: 1 })])
    const trap = bench.trap(true, r.ARM_SMMU_IRQ_CTRL, 4, 7)
    expect(trap.lo).toBe(7)
    expect(bench.hw.get(r.ARM_SMMU_IRQ_CTRL)).toBe(6)
    bench.arm([writes('IRQ_CTRL', { do: 'abort' })])
    expect(bench.trap(true, r.ARM_SMMU_IRQ_CTRL, 4, 1).aborted).toBe(true)
    expect(bench.hw.get(r.ARM_SMMU_IRQ_CTRL)).toBe(6)
  })

  test('a postponed write is carried out so many traps later', () => {
    const { bench } = running([writes('IRQ_CTRL', { do: 'postpone', traps: 2 })])
    bench.write(r.ARM_SMMU_IRQ_CTRL, 5)
    bench.read(r.ARM_SMMU_IDR0)
    expect(bench.hw.get(r.ARM_SMMU_IRQ_CTRL)).toBe(0)
    bench.read(r.ARM_SMMU_IDR0)
    expect(bench.hw.get(r.ARM_SMMU_IRQ_CTRL)).toBe(5)
  })

  test('mask and value decide', () => {
    const where = { at: 'register', register: 'IRQ_CTRL', access: 'write', mask: 4, value: 4 } as const
    const { bench } = running([rule(where, { do: 'drop' }, ALWAYS)])
    bench.write(r.ARM_SMMU_IRQ_CTRL, 3)
    bench.write(r.ARM_SMMU_IRQ_CTRL, 7)
    expect(bench.hw.get(r.ARM_SMMU_IRQ_CTRL)).toBe(3)
    expect(bench.firings).toHaveLength(1)
  })
})

describe('the hardware as the hypervisor sees it', () => {
  test('GBPA.UPDATE that never clears: no isolation', () => {
    const bench = new FaultyBench()
    bench.arm([rule({ at: 'hardware', register: 'GBPA', access: 'read' }, { do: 'change', or: '0x80000000' }, ALWAYS)])
    bench.connect()
    bench.reset()
    expect(bench.hyp.isolated).toBe(false)
  })

  test('a write that is dropped, altered, aborted', () => {
    const { bench, host } = running([rule({ at: 'hardware', register: 'CMDQ_PROD', access: 'write' }, { do: 'abort' })])
    host.commands(CFGI_ALL, SYNC)
    expect(bench.hw.takeCommands()).toEqual([])
    expect(bench.report.take()).toEqual(['HYP_CMDQ_TIMEOUT'])
    bench.arm([rule({ at: 'hardware', register: 'CR0', access: 'write' }, { do: 'change', xor: 4 })])
    bench.write(r.ARM_SMMU_CR0, r.CR0_CMDQEN | r.CR0_EVTQEN | r.CR0_SMMUEN)
    expect(bench.hw.get(r.ARM_SMMU_CR0)).toBe(r.CR0_CMDQEN | r.CR0_SMMUEN)
    bench.arm([rule({ at: 'hardware', register: 'CR2', access: 'write' }, { do: 'drop' })])
    bench.write(r.ARM_SMMU_CR2, 0)
    expect(bench.hw.get(r.ARM_SMMU_CR2)).toBe(6)
  })
})

describe('commands', () => {
  const commands = (what: FaultRule['what'], when?: FaultRule['when'], queue: 'host' | 'shadow' = 'host') =>
    rule({ at: 'command', command: 'CMDQ_OP_TLBI_NH_VA', queue }, what, when)

  test.each([
    ['drop', commands({ do: 'drop' }), ['PREFETCH_CFG', 'SYNC']],
    ['duplicate', commands({ do: 'duplicate' }), ['TLBI_NH_VA', 'TLBI_NH_VA']],
    ['reorder', commands({ do: 'reorder' }), ['SYNC', 'TLBI_NH_VA']],
    ['change', commands({ do: 'change', xor: 1 }), ['TLBI_NH_VAA', 'SYNC']],
    ['early', rule({ at: 'command', command: 'CMD_SYNC' }, { do: 'early' }), ['PREFETCH_CFG', 'SYNC']],
    ['shadow drop', commands({ do: 'drop' }, undefined, 'shadow'), ['PREFETCH_CFG', 'SYNC']],
  ])('%s', (_name, fault, expected) => {
    const { bench, host } = running([fault])
    host.commands(tlbi(5), SYNC)
    expect(
      bench.hw.takeCommands().map(name => name.replace('PREFETCH_CONFIG', 'PREFETCH_CFG').replace('CMD_', '')),
    ).toEqual(expected)
    expect(bench.fired()).toEqual(['fault'])
    expect(bench.read(r.ARM_SMMU_CMDQ_CONS)).toBe(bench.read(r.ARM_SMMU_CMDQ_PROD))
  })

  test('a deferred command takes the place of a later CMD_SYNC', () => {
    const { bench, host } = running([commands({ do: 'defer', syncs: 2 })])
    host.commands(tlbi(5), SYNC)
    bench.hw.takeCommands()
    host.commands(CFGI_ALL, SYNC)
    expect(bench.hw.consumed.map(([word]) => word & 0xff)).toEqual([0x04, 0x12])
  })

  test.each([
    // Three CMD_SYNCs late, each: the one that made room is gone.
    ['defer', { do: 'defer', syncs: 3 }, [0x01, 0x46, 0x01, 0x46, 0x01, 0x12, 0x01, 0x12]],
    ['duplicate', { do: 'duplicate' }, [0x12, 0x12, 0x12, 0x12, 0x12, 0x12, 0x12, 0x12]],
  ] as const)(
    '%s, always: each command once, and not what was put in the place of a CMD_SYNC',
    (_name, what, expected) => {
      const { bench, host } = running([commands(what, { times: 'always' })])
      for (let i = 0; i < 4; i++) host.commands(tlbi(i), SYNC)
      expect(bench.hw.consumed.slice(-8).map(([word]) => word & 0xff)).toEqual(expected)
      expect(bench.fired()).toHaveLength(4)
      // Nothing new: what was deferred comes, and then CMD_SYNCs are CMD_SYNCs again.
      for (let i = 0; i < 5; i++) host.commands(SYNC)
      expect(bench.fired()).toHaveLength(4)
      expect((bench.hw.consumed.at(-1)?.[0] ?? 0) & 0xff).toBe(0x46)
    },
  )

  test('several rules about one command: changes and side effects go with each other, and with its fate', () => {
    const at = { at: 'command', command: 'CMDQ_OP_TLBI_NH_VA' } as const
    const { bench, host } = running([
      { name: 'irq', where: at, when: { times: 'always' }, what: { do: 'irq', line: 'evtq' } },
      { name: 'word-0', where: at, when: { times: 'always' }, what: { do: 'change', word: 0, xor: 0x10_0000 } },
      { name: 'word-1', where: at, when: { times: 'always' }, what: { do: 'change', word: 1, or: 1 } },
      { name: 'lose', where: at, when: { nth: 2 }, what: { do: 'drop' } },
    ])
    host.commands(tlbi(5), SYNC)
    const [before] = bench.hw.consumed.slice(-2)
    expect([before?.[0] ?? 0, (before?.[2] ?? 0) & 1]).toEqual([0x10_0012, 1])
    host.commands(tlbi(6), SYNC)
    expect((bench.hw.consumed.at(-2)?.[0] ?? 0) & 0xff).toBe(0x01)
    expect(bench.fired()).toEqual(['irq', 'word-0', 'word-1', 'irq', 'word-0', 'word-1', 'lose'])
  })

  test('CONS stands at a CMD_SYNC that hangs, for a time', () => {
    const { bench, host } = running([rule({ at: 'command', command: 'CMD_SYNC' }, { do: 'hang', ms: 3 })])
    const before = bench.read(r.ARM_SMMU_CMDQ_PROD)
    host.commands(tlbi(5), SYNC)
    expect(bench.read(r.ARM_SMMU_CMDQ_CONS)).toBe(before + 1)
    for (let i = 0; i < 3; i++) bench.read(r.ARM_SMMU_IDR0)
    expect(bench.read(r.ARM_SMMU_CMDQ_CONS)).toBe(before + 2)
  })

  test('a command error shows until it is acknowledged, and the hardware hears nothing of it', () => {
    const { bench, host } = running([commands({ do: 'cerror', error: 'ABT' })])
    const before = bench.read(r.ARM_SMMU_CMDQ_PROD)
    host.commands(tlbi(5), SYNC)
    expect(bench.read(r.ARM_SMMU_CMDQ_CONS)).toBe(before | (r.CMDQ_ERR_CERROR_ABT_IDX << 24))
    expect(bench.irqs).toEqual([enums.irqLine.gerror[0]])
    const gerror = bench.read(r.ARM_SMMU_GERROR)
    expect((gerror ^ bench.read(r.ARM_SMMU_GERRORN)) & r.GERROR_CMDQ_ERR).toBe(1)
    bench.write(r.ARM_SMMU_GERRORN, gerror)
    expect(bench.read(r.ARM_SMMU_GERROR)).toBe(bench.read(r.ARM_SMMU_GERRORN))
    expect(bench.hw.get(r.ARM_SMMU_GERRORN)).toBe(bench.hw.get(r.ARM_SMMU_GERROR))
    expect(bench.read(r.ARM_SMMU_CMDQ_CONS)).toBe(before + 2)
  })

  test('the shadow queue hangs: the hypervisor waits, warns and goes on', () => {
    const { bench, host } = running([commands({ do: 'hang', ms: 1 }, undefined, 'shadow')])
    host.commands(tlbi(5), SYNC)
    expect(bench.report.take()).toEqual(['HYP_CMDQ_TIMEOUT'])
    host.commands(tlbi(6), SYNC)
    expect(bench.report.take()).toEqual([])
  })

  test.each([
    ['sid', { at: 'command', command: 'CFGI_STE', sid: 'nvme' }, cfgiSte(0x10), cfgiSte(0x11)],
    [
      'address',
      { at: 'command', address: '0x7000' },
      command('TLBI_NH_VA', { leaf: 1, address: 0x7000 }),
      command('TLBI_NH_VA', { leaf: 1, address: 0x8000 }),
    ],
    [
      'asid',
      { at: 'command', command: 'TLBI_NH_ASID', asid: 7 },
      command('TLBI_NH_ASID', { asid: 7 }),
      command('TLBI_NH_ASID', { asid: 8 }),
    ],
    ['leaf', { at: 'command', command: 'TLBI_NH_VA', leaf: true }, command('TLBI_NH_VA', { leaf: 1 }), tlbiNhVa(0)],
  ] as const)('fields: %s', (_name, where, yes, no) => {
    const { bench, host } = running([rule(where, { do: 'drop' }, ALWAYS)])
    host.commands(no, SYNC)
    expect(bench.firings).toHaveLength(0)
    host.commands(yes, SYNC)
    expect(bench.firings).toHaveLength(1)
  })
})

describe('tables', () => {
  test('a shadow STE is altered, lost, refused', () => {
    const where = { at: 'table', table: 'ste', sid: 'nvme' } as const
    const { bench, host } = running([rule(where, { do: 'change', xor: 8 }, ALWAYS)])
    host.attach(0x10, STE.s1)
    expect((shadowSte(bench, 0x10)[0] >> 1n) & 7n).toBe(3n)
    bench.arm([rule(where, { do: 'change', word: 3, xor: 0x1000 }, ALWAYS)])
    host.attach(0x10, STE.s1)
    expect(shadowSte(bench, 0x10)[3]).toBe(BigInt(bench.hyp.idmap?.root ?? 0) ^ 0x1000n)
    bench.arm([rule(where, { do: 'drop' }, ALWAYS)])
    const before = shadowSte(bench, 0x10)
    host.attach(0x10, STE.abort)
    expect(shadowSte(bench, 0x10)).toEqual(before)
    bench.arm([rule(where, { do: 'abort' })])
    host.attach(0x10, STE.abort)
    expect(bench.report.take()).toEqual(['HYP_CFGI_STE'])
  })

  test('L1 descriptor, host STE and CD', () => {
    const { bench, host } = running([rule({ at: 'table', table: 'l1' }, { do: 'drop' }, ALWAYS)])
    host.attach(0x10, STE.s1)
    expect(shadowSte(bench, 0x10)).toEqual([])
    bench.arm([rule({ at: 'table', table: 'host-ste', sid: 0x10 }, { do: 'change', xor: 6 })])
    bench.report.take()
    host.attach(0x10, STE.s1)
    expect(bench.report.take()).toEqual(['HYP_CFGI_STE'])
    bench.arm([rule({ at: 'table', table: 'host-l1' }, { do: 'change', and: 0 })])
    host.attach(0x10, STE.s1)
    expect(bench.report.take()).toEqual(['HYP_CFGI_STE'])
    bench.arm([rule({ at: 'table', table: 'cd', sid: 0x10 }, { do: 'change', word: 1, xor: 0x10 })])
    const cd = 0x4140_0000
    const before = bench.memory.peek64(cd + 8)
    host.attach(0x10, STE.s1)
    expect(bench.memory.peek64(cd + 8)).toBe(before ^ 0x10n)
  })

  test('a stage-2 descriptor: built wrong, corrupted where it stands, and its removal lost', () => {
    const page = RAM_BASE + 8 * MiB
    const built = new FaultyBench()
    built.arm([rule({ at: 'table', table: 'stage2', address: page }, { do: 'change', xor: 0x1000 })])
    built.connect()
    built.reset()
    expect(built.hyp.verify().join()).toContain(`0x${page.toString(16)}`)

    const { bench } = running([rule({ at: 'machine' }, { do: 'corrupt', table: 'stage2', address: page, xor: 0x1000 })])
    expect(bench.hyp.verify()).toEqual([])
    bench.injector.fire('fault')
    expect(bench.hyp.verify()).toHaveLength(1)
    expect(bench.invalidated).toBe(1)
    bench.injector.fire('fault')
    expect(bench.hyp.verify()).toEqual([])
    bench.arm([rule({ at: 'table', table: 'stage2', address: page }, { do: 'drop' })])
    expect(bench.hyp.donate(page, 4096, 1)).toBe(0)
    expect(bench.hyp.verify()).toHaveLength(1)
  })

  test.each([
    ['as large as RAM', { from: RAM_BASE, size: 32 * MiB }],
    ['of every address there is', { from: 0, size: '0xffffffffffffffff' }],
  ])('a rule for a range %s looks at few tables, and before its time at none', (_, address) => {
    const lost = rule({ at: 'table', table: 'stage2', address }, { do: 'drop' }, { times: 'always', console: 'later' })
    const { bench } = running([lost])
    const reads = (page: number) => {
      let count = 0
      bench.memory.beforeRead = () => void count++
      expect(bench.hyp.donate(page, 4096, 1)).toBe(0)
      bench.memory.beforeRead = null
      return count
    }
    const page = RAM_BASE + 8 * MiB
    const before = reads(page)
    expect(bench.hyp.verify()).toEqual([])
    bench.injector.open(['fault'])
    // Two tables lead to those of pages, and each is read once for each write: of the descriptor, and of the queue's commands.
    expect(reads(page + 4096)).toBeLessThan(before + 40)
    expect(bench.fired()).toEqual(['fault'])
    expect(bench.hyp.verify()).toHaveLength(1)
  })
})

describe('pages', () => {
  test('share, pin and allocate fail; a donation is refused', () => {
    const bench = new FaultyBench()
    bench.connect()
    bench.reset()
    bench.arm([rule({ at: 'pages', operation: 'share' }, { do: 'fail', error: 'EPERM' })])
    const host = new Host(bench)
    host.prepare()
    bench.write(r.ARM_SMMU_CR0, r.CR0_CMDQEN)
    expect(bench.report.take()).toEqual(['HYP_CMDQ_SHARE'])
    bench.arm([rule({ at: 'pages', operation: 'allocate' }, { do: 'fail', error: 'ENOMEM' })])
    host.boot()
    host.attach(0x10, STE.s1)
    expect(bench.report.take()).toEqual(['HYP_CFGI_STE'])
    bench.arm([rule({ at: 'pages', operation: 'donate' }, { do: 'fail', error: 'EBUSY' })])
    expect(bench.hyp.donate(RAM_BASE + 8 * MiB, 4096, 1)).toBe(-16)
    bench.injector.disarm()
    expect(bench.hyp.donate(RAM_BASE + 8 * MiB, 4096, 1)).toBe(0)
  })

  test('a page is donated once the trap is decided, and its invalidations are swallowed', () => {
    const page = RAM_BASE + 8 * MiB
    const { bench, host } = running([
      { name: 'donate', where: { at: 'command', command: 'TLBI_NH_VA' }, what: { do: 'donate', address: page } },
      { name: 'lose', where: { at: 'command', command: 'TLBI_S2_IPA', queue: 'shadow' }, what: { do: 'drop' } },
    ])
    host.commands(tlbi(1), SYNC)
    expect(bench.fired()).toEqual(['lose', 'donate'])
    expect(bench.hyp.ownership.vmAt(page)).toBe(1)
    expect(bench.hw.takeCommands().some(name => name.includes('S2_IPA'))).toBe(false)
  })
})

describe('translations', () => {
  const request = {
    type: 4,
    seq: 1,
    smmu: 0,
    sid: 0x10,
    ssid: 0,
    iovaLo: 0x5123,
    iovaHi: 0,
    access: enums.access.write[0],
    time: 0,
  } as never
  const mapped = () =>
    Object.assign(newAnswer(), { status: 0, pa: 0x4000_5123, addressMask: 0x1f_ffff, permissions: 3 })
  const translate = (what: FaultRule['what']) => {
    const { bench } = running([rule({ at: 'translate', sid: 'nvme', address: '0x5000' }, what)])
    const answer = mapped()
    bench.injector.translate(request, answer)
    return { answer, bench }
  }

  test('fault, silent abort, wrong address, fewer permissions', () => {
    const { answer } = translate({ do: 'fault', event: 'F_PERMISSION', stage: 2 })
    expect(answer.status).toBe(enums.translation.fault[0])
    expect(decodeEvent(answer.words)).toMatchObject({ id: 0x13, streamId: 0x10, s2: true, rnw: false, inputLo: 0x5123 })
    expect(translate({ do: 'abort' }).answer.status).toBe(enums.translation.silent[0])
    expect(translate({ do: 'redirect', address: 0x7000_0000 }).answer).toMatchObject({
      pa: 0x7000_0123,
      addressMask: 0xfff,
    })
    expect(translate({ do: 'redirect', xor: 0x1000 }).answer.pa).toBe(0x4000_4123)
    expect(translate({ do: 'restrict', permissions: 'write' }).answer).toMatchObject({ status: 0, permissions: 2 })
  })

  test.each(['read', 'none'] as const)('a write to a page that has permission %s left ends in F_PERMISSION', left => {
    const { answer } = translate({ do: 'restrict', permissions: left })
    expect(answer.status).toBe(enums.translation.fault[0])
    expect(decodeEvent(answer.words)).toMatchObject({
      id: 0x13,
      streamId: 0x10,
      s2: false,
      rnw: false,
      inputLo: 0x5123,
    })
  })

  test('a transaction that faults anyway does not use up a rule about its address', () => {
    const { bench } = running([rule({ at: 'translate' }, { do: 'redirect', xor: 0x1000 })])
    const fault = { ...mapped(), status: enums.translation.fault[0] }
    bench.injector.translate(request, fault)
    expect(bench.fired()).toEqual([])
    const answer = mapped()
    bench.injector.translate(request, answer)
    expect([answer.pa, bench.fired()]).toEqual([0x4000_4123, ['fault']])
  })

  test('what needs the machine waits for the next trap', () => {
    const { bench } = translate({ do: 'irq', line: 'evtq' })
    expect(bench.irqs).toEqual([])
    bench.read(r.ARM_SMMU_IDR0)
    expect(bench.irqs).toEqual([enums.irqLine.evtq[0]])
  })

  test('without the server nobody asks: refused', () => {
    const bench = new FaultyBench()
    bench.connect(false, false)
    expect(() => bench.arm([rule({ at: 'translate' }, { do: 'abort' })])).toThrow(/translate mode server/)
  })
})

describe('events', () => {
  const produce = (count: number, extra = {}) =>
    rule({ at: 'machine' }, { do: 'event', event: 'F_TRANSLATION', sid: 0x42, address: 0x9000, count, ...extra })

  test('records appear with their interrupt; as many as there is room for', () => {
    const { bench } = running([produce(3)])
    bench.injector.fire('fault')
    expect(bench.hw.get(r.ARM_SMMU_EVTQ_PROD)).toBe(3)
    expect(bench.irqs).toEqual([enums.irqLine.evtq[0]])
    const words = new Uint32Array(8)
    bench.memory.peek(HOST_EVTQ + 64, new Uint8Array(words.buffer), 0, 32)
    expect(decodeEvent(words)).toMatchObject({ id: 0x10, streamId: 0x42, inputLo: 0x9000 })
  })

  test('overflow fills the queue and toggles the flag', () => {
    const { bench } = running([produce(1, { overflow: true })])
    bench.injector.fire('fault')
    expect(bench.hw.get(r.ARM_SMMU_EVTQ_PROD)).toBe((r.Q_OVERFLOW_FLAG | 0x100) >>> 0)
    // It stays one overflow until the guest acknowledges it.
    bench.injector.fire('fault')
    expect(bench.hw.get(r.ARM_SMMU_EVTQ_PROD)).toBe((r.Q_OVERFLOW_FLAG | 0x100) >>> 0)
    bench.write(r.ARM_SMMU_EVTQ_CONS, (r.Q_OVERFLOW_FLAG | 0x100) >>> 0)
    bench.injector.fire('fault')
    expect(bench.hw.get(r.ARM_SMMU_EVTQ_PROD)).toBe(0)
  })

  test('a record is corrupted, or lost, before the guest sees it', () => {
    const { bench } = running([
      { ...produce(3), name: 'produce' },
      { name: 'corrupt', where: { at: 'event' }, when: { nth: 1 }, what: { do: 'change', word: 0, xor: 0xff } },
      { name: 'lose', where: { at: 'event' }, when: { nth: 2 }, what: { do: 'drop' } },
    ])
    bench.injector.fire('produce')
    expect(bench.read(r.ARM_SMMU_EVTQ_PROD)).toBe(2)
    expect(bench.memory.peek64(HOST_EVTQ) & 0xffn).toBe(0xefn)
    expect(bench.memory.peek64(HOST_EVTQ + 32) & 0xffn).toBe(0x10n)
    expect(bench.fired()).toEqual(['produce', 'corrupt', 'lose'])
  })
})

describe('errors, interrupts, the rest', () => {
  const now = (what: FaultRule['what']) => {
    const { bench, host } = running([rule({ at: 'machine' }, what)])
    bench.injector.fire('fault')
    return { bench, host }
  }

  test('global errors are active until acknowledged', () => {
    const { bench } = now({ do: 'gerror', bits: ['SFM_ERR', 'EVTQ_ABT_ERR'] })
    const active = () => bench.read(r.ARM_SMMU_GERROR) ^ bench.read(r.ARM_SMMU_GERRORN)
    expect(active()).toBe(r.GERROR_SFM_ERR | r.GERROR_EVTQ_ABT_ERR)
    bench.write(r.ARM_SMMU_GERRORN, bench.read(r.ARM_SMMU_GERROR))
    expect(active()).toBe(0)
    expect(bench.hw.get(r.ARM_SMMU_GERRORN)).toBe(0)
  })

  test('interrupts without a cause, and interrupts that are lost behind the guest’s back', () => {
    expect(now({ do: 'irq', line: 'gerror', count: 5 }).bench.irqs).toHaveLength(5)
    const { bench } = running()
    bench.write(r.ARM_SMMU_IRQ_CTRL, 7)
    bench.arm([rule({ at: 'machine' }, { do: 'lose-irq', lines: ['evtq'], ms: 4 })])
    bench.injector.fire('fault')
    expect(bench.hw.get(r.ARM_SMMU_IRQ_CTRL)).toBe(3)
    expect(bench.read(r.ARM_SMMU_IRQ_CTRL)).toBe(7)
    bench.write(r.ARM_SMMU_IRQ_CTRL, 5)
    expect(bench.hw.get(r.ARM_SMMU_IRQ_CTRL)).toBe(1)
    // The acknowledgement of the test's hardware is always 0, but for the bit that is made up.
    expect(bench.read(r.ARM_SMMU_IRQ_CTRLACK)).toBe(4)
    bench.read(r.ARM_SMMU_IDR0)
    expect(bench.hw.get(r.ARM_SMMU_IRQ_CTRL)).toBe(5)
  })

  test('warn, malformed, reset, pause, disconnect, delay', () => {
    expect(now({ do: 'warn', warning: 'HYP_UNMAP' }).bench.forced).toEqual(['HYP_UNMAP'])
    expect(now({ do: 'malformed' }).bench.garbled).toBe(1)
    expect(now({ do: 'lose-state' }).bench.lost).toEqual([0])
    expect(now({ do: 'reset' }).bench.firings[0]?.action).toEqual({ do: 'reset' })
    expect(now({ do: 'pause', ms: 5 }).bench.firings[0]?.action).toEqual({ do: 'pause', ms: 5 })
    const { bench } = running([rule({ at: 'machine' }, { do: 'disconnect' })])
    expect(() => bench.injector.fire('fault')).toThrow(Cut)
    const start = performance.now()
    now({ do: 'delay', ms: 20 })
    expect(performance.now() - start).toBeGreaterThanOrEqual(19)
  })

  test('donate and reclaim', () => {
    const page = RAM_BASE + 8 * MiB
    const { bench } = now({ do: 'donate', address: page, size: 8192, vm: 3 })
    expect(bench.hyp.ownership.vmAt(page + 4096)).toBe(3)
    bench.arm([rule({ at: 'machine' }, { do: 'reclaim', address: page, size: 8192, vm: 3 })])
    bench.injector.fire('fault')
    expect(bench.hyp.ownership.vmAt(page)).toBe(0)
  })

  test('a donation that sets off donations: one after the other, not one within the other', () => {
    const page = RAM_BASE + 8 * MiB
    const { bench, host } = running([
      rule({ at: 'pages', operation: 'donate' }, { do: 'donate', address: page + 4096 }, ALWAYS),
    ])
    expect(bench.hyp.donate(page, 4096, 1)).toBe(0)
    expect(bench.hyp.ownership.vmAt(page)).toBe(1)
    for (let i = 0; i < 3; i++) host.commands(SYNC)
    expect(bench.hyp.ownership.vmAt(page + 4096)).toBe(1)
    expect(bench.fired().length).toBeLessThan(10)
  })

  test('every action has a number of its own on the trace', () => {
    expect(new Set(ACTIONS).size).toBe(ACTIONS.length)
  })
})

describe('when', () => {
  const matches = (when: FaultRule['when'], count = 10, seed = 1) => {
    const trigger = new Trigger(reads('CR0', { do: 'abort' }, when), seed, () => false)
    return Array.from({ length: count }, (_, i) => trigger.match(i * 1e6)).flatMap((hit, i) => (hit ? [i + 1] : []))
  }

  test.each([
    [{}, [1]],
    [{ nth: 4 }, [4]],
    [{ skip: 2 }, [3]],
    [{ skip: 2, times: 3 }, [3, 4, 5]],
    [{ times: 'always' as const }, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]],
    [{ time: 5 }, [6]],
    [{ after: 'other' }, []],
    [{ console: 'x' }, []],
  ])('%j', (when, expected) => {
    expect(matches(when)).toEqual(expected)
  })

  test('chance is the seed’s', () => {
    const when = { times: 'always', probability: 0.3 } as const
    expect(matches(when, 1000)).toEqual(matches(when, 1000))
    expect(matches(when, 1000)).not.toEqual(matches(when, 1000, 2))
    expect(matches(when, 1000).length).toBeGreaterThan(200)
    expect(matches(when, 1000).length).toBeLessThan(400)
  })

  test('after another rule, and after a console line', () => {
    const { bench } = running([
      { name: 'first', where: { at: 'register', register: 'IDR0', access: 'read' }, what: { do: 'irq', line: 'evtq' } },
      {
        name: 'second',
        where: { at: 'register', register: 'IDR1', access: 'read' },
        when: { after: 'first', console: 'login' },
        what: { do: 'irq', line: 'gerror' },
      },
      { name: 'moment', where: { at: 'machine' }, when: { after: 'second' }, what: { do: 'irq', line: 'priq' } },
    ])
    bench.read(r.ARM_SMMU_IDR1)
    bench.read(r.ARM_SMMU_IDR0)
    bench.read(r.ARM_SMMU_IDR1)
    expect(bench.fired()).toEqual(['first'])
    bench.injector.open(['second'])
    bench.read(r.ARM_SMMU_IDR1)
    expect(bench.fired()).toEqual(['first', 'second', 'moment'])
  })

  test('another thread goes on where this one stood', () => {
    const { bench } = running([reads('IDR0', { do: 'set', value: 0 }, { skip: 1, times: 2 })])
    bench.read(r.ARM_SMMU_IDR0)
    bench.read(r.ARM_SMMU_IDR0)
    const { state } = bench.injector
    const next = new FaultyBench()
    next.injector.adopt(state)
    next.connect()
    next.reset()
    expect([next.read(r.ARM_SMMU_IDR0), next.read(r.ARM_SMMU_IDR0)].map(value => value === 0)).toEqual([true, false])
  })
})

test('rules for a machine that is not there yet; a device that it has not', () => {
  const bench = new FaultyBench()
  bench.arm([rule({ at: 'command', sid: 'nvme' }, { do: 'drop' })])
  expect(bench.injector.armed).toBe(false)
  bench.connect()
  expect(bench.injector.armed).toBe(true)
  expect(() => bench.arm([rule({ at: 'command', sid: 'floppy' }, { do: 'drop' })])).toThrow(
    'rule fault: no device floppy behind an SMMU; there are nvme (0x10), virtio-blk-pci (0x105)',
  )
  expect(bench.injector.status().plan).toHaveLength(1)
})

test('a rule follows the device that it names: to a bus that is numbered later, and away with it', () => {
  const { bench, host } = running()
  const drops = () => {
    const before = bench.firings.length
    host.commands(cfgiSte(0x300), SYNC)
    return bench.firings.length - before
  }
  bench.devices.push({ sid: NO_STREAM, name: 'igb', model: 'igb' })
  bench.arm([rule({ at: 'command', command: 'CFGI_STE', sid: 'igb' }, { do: 'drop' }, ALWAYS)])
  expect(drops()).toBe(0)
  bench.devices.splice(-1, 1, { sid: 0x300, name: 'igb', model: 'igb' })
  bench.injector.renamed()
  expect(drops()).toBe(1)
  bench.devices.pop()
  bench.injector.renamed()
  expect(drops()).toBe(0)
})

describe('a device that the machine may come to have', () => {
  const igb = { sid: 0x300, name: 'igb', model: 'igb' }
  const slot = { sid: 0x18, name: 'slot0', model: 'pcie-root-port' }

  test.each([
    ['a virtual function', 'igb.vf1', { sid: 0x382, name: 'igb.vf1', model: 'virtual function' }],
    ['what is plugged into a slot', 'slot0.nvme', { sid: 0x400, name: 'slot0.nvme', model: 'nvme' }],
  ])('a rule waits for %s', (_, sid, device) => {
    const bench = new FaultyBench()
    bench.devices.push(igb, slot)
    const act = { do: 'event', event: 'F_TRANSLATION', sid, address: 0x9000 } as const
    bench.injector.prepare({
      rules: [
        rule({ at: 'command', command: 'CFGI_STE', sid }, { do: 'drop' }, ALWAYS),
        { ...rule({ at: 'machine' }, act), name: 'event' },
      ],
      seed: 1,
    })
    bench.connect()
    bench.reset()
    const host = new Host(bench).boot()
    const drops = () => {
      const before = bench.firings.length
      host.commands(cfgiSte(device.sid), SYNC)
      return bench.firings.length - before
    }
    expect(drops()).toBe(0)
    bench.injector.fire('event')
    expect(bench.firings.at(-1)?.what).toBe(`${sid} is not there`)
    bench.devices.push(device)
    bench.injector.renamed()
    expect(drops()).toBe(1)
    bench.devices.pop()
    bench.injector.renamed()
    expect(drops()).toBe(0)
  })

  const functions = Array.from({ length: 8 }, (_, n) => `igb.vf${n}`).join(', ')
  test.each(['igb.vf8', 'igb.vf', 'nvme.vf0', 'slot1.nvme', 'slot0.floppy', 'slot0.'])('never: %s', sid => {
    const bench = new FaultyBench()
    bench.devices.push(igb, slot)
    bench.connect()
    expect(() => bench.arm([rule({ at: 'command', sid }, { do: 'drop' })])).toThrow(
      `no device ${sid} behind an SMMU; there are nvme (0x10), virtio-blk-pci (0x105), igb (0x300), pcie-root-port (0x18), and later maybe ${functions}, slot0.virtio-blk, slot0.nvme, slot0.virtio-net, slot0.e1000e`,
    )
  })
})

test('what was disarmed stays disarmed in the thread that takes over', () => {
  const bench = new FaultyBench()
  bench.injector.prepare({ rules: [reads('IDR0', { do: 'abort' })], seed: 1 })
  bench.injector.adopt(null)
  bench.connect()
  expect(bench.injector.armed).toBe(false)
})

test('armed and disarmed again, the machine does what it does without', () => {
  const points: FaultRule['where'][] = [
    { at: 'register', access: 'read' },
    { at: 'hardware', access: 'write' },
    { at: 'command' },
    { at: 'command', queue: 'shadow' },
    { at: 'table', table: 'ste' },
    { at: 'pages', operation: 'share' },
  ]
  const step = fc.oneof(
    fc.record({ kind: fc.constant('tlbi' as const), page: fc.nat(0xffff) }),
    fc.record({ kind: fc.constant('attach' as const), page: fc.nat(0xff) }),
    fc.record({ kind: fc.constant('read' as const), page: fc.nat(0x50) }),
  )
  fc.assert(
    fc.property(fc.array(step, { maxLength: 12 }), fc.subarray(points, { minLength: 1 }), (steps, places) => {
      const run = (meddle: boolean) => {
        const { bench, host } = running()
        if (meddle) {
          bench.arm(places.map((where, i) => ({ ...rule(where, { do: 'irq', line: 'evtq' }), name: `r${i}` })))
          bench.injector.disarm()
        }
        const log = bench.record()
        const seen: number[] = []
        for (const { kind, page } of steps) {
          if (kind === 'tlbi') host.commands(tlbi(page), SYNC)
          else if (kind === 'attach') host.attach(page, STE.s1)
          else seen.push(bench.read(4 * page))
        }
        const own = [bench.memory, bench.hw, bench.hyp.ownership, bench.hyp.pool].map(Object.getOwnPropertyNames)
        return { log, seen, warnings: bench.report.warnings, own }
      }
      expect(run(true)).toEqual(run(false))
    }),
    { numRuns: 50 },
  )
})
