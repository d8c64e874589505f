// SPDX-License-Identifier: Apache-2.0
/**
 * Operations of a host that means no harm: what Linux's driver does at its start and end, for a kernel that follows another, for devices
 * that come and go; and what a sloppy one does. Nothing of it may be warned about, and devices reach what they were given.
 */

import { PAGE_SIZE } from '../oracle/pageMap.ts'
import * as C from '../smmu/commands.ts'
import * as R from '../smmu/registers.ts'
import {
  CFGI_ALL,
  type Command,
  cdWords,
  cfgiSte,
  command,
  type Host,
  high,
  IOVAS,
  low,
  type Places,
  STE_ABORT,
  STE_BYPASS,
  STE_INVALID,
  SYNC,
  steStage1,
} from './host.ts'
import type { OperationKind } from './operations.ts'

/** Memory that kernels use: not hot, inside of RAM, not hypervisor memory. Two areas for each of two SMMUs. */
const AREA_OFFSET = 0x6_0000
const AREA_SIZE = 0x5_0000
const SMMUS = 2
/** Parts of an area. A stream table has at most 64 KiB at its start. */
const L2_OFFSET = 0x1_0000
const L2_TABLES = 8
const L2_BYTES = 0x4000
const QUEUES_OFFSET = 0x3_0000
const TABLES_OFFSET = 0x4_0000
const LOG2SIZE = 6
const ASID = 1
const VMS = 3

/** Where a kernel puts things. */
class Kernel {
  readonly host: Host
  readonly smmu: number
  readonly base: number
  readonly places: Places
  readonly cd: number
  /** Three tables of stage 1. */
  readonly tables: readonly number[]

  constructor(host: Host, smmu: number, base: number) {
    this.host = host
    this.smmu = smmu
    this.base = base
    const queues = base + QUEUES_OFFSET
    this.places = {
      strtab: base,
      cmdq: queues,
      cmdqLog2size: LOG2SIZE,
      evtq: queues + PAGE_SIZE,
      evtqLog2size: LOG2SIZE,
      priq: queues + 2 * PAGE_SIZE,
      priqLog2size: LOG2SIZE,
    }
    this.cd = base + TABLES_OFFSET
    this.tables = [1, 2, 3].map(i => this.cd + i * PAGE_SIZE)
  }

  /** L2 table of a stream. Those that drivers use here have one each. */
  l2(sid: number): number {
    return this.base + L2_OFFSET + ((sid >>> 8) % L2_TABLES) * L2_BYTES
  }

  /** The kernel starts: its memory is its own and empty. */
  start(crash: boolean): void {
    const { host, smmu, base } = this
    const { oracle, memory } = host.world
    const { granule } = host.world.setup
    for (const page of [...oracle.donations]) {
      if (page < base || page >= base + AREA_SIZE || page % granule !== 0) continue
      host.transfer('reclaim', page, granule, oracle.map.owner(page))
    }
    const zero = (address: number, words: number) => {
      for (let i = 0; i < words; i++) {
        if (memory.word(address + 4 * i) === 0) continue
        host.store(address, new Array<number>(words).fill(0))
        return
      }
    }
    const { twoLevel } = host.world.setup
    for (const sid of host.sids) {
      if (!twoLevel) zero(base + 64 * sid, 16)
      else {
        zero(base + 8 * (sid >>> 8), 2)
        zero(this.l2(sid) + 64 * (sid & 0xff), 16)
      }
    }
    for (const iova of IOVAS) zero(this.tables[2] + 8 * leafOf(iova), 2)
    host.store64(this.cd, ...cdWords(this.tables[0], ASID))
    host.boot(smmu, this.places, crash)
  }

  /** The STE that the host has for a stream: its words 0 and 1 in halves. `asleep`: the SMMU takes no commands. */
  attach(sid: number, words: readonly bigint[], asleep = false): void {
    const { host, smmu } = this
    const { twoLevel } = host.world.setup
    let address = this.base + 64 * sid
    if (twoLevel) {
      address = this.l2(sid) + 64 * (sid & 0xff)
      host.store64(this.base + 8 * (sid >>> 8), BigInt(this.l2(sid) + 9))
    }
    const ste = Array.from({ length: 8 }, (_, i) => words[i] ?? 0n)
    // As Linux writes entries that cannot be changed in one piece.
    if (!asleep && host.random.chance(50)) {
      host.store64(address, 0n)
      host.commands(smmu, cfgiSte(sid), SYNC)
      host.store64(address + 8, ...ste.slice(1))
      host.commands(smmu, cfgiSte(sid), SYNC)
      host.store64(address, ste[0])
    } else host.store64(address, ...ste)
  }
}

