// SPDX-License-Identifier: Apache-2.0
/**
 * The host: it knows what it wrote to registers, builds tables and commands in memory, and does what drivers do, in steps. Where it has a
 * choice its random numbers decide.
 */

import { PAGE_SIZE } from '../oracle/pageMap.ts'
import { fieldPrep, fieldPrep64 } from '../smmu/bits.ts'
import * as CD from '../smmu/cd.ts'
import * as C from '../smmu/commands.ts'
import type { PowerState } from '../smmu/hardware.ts'
import * as P from '../smmu/pagetable.ts'
import { queueAdvance, queueIndex } from '../smmu/queue.ts'
import * as R from '../smmu/registers.ts'
import * as S from '../smmu/ste.ts'
import type { Random } from './random.ts'
import { framesOf, hotPages, sidsOf } from './setup.ts'
import type { Access, Dma, El2Step, Interleaved, Meanwhile } from './steps.ts'
import type { World } from './world.ts'

/** A command: four words. */
export type Command = readonly [number, number, number, number]

/** What CR1 has to be: inner shareable, write-back. */
export const CR1 = 0xd75
/** Input addresses of stage 1 that everybody uses: 39 bits. */
export const IOVAS = [0x0, 0x1000, 0x20_0000, 0x4000_0000, 0x7f_ffff_f000] as const
/** VMs that pages are given to. */
const VMS = 3
/** Bits of StreamIDs that one L1 descriptor covers (SPLIT). */
const SPLIT = 8
/** How often EL2 takes whatever page it is, and how often hardware stands at an error before that, in percent. */
const USED_PERCENT = 10
const STANDING_PERCENT = 15
/** Pages that are looked at for one that no SMMU uses. */
const LOOKS = 8

export const low = (value: number): number => value % 2 ** 32
export const high = (value: number): number => Math.floor(value / 2 ** 32)

/** 64-bit words as pairs of 32-bit ones. */
export function halves(words: readonly bigint[]): number[] {
  const split: number[] = []
  for (const word of words) split.push(Number(word & 0xffff_ffffn), Number(word >> 32n))
  return split
}

export const command = (w0: number, w1 = 0, w2 = 0, w3 = 0): Command => [w0 >>> 0, w1 >>> 0, w2 >>> 0, w3 >>> 0]
export const SYNC = command(C.CMDQ_OP_CMD_SYNC | fieldPrep(C.CMDQ_SYNC_0_CS.mask, C.CMDQ_SYNC_0_CS_SEV))
export const CFGI_ALL = command(C.CMDQ_OP_CFGI_ALL, 0, C.CMDQ_CFGI_RANGE_ALL)
export const TLBI_NSNH_ALL = command(C.CMDQ_OP_TLBI_NSNH_ALL)
export const cfgiSte = (sid: number, leaf = 1): Command => command(C.CMDQ_OP_CFGI_STE, sid, leaf)

/** Words 0 and 1 of the STEs that a driver makes. */
export const STE_INVALID: readonly bigint[] = [0n]
export const STE_ABORT: readonly bigint[] = [S.STRTAB_STE_0_V]
export const STE_BYPASS: readonly bigint[] = [
  S.STRTAB_STE_0_V | fieldPrep64(S.STRTAB_STE_0_CFG, S.STRTAB_STE_0_CFG_BYPASS),
  fieldPrep64(S.STRTAB_STE_1_SHCFG, S.STRTAB_STE_1_SHCFG_INCOMING),
]

/** An STE with stage 1: one CD at `cd`, or a linear table of `2 ** cdMax`. */
export function steStage1(cd: number, cdMax = 0, dss = 0): bigint[] {
  return [
    S.STRTAB_STE_0_V |
      fieldPrep64(S.STRTAB_STE_0_CFG, S.STRTAB_STE_0_CFG_S1_TRANS) |
      (BigInt(cd) & S.STRTAB_STE_0_S1CTXPTR_MASK) |
      fieldPrep64(S.STRTAB_STE_0_S1CDMAX, cdMax),
    fieldPrep64(S.STRTAB_STE_1_S1DSS, dss) |
      fieldPrep64(S.STRTAB_STE_1_S1CIR, 1) |
      fieldPrep64(S.STRTAB_STE_1_S1COR, 1) |
      fieldPrep64(S.STRTAB_STE_1_S1CSH, 3),
  ]
}

