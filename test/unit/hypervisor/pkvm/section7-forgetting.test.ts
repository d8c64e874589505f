// SPDX-License-Identifier: Apache-2.0
/** The shadow forgets what hardware may have forgotten (server/hypervisor/README.md, section 7). */
import { describe, expect, test } from 'vitest'
import { Hypervisor } from '../../../../server/hypervisor/pkvm/hypervisor.ts'
import { PAGE_OWNED } from '../../../../server/hypervisor/pkvm/ownership.ts'
import { newTrap } from '../../../../server/policy/policy.ts'
import { EFAULT } from '../../../../server/policy/result.ts'
import { opcodeName } from '../../../../server/smmu/commands.ts'
import { QEMU_NESTED_ID_REGISTERS as QEMU } from '../../../../server/smmu/features.ts'
import * as r from '../../../../server/smmu/registers.ts'
import { CFGI_ALL, command, linearCfg, SYNC, TLBI_NSNH_ALL, twoLevelCfg } from '../../smmu/fields.ts'
import { idRegisters, type SoftSetUp, softHost } from './soft.ts'
import {
  Bench,
  CARVEOUT_BASE,
  HOST_CMDQ,
  HOST_L2,
  HOST_STRTAB,
  Host,
  MiB,
  RAM_BASE,
  STE,
  shadowSte,
  successor,
} from './support.ts'

const SID = 0x20
const P = RAM_BASE + 10 * MiB
/** The tables and queues of another kernel lie so many bytes above. */
const NEXT = 8 * MiB

const LINEAR: SoftSetUp = { soft: { id: idRegisters({}, { idr0: r.IDR0_ST_LVL }) } }
const FORMATS: [string, SoftSetUp, number][] = [
  ['2-level', {}, twoLevelCfg(16)],
  ['linear', LINEAR, linearCfg(8)],
]

describe.each(FORMATS)('a successor kernel, %s', (format, setUp, cfg) => {
  const twoLevel = format === '2-level'

  function crashed() {
    const { bench, host } = softHost(setUp)
    bench.write(r.ARM_SMMU_CR0, 0)
    bench.write(r.ARM_SMMU_STRTAB_BASE_CFG, cfg)
    bench.write(r.ARM_SMMU_CR0, 0xd)
    bench.report.take()
    attach(host, STE.bypass)
    expect(bench.dma(SID, P)).toBe('done')
    expect(bench.report.take()).toEqual([])
    return { bench, host, next: new Host(bench, 0, NEXT) }
  }

  function attach(host: Host, words: readonly bigint[]): void {
    if (twoLevel) host.attach(SID, words)
    else {
      host.bench.memory.poke64(host.strtab + 64 * SID, ...words)
      host.cfgiSte(SID)
    }
  }

  /** What the successor writes between CR0 = 0 and SMMUEN = 1; the order of independent writes is its own. */
  const writes: Record<string, (next: Host) => void> = {
    table: next => {
      next.bench.write64(r.ARM_SMMU_STRTAB_BASE, next.strtab)
      next.write(r.ARM_SMMU_STRTAB_BASE_CFG, cfg)
    },
    queue: next => {
      next.bench.write64(r.ARM_SMMU_CMDQ_BASE, next.cmdq + next.log2size)
      next.write(r.ARM_SMMU_CMDQ_PROD, 0)
      next.write(r.ARM_SMMU_CMDQ_CONS, 0)
    },
    commands: next => {
      next.write(r.ARM_SMMU_CR0, 0xc)
      next.commands(CFGI_ALL, TLBI_NSNH_ALL, SYNC)
    },
  }
  const orders = [
    ['table', 'queue', 'commands'],
    ['queue', 'table', 'commands'],
    ['queue', 'commands', 'table'],
    ['queue', 'table'],
    ['queue', 'commands', 'table', 'commands'],
  ]

  test.each(orders.map(order => [order.join(', '), order] as const))('with an empty table: %s', (_, order) => {
    const { bench, next } = crashed()
    bench.write(r.ARM_SMMU_CR0, 0)
    if (twoLevel) next.l1(SID)
    for (const step of order) writes[step]?.(next)
    bench.write(r.ARM_SMMU_CR0, 0xd)
    expect(bench.dma(SID, P)).toBe('C_BAD_STE')
    expect(bench.report.take()).toEqual(['HYP_QUEUE_DISABLED_AT_SHUTDOWN'])
    attach(next, STE.bypass)
    expect(bench.dma(SID, P)).toBe('done')
    expect(bench.report.take()).toEqual([])
  })

  test('that gives the device something else', () => {
    const { bench, next } = crashed()
    bench.write(r.ARM_SMMU_CR0, 0)
    for (const step of ['table', 'queue']) writes[step]?.(next)
    if (twoLevel) {
      next.l1(SID)
      next.ste(SID, STE.abort)
    } else bench.memory.poke64(next.strtab + 64 * SID, ...STE.abort)
    bench.write(r.ARM_SMMU_CR0, 0xd)
    expect(bench.dma(SID, P)).toBe('abort')
  })

  test('the same table again, as after suspend: devices go on without a CFGI_STE', () => {
    const { bench, host } = crashed()
    bench.write(r.ARM_SMMU_CR0, 0)
    writes.queue?.(host)
    writes.commands?.(host)
    bench.write(r.ARM_SMMU_CR0, 0xd)
    expect(bench.dma(SID, P)).toBe('done')
  })
})