/** The kernel that drives an SMMU, or its successor: they take turns in two areas. */
function kernelOf(host: Host, successor = false): Kernel {
  const smmu = host.random.below(Math.min(SMMUS, host.world.setup.smmus))
  const first = host.world.setup.ram[smmu].base + AREA_OFFSET
  const second = first + AREA_SIZE
  const now = host.world.host[smmu].strtabBase
  return new Kernel(host, smmu, (now === second) !== successor ? second : first)
}

const running = (kernel: Kernel): boolean => (kernel.host.world.host[kernel.smmu].cr0 & R.CR0_SMMUEN) !== 0

/** The kernel that drives an SMMU; one is started where there is none. */
function runningKernel(host: Host): Kernel {
  const kernel = kernelOf(host)
  if (!running(kernel)) kernel.start(false)
  return kernel
}

function ste(kernel: Kernel): readonly bigint[] {
  return kernel.host.random.pick([STE_BYPASS, STE_BYPASS, steStage1(kernel.cd), STE_ABORT, STE_INVALID])
}

function invalidate(iova: number): Command {
  return command(C.CMDQ_OP_TLBI_NH_VA, ASID << 16, low(iova) | 1, high(iova))
}

/** Index of the last descriptor for an address. */
const leafOf = (iova: number): number => Math.floor(iova / PAGE_SIZE) % 512

/** A page that no kernel uses. */
function freePage(host: Host): number {
  const { granule } = host.world.setup
  const page = host.data()
  return page - (page % granule)
}

/** Accesses of devices: to what they were given, to what was taken away, to anything. */
function dma(host: Host, smmu: number): void {
  const r = host.random
  const { donations } = host.world.oracle
  const { reached } = host.world.devices
  for (let n = r.below(3); n >= 0; n--) {
    if (reached.length > 0 && r.chance(30)) {
      host.world.perform(r.pick(reached).step)
      continue
    }
    const page = r.chance(40) ? r.pick(IOVAS) : r.chance(30) && donations.length > 0 ? r.pick(donations) : host.page()
    const address = page + r.below(PAGE_SIZE)
    host.world.perform({ do: 'dma', smmu, sid: r.pick(host.sids), address, write: r.chance(50), how: 'untranslated' })
  }
}

/** With SMMUs that can be switched off. */
export const DRIVER_POWER_OPERATIONS: readonly OperationKind[] = [
  {
    // As Linux's driver has it in the series for runtime power management: no command is sent from the one to the other.
    name: 'suspend and resume',
    weight: 8,
    switches: true,
    run: host => {
      const r = host.random
      const kernel = runningKernel(host)
      const { smmu, places } = kernel
      dma(host, smmu)
      host.write(smmu, R.ARM_SMMU_GBPA, R.GBPA_UPDATE | R.GBPA_ABORT)
      host.cr0(smmu, R.CR0_CMDQEN)
      host.power(smmu, r.pick(['retained', 'off', 'off']))
      if (r.chance(40)) kernel.attach(r.pick(host.drivenSids(smmu)), ste(kernel), true)
      if (r.chance(50)) host.transfer('donate', freePage(host), host.world.setup.granule, 1 + r.below(VMS))
      dma(host, smmu)
      host.power(smmu, 'on')
      dma(host, smmu)
      host.boot(smmu, places)
      dma(host, smmu)
    },
  },
  {
    // By somebody below the driver, who promises that it keeps its state.
    name: 'off and on, unnoticed',
    weight: 6,
    switches: true,
    run: host => {
      const r = host.random
      const { smmu } = runningKernel(host)
      dma(host, smmu)
      host.power(smmu, host.world.setup.power === 'keep' ? r.pick(['retained', 'off']) : 'retained')
      if (r.chance(50)) host.transfer('donate', freePage(host), host.world.setup.granule, 1 + r.below(VMS))
      dma(host, smmu)
      host.power(smmu, 'on')
      dma(host, smmu)
    },
  },
]

