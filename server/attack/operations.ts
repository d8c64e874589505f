// SPDX-License-Identifier: Apache-2.0
/**
 * What a hostile host does, one operation at a time. Each operation has a seed of its own, from which it makes its choices and looks at
 * nothing but what the host can know: taking one out of a case leaves the others what they were.
 */

import { PAGE_SIZE } from '../oracle/pageMap.ts'
import { fieldPrep64 } from '../smmu/bits.ts'
import * as C from '../smmu/commands.ts'
import * as P from '../smmu/pagetable.ts'
import * as R from '../smmu/registers.ts'
import * as S from '../smmu/ste.ts'
import {
  CFGI_ALL,
  type Command,
  CR1,
  cdWords,
  cfgiSte,
  command,
  type Host,
  halves,
  high,
  IOVAS,
  low,
  type Places,
  STE_ABORT,
  STE_BYPASS,
  STE_INVALID,
  SYNC,
  steStage1,
  TLBI_NSNH_ALL,
} from './host.ts'
import { type HardwareOption, roomOf } from './setup.ts'
import type { Dma } from './steps.ts'

export interface OperationKind {
  readonly name: string
  readonly weight: number
  /** Only where the hardware has one of these. */
  readonly needs?: readonly HardwareOption[]
  /** Only where SMMUs can be switched off. */
  readonly switches?: true
  /** Only where EL2 keeps tables for the host. */
  readonly shares?: true
  readonly run: (host: Host) => void
}

const VMS = 3
/** LOG2SIZE of a command queue that holds more than the shadow queue. */
const LARGE_LOG2SIZE = 14
/** The smallest block of a 4 KiB granule. */
const BLOCK_BYTES = 2 ** 21
/** A stage 2 block that everybody may write, without its address. */
const BLOCK_RW = 0x7fdn

/** Places in hot pages, which may overlap each other and everything else. */
function places(host: Host): Places {
  const r = host.random
  const size = () => (r.chance(80) ? r.below(9) : r.logUniform(5))
  const at = () => host.page() + (r.chance(20) ? 32 * r.below(128) : 0)
  return {
    strtab: host.page(),
    cmdq: r.chance(95) ? host.page() : at(),
    cmdqLog2size: 2 + r.below(7),
    evtq: at(),
    evtqLog2size: size(),
    priq: at(),
    priqLog2size: size(),
  }
}

/** Three tables of stage 1 and a CD in hot pages. */
function stage1(host: Host): { readonly cd: number; readonly tables: readonly number[] } {
  const first = host.page()
  const tables = host.random.chance(70) ? [host.page(), host.page(), host.page()] : [first, first, first]
  return { cd: host.page() + 64 * host.random.below(8), tables }
}

/** An STE of any sort. What it needs in memory is written. */
function anySte(host: Host): readonly bigint[] {
  const r = host.random
  switch (r.below(8)) {
    case 0:
    case 1:
      return STE_BYPASS
    case 2:
      return STE_ABORT
    case 3:
      return STE_INVALID
    case 4: {
      // A bypass or stage 1 with anything in its other fields.
      const base = r.chance(50) ? STE_BYPASS : steStage1(host.page())
      const extra = Array.from({ length: 8 }, () => (r.chance(40) ? BigInt(r.next()) << BigInt(r.below(33)) : 0n))
      extra[0] = r.chance(80) ? 0n : extra[0]
      return extra.map((word, i) => BigInt.asUintN(64, word | (base[i] ?? 0n)))
    }
    case 5: {
      const config = r.below(8)
      const vtcr = S.vtcr({
        t0sz: 16 + r.below(24),
        sl0: r.below(3),
        ir0: 1,
        or0: 1,
        sh0: 3,
        tg: r.below(3),
        ps: r.below(7),
      })
      const stage2 = vtcr | S.STRTAB_STE_2_S2AA64 | BigInt(r.below(2))
      return [S.STRTAB_STE_0_V | fieldPrep64(S.STRTAB_STE_0_CFG, config), 0n, stage2, BigInt(host.page())]
    }
    default: {
      const { cd, tables } = stage1(host)
      host.store64(cd, ...cdWords(tables[0], r.below(3)))
      host.map(tables, r.pick(IOVAS), host.address())
      const cdMax = host.world.setup.ssidBits > 0 ? r.below(3) : 0
      const eats = host.world.setup.hardware.includes('ats') ? fieldPrep64(S.STRTAB_STE_1_EATS, r.below(4)) : 0n
      const ste = steStage1(cd, cdMax, r.below(4))
      return [ste[0], ste[1] | eats]
    }
  }
}