test('without an L1 descriptor the stream is unknown, and its L2 table is free again', () => {
  const { bench, host } = softHost()
  const before = bench.hyp.pool.used
  host.attach(SID, STE.bypass)
  host.attach(SID + 1, STE.bypass)
  expect(bench.hyp.pool.used).toBe(before + 4)
  bench.write(r.ARM_SMMU_CR0, 0xc)
  host.l1(SID, 0, 0)
  bench.write(r.ARM_SMMU_CR0, 0xd)
  expect(bench.hyp.pool.used).toBe(before)
  expect(bench.hyp.streams()).toEqual([])
  expect(bench.dma(SID, P)).toBe('C_BAD_STREAMID')
  expect(bench.report.take()).toEqual([])
})

test('a table in which the StreamID is out of range: it is forgotten, without a warning', () => {
  const { bench, host } = softHost()
  host.attach(0x400, STE.bypass)
  expect(bench.dma(0x400, P)).toBe('done')
  bench.write(r.ARM_SMMU_CR0, 0xc)
  host.write(r.ARM_SMMU_STRTAB_BASE_CFG, twoLevelCfg(10))
  bench.write(r.ARM_SMMU_CR0, 0xd)
  expect(bench.report.take()).toEqual([])
  expect(bench.hyp.streams()).toEqual([])
  expect(bench.dma(0x400, P)).toBe('C_BAD_STREAMID')
})

describe('an L2 table is free with its last stream', () => {
  test.each([
    ['first', 0x101, 0x100],
    ['last', 0x100, 0x1ff],
  ])('the %s one of the table stays', (_, gone, stays) => {
    const { bench, host } = softHost()
    host.attach(gone, STE.bypass)
    host.attach(stays, STE.bypass)
    host.ste(gone, STE.s2)
    host.cfgiSte(gone)
    expect(bench.dma(stays, P)).toBe('done')
    expect(bench.dma(gone, P)).toBe('C_BAD_STE')
  })

  test.each([
    ['below', 0xff],
    ['above', 0x200],
  ])('the next one %s is in another table', (_, stays) => {
    const { bench, host } = softHost()
    host.attach(stays, STE.bypass)
    const before = bench.hyp.pool.used
    host.attach(0x100, STE.bypass)
    expect(bench.hyp.pool.used).toBe(before + 4)
    host.ste(0x100, STE.s2)
    host.cfgiSte(0x100)
    expect(bench.hyp.pool.used).toBe(before)
    expect(bench.dma(stays, P)).toBe('done')
  })
})

test('a shadow that cannot be read: SMMUEN stays 0', () => {
  const { bench, host } = softHost()
  host.attach(SID, STE.bypass)
  bench.write(r.ARM_SMMU_CR0, 0xc)
  const { memory } = bench
  const read = memory.read.bind(memory)
  memory.read = (address, ...rest) => (address < CARVEOUT_BASE || rest[2] !== 64) && read(address, ...rest)
  bench.write(r.ARM_SMMU_CR0, 0xd)
  memory.read = read
  expect(bench.report.warnings).toMatchObject([{ code: 'HYP_SMMUEN_STALE', values: [0xc, 0xd, EFAULT] }])
  expect(bench.peek(r.ARM_SMMU_CR0)).toBe(0xc)
})