/** A CD for 39-bit addresses in 4 KiB pages from a table at `ttb`, as Linux makes them. */
export function cdWords(ttb: number, asid: number): bigint[] {
  return [
    CD.CTXDESC_CD_0_V |
      CD.CTXDESC_CD_0_AA64 |
      CD.CTXDESC_CD_0_R |
      CD.CTXDESC_CD_0_A |
      CD.CTXDESC_CD_0_ASET |
      CD.CTXDESC_CD_0_TCR_EPD1 |
      fieldPrep64(CD.CTXDESC_CD_0_TCR_T0SZ, 25) |
      fieldPrep64(CD.CTXDESC_CD_0_TCR_IPS, R.IDR5_OAS_48_BIT) |
      fieldPrep64(CD.CTXDESC_CD_0_ASID, asid),
    BigInt(ttb) & CD.CTXDESC_CD_1_TTB0_MASK,
    0n,
    0xffn,
  ]
}

const LEAF =
  P.ARM_LPAE_PTE_TYPE_PAGE | P.ARM_LPAE_PTE_AF | P.ARM_LPAE_PTE_SH_IS | P.ARM_LPAE_PTE_AP_UNPRIV | P.ARM_LPAE_PTE_nG

export class Host {
  readonly world: World
  readonly random: Random
  readonly pages: readonly number[]
  readonly sids: readonly number[]
  readonly #frames: readonly number[]
  #each: readonly Meanwhile[] | undefined
  #wrong = false
  readonly #into = { lo: 0, hi: 0 }
  /** How often a step gets something that happens meanwhile, in percent. */
  interleaving = 0
  /** It reads CMDQ_CONS after its commands, as Linux does. */
  polls = false

  constructor(world: World, random: Random) {
    const { setup } = world
    this.world = world
    this.random = random
    this.pages = hotPages(setup)
    this.sids = sidsOf(setup)
    this.#frames = framesOf(setup).map(({ base }) => base)
  }

  // Choices.

  get smmu(): number {
    return this.random.below(this.world.setup.smmus)
  }

  /** Streams that a driver may configure. */
  drivenSids(smmu: number): readonly number[] {
    const { oracle } = this.world
    return this.sids.filter(sid => oracle.isGuests(smmu, sid))
  }

  page(): number {
    return this.random.pick(this.pages)
  }

  sid(): number {
    const r = this.random
    const { reached } = this.world.devices
    if (reached.length > 0 && r.chance(25)) return r.pick(reached).step.sid
    if (r.chance(92)) return r.pick(this.sids)
    return r.logUniform(Math.min(32, this.world.setup.sidBits + 1))
  }

