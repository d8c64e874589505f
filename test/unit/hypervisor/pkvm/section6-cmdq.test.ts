// SPDX-License-Identifier: Apache-2.0
/** The command queue, command × field values (server/hypervisor/README.md, section 6). */
import fc from 'fast-check'
import { beforeEach, describe, expect, test } from 'vitest'
import { commandPlaces } from '../../../../server/hypervisor/pkvm/commandPlaces.ts'
import { commandRules } from '../../../../server/hypervisor/pkvm/commandRules.ts'
import { COMMAND_DROPPED, COMMAND_KEPT, COMMAND_REWRITTEN } from '../../../../server/policy/report.ts'
import { EIO, OK } from '../../../../server/policy/result.ts'
import * as r from '../../../../server/smmu/registers.ts'
import { CFGI_ALL, CS_IRQ, CS_SEV, cfgiSte, command, SYNC, TLBI_NSNH_ALL, tlbiNhVa } from '../../smmu/fields.ts'
import { Bench, HOST_CMDQ, HOST_LOG2SIZE, Host, MiB, RAM_BASE, STE, shadowSte, successor } from './support.ts'

let bench: Bench
let host: Host
beforeEach(() => {
  bench = new Bench()
  bench.hyp.reset()
  host = new Host(bench).boot()
  bench.report.commands = []
})

const SIZE = 2 ** HOST_LOG2SIZE

describe('filter', () => {
  const passed: [string, number[]][] = [
    ['PREFETCH_CFG', command('PREFETCH_CONFIG', { sid: 5 })],
    ['CFGI_ALL', CFGI_ALL],
    ['CFGI_ALL with other bits', [0x04, 77, 0xffff_ffff, 5]],
    ['CFGI_CD', command('CFGI_CD', { sid: 8, leaf: 1 })],
    ['CFGI_CD_ALL', command('CFGI_CD_ALL', { sid: 8 })],
    ['TLBI_NH_ASID', command('TLBI_NH_ASID', { asid: 7 })],
    ['TLBI_NH_VA', command('TLBI_NH_VA', { asid: 0xffff, leaf: 1, address: 0xffff_1234_5000 })],
    [
      'TLBI_NH_VA of a range',
      command('TLBI_NH_VA', { num: 0x1f, scale: 3, asid: 1, leaf: 1, tg: 1, address: 0x1234_5000 }),
    ],
    ['TLBI_NH_VAA', command('TLBI_NH_VAA', { address: 0x1234_5000 })],
    ['TLBI_NSNH_ALL', TLBI_NSNH_ALL],
    ['TLBI_NSNH_ALL whatever its fields', [0x30, 0xffff_ffff, 0xffff_ffff, 0xffff_ffff]],
    ['ATC_INV', command('ATC_INV', { sid: 8, size: 0x34 })],
    ['PRI_RESP', command('PRI_RESP', { sid: 8, resp: 1 })],
    ['RESUME', command('RESUME', { sid: 8, stag: 3 })],
    ['SYNC, CS none', command('SYNC')],
    ['SYNC, CS SEV', SYNC],
    ['SYNC, CS none with a leftover MSI address', command('SYNC', { msiData: 9, msiAddress: 0x1_4000_0000 })],
    ['PREFETCH_ADDR', command('PREFETCH_ADDR', { sid: 8 })],
    ['STALL_TERM', command('STALL_TERM', { sid: 8 })],
    ['a reserved opcode', [0xee, 1, 2, 3]],
    ['opcode 0', command(0x00)],
  ]
  test.each(passed)('%s is passed on as it is', (_, words) => {
    host.commands(words)
    expect(bench.hw.consumed).toEqual([words])
    expect(bench.report.take()).toEqual([])
    expect(bench.report.commands).toEqual([{ smmu: 0, opcode: words[0] & 0xff, verdict: COMMAND_KEPT }])
  })

  const dropped: [string, number[], string][] = [
    ['CFGI_STE_RANGE of 0', command('CFGI_STE_RANGE', { sid: 8 }), 'HYP_CFGI_RANGE'],
    ['CFGI_STE_RANGE of 30', command('CFGI_STE_RANGE', { sid: 8, range: 0x1e }), 'HYP_CFGI_RANGE'],
    ['CFGI_STE_RANGE of 32 (0 with a bit above)', [0x04, 8, 32, 0], 'HYP_CFGI_RANGE'],
    ['TLBI_NH_ALL', command('TLBI_NH_ALL'), 'HYP_COMMAND_REFUSED'],
    ['TLBI_NH_ASID, VMID 1', command('TLBI_NH_ASID', { vmid: 1, asid: 7 }), 'HYP_COMMAND_VMID'],
    ['TLBI_NH_ASID, VMID 0x8000', command('TLBI_NH_ASID', { vmid: 0x8000 }), 'HYP_COMMAND_VMID'],
    ['TLBI_NH_VA, VMID 1', command('TLBI_NH_VA', { vmid: 1, asid: 7, address: 0x1000 }), 'HYP_COMMAND_VMID'],
    ['TLBI_NH_VAA, VMID 1', command('TLBI_NH_VAA', { vmid: 1, address: 0x1000 }), 'HYP_COMMAND_VMID'],
    ['TLBI_EL2_ALL', command('TLBI_EL2_ALL'), 'HYP_COMMAND_REFUSED'],
    ['TLBI_EL2_ASID', command('TLBI_EL2_ASID'), 'HYP_COMMAND_REFUSED'],
    ['TLBI_EL2_VA', command('TLBI_EL2_VA'), 'HYP_COMMAND_REFUSED'],
    ['TLBI_EL2_VAA', command('TLBI_EL2_VAA'), 'HYP_COMMAND_REFUSED'],
    ['TLBI_S12_VMALL', command('TLBI_S12_VMALL'), 'HYP_COMMAND_REFUSED'],
    ['TLBI_S2_IPA', command('TLBI_S2_IPA', { address: 0x1000 }), 'HYP_COMMAND_REFUSED'],
    ['CFGI_STE that fails', cfgiSte(0xffff_ffff), 'HYP_CFGI_STE'],
  ]
  test.each(dropped)('%s is dropped with a warning', (_, words, code) => {
    host.commands(words, SYNC)
    expect(bench.hw.consumed).toEqual([SYNC])
    expect(bench.report.warnings).toMatchObject([{ code, smmu: 0 }])
    if (code !== 'HYP_CFGI_STE') expect(bench.report.warnings[0].values).toEqual(words)
    expect(bench.report.commands).toEqual([
      { smmu: 0, opcode: words[0], verdict: COMMAND_DROPPED },
      { smmu: 0, opcode: 0x46, verdict: COMMAND_KEPT },
    ])
    expect(bench.read(r.ARM_SMMU_CMDQ_CONS)).toBe(host.prod)
  })

  test.each([
    ['with an address', { msiData: 0x1234 }, 0x12_4000_0000],
    ['into hypervisor memory', { msh: 3, msiAttr: 0xf, msiData: 7 }, 0x41ff_0000],
  ])('SYNC, CS = IRQ %s becomes SEV without an address', (_, fields, msiAddress) => {
    host.commands(command('SYNC', { ...fields, cs: CS_IRQ, msiAddress }))
    const withoutMsi = command('SYNC', { ...fields, cs: CS_SEV })
    expect(bench.hw.consumed).toEqual([withoutMsi])
    expect(bench.report.commands).toEqual([{ smmu: 0, opcode: 0x46, verdict: COMMAND_REWRITTEN }])
    expect(bench.report.take()).toEqual([])
  })

  test('every opcode once: the rest of the 256 is passed on', () => {
    const refused = new Set([0x03, 0x04, 0x10, 0x20, 0x21, 0x22, 0x23, 0x28, 0x2a])
    for (let opcode = 0; opcode < 256; opcode++) {
      host.commands([opcode, 0, 0, 0])
      expect(bench.report.commands.pop()).toEqual({
        smmu: 0,
        opcode,
        verdict: refused.has(opcode) ? COMMAND_DROPPED : COMMAND_KEPT,
      })
      expect(bench.report.take().length).toBe(refused.has(opcode) ? 1 : 0)
    }
  })
})