export const DRIVER_OPERATIONS: readonly OperationKind[] = [
  { name: 'start', weight: 1, run: host => void runningKernel(host) },
  {
    name: 'attach a device',
    weight: 12,
    run: host => {
      const kernel = runningKernel(host)
      const sid = host.random.pick(host.drivenSids(kernel.smmu))
      kernel.attach(sid, ste(kernel))
      host.commands(kernel.smmu, cfgiSte(sid), SYNC)
      dma(host, kernel.smmu)
    },
  },
  {
    name: 'attach devices, then CFGI_ALL',
    weight: 1,
    run: host => {
      const kernel = runningKernel(host)
      for (let n = host.random.below(3); n >= 0; n--)
        kernel.attach(host.random.pick(host.drivenSids(kernel.smmu)), ste(kernel))
      // Enough for hardware; a hypervisor that keeps a table of its own may want to be told of each entry, but has to say so.
      host.wrongly(() => host.commands(kernel.smmu, CFGI_ALL, SYNC))
      dma(host, kernel.smmu)
    },
  },
  {
    name: 'map a page',
    weight: 8,
    run: host => {
      const kernel = runningKernel(host)
      const iova = host.random.pick(IOVAS)
      host.map(kernel.tables, iova, host.page(), host.random.chance(70))
      // The tables are few: other addresses are mapped by the same descriptor.
      const all = new Set([...IOVAS, ...host.pages])
      host.commands(kernel.smmu, ...[...all].filter(other => leafOf(other) === leafOf(iova)).map(invalidate), SYNC)
      dma(host, kernel.smmu)
    },
  },
  { name: 'devices access memory', weight: 12, run: host => dma(host, kernelOf(host).smmu) },
  {
    name: 'donate pages',
    weight: 8,
    run: host => {
      const { granule } = host.world.setup
      const other = kernelOf(host, true)
      const page = host.random.chance(70) ? freePage(host) : other.places.evtq
      host.transfer('donate', page - (page % granule), granule, 1 + host.random.below(VMS))
      dma(host, other.smmu)
    },
  },
  {
    name: 'reclaim pages',
    weight: 4,
    run: host => {
      const { donations, map } = host.world.oracle
      const { granule } = host.world.setup
      if (donations.length === 0) return
      const page = host.random.pick(donations)
      host.transfer('reclaim', page - (page % granule), granule, map.owner(page))
    },
  },
  {
    name: 'shut down',
    weight: 2,
    run: host => host.cr0(kernelOf(host).smmu, 0),
  },
  {
    name: 'kexec',
    weight: 3,
    run: host => {
      const before = kernelOf(host)
      if (host.random.chance(70)) host.cr0(before.smmu, 0)
      const next = kernelOf(host, true)
      next.start(false)
      dma(host, next.smmu)
    },
  },
  {
    name: 'crash kernel',
    weight: 2,
    run: host => {
      const next = kernelOf(host, true)
      next.start(true)
      dma(host, next.smmu)
    },
  },
  {
    name: 'translation off and on',
    weight: 4,
    run: host => {
      const kernel = runningKernel(host)
      dma(host, kernel.smmu)
      const { cr0 } = host.world.host[kernel.smmu]
      host.cr0(kernel.smmu, cr0 & ~R.CR0_SMMUEN)
      if (host.random.chance(70)) {
        const { granule } = host.world.setup
        host.transfer('donate', freePage(host), granule, 1 + host.random.below(VMS))
      }
      host.cr0(kernel.smmu, cr0)
      dma(host, kernel.smmu)
    },
  },
  {
    name: 'probe',
    weight: 1,
    run: host => {
      const smmu = kernelOf(host).smmu
      for (const offset of [R.ARM_SMMU_IDR0, R.ARM_SMMU_IDR1, R.ARM_SMMU_IDR3, R.ARM_SMMU_IDR5, R.ARM_SMMU_IIDR]) {
        host.read(smmu, offset)
      }
      // What iommufd asks for (arm_smmu_hw_info).
      if (!host.random.chance(30)) return
      for (const offset of [R.ARM_SMMU_IDR2, R.ARM_SMMU_IDR4, R.ARM_SMMU_AIDR]) host.read(smmu, offset)
    },
  },
  {
    name: 'an illegal command, and recovery',
    weight: 1,
    run: host => {
      const kernel = runningKernel(host)
      const { smmu } = kernel
      const some = (): Command[] =>
        Array.from({ length: host.random.below(3) }, () => invalidate(host.random.pick(IOVAS)))
      host.commands(smmu, ...some(), command(0x0b), ...some(), SYNC)
      const cons = host.read(smmu, R.ARM_SMMU_CMDQ_CONS)
      if ((cons & R.CMDQ_CONS_ERR) >>> 24 !== R.CMDQ_ERR_CERROR_ILL_IDX) return
      host.store(kernel.places.cmdq + 16 * (cons & (2 ** LOG2SIZE - 1)), SYNC)
      host.write(smmu, R.ARM_SMMU_GERRORN, host.read(smmu, R.ARM_SMMU_GERROR))
      host.read(smmu, R.ARM_SMMU_CMDQ_CONS)
    },
  },
  {
    name: 'a PROD that describes no queue',
    weight: 0.3,
    run: host => {
      const { smmu } = runningKernel(host)
      const { cmdqProd } = host.world.host[smmu]
      const prod = (cmdqProd - 1 - host.random.below(8)) & (2 ** (LOG2SIZE + 1) - 1)
      host.wrongly(() => host.write(smmu, R.ARM_SMMU_CMDQ_PROD, prod))
      host.read(smmu, R.ARM_SMMU_CMDQ_CONS)
    },
  },
  { name: 'take-over', weight: 0.3, run: host => host.world.perform({ do: 'take-over' }) },
  { name: 'reset', weight: 0.2, run: host => host.world.perform({ do: 'reset' }) },
]