test('a shadow that cannot be made anew: SMMUEN stays 0', () => {
  const { bench, host } = softHost()
  host.attach(SID, STE.bypass)
  bench.write(r.ARM_SMMU_CR0, 0xc)
  host.ste(SID, STE.abort)
  const { memory } = bench
  const write = memory.write.bind(memory)
  memory.write = (address, ...rest) => address < CARVEOUT_BASE && write(address, ...rest)
  bench.write(r.ARM_SMMU_CR0, 0xd)
  memory.write = write
  expect(bench.report.warnings).toMatchObject([{ code: 'HYP_SMMUEN_STALE', values: [0xc, 0xd, EFAULT] }])
  expect(bench.peek(r.ARM_SMMU_CR0)).toBe(0xc)
  expect(bench.hyp.ownership.stateAt(HOST_STRTAB)).toBe(PAGE_OWNED)
})

describe('a CFGI_STE that cannot be followed', () => {
  const changes: [string, (host: Host) => void, number, string][] = [
    ['there is no L1 descriptor', host => host.l1(SID, 0, 0), 1, 'C_BAD_STREAMID'],
    ['the L2 table is hypervisor memory', host => host.l1(SID, CARVEOUT_BASE), 1, 'C_BAD_STREAMID'],
    ['the host has a stage 2', host => host.ste(SID, STE.s2), 1, 'C_BAD_STREAMID'],
    ['Leaf is 0', () => {}, 0, 'C_BAD_STREAMID'],
  ]
  test.each(changes)('%s: the device does not go on with the entry of before', (_, change, leaf, event) => {
    const { bench, host } = softHost()
    host.attach(SID, STE.bypass)
    expect(bench.dma(SID, P)).toBe('done')
    change(host)
    host.cfgiSte(SID, leaf)
    expect(bench.report.take()).toEqual(['HYP_CFGI_STE'])
    expect(bench.dma(SID, P)).toBe(event)
  })

  test('memory that cannot be read: the entry of before is not taken for the new one', () => {
    const { bench, host } = softHost()
    host.attach(SID, STE.bypass)
    const { memory } = bench
    const read = memory.read.bind(memory)
    memory.read = (address, ...rest) => (address < HOST_L2 || address >= HOST_L2 + 0x4000) && read(address, ...rest)
    host.cfgiSte(SID + 1)
    expect(bench.report.warnings).toMatchObject([{ code: 'HYP_CFGI_STE', values: [SID + 1, 1, EFAULT] }])
    expect(bench.dma(SID + 1, P)).toBe('C_BAD_STE')
  })

  test('an L1 descriptor that cannot be read', () => {
    const { bench, host } = softHost()
    host.attach(SID, STE.bypass)
    const { memory } = bench
    const read = memory.read.bind(memory)
    memory.read = (address, ...rest) =>
      (address < HOST_STRTAB || address >= HOST_STRTAB + 0x1000) && read(address, ...rest)
    host.cfgiSte(SID)
    expect(bench.report.warnings).toMatchObject([{ code: 'HYP_CFGI_STE', values: [SID, 1, EFAULT] }])
    expect(bench.dma(SID, P)).toBe('C_BAD_STREAMID')
  })

  test('the shadow cannot be written: whoever takes over makes it invalid', () => {
    const bench = new Bench()
    bench.hyp.reset()
    const host = new Host(bench).boot()
    host.attach(SID, STE.bypass)
    host.ste(SID, STE.s2)
    const { memory } = bench
    const write = memory.write.bind(memory)
    // Word 0 of an entry.
    memory.write = (address, source, from, length) => length !== 8 && write(address, source, from, length)
    host.cfgiSte(SID)
    memory.write = write
    expect(bench.report.take()).toEqual(['HYP_CFGI_STE'])
    const next = successor(bench)
    next.restore(bench.hyp.checkpoint().slice())
    next.resume()
    expect(shadowSte(bench, SID)[0]).toBe(0n)
  })

  test('a shadow that cannot be read is not taken for one that was written', () => {
    const { bench, host } = softHost()
    host.attach(SID, STE.bypass)
    expect(bench.dma(SID, P)).toBe('done')
    const { memory } = bench
    const read = memory.read.bind(memory)
    // Entries of the hypervisor's own.
    memory.read = (address, ...rest) => (address < CARVEOUT_BASE || rest[2] !== 64) && read(address, ...rest)
    host.ste(SID, STE.abort)
    host.cfgiSte(SID)
    memory.read = read
    expect(bench.report.take()).toEqual(['HYP_CFGI_STE'])
    // What stood there stands, and is known.
    expect(bench.hyp.streams().map(({ sid, host }) => [sid, host[0]])).toEqual([[SID, STE.bypass[0]]])
    expect(bench.dma(SID, P)).toBe('done')
  })

  test('a shadow L1 descriptor that cannot be written: the stream has no entry', () => {
    const { bench, host } = softHost()
    const { memory } = bench
    const write = memory.write.bind(memory)
    memory.write = (address, source, from, length) => length !== 8 && write(address, source, from, length)
    host.attach(SID, STE.bypass)
    memory.write = write
    expect(bench.report.warnings).toMatchObject([{ code: 'HYP_CFGI_STE', values: [SID, 1, EFAULT] }])
    expect(bench.hyp.streams()).toEqual([])
    expect(bench.dma(SID, P)).toBe('C_BAD_STREAMID')
  })

  test('a neighbour goes on', () => {
    const { bench, host } = softHost()
    host.attach(SID, STE.bypass)
    host.attach(SID + 1, STE.bypass)
    host.ste(SID, STE.s2)
    host.cfgiSte(SID)
    expect(bench.dma(SID, P)).toBe('C_BAD_STE')
    expect(bench.dma(SID + 1, P)).toBe('done')
  })
})