const OPCODES = [
  0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x10, 0x11, 0x12, 0x13, 0x20, 0x21, 0x22, 0x23, 0x28, 0x2a, 0x30, 0x40, 0x41,
  0x44, 0x45, 0x46,
] as const

function anyCommand(host: Host): Command {
  const r = host.random
  const sid = host.sid()
  switch (r.below(12)) {
    case 0:
    case 1:
      return cfgiSte(sid, r.chance(95) ? 1 : 0)
    case 2:
      return CFGI_ALL
    case 3:
      return TLBI_NSNH_ALL
    case 4:
    case 5: {
      // CMD_SYNC with an MSI.
      const address = host.address()
      const cs = r.below(r.chance(95) ? 3 : 4)
      return command(C.CMDQ_OP_CMD_SYNC | (cs << 12), r.next(), low(address), high(address))
    }
    case 6:
    case 7: {
      const address = r.chance(50) ? host.page() : r.pick(IOVAS)
      const opcode = r.pick([
        C.CMDQ_OP_TLBI_NH_VA,
        C.CMDQ_OP_TLBI_NH_VAA,
        C.CMDQ_OP_TLBI_S2_IPA,
        C.CMDQ_OP_TLBI_NH_ASID,
      ])
      const vmid = r.chance(90) ? 0 : r.below(3)
      return command(opcode, (r.below(3) << 16) | vmid, low(address) | r.below(2), high(address))
    }
    case 8:
      return command(C.CMDQ_OP_CFGI_CD, sid, r.below(2))
    case 9:
      return command(C.CMDQ_OP_ATC_INV, sid, 52)
    case 10:
      return r.chance(30) ? command(r.below(256), r.next(), r.next(), r.next()) : SYNC
    default:
      return command(r.pick(OPCODES), r.chance(50) ? sid : r.next(), r.logUniform(32), r.logUniform(32))
  }
}

/** A value for a register that is worth a try. */
function valueFor(host: Host, offset: number): { readonly lo: number; readonly hi: number } {
  const r = host.random
  const page = r.chance(80) ? host.page() : host.address()
  switch (offset) {
    case R.ARM_SMMU_CR0:
      return { lo: r.chance(90) ? r.below(32) : r.next(), hi: 0 }
    case R.ARM_SMMU_CR1:
      return { lo: r.chance(50) ? CR1 : r.next(), hi: 0 }
    case R.ARM_SMMU_GERRORN:
      return { lo: r.pick([0, 1, 4, 5, r.next()]), hi: 0 }
    case R.ARM_SMMU_GBPA:
      return { lo: r.pick([R.GBPA_UPDATE, R.GBPA_UPDATE | R.GBPA_ABORT, 0, r.next()]) >>> 0, hi: 0 }
    case R.ARM_SMMU_STRTAB_BASE_CFG:
      return {
        lo: r.chance(70) ? host.strtabCfg() : r.pick([r.logUniform(18), 0x1_0208 + r.below(20), r.next()]),
        hi: 0,
      }
    case R.ARM_SMMU_CMDQ_BASE:
    case R.ARM_SMMU_EVTQ_BASE:
    case R.ARM_SMMU_PRIQ_BASE: {
      const shift = r.chance(20) ? 32 * r.below(128) : 0
      return { lo: (low(page) | shift | (r.chance(90) ? r.below(10) : r.below(32))) >>> 0, hi: high(page) }
    }
    case R.ARM_SMMU_STRTAB_BASE:
    case R.ARM_SMMU_GERROR_IRQ_CFG0:
    case R.ARM_SMMU_EVTQ_IRQ_CFG0:
    case R.ARM_SMMU_PRIQ_IRQ_CFG0:
      return { lo: (low(page) | (r.chance(30) ? 4 * r.below(1024) : 0)) >>> 0, hi: high(page) }
    case R.ARM_SMMU_CMDQ_PROD:
    case R.ARM_SMMU_CMDQ_CONS:
    case R.ARM_SMMU_EVTQ_PROD:
    case R.ARM_SMMU_EVTQ_CONS:
    case R.ARM_SMMU_PRIQ_PROD:
    case R.ARM_SMMU_PRIQ_CONS:
      return { lo: (r.logUniform(10) | (r.chance(20) ? R.Q_OVERFLOW_FLAG : 0)) >>> 0, hi: 0 }
    default:
      return { lo: r.chance(50) ? r.logUniform(8) : r.next(), hi: r.chance(80) ? 0 : r.next() }
  }
}