describe('consumption', () => {
  test('kept commands reach the hardware in order, dropped ones leave no hole', () => {
    const commands = Array.from({ length: 20 }, (_, i) => (i % 3 === 0 ? command('TLBI_NH_ALL') : tlbiNhVa(i << 12)))
    host.commands(...commands)
    expect(bench.hw.consumed).toEqual(commands.filter(words => words[0] === 0x12))
  })

  test("the hardware's PROD is written once, after the commands", () => {
    const log = bench.record()
    host.commands(...Array.from({ length: 100 }, (_, i) => tlbiNhVa(i << 12)), SYNC)
    expect(log.filter(({ what }) => what === 'reg')).toMatchObject([{ offset: r.ARM_SMMU_CMDQ_PROD }])
    expect(log.findIndex(({ what }) => what === 'reg')).toBeGreaterThan(log.findLastIndex(({ what }) => what === 'mem'))
  })

  test('a queue of nothing but dropped commands does not touch the hardware', () => {
    const log = bench.record()
    host.commands(command('TLBI_NH_ALL'), command('TLBI_NH_ALL'))
    expect(log).toEqual([])
    expect(bench.read(r.ARM_SMMU_CMDQ_CONS)).toBe(host.prod)
  })

  test('CONS follows PROD around the ring and its wrap bit, many times', () => {
    let expected = 0
    for (let i = 0; i < 50; i++) {
      const batch = 1 + ((i * 37) % SIZE)
      host.commands(...Array.from({ length: batch }, (_, k) => tlbiNhVa((expected + k) << 12)))
      expect(bench.hw.consumed.map(words => words[2] >>> 12)).toEqual(
        Array.from({ length: batch }, (_, k) => (expected + k) & 0xfffff),
      )
      bench.hw.consumed = []
      expected += batch
      expect(bench.read(r.ARM_SMMU_CMDQ_CONS)).toBe(host.prod)
    }
    expect(bench.report.take()).toEqual([])
  })

  test('PROD written without CMDQEN is stored, and nothing else', () => {
    bench.write(r.ARM_SMMU_CR0, 0)
    bench.report.take()
    const log = bench.record()
    bench.write(r.ARM_SMMU_CMDQ_PROD, 5)
    expect(host.prod).toBe(5)
    expect(log).toEqual([])
  })

  test('nor when the host then reads CONS, before the queue was enabled at all', () => {
    bench = new Bench()
    bench.hyp.reset()
    bench.write(r.ARM_SMMU_CMDQ_PROD, 5)
    const reads: number[] = []
    bench.memory.beforeRead = address => reads.push(address)
    expect(bench.read(r.ARM_SMMU_CMDQ_CONS)).toBe(0)
    expect(reads).toEqual([])
    expect(bench.report.take()).toEqual([])
  })

  test('PROD that does not change is no command', () => {
    const log = bench.record()
    bench.write(r.ARM_SMMU_CMDQ_PROD, host.prod)
    expect(log).toEqual([])
  })

  test('PROD with bits above the wrap bit', () => {
    host.place(tlbiNhVa(0x5000))
    bench.write(r.ARM_SMMU_CMDQ_PROD, ((host.prod + 1) | 0xfff0_0000) >>> 0)
    expect(bench.hw.consumed).toEqual([tlbiNhVa(0x5000)])
    expect(host.prod >>> 20).toBe(0xfff)
    expect(bench.read(r.ARM_SMMU_CMDQ_CONS)).toBe(host.prod & (2 * SIZE - 1))
  })

  test.each([1, 2, SIZE - 1])('PROD set back by %i, which describes no queue: a warning, and nothing is sent', back => {
    const start = host.prod
    const log = bench.record()
    const prod = (start - back) & (2 * SIZE - 1)
    bench.write(r.ARM_SMMU_CMDQ_PROD, prod)
    expect(bench.report.warnings).toMatchObject([{ code: 'HYP_CMDQ_PROD', values: [prod, start, 2 * SIZE - back] }])
    expect(bench.report.take()).toEqual(['HYP_CMDQ_PROD'])
    expect(bench.report.commands).toEqual([])
    expect(log).toEqual([])
    expect(bench.read(r.ARM_SMMU_CMDQ_CONS)).toBe(start)
    // A right one goes on from there.
    bench.write(r.ARM_SMMU_CMDQ_PROD, start)
    host.commands(tlbiNhVa(0x1000))
    expect(bench.hw.consumed).toEqual([tlbiNhVa(0x1000)])
    expect(bench.report.take()).toEqual([])
  })

  test.each([0, 1, 12, 13, 17])('a host queue of 2^%i entries, full', log2size => {
    bench = new Bench()
    bench.hyp.reset()
    host = new Host(bench, 0, 0, log2size)
    host.prepare()
    bench.write64(r.ARM_SMMU_EVTQ_BASE, 0x4060_0000 + 4)
    bench.write64(r.ARM_SMMU_STRTAB_BASE, 0x4070_0000)
    bench.write64(r.ARM_SMMU_CMDQ_BASE, 0x4080_0000 + log2size)
    bench.write(r.ARM_SMMU_CR0, r.CR0_CMDQEN)
    const words = new Uint32Array(4 * 2 ** log2size)
    for (let i = 0; i < 2 ** log2size; i++) words.set([0x12, 0, i << 12, i], 4 * i)
    bench.memory.poke(0x4080_0000, new Uint8Array(words.buffer))
    bench.write(r.ARM_SMMU_CMDQ_PROD, 2 ** log2size)
    expect(bench.report.take()).toEqual([])
    expect(bench.hw.consumed.length).toBe(2 ** log2size)
    expect(bench.hw.consumed.every((command, i) => command[3] === i)).toBe(true)
    expect(bench.read(r.ARM_SMMU_CMDQ_CONS)).toBe(2 ** log2size)
  })

  test('CONS that the host set before it enabled the queue is where it starts', () => {
    bench.write(r.ARM_SMMU_CR0, 0)
    bench.report.take()
    bench.write(r.ARM_SMMU_CMDQ_PROD, 4)
    bench.write(r.ARM_SMMU_CMDQ_CONS, 4)
    bench.write(r.ARM_SMMU_CR0, r.CR0_CMDQEN)
    bench.memory.poke(HOST_CMDQ + 64, new Uint8Array(Uint32Array.from(tlbiNhVa(0x7000)).buffer))
    bench.write(r.ARM_SMMU_CMDQ_PROD, 5)
    expect(bench.hw.consumed).toEqual([tlbiNhVa(0x7000)])
  })
})