  /** An address that somebody who means harm would try. */
  address(): number {
    const r = this.random
    const { donations } = this.world.oracle
    const kind = r.below(10)
    if (kind < 4 && donations.length > 0) return r.pick(donations)
    if (kind < 7) return this.page()
    const { carveout } = this.world.setup
    if (kind === 7) return carveout.base + PAGE_SIZE * r.below(carveout.size / PAGE_SIZE)
    if (kind === 8) return r.pick(IOVAS)
    return r.pick([r.pick(this.#frames) + PAGE_SIZE * r.below(32), 0x0900_0000, 2 ** 36, 2 ** 40, r.logUniform(52)])
  }

  // Steps.

  /** What happens after each access of the hypervisor while `act` makes steps. */
  alongside(each: readonly Meanwhile[], act: () => void): void {
    this.#each = each
    act()
    this.#each = undefined
  }

  /** Sometimes something happens while the hypervisor is at it. */
  #meanwhile(): Interleaved | undefined {
    const r = this.random
    if (this.#each !== undefined) return { each: this.#each }
    if (this.interleaving === 0 || !r.chance(this.interleaving)) return undefined
    // A successor costs a thousand times what a step does.
    if (r.chance(3)) return { dies: 1 + r.logUniform(7) }
    switch (r.below(6)) {
      case 0:
      case 1:
        return { each: [this.dmaStep()] }
      case 5:
        return { each: [{ do: 'rewrite', words: halves([this.lure()]) }] }
      case 2:
        return { during: [{ access: 1 + r.logUniform(6), steps: [this.dmaStep()] }] }
      default: {
        const address = this.page() + 8 * r.below(512)
        const words = r.chance(50) ? [0, 0] : halves([this.descriptor()])
        return { during: [{ access: 1 + r.logUniform(5), steps: [{ do: 'store', address, words }] }] }
      }
    }
  }

  /** What `act` writes to registers is wrong of a driver: the hypervisor may warn, or do what hardware would. */
  wrongly(act: () => void): void {
    this.#wrong = true
    act()
    this.#wrong = false
  }

  write(smmu: number, offset: number, lo: number, hi = 0, size = 4): void {
    const wrong = this.#wrong ? ({ wrong: true } as const) : undefined
    const step: Access = { do: 'write', smmu, offset, size, lo: lo >>> 0, hi: hi >>> 0, ...wrong }
    const meanwhile = this.#meanwhile()
    this.world.perform(meanwhile === undefined ? step : { ...step, ...meanwhile })
  }

  /** A 64-bit register that holds an address, with further bits of either half. */
  write64(smmu: number, offset: number, address: number, lo = 0, hi = 0): void {
    this.write(smmu, offset, low(address) | lo, high(address) | hi, 8)
  }

  read(smmu: number, offset: number, size = 4): number {
    this.world.perform({ do: 'read', smmu, offset, size, lo: 0, hi: 0 })
    return this.world.answer.lo
  }

  store(address: number, words: readonly number[]): void {
    this.#clearErrors()
    this.world.perform({ do: 'store', address, words })
  }

  store64(address: number, ...words: readonly bigint[]): void {
    this.store(address, halves(words))
  }

  /** Something that looks like a descriptor of a table: a page with low bits. */
  /** An L1 descriptor that leads where the hypervisor must not look. */
  lure(): bigint {
    const { donations } = this.world.oracle
    const page = donations.length > 0 ? this.random.pick(donations) : this.page()
    return BigInt(page) + BigInt(1 + this.random.below(SPLIT + 1))
  }

  descriptor(): bigint {
    return BigInt(this.page()) | BigInt(this.random.logUniform(12))
  }

  /** A page that a device just reached, or any. */
  data(): number {
    const { reached } = this.world.devices
    return reached.length > 0 && this.random.chance(50) ? this.random.pick(reached).page : this.page()
  }

  /** A page that is in use, by devices or the SMMUs, or one before it, where hardware aligns a queue down to; or any. */
  victim(): number {
    const r = this.random
    if (r.chance(75)) return this.data()
    const { host } = this.world
    const { strtabBase, cmdqBase, evtqBase, priqBase } = r.pick(host)
    const base = r.pick([strtabBase, cmdqBase, evtqBase, evtqBase, priqBase])
    const page = base - (base % PAGE_SIZE)
    return r.chance(30) && page >= PAGE_SIZE ? page - PAGE_SIZE : page
  }

  /**
   * A page for EL2 to take. Where devices share its tables mostly one that no SMMU uses without a second stage, for EL2 does not go on from that.
   * @param bytes that it takes
   */
  spare(choose: () => number, bytes = PAGE_SIZE): number {
    let page = choose()
    if (this.world.setup.shared === undefined || this.random.chance(USED_PERCENT)) return page
    for (let look = 1; look < LOOKS && this.#isUsed(page - (page % PAGE_SIZE), bytes); look++) page = choose()
    return page
  }

  /** Whether SMMUs use any of it without a second stage, by what the host wrote. */
  #isUsed(from: number, bytes: number): boolean {
    const { world } = this
    const meets = (base: number, size: number): boolean => {
      // Hardware aligns a queue down to its size.
      const first = base - (base % size)
      return first < from + bytes && base + size > from
    }
    return world.host.some(({ cr0, ...queue }) => {
      if (cr0 & R.CR0_CMDQEN && meets(queue.cmdqBase, 16 * 2 ** queue.cmdqLog2size)) return true
      if (cr0 & R.CR0_EVTQEN && meets(queue.evtqBase, 32 * 2 ** queue.evtqLog2size)) return true
      if (cr0 & R.CR0_PRIQEN && meets(queue.priqBase, 16 * 2 ** queue.priqLog2size)) return true
      if (!(cr0 & R.CR0_SMMUEN)) return false
      if (meets(queue.strtabBase, this.strtabBytes())) return true
      return (
        (queue.strtabCfg & R.STRTAB_BASE_CFG_FMT) >>> 16 === R.STRTAB_BASE_CFG_FMT_2LVL &&
        this.sids.some(sid => {
          const l1 = queue.strtabBase + 8 * (sid >>> SPLIT)
          const [lo, hi] = [world.memory.word(l1), world.memory.word(l1 + 4)]
          const span = lo & 0x1f
          return (
            span > 0 &&
            span <= SPLIT + 1 &&
            meets((hi & 0xff_ffff) * 2 ** 32 + ((lo & ~0x3f) >>> 0), 64 * 2 ** (span - 1))
          )
        })
      )
    })
  }

  /** Hardware that stopped at a command forgets nothing, and EL2 waits for that: mostly a host lets it go on before, as Linux does. */
  #clearErrors(): void {
    const { world } = this
    if (world.setup.shared === undefined) return
    for (const [smmu, soft] of world.smmus.entries()) {
      soft.read(R.ARM_SMMU_CMDQ_CONS, 4, this.#into)
      if (!(this.#into.lo & R.CMDQ_CONS_ERR) || this.random.chance(STANDING_PERCENT)) continue
      const { cmdqBase, cmdqLog2size } = world.host[smmu]
      const index = queueIndex(this.read(smmu, R.ARM_SMMU_CMDQ_CONS), Math.min(cmdqLog2size, 19))
      world.perform({ do: 'store', address: cmdqBase + 16 * index, words: SYNC })
      this.write(smmu, R.ARM_SMMU_GERRORN, this.read(smmu, R.ARM_SMMU_GERROR))
    }
  }

  dmaStep(smmu = this.smmu): Dma {
    const r = this.random
    const { reached } = this.world.devices
    // Once more: what it needs may have been taken away meanwhile.
    if (reached.length > 0 && r.chance(30)) return r.pick(reached).step
    const { setup } = this.world
    const ats = setup.hardware.includes('ats')
    const how = ats ? r.pick(['untranslated', 'untranslated', 'atc', 'translated'] as const) : 'untranslated'
    const ssid = setup.ssidBits > 0 && r.chance(20) ? { ssid: r.below(4) } : {}
    const address = this.address() + (r.chance(50) ? 0 : r.below(PAGE_SIZE))
    return { do: 'dma', smmu, sid: this.sid(), ...ssid, address, write: r.chance(50), how }
  }

  transfer(kind: 'donate' | 'reclaim', base: number, size: number, vm: number): void {
    this.#clearErrors()
    const meanwhile = this.#meanwhile()
    this.world.perform({ do: kind, base, size, vm, ...meanwhile })
  }

  /** EL2 acts for its host. @param tlbi for what it breaks */
  el2(what: El2Step['what'], page = 0, tlbi = true): void {
    this.#clearErrors()
    const meanwhile = this.#meanwhile()
    const address = page - (page % PAGE_SIZE)
    this.world.perform({ do: 'el2', what, address, vm: 1 + this.random.below(VMS), tlbi, ...meanwhile })
  }

  /** Asks for an SMMU to be switched off or on. @returns whether it is in that state */
  power(smmu: number, state: PowerState): boolean {
    const meanwhile = this.#meanwhile()
    this.world.perform({ do: 'power', smmu, state, ...meanwhile })
    return this.world.powerOf(smmu) === state
  }

  // Commands.

  /** Puts commands where the queue is thought to be, and rings the doorbell. */
  commands(smmu: number, ...commands: readonly Command[]): void {
    const { cmdqBase, cmdqLog2size, cmdqProd } = this.world.host[smmu]
    const bits = Math.min(cmdqLog2size, 19)
    let prod = cmdqProd
    for (let i = 0; i < commands.length; ) {
      const index = queueIndex(prod, bits)
      const run = Math.min(commands.length - i, 2 ** bits - index)
      this.store(cmdqBase + 16 * index, commands.slice(i, i + run).flat())
      prod = queueAdvance(prod, bits, run)
      i += run
    }
    this.write(smmu, R.ARM_SMMU_CMDQ_PROD, prod)
    if (this.polls || this.random.chance(10)) this.read(smmu, R.ARM_SMMU_CMDQ_CONS)
  }

  /** Puts the same command into the queue so often, and rings the doorbell once. */
  batch(smmu: number, words: Command, count: number): void {
    const { cmdqBase, cmdqLog2size, cmdqProd } = this.world.host[smmu]
    const index = queueIndex(cmdqProd, cmdqLog2size)
    const untilWrap = Math.min(count, 2 ** cmdqLog2size - index)
    this.world.perform({ do: 'store', address: cmdqBase + 16 * index, words, times: untilWrap })
    if (count > untilWrap) this.world.perform({ do: 'store', address: cmdqBase, words, times: count - untilWrap })
    this.write(smmu, R.ARM_SMMU_CMDQ_PROD, queueAdvance(cmdqProd, cmdqLog2size, count))
  }

  // Tables.

  /** Makes sure that the stream has a place in the stream table. Returns the address of its STE; undefined if it cannot have one. */
  steAddress(smmu: number, sid: number, l2 = this.page()): number | undefined {
    const { strtabBase, strtabCfg } = this.world.host[smmu]
    const format = (strtabCfg & R.STRTAB_BASE_CFG_FMT) >>> 16
    if (format !== R.STRTAB_BASE_CFG_FMT_2LVL) return strtabBase + 64 * sid
    const l1 = strtabBase + 8 * (sid >>> SPLIT)
    const index = sid & (2 ** SPLIT - 1)
    const { memory } = this.world
    const span = memory.word(l1) & 0x1f
    const table = (memory.word(l1 + 4) & 0xff_ffff) * 2 ** 32 + ((memory.word(l1) & ~0x3f) >>> 0)
    if (span > 0 && span <= SPLIT + 1 && index < 2 ** (span - 1)) return table + 64 * index
    const bits = Math.max(1, 32 - Math.clz32(index))
    const size = 2 ** bits * 64
    const base = l2 - (l2 % size)
    this.store64(l1, BigInt(base) + BigInt(bits + 1))
    return base + 64 * index
  }

  /** Writes an STE, all of it. */
  ste(smmu: number, sid: number, words: readonly bigint[], l2?: number): void {
    const address = this.steAddress(smmu, sid, l2)
    if (address !== undefined) this.store64(address, ...Array.from({ length: 8 }, (_, i) => words[i] ?? 0n))
  }

  /** STE, CFGI_STE, SYNC. */
  attach(smmu: number, sid: number, words: readonly bigint[], l2?: number): void {
    this.ste(smmu, sid, words, l2)
    this.commands(smmu, cfgiSte(sid), SYNC)
  }

  /** Maps an address of a 39-bit stage 1 whose three tables are at `tables`. */
  map(tables: readonly number[], iova: number, target: number, valid = true): void {
    const [l1, l2, l3] = tables
    this.store64(l1 + 8 * Math.floor(iova / 2 ** 30), BigInt(l2 + P.ARM_LPAE_PTE_TYPE_TABLE))
    this.store64(l2 + 8 * (Math.floor(iova / 2 ** 21) % 512), BigInt(l3 + P.ARM_LPAE_PTE_TYPE_TABLE))
    const leaf = BigInt(target - (target % PAGE_SIZE)) | BigInt(LEAF)
    this.store64(l3 + 8 * (Math.floor(iova / 2 ** 12) % 512), valid ? leaf : 0n)
  }

  // What drivers do.

  /** STRTAB_BASE_CFG for as many StreamIDs as there are. */
  strtabCfg(): number {
    const { twoLevel, sidBits } = this.world.setup
    if (!twoLevel || sidBits <= SPLIT) return sidBits
    return (
      fieldPrep(R.STRTAB_BASE_CFG_FMT, R.STRTAB_BASE_CFG_FMT_2LVL) |
      fieldPrep(R.STRTAB_BASE_CFG_SPLIT, SPLIT) |
      fieldPrep(R.STRTAB_BASE_CFG_LOG2SIZE, sidBits)
    )
  }

  /** Bytes of the stream table's first level, or of all of a linear one. */
  strtabBytes(): number {
    const { twoLevel, sidBits } = this.world.setup
    return twoLevel && sidBits > SPLIT ? 8 * 2 ** (sidBits - SPLIT) : 64 * 2 ** sidBits
  }

  /** A write of CR0, and the wait for its acknowledgement. */
  cr0(smmu: number, value: number): void {
    this.write(smmu, R.ARM_SMMU_CR0, value)
    for (let polls = 0; polls < ACK_POLLS; polls++) if (this.read(smmu, R.ARM_SMMU_CR0ACK) === value) return
  }

  /** The registers of the command queue and stream table, while all is off. */
  install(smmu: number, { strtab, cmdq, cmdqLog2size }: Places): void {
    this.write(smmu, R.ARM_SMMU_CR1, CR1)
    this.write(smmu, R.ARM_SMMU_CR2, R.CR2_PTM | R.CR2_RECINVSID)
    this.write64(smmu, R.ARM_SMMU_STRTAB_BASE, strtab, 0, R.STRTAB_BASE_HI_RA)
    this.write(smmu, R.ARM_SMMU_STRTAB_BASE_CFG, this.strtabCfg())
    this.write64(smmu, R.ARM_SMMU_CMDQ_BASE, cmdq, cmdqLog2size, R.Q_BASE_HI_RWA)
    this.write(smmu, R.ARM_SMMU_CMDQ_PROD, 0)
    this.write(smmu, R.ARM_SMMU_CMDQ_CONS, 0)
  }

  eventQueue(smmu: number, { evtq, evtqLog2size }: Places): void {
    this.write64(smmu, R.ARM_SMMU_EVTQ_BASE, evtq, evtqLog2size, R.Q_BASE_HI_RWA)
    this.write(smmu, R.ARM_SMMU_EVTQ_PROD, 0)
    this.write(smmu, R.ARM_SMMU_EVTQ_CONS, 0)
  }

  priQueue(smmu: number, { priq, priqLog2size }: Places): void {
    this.write64(smmu, R.ARM_SMMU_PRIQ_BASE, priq, priqLog2size, R.Q_BASE_HI_RWA)
    this.write(smmu, R.ARM_SMMU_PRIQ_PROD, 0)
    this.write(smmu, R.ARM_SMMU_PRIQ_CONS, 0)
  }

  /** What Linux does at its start. `crash`: as a kernel that was booted by a crash, which does without events. */
  boot(smmu: number, places: Places, crash = false): void {
    const pri = (this.read(smmu, R.ARM_SMMU_IDR0) & R.IDR0_PRI) !== 0
    let enables: number = R.CR0_CMDQEN
    this.cr0(smmu, 0)
    this.install(smmu, places)
    this.cr0(smmu, enables)
    this.commands(smmu, CFGI_ALL, SYNC)
    this.commands(smmu, TLBI_NSNH_ALL, SYNC)
    this.eventQueue(smmu, places)
    enables |= R.CR0_EVTQEN
    this.cr0(smmu, enables)
    if (pri) {
      this.priQueue(smmu, places)
      enables |= R.CR0_PRIQEN
      this.cr0(smmu, enables)
    }
    this.write(smmu, R.ARM_SMMU_IRQ_CTRL, 0)
    this.write(smmu, R.ARM_SMMU_GERROR_IRQ_CFG0, 0, 0, 8)
    this.write(smmu, R.ARM_SMMU_EVTQ_IRQ_CFG0, 0, 0, 8)
    if (pri) this.write(smmu, R.ARM_SMMU_PRIQ_IRQ_CFG0, 0, 0, 8)
    const interrupts = R.IRQ_CTRL_EVTQ_IRQEN | R.IRQ_CTRL_GERROR_IRQEN | (pri ? R.IRQ_CTRL_PRIQ_IRQEN : 0)
    this.write(smmu, R.ARM_SMMU_IRQ_CTRL, interrupts)
    if (crash) enables &= ~(R.CR0_EVTQEN | R.CR0_PRIQEN)
    this.cr0(smmu, enables | R.CR0_SMMUEN)
  }
}

/** Where a driver puts what the hardware uses. */
export interface Places {
  readonly strtab: number
  readonly cmdq: number
  readonly cmdqLog2size: number
  readonly evtq: number
  readonly evtqLog2size: number
  readonly priq: number
  readonly priqLog2size: number
}

/** Reads of CR0ACK before a driver gives up. */
const ACK_POLLS = 16