describe('CFGI_ALL while SMMUEN is 1', () => {
  const commandsOf = (bench: Bench) => bench.hw.consumed.map(([word]) => opcodeName((word ?? 0) & 0xff))

  function running(): { bench: Bench; host: Host } {
    const bench = new Bench()
    bench.hyp.reset()
    const host = new Host(bench).boot()
    host.attach(SID, STE.bypass)
    host.attach(SID + 1, STE.s1)
    bench.report.take()
    bench.hw.consumed = []
    return { bench, host }
  }

  test('a trap after a reset is not one of before, whatever its number', () => {
    const { bench, host } = running()
    const again = (word: bigint) => {
      host.ste(SID, [word])
      const prod = { write: true, offset: r.ARM_SMMU_CMDQ_PROD, size: 4, lo: host.place(CFGI_ALL) }
      bench.hyp.access({ ...newTrap(), seq: 1_000_000, ...prod })
    }
    again(STE.abort[0])
    expect(shadowSte(bench, SID)[0]).toBe(STE.abort[0])
    bench.hw.words.fill(0, r.ARM_SMMU_CR0 / 4)
    bench.hyp.reset()
    host.boot().attach(SID, STE.bypass)
    again(STE.abort[0])
    expect(shadowSte(bench, SID)[0]).toBe(STE.abort[0])
  })

  test('an entry that differs in what does not pass is known as it is', () => {
    const { bench, host } = running()
    const changed = [...STE.bypass, ...new Array<bigint>(8).fill(0n)].slice(0, 8)
    changed[4] = 1n
    host.ste(SID, changed)
    host.commands(CFGI_ALL, SYNC)
    expect(commandsOf(bench)).toEqual(['CFGI_STE_RANGE', 'SYNC'])
    expect(bench.hyp.streams().find(({ sid }) => sid === SID)?.host[4]).toBe(1n)
  })

  test('nothing has changed: nothing but what the host sent', () => {
    const { bench, host } = running()
    const log = bench.record()
    bench.report.streams = []
    host.commands(CFGI_ALL, SYNC)
    expect(bench.report.streams).toEqual([])
    expect(commandsOf(bench)).toEqual(['CFGI_STE_RANGE', 'SYNC'])
    const table = log.filter(entry => entry.what === 'mem' && entry.bytes.length % 16 !== 0)
    expect(table).toEqual([])
  })

  test('another entry is taken over, before the hardware gets the command', () => {
    const { bench, host } = running()
    host.ste(SID, STE.abort)
    host.commands(CFGI_ALL, SYNC)
    expect(shadowSte(bench, SID)[0]).toBe(STE.abort[0])
    expect(commandsOf(bench)).toEqual(['CFGI_STE', 'SYNC', 'CFGI_STE', 'SYNC', 'CFGI_STE_RANGE', 'SYNC'])
    // Its L1 descriptor is the same: Leaf.
    expect(bench.hw.consumed.filter(([word]) => word === 0x03).map(([, , word]) => word)).toEqual([1, 1])
    expect(bench.hyp.streams().find(({ sid }) => sid === SID)?.trap).toBeGreaterThan(0)
    expect(bench.report.take()).toEqual([])
  })

  test('what is refused while the hardware has stopped is known as invalid', () => {
    const { bench, host } = running()
    host.ste(SID, STE.s2)
    bench.hw.stuck = true
    host.commands(CFGI_ALL)
    expect(bench.hyp.streams().find(({ sid }) => sid === SID)?.host).toEqual(new BigUint64Array(8))
  })

  test('an entry that is gone', () => {
    const { bench, host } = running()
    const { used } = bench.hyp.pool
    host.l1(SID, 0, 0)
    host.commands(CFGI_ALL, SYNC)
    expect(bench.hyp.streams()).toEqual([])
    expect(shadowSte(bench, SID)).toEqual([])
    expect(bench.hyp.pool.used).toBe(used - 4)
    expect(bench.report.take()).toEqual([])
  })

  test('one that is refused is a warning, and aborts', () => {
    const { bench, host } = running()
    host.ste(SID, STE.s2)
    host.commands(CFGI_ALL, SYNC)
    expect(bench.report.take()).toEqual(['HYP_CFGI_STE'])
    expect(shadowSte(bench, SID)).toEqual(Array(8).fill(0n))
    expect(bench.hyp.streams().map(({ sid }) => sid)).toEqual([SID + 1])
  })

  test('many in one write of PROD cost one pass', () => {
    const { bench, host } = running()
    let reads = 0
    bench.memory.beforeRead = address => {
      if (address >= host.l2 && address < host.l2 + MiB) reads++
    }
    host.commands(...Array<readonly number[]>(100).fill(CFGI_ALL), SYNC)
    expect(reads).toBe(3)
    host.commands(CFGI_ALL, SYNC)
    expect(reads).toBe(6)
  })

  test('the hardware has stopped: what is invalid stays invalid, also for a successor', () => {
    const { bench, host } = running()
    host.ste(SID, STE.invalid)
    bench.hw.stuck = true
    host.commands(CFGI_ALL)
    expect(shadowSte(bench, SID)[0]).toBe(0n)
    bench.hw.stuck = false
    bench.hw.consume()
    const next = new Hypervisor(bench.machine, { options: { waitPolls: 50 }, report: bench.report, clock: () => 0 })
    next.restore(bench.hyp.checkpoint().slice())
    next.resume()
    expect(shadowSte(bench, SID)[0]).toBe(0n)
  })
})