describe('one copy', () => {
  test('each part of the queue is read once', () => {
    const reads: [number, number][] = []
    bench.memory.beforeRead = (address, length) => reads.push([address, length])
    host.commands(...Array.from({ length: 10 }, () => tlbiNhVa(0)), SYNC)
    const inQueue = reads.filter(([address]) => address >= HOST_CMDQ && address < HOST_CMDQ + 16 * SIZE)
    expect(inQueue).toEqual([[HOST_CMDQ + 16 * 4, 16 * 11]])
  })

  test('a queue that changes after it was read: what was filtered is what the hardware gets', () => {
    bench.memory.afterRead = address => {
      // A malicious host turns everything into TLBI_EL2_ALL.
      if (address < HOST_CMDQ || address >= HOST_CMDQ + 16 * SIZE) return
      for (let i = 0; i < SIZE; i++) bench.memory.poke64(HOST_CMDQ + 16 * i, 0x20n, 0n)
    }
    host.commands(tlbiNhVa(0x1000), command('TLBI_NH_ALL'), command('SYNC', { cs: 1, msiAddress: 0x4000_0000 }))
    expect(bench.hw.consumed).toEqual([tlbiNhVa(0x1000), SYNC])
  })
})

describe('a hardware that does not follow', () => {
  test('late consumption is waited for', () => {
    bench.hw.slow = 20
    host.commands(tlbiNhVa(0), SYNC)
    expect(bench.report.take()).toEqual([])
    expect(bench.hw.consumed.length).toBe(2)
  })

  test('none within a second: a warning, the trap ends, CONS moves with the hardware', () => {
    bench = new Bench({ options: { waitPolls: 1_000_000 } })
    bench.hyp.reset()
    host = new Host(bench).boot()
    bench.hw.stuck = true
    const before = bench.now
    host.commands(tlbiNhVa(0), SYNC)
    expect(bench.now - before).toBeGreaterThanOrEqual(1000)
    expect(bench.now - before).toBeLessThan(1010)
    expect(bench.report.take()).toEqual(['HYP_CMDQ_TIMEOUT'])
    expect(bench.read(r.ARM_SMMU_CMDQ_CONS)).toBe(host.prod - 2)
    bench.hw.stuck = false
    host.commands(SYNC)
    expect(bench.report.take()).toEqual([])
    expect(bench.hw.consumed.length).toBe(3)
    expect(bench.read(r.ARM_SMMU_CMDQ_CONS)).toBe(host.prod)
  })

  test('what one trap waited for in vain does not shorten the next, nor what is told after it', () => {
    const late = (next: () => void) => {
      bench.hw.stuck = true
      host.commands(SYNC)
      expect(bench.report.take()).toEqual(['HYP_CMDQ_TIMEOUT'])
      bench.hw.stuck = false
      bench.hw.slow = 5
      next()
      expect(bench.report.take()).toEqual([])
    }
    late(() => host.commands(SYNC))
    late(() => bench.hyp.postMismatch(0))
  })

  test('what was posted to an SMMU that there is not, or that is the host’s, is nobody’s concern', () => {
    bench = new Bench({ ids: [{ idr0: 0 }] })
    bench.hyp.reset()
    bench.hw.logReads = true
    const log = bench.record()
    for (const index of [0, 1]) bench.hyp.postMismatch(index)
    expect(bench.hw.reads).toEqual([])
    expect(log).toEqual([])
    bench = new Bench()
    bench.hyp.reset()
    bench.hyp.postMismatch(1)
    expect(bench.report.take()).toEqual([])
  })

  test('an error that comes late is seen in CONS', () => {
    bench.hw.stuck = true
    host.commands(tlbiNhVa(0), SYNC)
    expect(bench.report.take()).toEqual(['HYP_CMDQ_TIMEOUT'])
    bench.hw.stuck = false
    bench.hw.illegal = 0x46
    bench.hw.consume()
    expect(bench.read(r.ARM_SMMU_CMDQ_CONS)).toBe((host.prod - 1) | (r.CMDQ_ERR_CERROR_ILL_IDX << 24))
  })

  test('no room: a warning, what does not fit waits in the queue of the host, and goes on with the hardware', () => {
    bench.hw.stuck = true
    for (let sent = 0; sent < 4096; sent += 128) {
      host.commands(...Array.from({ length: 128 }, () => tlbiNhVa(0)))
      expect(bench.report.take()).toEqual(['HYP_CMDQ_TIMEOUT'])
    }
    host.commands(tlbiNhVa(0x9000), SYNC)
    expect(bench.report.take()).toEqual(['HYP_CMDQ_ROOM'])
    bench.hw.stuck = false
    // The host reads CONS and writes nothing.
    bench.hw.consume()
    expect(bench.read(r.ARM_SMMU_CMDQ_CONS)).toBe(host.prod)
    expect(bench.report.take()).toEqual([])
    expect(bench.hw.consumed.length).toBe(4096 + 2)
    expect(bench.hw.consumed.slice(4096)).toEqual([tlbiNhVa(0x9000), SYNC])
  })

  /** As many commands as the shadow queue holds are in it, and not consumed. */
  function fillShadow(): void {
    bench.hw.stuck = true
    for (let sent = 0; sent < 4096; sent += 128) host.commands(...Array.from({ length: 128 }, () => tlbiNhVa(0)))
    bench.hw.stuck = false
    bench.report.take()
  }

  test('room that comes late is waited for', () => {
    fillShadow()
    bench.hw.slow = 5
    const before = bench.now
    host.commands(tlbiNhVa(0x9000), SYNC)
    expect(bench.report.take()).toEqual([])
    expect(bench.now - before).toBeLessThan(20)
    expect(bench.read(r.ARM_SMMU_CMDQ_CONS)).toBe(host.prod)
  })

  test('room that will not come, for the hardware has stopped, is not waited for', () => {
    bench.hw.illegal = 0x12
    host.commands(tlbiNhVa(0))
    expect(bench.report.take()).toEqual(['HYP_CMDQ_STOPPED'])
    const { shadowCmdq } = bench.hyp.smmus[0]
    const before = bench.now
    shadowCmdq.begin()
    for (let i = 0; i < 5000; i++) shadowCmdq.issue()
    expect(shadowCmdq.sync()).toBe(false)
    expect(bench.report.take()).toEqual(['HYP_CMDQ_ROOM', 'HYP_CMDQ_STOPPED'])
    expect(bench.now - before).toBeLessThan(10)
  })

  test('commands of the hypervisor’s own that there was no room for are not taken for consumed', () => {
    fillShadow()
    bench.hw.stuck = true
    const { warn } = bench.report
    bench.report.warn = (warning, ...rest) => {
      // The hardware goes on right then.
      bench.hw.stuck = false
      bench.hw.consume()
      warn.call(bench.report, warning, ...rest)
    }
    expect(bench.hyp.donate(RAM_BASE + 16 * MiB, 4096, 1)).toBe(EIO)
    expect(bench.report.take()).toEqual(['HYP_CMDQ_ROOM', 'HYP_UNMAP'])
    // What one operation had no room for is not held against the next.
    expect(bench.hyp.donate(RAM_BASE + 16 * MiB, 4096, 1)).toBe(OK)
  })

  test('nor against SMMUEN', () => {
    fillShadow()
    bench.hw.stuck = true
    host.commands(tlbiNhVa(0x9000))
    expect(bench.report.take()).toEqual(['HYP_CMDQ_ROOM'])
    bench.hw.stuck = false
    bench.hw.consume()
    bench.write(r.ARM_SMMU_CR0, r.CR0_CMDQEN)
    bench.report.take()
    bench.write(r.ARM_SMMU_CR0, r.CR0_CMDQEN | r.CR0_SMMUEN)
    expect(bench.report.take()).toEqual([])
  })

  test.each([0x2a, 0x10])('an invalidation that the hardware stops at, 0x%s: the page stays the host’s', opcode => {
    bench.hw.illegal = opcode
    expect(bench.hyp.donate(RAM_BASE + 16 * MiB, 4096, 1)).toBe(EIO)
    expect(bench.report.take()).toEqual(['HYP_CMDQ_STOPPED', 'HYP_UNMAP'])
  })

  test('a CFGI_STE behind commands that are not consumed waits in the queue of the host', () => {
    host.l1(8)
    host.ste(8, STE.s1)
    bench.hw.stuck = true
    host.commands(tlbiNhVa(0), cfgiSte(8), SYNC)
    expect(bench.report.take()).toEqual(['HYP_CMDQ_TIMEOUT'])
    expect(bench.read(r.ARM_SMMU_CMDQ_CONS)).toBe(host.prod - 3)
    expect(bench.hyp.streams()).toEqual([])
    bench.hw.stuck = false
    bench.hw.consume()
    expect(bench.read(r.ARM_SMMU_CMDQ_CONS)).toBe(host.prod)
    expect(bench.hyp.streams()).toMatchObject([{ sid: 8 }])
    expect(bench.report.take()).toEqual([])
  })

  test('what waits in a queue that is disabled is not read any more', () => {
    host.l1(8)
    host.ste(8, STE.s1)
    bench.hw.stuck = true
    host.commands(tlbiNhVa(0), cfgiSte(8), SYNC)
    bench.hw.stuck = false
    bench.hw.consume()
    bench.write(r.ARM_SMMU_CR0, 0)
    expect(bench.hyp.donate(HOST_CMDQ, 4096, 1)).toBe(OK)
    const reads: number[] = []
    bench.memory.beforeRead = address => reads.push(address)
    // The hardware has caught up: before, this would have gone on.
    expect(bench.read(r.ARM_SMMU_CMDQ_CONS)).toBe(host.prod - 2)
    expect(reads.filter(address => address >= HOST_CMDQ && address < HOST_CMDQ + 4096)).toEqual([])
    expect(bench.hyp.streams()).toEqual([])
  })

  test("CONS of a queue that was just enabled is the host's, also when the hypervisor's own commands are stuck", () => {
    bench.write(r.ARM_SMMU_CR0, 0)
    bench.write(r.ARM_SMMU_CMDQ_PROD, 7)
    bench.write(r.ARM_SMMU_CMDQ_CONS, 7)
    bench.write(r.ARM_SMMU_CR0, r.CR0_CMDQEN)
    bench.hw.stuck = true
    bench.write(r.ARM_SMMU_CR0, r.CR0_CMDQEN | r.CR0_SMMUEN)
    expect(bench.report.take()).toContain('HYP_CMDQ_TIMEOUT')
    expect(bench.read(r.ARM_SMMU_CMDQ_CONS)).toBe(7)
  })

  test.each([
    ['RESUME', command('RESUME', { sid: 8, stag: 3 })],
    ['STALL_TERM', command('STALL_TERM', { sid: 8 })],
    ['PRI_RESP', command('PRI_RESP', { sid: 8 })],
  ])('of a trap that comes again after a take-over, what the hardware has got comes again, but for %s', (_, once) => {
    /** The trap of these commands, after which the hypervisor dies: its successor knows what was before. */
    const dies = (...commands: readonly number[][]) => {
      const before = bench.hyp.checkpoint().slice()
      host.commands(...commands)
      const { prod } = host
      bench.hw.consumed = []
      bench.hyp = successor(bench)
      bench.hyp.restore(before)
      bench.hyp.resume()
      return prod
    }
    const prod = dies(once, tlbiNhVa(0x1000), SYNC)
    bench.write(r.ARM_SMMU_CMDQ_PROD, prod)
    expect(bench.hw.consumed).toEqual([tlbiNhVa(0x1000), SYNC])
    // What was given once is left out once, wherever it stands.
    dies(once)
    host.commands(tlbiNhVa(0x2000), once, once, SYNC)
    expect(bench.hw.consumed).toEqual([tlbiNhVa(0x2000), once, SYNC])
    bench.hw.consumed = []
    host.commands(once)
    expect(bench.hw.consumed).toEqual([once])
  })

  const RESUME = command('RESUME', { sid: 8, stag: 3 })

  /** The hypervisor dies behind a RESUME that the hardware has got. @returns the PROD that the host writes again */
  function diesBehindResume(): number {
    const before = bench.hyp.checkpoint().slice()
    host.commands(RESUME)
    const { prod } = host
    bench.hyp = successor(bench)
    bench.hyp.restore(before)
    bench.hyp.resume()
    bench.hw.consumed = []
    return prod
  }

  test('what was given before a take-over, and does not come again with its trap, is left out of no other', () => {
    const prod = diesBehindResume()
    bench.memory.poke(HOST_CMDQ + 16 * (prod - 1), new Uint8Array(Uint32Array.from(tlbiNhVa(0x1000)).buffer))
    bench.write(r.ARM_SMMU_CMDQ_PROD, prod)
    host.commands(RESUME)
    expect(bench.hw.consumed).toEqual([tlbiNhVa(0x1000), RESUME])
  })

  test('nor of those of a queue that was disabled meanwhile', () => {
    diesBehindResume()
    bench.write(r.ARM_SMMU_CR0, 0)
    const next = new Host(bench)
    next.prepare()
    bench.write(r.ARM_SMMU_CR0, r.CR0_CMDQEN)
    next.commands(RESUME)
    expect(bench.hw.consumed).toEqual([RESUME])
  })

  test('nor of those after a reset', () => {
    diesBehindResume()
    bench.hw.words.fill(0, r.ARM_SMMU_CR0 / 4)
    bench.hyp.reset()
    host.prepare()
    bench.write(r.ARM_SMMU_CR0, r.CR0_CMDQEN)
    host.commands(RESUME)
    expect(bench.hw.consumed).toEqual([RESUME])
  })

  test('nor of those after another take-over', () => {
    diesBehindResume()
    bench.hyp.restore(bench.hyp.checkpoint().slice())
    bench.hyp.resume()
    host.commands(RESUME)
    expect(bench.hw.consumed).toEqual([RESUME])
  })

  test.each([
    ['behind which the hardware stopped: it does not come again', [RESUME, command(0xee)], 0xee, 0],
    ['at which the hardware stopped: it comes again', [tlbiNhVa(0x1000), RESUME], 0x44, 1],
  ])('a RESUME %s', (_, commands, illegal, times) => {
    const before = bench.hyp.checkpoint().slice()
    bench.hw.illegal = illegal
    host.commands(...commands, SYNC)
    const { prod } = host
    bench.hyp = successor(bench)
    bench.hyp.restore(before)
    bench.hyp.resume()
    bench.hw.illegal = -1
    bench.hw.consumed = []
    bench.write(r.ARM_SMMU_CMDQ_PROD, prod)
    bench.write(r.ARM_SMMU_GERRORN, bench.read(r.ARM_SMMU_GERROR))
    bench.write(r.ARM_SMMU_CMDQ_PROD, prod)
    expect(bench.hw.consumed.filter(([word]) => word === 0x44)).toHaveLength(times)
    expect(bench.read(r.ARM_SMMU_CMDQ_CONS) & 0xfffff).toBe(prod)
  })

  test('a trap that sent more than the shadow queue holds comes again after a take-over', () => {
    host = new Host(bench, 0, 0, 13).boot()
    const before = bench.hyp.checkpoint().slice()
    const commands = Array.from({ length: 6000 }, (_, i) => tlbiNhVa(4096 * i))
    host.commands(...commands)
    const { prod } = host
    bench.hw.consumed = []
    bench.hyp = successor(bench)
    bench.hyp.restore(before)
    bench.hyp.resume()
    bench.write(r.ARM_SMMU_CMDQ_PROD, prod)
    expect(bench.hw.consumed).toEqual(commands)
    expect(bench.read(r.ARM_SMMU_CMDQ_CONS)).toBe(prod)
  })

  test("CONS is the host's, whatever the hypervisor's own commands are stuck at", () => {
    host.commands(tlbiNhVa(0), SYNC)
    bench.hw.stuck = true
    expect(bench.hyp.donate(RAM_BASE + 16 * MiB, 4096, 1)).toBe(EIO)
    expect(bench.read(r.ARM_SMMU_CMDQ_CONS)).toBe(host.prod)
  })

  test("a command of the hypervisor's own that the hardware stops at counts as the host's that it is for", () => {
    host.l1(8)
    host.ste(8, STE.s1)
    bench.hw.illegal = 0x03
    host.commands(tlbiNhVa(0), tlbiNhVa(0), cfgiSte(8), SYNC)
    expect(bench.report.take()).toContain('HYP_CMDQ_STOPPED')
    expect(bench.read(r.ARM_SMMU_CMDQ_CONS)).toBe((host.prod - 2) | (r.CMDQ_ERR_CERROR_ILL_IDX << 24))
  })

  test('memory that cannot be read ends the copy', () => {
    const { memory } = bench
    const read = memory.read.bind(memory)
    memory.read = (address, ...rest) =>
      (address < HOST_CMDQ || address >= HOST_CMDQ + 16 * SIZE) && read(address, ...rest)
    const prod = host.prod + 3
    bench.write(r.ARM_SMMU_CMDQ_PROD, prod)
    expect(bench.report.warnings).toMatchObject([
      { code: 'HYP_CMDQ_FETCH', values: [HOST_CMDQ + 16 * (prod - 3), 0, 48] },
    ])
    expect(bench.hw.consumed).toEqual([])
    memory.read = read
    host.commands(tlbiNhVa(0x1000))
    expect(bench.hw.consumed).toEqual([tlbiNhVa(0x1000)])
  })

  test("CONS after a take-over is the host's, also when the hypervisor's own commands are stuck", () => {
    host.commands(tlbiNhVa(0), SYNC)
    const next = successor(bench)
    next.restore(bench.hyp.checkpoint().slice())
    next.resume()
    bench.hyp = next
    bench.hw.stuck = true
    expect(bench.hyp.donate(RAM_BASE + 16 * MiB, 4096, 1)).toBe(EIO)
    expect(bench.read(r.ARM_SMMU_CMDQ_CONS)).toBe(host.prod)
  })

  test('a trap waits about once, however many waits it asks for', () => {
    bench = new Bench({ options: { waitPolls: 1_000_000 } })
    bench.hyp.reset()
    host = new Host(bench).boot()
    host.l1(0)
    for (let sid = 0; sid < 64; sid++) host.ste(sid, STE.s1)
    bench.hw.stuck = true
    const before = bench.now
    host.commands(...Array.from({ length: 64 }, (_, sid) => cfgiSte(sid)), SYNC)
    expect(bench.now - before).toBeLessThan(1100)
    expect(bench.report.take()).toContain('HYP_CFGI_STE')
  })

  test('a command that it refuses: it is not waited for, and goes on after the host acknowledged', () => {
    bench = new Bench({ options: { waitPolls: 1_000_000 } })
    bench.hyp.reset()
    host = new Host(bench).boot()
    bench.hw.illegal = 0xee
    const before = bench.now
    host.commands(tlbiNhVa(0), command(0xee), SYNC)
    expect(bench.now - before).toBeLessThan(10)
    expect(bench.report.take()).toEqual(['HYP_CMDQ_STOPPED'])
    expect(bench.hw.consumed.length).toBe(1)
    expect(bench.read(r.ARM_SMMU_CMDQ_CONS)).toBe((host.prod - 2) | (r.CMDQ_ERR_CERROR_ILL_IDX << 24))
    // Linux replaces the command at CONS in its own queue and acknowledges.
    bench.memory.poke(HOST_CMDQ + 16 * (host.prod - 2), new Uint8Array(Uint32Array.from(command('SYNC')).buffer))
    bench.write(r.ARM_SMMU_GERRORN, bench.read(r.ARM_SMMU_GERROR))
    // The hardware runs through what it had; then everything from there on comes again.
    expect(bench.hw.consumed).toEqual([tlbiNhVa(0), CFGI_ALL, command('SYNC'), command('SYNC'), SYNC])
    expect(bench.read(r.ARM_SMMU_GERROR)).toBe(bench.read(r.ARM_SMMU_GERRORN))
    expect(bench.read(r.ARM_SMMU_CMDQ_CONS) & 0xfffff).toBe(host.prod)
    host.commands(SYNC)
    expect(bench.report.take()).toEqual([])
  })
})