const WRITABLE = R.REGISTERS.filter(
  ({ access, offset }) => access === 'RW' && (offset < R.ARM_SMMU_GATOS_CTRL || offset >= R.ARM_SMMU_PAGE1),
)

/** Register writes in the order of a driver, each now and then left out or different. */
function almostBoot(host: Host): void {
  const r = host.random
  const smmu = host.smmu
  const where = places(host)
  if (r.chance(60)) {
    host.boot(smmu, where, r.chance(20))
    return
  }
  if (r.chance(80)) host.cr0(smmu, 0)
  host.install(smmu, where)
  host.cr0(smmu, R.CR0_CMDQEN)
  if (r.chance(70)) host.commands(smmu, CFGI_ALL, SYNC, TLBI_NSNH_ALL, SYNC)
  if (r.chance(80)) host.eventQueue(smmu, where)
  if (r.chance(50)) host.priQueue(smmu, where)
  host.cr0(smmu, R.CR0_CMDQEN | (r.chance(80) ? R.CR0_EVTQEN : 0) | R.CR0_SMMUEN | (r.chance(30) ? R.CR0_PRIQEN : 0))
}

export const OPERATIONS: readonly OperationKind[] = [
  { name: 'boot', weight: 4, run: almostBoot },
  {
    name: 'attach',
    weight: 14,
    run: host => host.attach(host.smmu, host.sid(), anySte(host)),
  },
  {
    name: 'ste',
    weight: 3,
    run: host => host.ste(host.smmu, host.sid(), anySte(host)),
  },
  {
    name: 'dma',
    weight: 26,
    run: host => {
      for (let n = host.random.below(3); n >= 0; n--) host.world.perform(host.dmaStep())
    },
  },
  {
    name: 'donate',
    weight: 10,
    run: host => {
      const size = PAGE_SIZE * (host.random.chance(80) ? 1 : 1 + host.random.below(4))
      const granule = host.world.setup.granule
      const page = host.spare(() => (host.random.chance(90) ? host.victim() : host.address()), size)
      // Now and then a whole block, where there are some.
      const block = host.world.setup.blocks && host.random.chance(5) ? BLOCK_BYTES : 0
      const unit = Math.max(granule, block)
      host.transfer('donate', page - (page % unit), Math.max(size, unit), 1 + host.random.below(VMS))
    },
  },
  {
    name: 'reclaim',
    weight: 7,
    run: host => {
      const { donations, map } = host.world.oracle
      const page = donations.length > 0 && host.random.chance(90) ? host.random.pick(donations) : host.page()
      const { granule } = host.world.setup
      const base = page - (page % granule)
      const owner = map.owner(page)
      const vm = owner > 0 && host.random.chance(95) ? owner : 1 + host.random.below(VMS)
      host.transfer('reclaim', base, granule, vm)
      // All that is foreign in a block has to come back for it to be one again.
      if (!host.world.setup.blocks || !host.random.chance(20)) return
      for (const other of [...donations]) {
        const first = other - (other % granule)
        if (map.owner(first) > 0) host.transfer('reclaim', first, granule, map.owner(first))
      }
    },
  },
  {
    name: 'commands',
    weight: 10,
    run: host => {
      const count = host.random.chance(95) ? 1 + host.random.below(6) : 1 + host.random.logUniform(8)
      host.commands(host.smmu, ...Array.from({ length: count }, () => anyCommand(host)), SYNC)
    },
  },
  {
    // As many at once as the queue holds, and as a smaller one behind it does not.
    name: 'a large batch of commands',
    weight: 0.2,
    run: host => {
      const { random: r, smmu } = host
      const { cmdqLog2size, cr0 } = host.world.host[smmu]
      if (cmdqLog2size !== LARGE_LOG2SIZE || !(cr0 & R.CR0_CMDQEN)) {
        host.boot(smmu, { ...places(host), cmdq: roomOf(host.world.setup), cmdqLog2size: LARGE_LOG2SIZE })
      }
      const [page, granule] = aligned(host)
      const sid = host.sid()
      host.attach(smmu, sid, STE_BYPASS)
      const dma: Dma = { do: 'dma', smmu, sid, address: page, write: r.chance(50), how: 'untranslated' }
      host.world.perform(dma)
      host.batch(smmu, r.chance(80) ? SYNC : TLBI_NSNH_ALL, 2 ** (12 + r.below(3)) - r.below(4))
      host.transfer('donate', page, granule, 1 + r.below(VMS))
      host.world.perform(dma)
    },
  },
  {
    name: 'register',
    weight: 10,
    run: host => {
      const { offset, bits } = host.random.pick(WRITABLE)
      const { lo, hi } = valueFor(host, offset)
      host.write(host.smmu, offset, lo, bits === 64 ? hi : 0, bits / 8)
    },
  },
  {
    name: 'cr0',
    weight: 8,
    run: host => {
      const r = host.random
      const smmu = host.smmu
      const before = host.world.host[smmu].cr0
      const bit = r.pick([R.CR0_SMMUEN, R.CR0_SMMUEN, R.CR0_PRIQEN, R.CR0_EVTQEN, R.CR0_EVTQEN, R.CR0_CMDQEN])
      const value = r.chance(70) ? before ^ bit : r.below(32)
      if (r.chance(70)) host.cr0(smmu, value)
      else host.write(smmu, R.ARM_SMMU_CR0, value)
    },
  },
  {
    name: 'off and on',
    weight: 5,
    run: host => {
      const smmu = host.smmu
      const before = host.world.host[smmu].cr0
      const mask = host.random.pick([R.CR0_SMMUEN, R.CR0_SMMUEN | R.CR0_EVTQEN, 0xf])
      host.cr0(smmu, before & ~mask)
      if (host.random.chance(60)) host.transfer('donate', ...aligned(host), 1 + host.random.below(VMS))
      if (host.random.chance(30)) host.ste(smmu, host.sid(), anySte(host))
      host.cr0(smmu, before)
      host.world.perform(host.dmaStep(smmu))
    },
  },
  {
    name: 'queues',
    weight: 5,
    run: host => {
      const smmu = host.smmu
      const where = places(host)
      const before = host.world.host[smmu].cr0
      const [bit, set] = host.random.pick([
        [R.CR0_EVTQEN, () => host.eventQueue(smmu, where)],
        [R.CR0_PRIQEN, () => host.priQueue(smmu, where)],
      ] as const)
      if (host.random.chance(80)) host.cr0(smmu, before & ~bit)
      set()
      host.cr0(smmu, before | bit)
    },
  },
  {
    name: 'store',
    weight: 4,
    run: host => {
      const r = host.random
      const words = r.chance(50)
        ? halves([host.descriptor()])
        : Array.from({ length: 2 * (1 + r.below(8)) }, () => r.next())
      host.store(host.page() + 8 * r.below(512), words)
    },
  },
  {
    name: 'map',
    weight: 5,
    run: host => host.map(stage1(host).tables, host.random.pick(IOVAS), host.address(), host.random.chance(80)),
  },
  {
    name: 'interrupts',
    weight: 3,
    run: host => {
      const r = host.random
      const smmu = host.smmu
      const cfg0 = r.pick([R.ARM_SMMU_GERROR_IRQ_CFG0, R.ARM_SMMU_EVTQ_IRQ_CFG0, R.ARM_SMMU_PRIQ_IRQ_CFG0])
      host.write(smmu, R.ARM_SMMU_IRQ_CTRL, 0)
      host.write64(smmu, cfg0, host.address())
      host.write(smmu, cfg0 + 8, r.next())
      host.write(smmu, R.ARM_SMMU_IRQ_CTRL, 7)
      if (r.chance(50)) host.commands(smmu, command(0xff))
    },
  },
  {
    // An entry that has lost the address of its stage 2 finds these tables: blocks of 1 GiB, with and without a level before.
    name: 'a stage 2 of the host’s own',
    weight: 3,
    needs: ['torn'],
    run: host => {
      const r = host.random
      const { carveout } = host.world.setup
      const [smmu, sid] = [host.smmu, host.sid()]
      const region = 2 ** 30 * Math.floor(carveout.base / 2 ** 30)
      const index = 1 + r.below(3)
      host.store64(0, BigInt(PAGE_SIZE + P.ARM_LPAE_PTE_TYPE_TABLE))
      for (const table of [0, PAGE_SIZE]) host.store64(table + 8 * index, BigInt(region) | BLOCK_RW)
      host.attach(smmu, sid, r.pick([STE_ABORT, STE_INVALID]))
      host.ste(smmu, sid, r.chance(70) ? STE_BYPASS : anySte(host))
      const address = 2 ** 30 * index + (carveout.base % 2 ** 30)
      const dma: Dma = { do: 'dma', smmu, sid, address, write: r.chance(50), how: 'untranslated' }
      host.alongside([dma], () => host.commands(smmu, cfgiSte(sid), SYNC))
    },
  },
  {
    name: 'tables that change while they are read',
    weight: 3,
    run: host => {
      const [smmu, sid] = [host.smmu, host.sid()]
      host.ste(smmu, sid, anySte(host))
      const rewrite = { do: 'rewrite', words: halves([host.lure()]) } as const
      host.alongside([rewrite], () => host.commands(smmu, cfgiSte(sid), SYNC))
    },
  },
  {
    name: 'page request',
    weight: 3,
    needs: ['pri'],
    run: host => {
      const { random, world } = host
      world.perform({
        do: 'page-request',
        smmu: host.smmu,
        sid: host.sid(),
        address: random.pick(IOVAS),
        last: random.chance(50),
      })
    },
  },
  {
    name: 'acknowledge',
    weight: 2,
    run: host => {
      const smmu = host.smmu
      host.write(smmu, R.ARM_SMMU_GERRORN, host.read(smmu, R.ARM_SMMU_GERROR))
    },
  },
  { name: 'settle', weight: 3, needs: ['lag', 'slow'], run: host => host.world.perform({ do: 'settle' }) },
  {
    name: 'take-over',
    weight: 0.4,
    run: host => {
      const each = host.random.chance(30) ? { each: [host.dmaStep()] } : {}
      const dies = host.random.chance(20) ? { dies: 1 + host.random.logUniform(8) } : {}
      host.world.perform({ do: 'take-over', ...each, ...dies })
    },
  },
  { name: 'reset', weight: 0.3, run: host => host.world.perform({ do: 'reset' }) },
  {
    name: 'odd access',
    weight: 2,
    run: host => {
      const r = host.random
      const offset = r.chance(70) ? r.pick(R.REGISTERS).offset + r.below(8) : r.logUniform(17)
      const size = r.pick([1, 2, 4, 8])
      if (r.chance(50)) host.read(host.smmu, offset, size)
      else host.write(host.smmu, offset, r.next(), size === 8 ? r.next() : 0, size)
    },
  },
]