describe('a hypervisor that dies while SMMUEN is set', () => {
  const OTHER = SID + 0x100

  test.each([
    ['', false],
    [', and finds a queue that has stopped', true],
  ])('at each access: the next one does it again%s', (_, stopped) => {
    for (let dies = 1; ; dies++) {
      const { bench, host } = softHost()
      host.attach(SID, STE.bypass)
      host.attach(OTHER, STE.bypass)
      bench.write(r.ARM_SMMU_CR0, 0xc)
      // One stream gets another entry, one loses its L2 table.
      host.ste(SID, STE.s1)
      host.l1(OTHER, 0, 0)
      if (stopped) host.commands([0x0b, 0, 0, 0])
      bench.report.take()
      const checkpoint = bench.hyp.checkpoint().slice()
      const { hw, memory } = bench
      let accesses = 0
      const count = () => {
        if (++accesses === dies) throw new Error('killed')
      }
      const write = hw.write.bind(hw)
      hw.write = (...access) => {
        const result = write(...access)
        count()
        return result
      }
      memory.onWrite = count
      let killed = false
      try {
        bench.write(r.ARM_SMMU_CR0, 0xd)
      } catch {
        killed = true
      }
      hw.write = write
      memory.onWrite = null
      if (!killed) break
      bench.report.take()
      bench.hyp = new Hypervisor(bench.machine, { options: { waitPolls: 50 }, report: bench.report, clock: () => 0 })
      bench.hyp.restore(checkpoint)
      bench.hyp.resume()
      bench.write(r.ARM_SMMU_CR0, 0xd)
      const where = `killed at ${dies}`
      if (stopped) {
        expect(bench.report.take(), where).toEqual(['HYP_CMDQ_STOPPED', 'HYP_SMMUEN_STALE'])
        expect(bench.read(r.ARM_SMMU_CR0)).toBe(0xc)
        continue
      }
      expect(bench.report.take(), where).toEqual([])
      expect(bench.hyp.streams().map(({ sid, host }) => [sid, host[0]])).toEqual([[SID, STE.s1[0]]])
      // Of its stage 1: the CD would be hypervisor memory.
      expect(bench.dma(SID, P), where).toBe('F_TRANSLATION')
      expect(bench.dma(OTHER, P)).toBe('C_BAD_STREAMID')
    }
  })
})