test('an error that is acknowledged when the queue is disabled: nothing of it is read any more', () => {
  bench.hw.illegal = 0xee
  host.commands(command(0xee), tlbiNhVa(0), SYNC)
  bench.write(r.ARM_SMMU_CR0, 0)
  expect(bench.hyp.donate(HOST_CMDQ, 4096, 1)).toBe(OK)
  const reads: number[] = []
  bench.memory.beforeRead = address => reads.push(address)
  bench.write(r.ARM_SMMU_GERRORN, bench.read(r.ARM_SMMU_GERROR))
  expect(reads.filter(address => address >= HOST_CMDQ && address < HOST_CMDQ + 4096)).toEqual([])
})

describe('an illegal command among others', () => {
  const CONS_AT_4 = 0x0100_0004
  const takeOver = () => {
    const next = successor(bench)
    next.restore(bench.hyp.checkpoint().slice())
    expect(next.resume()).toEqual([])
    bench.hyp = next
  }
  beforeEach(() => {
    bench.write(r.ARM_SMMU_CR0, 0)
    bench.write(r.ARM_SMMU_CMDQ_PROD, 3)
    bench.write(r.ARM_SMMU_CMDQ_CONS, 3)
    bench.write(r.ARM_SMMU_CR0, r.CR0_CMDQEN)
    bench.write(r.ARM_SMMU_CR0, r.CR0_CMDQEN | r.CR0_SMMUEN)
    bench.report.take()
    bench.hw.takeCommands()
    bench.hw.illegal = 0x0b
  })

  test('CONS is where the hardware stopped, and what is behind has not run', () => {
    host.commands(TLBI_NSNH_ALL, command(0x0b), TLBI_NSNH_ALL, SYNC)
    expect(bench.read(r.ARM_SMMU_CMDQ_CONS)).toBe(CONS_AT_4)
    expect(bench.hw.takeCommands()).toEqual(['TLBI_NSNH_ALL'])
  })

  test('more of it is not looked at before the host acknowledges', () => {
    host.commands(TLBI_NSNH_ALL, command(0x0b), TLBI_NSNH_ALL, SYNC)
    bench.report.take()
    bench.report.commands = []
    host.attach(8, STE.s1)
    expect(bench.report.take()).toEqual([])
    expect(bench.report.commands).toEqual([])
    expect(bench.read(r.ARM_SMMU_CMDQ_CONS)).toBe(CONS_AT_4)
  })

  test('after GERRORN and a new PROD everything from there runs, a CFGI_STE among it', () => {
    host.l1(8)
    host.ste(8, STE.s1)
    host.commands(TLBI_NSNH_ALL, command(0x0b), cfgiSte(8), SYNC)
    expect(bench.hyp.streams()).toEqual([])
    // Another legal command in its place.
    bench.memory.poke(HOST_CMDQ + 16 * 4, new Uint8Array(Uint32Array.from(tlbiNhVa(0x5000)).buffer))
    bench.hw.takeCommands()
    bench.report.take()
    bench.write(r.ARM_SMMU_GERRORN, bench.read(r.ARM_SMMU_GERROR))
    host.commands(tlbiNhVa(0x6000), SYNC)
    expect(bench.report.take()).toEqual([])
    expect(bench.read(r.ARM_SMMU_CMDQ_CONS) & 0xfffff).toBe(host.prod)
    expect(bench.hyp.streams()).toMatchObject([{ sid: 8 }])
    const ran = bench.hw.takeCommands().filter(name => name !== 'SYNC')
    expect(ran).toEqual(['CFGI_STE_RANGE', 'TLBI_NH_VA', 'CFGI_STE', 'CFGI_STE', 'CFGI_STE', 'TLBI_NH_VA'])
  })

  test('a CFGI_STE behind it, valid to abort: nothing is half done, and whoever takes over goes on', () => {
    bench.hw.illegal = 0xff
    host.attach(8, STE.s1)
    const before = shadowSte(bench, 8)
    host.ste(8, STE.abort)
    host.commands(command(0xff), cfgiSte(8), SYNC)
    expect(shadowSte(bench, 8)).toEqual(before)
    takeOver()
    expect(bench.read(r.ARM_SMMU_CMDQ_CONS)).toBe((host.prod - 3) | (r.CMDQ_ERR_CERROR_ILL_IDX << 24))
    bench.hw.illegal = -1
    bench.write(r.ARM_SMMU_GERRORN, bench.read(r.ARM_SMMU_GERROR))
    expect(bench.hyp.streams()).toMatchObject([{ sid: 8, shadow: new BigUint64Array([1n, ...Array(7).fill(0n)]) }])
    expect(bench.read(r.ARM_SMMU_CMDQ_CONS) & 0xfffff).toBe(host.prod)
  })

  test('after a take-over CONS is where the hardware stopped, and everything from there runs', () => {
    host.commands(TLBI_NSNH_ALL, command(0x0b), tlbiNhVa(0x3000), SYNC)
    takeOver()
    expect(bench.read(r.ARM_SMMU_CMDQ_CONS)).toBe(CONS_AT_4)
    bench.hw.illegal = -1
    bench.hw.takeCommands()
    bench.write(r.ARM_SMMU_GERRORN, bench.read(r.ARM_SMMU_GERROR))
    expect(bench.hw.takeCommands()).toEqual(['CFGI_STE_RANGE', 'SYNC', 'SYNC', 'opcode 0xb', 'TLBI_NH_VA', 'SYNC'])
  })

  test('after a take-over CONS of a queue that was enabled since is where that one starts', () => {
    host.commands(TLBI_NSNH_ALL, command(0x0b), tlbiNhVa(0x3000), SYNC)
    bench.write(r.ARM_SMMU_CR0, 0)
    bench.write(r.ARM_SMMU_CMDQ_PROD, 9)
    bench.write(r.ARM_SMMU_CMDQ_CONS, 9)
    bench.write(r.ARM_SMMU_CR0, r.CR0_CMDQEN)
    takeOver()
    expect(bench.read(r.ARM_SMMU_CMDQ_CONS)).toBe(0x0100_0009)
  })

  test('a queue that is disabled and enabled again starts anew: nothing of before runs', () => {
    host.commands(TLBI_NSNH_ALL, command(0x0b), tlbiNhVa(0x3000), SYNC)
    bench.write(r.ARM_SMMU_CR0, 0)
    bench.write(r.ARM_SMMU_CMDQ_PROD, 0)
    bench.write(r.ARM_SMMU_CMDQ_CONS, 0)
    bench.write(r.ARM_SMMU_CR0, r.CR0_CMDQEN)
    bench.report.take()
    bench.hw.takeCommands()
    expect(bench.read(r.ARM_SMMU_CMDQ_CONS)).toBe(r.CMDQ_ERR_CERROR_ILL_IDX << 24)
    bench.write(r.ARM_SMMU_GERRORN, bench.read(r.ARM_SMMU_GERROR))
    host.commands(tlbiNhVa(0x4000))
    expect(bench.hw.consumed.filter(([word]) => word !== 0x46)).toEqual([CFGI_ALL, tlbiNhVa(0x4000)])
    expect(bench.read(r.ARM_SMMU_CMDQ_CONS) & 0xfffff).toBe(1)
  })
})