/** Of a host that may have SMMUs switched off and on. */
export const POWER_OPERATIONS: readonly OperationKind[] = [
  {
    name: 'power',
    weight: 8,
    switches: true,
    run: host => void host.power(host.smmu, host.random.pick(['on', 'on', 'retained', 'off'])),
  },
  {
    name: 'power off and on',
    weight: 12,
    switches: true,
    run: host => {
      const r = host.random
      const smmu = host.smmu
      const before = host.world.host[smmu].cr0
      if (r.chance(20)) host.cr0(smmu, r.pick([0, R.CR0_CMDQEN, before ^ R.CR0_SMMUEN]))
      const dma = host.dmaStep(smmu)
      host.world.perform(dma)
      host.power(smmu, r.pick(['retained', 'off']))
      if (r.chance(60)) host.transfer('donate', ...aligned(host), 1 + r.below(VMS))
      if (r.chance(30)) host.ste(smmu, host.sid(), anySte(host))
      if (r.chance(10)) host.write(smmu, R.ARM_SMMU_CMDQ_PROD, r.below(8))
      host.world.perform(dma)
      if (r.chance(80)) host.alongside([dma], () => host.power(smmu, 'on'))
      else host.power(smmu, 'on')
      if (r.chance(50)) host.boot(smmu, places(host))
      else if (r.chance(30)) host.cr0(smmu, before)
      host.world.perform(dma)
    },
  },
]