describe('a driver that fills its table and sends only CFGI_ALL', () => {
  function filled(words: readonly bigint[], setUp = {}) {
    const bench = new Bench(setUp)
    bench.hyp.reset()
    const host = new Host(bench).boot()
    bench.report.take()
    host.l1(SID)
    host.ste(SID, words)
    return { bench, host }
  }

  test.each([
    ['bypass', STE.bypass],
    ['stage 1', STE.s1],
  ])('is warned: %s', (_, words) => {
    const { bench, host } = filled(words)
    host.ste(SID + 2, words)
    host.commands(CFGI_ALL, CFGI_ALL, SYNC)
    expect(bench.report.warnings).toMatchObject([{ code: 'HYP_STE_UNSHADOWED', values: [SID, 2] }])
    expect(bench.hyp.streams()).toEqual([])
  })

  test.each([
    ['nothing of its table', false, 'C_BAD_STREAMID'],
    ['a neighbour', true, 'C_BAD_STE'],
  ])('its stream ends where the shadow has %s', (_, neighbour, event) => {
    const { bench, host } = softHost()
    if (neighbour) host.attach(SID + 1, STE.bypass)
    host.l1(SID)
    host.ste(SID, STE.bypass)
    host.commands(CFGI_ALL, SYNC)
    expect(bench.report.take()).toEqual(['HYP_STE_UNSHADOWED'])
    expect(bench.dma(SID, P)).toBe(event)
  })

  test.each([
    ['V = 0', STE.invalid],
    ['abort', STE.abort],
    ['stage 2, which the host cannot have', STE.s2],
  ])('is not, as nothing is lost: %s', (_, words) => {
    const { bench, host } = filled(words)
    host.commands(CFGI_ALL, SYNC)
    expect(bench.report.take()).toEqual([])
  })

  test('is not of an entry for which it sends CFGI_STE in the same batch, nor once it has', () => {
    const { bench, host } = filled(STE.bypass)
    host.commands(command('CFGI_STE', { sid: SID, leaf: 1 }), CFGI_ALL, SYNC)
    host.commands(CFGI_ALL, SYNC)
    expect(bench.report.take()).toEqual([])
  })

  test('a linear table', () => {
    const bench = new Bench({ ids: [{ idr1: (QEMU.idr1 & ~r.IDR1_SIDSIZE) | 8 }] })
    bench.hyp.reset()
    const host = new Host(bench).boot(8)
    bench.memory.poke64(HOST_STRTAB + 64 * SID, ...STE.bypass)
    host.commands(CFGI_ALL, SYNC)
    expect(bench.report.warnings).toMatchObject([{ code: 'HYP_STE_UNSHADOWED', values: [SID, 1] }])
  })

  test('what is not the host’s, or in use, is not read', () => {
    const { bench, host } = filled(STE.bypass)
    host.l1(0x100, HOST_CMDQ)
    host.l1(0x200, bench.machine.carveout.base)
    expect(bench.hyp.donate(HOST_L2 + 0x8000, 0x4000, 3)).toBe(0)
    host.l1(0x300, HOST_L2 + 0x8000)
    const reads: number[] = []
    bench.memory.beforeRead = address => reads.push(address)
    host.commands(CFGI_ALL, SYNC)
    expect(bench.report.warnings).toMatchObject([{ code: 'HYP_STE_UNSHADOWED', values: [SID, 1] }])
    const inside = (base: number, size: number) => reads.filter(at => at >= base && at < base + size)
    expect(inside(HOST_L2 + 0x8000, 0x4000)).toEqual([])
    expect(inside(bench.machine.carveout.base, 64)).toEqual([])
    // The commands, once.
    expect(inside(HOST_CMDQ, 0x1000)).toHaveLength(1)
    // Nothing stays shared.
    expect(bench.hyp.donate(HOST_L2, 0x4000, 3)).toBe(0)
  })

  test('65,536 entries are looked at, however many there are', () => {
    const bench = new Bench({ ids: [{ idr1: (QEMU.idr1 & ~r.IDR1_SIDSIZE) | 18 }] })
    bench.hyp.reset()
    const host = new Host(bench).boot(18)
    host.ste(SID, STE.bypass)
    for (let sid = 0; sid < 2 ** 18; sid += 0x100) host.l1(sid)
    let bytes = 0
    bench.memory.beforeRead = (address, length) => {
      if (address >= HOST_L2 && address < HOST_L2 + 0x4000) bytes += length
    }
    bench.report.operations = []
    host.commands(CFGI_ALL, SYNC)
    expect(bytes).toBe(64 * 65_536)
    // 256 L2 tables, and nothing of the others.
    expect(bench.report.operations).toHaveLength(2 * 256)
    expect(bench.report.warnings).toMatchObject([{ code: 'HYP_STE_UNSHADOWED', values: [SID, 256] }])
  })

  test('65,536 entries of a linear table', () => {
    const ids = [{ idr0: QEMU.idr0 & ~r.IDR0_ST_LVL, idr1: (QEMU.idr1 & ~r.IDR1_SIDSIZE) | 17 }]
    const bench = new Bench({ ids })
    bench.hyp.reset()
    // The table has 8 MiB, and is aligned to them.
    const host = new Host(bench, 0, 4 * MiB)
    host.prepare(17)
    host.write(r.ARM_SMMU_STRTAB_BASE_CFG, linearCfg(17))
    for (const cr0 of [0x8, 0xc, 0xd]) host.write(r.ARM_SMMU_CR0, cr0)
    for (const sid of [0xffff, 0x1_0000]) bench.memory.poke64(host.strtab + 64 * sid, ...STE.bypass)
    host.commands(CFGI_ALL, SYNC)
    expect(bench.report.warnings).toMatchObject([{ code: 'HYP_STE_UNSHADOWED', values: [0xffff, 1] }])
  })
})