describe('killed in a trap whose commands the hardware refuses one of', () => {
  const ILLEGAL = command(0x0b)
  const DROPPED = command('TLBI_NH_ALL')
  const AT = (index: number) => ((index | (r.CMDQ_ERR_CERROR_ILL_IDX << 24)) >>> 0).toString(16)
  const consOf = () => bench.read(r.ARM_SMMU_CMDQ_CONS).toString(16)

  /** Calls `act`, killed behind its access `dies`, and lets another one take over. @returns false: it came to its end */
  function killed(dies: number, act: () => void): boolean {
    const { hw, memory } = bench
    const checkpoint = bench.hyp.checkpoint().slice()
    let accesses = 0
    const count = () => {
      if (++accesses === dies) throw new Error('killed')
    }
    const write = hw.write.bind(hw)
    hw.write = (...access) => {
      const ok = write(...access)
      count()
      return ok
    }
    memory.onWrite = count
    let ended = true
    try {
      act()
    } catch {
      ended = false
    }
    hw.write = write
    memory.onWrite = null
    if (ended) return false
    bench.hyp = successor(bench)
    bench.hyp.restore(checkpoint)
    bench.hyp.resume()
    return true
  }

  function start(): void {
    bench = new Bench()
    bench.hyp.reset()
    host = new Host(bench).boot()
    host.attach(8, STE.s1)
    host.ste(8, STE.abort)
    host.ste(9, STE.bypass)
    bench.hw.illegal = 0x0b
    bench.hw.consumed = []
  }

  /** What Linux does at CMDQ_ERR. */
  function acknowledge(): void {
    const at = bench.read(r.ARM_SMMU_CMDQ_CONS) & 0xff
    bench.memory.poke(HOST_CMDQ + 16 * at, new Uint8Array(Uint32Array.from(SYNC).buffer))
    bench.write(r.ARM_SMMU_GERRORN, bench.read(r.ARM_SMMU_GERROR))
  }

  const BATCH = [
    ...[tlbiNhVa(0x1000), DROPPED, cfgiSte(8), SYNC, cfgiSte(9), tlbiNhVa(0x1000)],
    ...[ILLEGAL, tlbiNhVa(0x2000), SYNC],
  ]

  test('at each access: CMDQ_CONS is where the hardware stopped, and all of it runs once the host has acknowledged that', () => {
    for (let dies = 1; ; dies++) {
      start()
      const first = host.prod
      const prod = host.place(...BATCH)
      const where = `killed at ${dies}`
      const alive = !killed(dies, () => bench.write(r.ARM_SMMU_CMDQ_PROD, prod))
      if (!alive) bench.write(r.ARM_SMMU_CMDQ_PROD, prod)
      expect(consOf(), where).toBe(AT(first + 6))
      acknowledge()
      expect(bench.read(r.ARM_SMMU_CMDQ_CONS) & 0xfffff, where).toBe(prod)
      expect(bench.read(r.ARM_SMMU_GERROR)).toBe(bench.read(r.ARM_SMMU_GERRORN))
      expect(bench.hyp.streams().map(({ sid, shadow }) => [sid, shadow[0] & 0xfn])).toEqual([
        [8, 1n],
        [9, 13n],
      ])
      expect(bench.hw.consumed.filter(([word]) => word === 0x12).at(-1)).toEqual(tlbiNhVa(0x2000))
      if (alive) break
      expect(dies).toBeLessThan(1000)
    }
  })

  test.each([
    ['', [ILLEGAL, cfgiSte(8), SYNC, tlbiNhVa(0x2000), SYNC], null],
    [', where it is refused again', [ILLEGAL, cfgiSte(8), DROPPED, ILLEGAL, tlbiNhVa(0x2000), SYNC], 3],
  ])('at each access while the host acknowledges: what it has not run runs%s', (_, batch, again) => {
    for (let dies = 1; ; dies++) {
      start()
      const first = host.prod
      host.commands(...batch)
      const { prod } = host
      expect(consOf()).toBe(AT(first))
      bench.memory.poke(HOST_CMDQ + 16 * first, new Uint8Array(Uint32Array.from(SYNC).buffer))
      const gerror = bench.read(r.ARM_SMMU_GERROR)
      const where = `killed at ${dies}`
      const alive = !killed(dies, () => bench.write(r.ARM_SMMU_GERRORN, gerror))
      if (!alive) bench.write(r.ARM_SMMU_GERRORN, gerror)
      if (again !== null) {
        expect(consOf(), where).toBe(AT(first + again))
        acknowledge()
      }
      expect(bench.read(r.ARM_SMMU_CMDQ_CONS) & 0xfffff, where).toBe(prod)
      expect(bench.hyp.streams().map(({ sid, shadow }) => [sid, shadow[0]])).toEqual([[8, 1n]])
      expect(bench.hw.consumed.filter(([word]) => word === 0x12)).not.toEqual([])
      if (alive) break
      expect(dies).toBeLessThan(1000)
    }
  })

  test('the hypervisor’s own commands are those of the command that they are for, or of the next one', () => {
    const own = command('SYNC')
    const donation = [command('TLBI_S2_IPA'), own, DROPPED, own]
    const ats = [command('ATC_INV', { sid: 8 }), command('ATC_INV', { sid: 8, ssv: 1 }), own]
    const sent = [...donation, tlbiNhVa(0), ...ats, cfgiSte(8), own, cfgiSte(8), own, cfgiSte(8), SYNC, ...donation]
    const host = [tlbiNhVa(0), DROPPED, cfgiSte(9), cfgiSte(8), SYNC]
    const words = (commands: number[][]) => Uint32Array.from(commands.flat())
    const places = commandPlaces(words(sent), words(host), commandRules(true, new Set()))
    // The CFGI_STE of stream 9 was dropped, without any.
    expect([...places]).toEqual([0, 0, 0, 0, 0, 3, 3, 3, 3, 3, 3, 3, 3, 4, 5, 5, 5, 5])
  })

  test('any commands, killed anywhere', () => {
    const rewritten = command('SYNC', { cs: 1, msiData: 7, msiAddress: 0x4000_0000 })
    const any = fc.constantFrom(
      ...[tlbiNhVa(0x1000), tlbiNhVa(0x2000), DROPPED, cfgiSte(8), cfgiSte(9), CFGI_ALL, SYNC, rewritten],
    )
    fc.assert(
      fc.property(
        fc.array(any, { maxLength: 8 }),
        fc.array(any, { maxLength: 4 }),
        fc.nat(60),
        (before, behind, dies) => {
          start()
          const first = host.prod
          const prod = host.place(...before, ILLEGAL, ...behind)
          if (killed(dies + 1, () => bench.write(r.ARM_SMMU_CMDQ_PROD, prod))) bench.write(r.ARM_SMMU_CMDQ_PROD, prod)
          expect(consOf()).toBe(AT(first + before.length))
          acknowledge()
          expect(bench.read(r.ARM_SMMU_CMDQ_CONS) & 0xfffff).toBe(prod)
          const told = [...before, ...behind].flatMap(words => (words[0] === 3 ? [words[1]] : []))
          const shadows = new Map(bench.hyp.streams().map(({ sid, shadow }) => [sid, shadow[0] & 0xfn]))
          if (told.includes(8)) expect(shadows.get(8)).toBe(1n)
          expect(shadows.get(9)).toBe(told.includes(9) ? 13n : undefined)
        },
      ),
      { numRuns: 300 },
    )
  })
})