/** Anywhere in a GiB that EL2 may have tables for: RAM, and what is no RAM. */
const anywhere = (host: Host): number => (host.random.chance(85) ? host.data() : host.address())

const TOUCH: OperationKind = {
  name: 'touch',
  weight: 14,
  shares: true,
  run: host => {
    for (let n = host.random.below(4); n >= 0; n--) host.el2('touch', anywhere(host))
    host.el2('leave')
  },
}

/** Of drivers whose EL2 has tables for its host: what is not theirs or is while EL2 is at it, nobody has promised them. */
export const DRIVER_EL2_OPERATIONS: readonly OperationKind[] = [
  TOUCH,
  {
    name: 'EL2 tidies up',
    weight: 6,
    shares: true,
    run: host => {
      host.el2(host.random.pick(['merge', 'unmap', 'unmap-gib']), anywhere(host), host.random.chance(85))
      host.el2('leave')
    },
  },
]

/** Of a host whose EL2 keeps tables for it: it touches, gives away and gets back, and EL2 is at it for as long as the attacker likes. */
export const EL2_OPERATIONS: readonly OperationKind[] = [
  TOUCH,
  {
    name: 'tables that are used again',
    weight: 10,
    shares: true,
    run: host => {
      const r = host.random
      const dma = host.dmaStep()
      const page = dma.address - (dma.address % PAGE_SIZE)
      host.el2('touch', page)
      host.el2('leave')
      host.world.perform(dma)
      const tlbi = r.chance(85)
      host.alongside([dma], () => host.el2(r.pick(['merge', 'merge', 'unmap', 'unmap-gib']), page, tlbi))
      host.world.perform(dma)
      for (let n = r.below(3); n > 0; n--)
        host.el2(
          r.pick(['touch', 'take']),
          host.spare(() => anywhere(host)),
        )
      host.world.perform(dma)
      host.el2('leave')
      host.world.perform(dma)
    },
  },
  {
    name: 'a stay in EL2',
    weight: 12,
    shares: true,
    run: host => {
      const r = host.random
      const { donations } = host.world.oracle
      for (let n = 1 + r.below(6); n > 0; n--) {
        const what = r.pick(['touch', 'touch', 'take', 'take', 'give', 'merge', 'unmap', 'unmap-gib'] as const)
        const page = what === 'give' && donations.length > 0 ? r.pick(donations) : host.spare(() => anywhere(host))
        host.el2(what, page, r.chance(90))
        if (r.chance(40)) host.world.perform(host.dmaStep())
      }
      if (r.chance(85)) host.el2('leave')
    },
  },
]

/** A page that could be donated, whole granules. */
function aligned(host: Host): [number, number] {
  const { granule } = host.world.setup
  const page = host.spare(() => host.victim())
  return [page - (page % granule), granule]
}