test('killed behind a CFGI_STE, at a command that the hardware refuses: what is taken back is not cached, whatever the host does then', () => {
  const { bench, host } = softHost()
  const checkpoint = bench.hyp.checkpoint().slice()
  host.l1(SID)
  host.ste(SID, STE.bypass)
  const cfgiSte = host.prod
  host.commands(command('CFGI_STE', { sid: SID, leaf: 1 }), SYNC, command(0xee), SYNC)
  expect(bench.dma(SID, P)).toBe('done')
  bench.hyp = new Hypervisor(bench.machine, {
    options: { waitPolls: 50 },
    report: bench.report,
    clock: () => bench.now++,
  })
  bench.hyp.restore(checkpoint)
  expect(bench.hyp.resume()).toEqual([`SMMU 0, stream 0x${SID.toString(16)} was taken back, unfinished`])
  bench.write(r.ARM_SMMU_CMDQ_PROD, cfgiSte + 4)
  // The host thinks better of it.
  host.ste(SID, STE.invalid)
  for (const at of [cfgiSte, cfgiSte + 2])
    bench.memory.poke(HOST_CMDQ + 16 * at, new Uint8Array(Uint32Array.from(SYNC).buffer))
  bench.write(r.ARM_SMMU_GERRORN, bench.read(r.ARM_SMMU_GERROR))
  expect(bench.read(r.ARM_SMMU_CMDQ_CONS) & 0xfffff).toBe(host.prod)
  expect(bench.dma(SID, P)).toBe('C_BAD_STE')
})