test('after a take-over a queue that was disabled is not read: its memory may be a VM’s', () => {
  const checkpoint = bench.hyp.checkpoint().slice()
  bench.hyp = successor(bench)
  bench.hyp.restore(checkpoint)
  bench.hyp.resume()
  bench.write(r.ARM_SMMU_CR0, 0)
  expect(bench.hyp.donate(HOST_CMDQ, 0x1000, 2)).toBe(OK)
  bench.write(r.ARM_SMMU_CMDQ_PROD, 8)
  const reads: number[] = []
  const read = bench.memory.read.bind(bench.memory)
  bench.memory.read = (address, into, at, length) => {
    reads.push(address)
    return read(address, into, at, length)
  }
  bench.read(r.ARM_SMMU_CMDQ_CONS)
  expect(reads.filter(address => address - (address % 0x1000) === HOST_CMDQ)).toEqual([])
})

test("the hypervisor's own commands go into the same queue, followed by SYNC", () => {
  host.l1(8)
  host.ste(8, STE.s1)
  bench.report.own = []
  host.commands(tlbiNhVa(0x1000), cfgiSte(8), tlbiNhVa(0x2000), SYNC)
  expect(bench.hw.takeCommands()).toEqual([
    'TLBI_NH_VA',
    'CFGI_STE',
    'SYNC',
    'CFGI_STE',
    'SYNC',
    'CFGI_STE',
    'TLBI_NH_VA',
    'SYNC',
  ])
  expect(bench.report.own).toEqual([0x03, 0x46, 0x03, 0x46])
})
