// SPDX-License-Identifier: Apache-2.0
/**
 * Shadow stream table (server/hypervisor/README.md, section 7): in hypervisor memory, and the one that the hardware reads. On CFGI_STE
 * the host's entry is converted and written here, in an order in which no half-written entry is ever live.
 */
import { STE_INVALID } from '../../policy/report.ts'
import { EFAULT, ENODEV, ENOENT, ENOMEM, EPERM, ERANGE, ETIMEDOUT, OK } from '../../policy/result.ts'
import { exceeds, fieldGet, fieldGet64, fieldPrep, TWO_POW_32 } from '../../smmu/bits.ts'
import { atcInvAll, cfgiSte } from '../../smmu/commands.ts'
import {
  ARM_SMMU_CR0ACK,
  ARM_SMMU_IDR1,
  ARM_SMMU_STRTAB_BASE,
  ARM_SMMU_STRTAB_BASE_CFG,
  CR0_SMMUEN,
  IDR1_SSIDSIZE,
  STRTAB_BASE_CFG_FMT,
  STRTAB_BASE_CFG_FMT_2LVL,
  STRTAB_BASE_CFG_FMT_LINEAR,
  STRTAB_BASE_CFG_LOG2SIZE,
  STRTAB_BASE_CFG_SPLIT,
  STRTAB_BASE_HI_RA,
} from '../../smmu/registers.ts'
import {
  STRTAB_STE_0_V,
  STRTAB_STE_1_EATS,
  STRTAB_STE_2_VTCR,
  STRTAB_STE_3_S2TTB_MASK,
  STRTAB_STE_DWORDS,
  STRTAB_STE_SIZE,
} from '../../smmu/ste.ts'
import {
  l1DescriptorAddress,
  readSte,
  STE_ABSENT,
  STRTAB_L1_DESC_SIZE,
  type StreamTable,
  steAddress,
  steTables,
} from '../../smmu/strtab.ts'
import type { SmmuContext } from './context.ts'
import type { HostStrtab } from './hostStrtab.ts'
import type { Idmap } from './idmap.ts'
import type { ShadowCmdq } from './shadowCmdq.ts'
import { StateLayout } from './stateLayout.ts'
import { hasAts, hasStage2, isValid, type StreamRule, steConfig, steOrder, translates } from './steRules.ts'
import { STRTAB_L2_BYTES, STRTAB_L2_STES, STRTAB_SPLIT, strtabShape } from './strtabShape.ts'
import { HYP_CFGI_STE, HYP_STE_UNSHADOWED } from './warnings.ts'

/** Word 0 of an entry that aborts without an event. */
const ABORT_BYTES = new Uint8Array(BigUint64Array.of(STRTAB_STE_0_V).buffer)

/** Streams that a machine may have: all are in the checkpoint, and QEMU keeps MAX_CHECKPOINT bytes of it (76 for each). */
export const MAX_STREAMS = 4096

/** What the host configured for a StreamID, and what stands in the shadow table. */
export interface Stream {
  readonly sid: number
  /** Eight 64-bit words. */
  readonly host: BigUint64Array
  readonly shadow: BigUint64Array
  /** Trap of the last change. */
  trap: number
}

/** What a checkpoint holds, besides the streams. */
export interface ShadowStrtabState {
  /** Address of the table: its L1 descriptors, or its entries when it is linear. 0: there is none. */
  base: number
}

/** What is the matter with a StreamID that has no entry. */
const ABSENT: ReadonlySet<number> = new Set([ENOENT, ERANGE])

export const SHADOW_STRTAB_STATE = new StateLayout<ShadowStrtabState>({ base: 'u53' })

/** How a take-over found the table. */
export interface TableTakenOver {
  /** What was put right, in words. */
  readonly changes: readonly string[]
  /** Why it cannot be used, or null. */
  readonly problem: string | null
}

export class ShadowStrtab {
  readonly #smmu: SmmuContext
  readonly #host: HostStrtab
  readonly #cmdq: ShadowCmdq
  readonly #rule: StreamRule
  readonly state: ShadowStrtabState = { base: 0 }
  /** By StreamID, those that were shadowed. */
  readonly streams = new Map<number, Stream>()

  readonly #hostSte = new BigUint64Array(STRTAB_STE_DWORDS)
  readonly #hostBytes = new Uint8Array(this.#hostSte.buffer)
  readonly #ste = new BigUint64Array(STRTAB_STE_DWORDS)
  readonly #bytes = new Uint8Array(this.#ste.buffer)
  /** What stood in the table before an update. */
  readonly #old = new BigUint64Array(STRTAB_STE_DWORDS)
  readonly #oldBytes = new Uint8Array(this.#old.buffer)
  readonly #descriptor = new Uint32Array(2)
  readonly #descriptorBytes = new Uint8Array(this.#descriptor.buffer)
  /** Trap in which all entries were made anew last. */
  #renewed = 0
  /** Entries abort until they can be put right (`makeUp`). */
  #aborts = false

  constructor(smmu: SmmuContext, host: HostStrtab, cmdq: ShadowCmdq, rule: StreamRule) {
    this.#smmu = smmu
    this.#host = host
    this.#cmdq = cmdq
    this.#rule = rule
  }

  reset(): void {
    this.state.base = 0
    this.streams.clear()
    this.#renewed = 0
    this.#aborts = false
  }

  /** Bytes of the table that exist from the start. */
  get bytes(): number {
    return strtabShape(this.#smmu.features).bytes
  }

  /** Installs the empty table in the hardware. */
  program(base: number): void {
    this.state.base = base
    const { hardware } = this.#smmu
    hardware.write64(ARM_SMMU_STRTAB_BASE, base, STRTAB_BASE_HI_RA)
    hardware.write32(ARM_SMMU_STRTAB_BASE_CFG, this.cfg)
  }

  /** STRTAB_BASE_CFG of the hardware. */
  get cfg(): number {
    const { twoLevel, log2size } = strtabShape(this.#smmu.features)
    const format = twoLevel
      ? fieldPrep(STRTAB_BASE_CFG_FMT, STRTAB_BASE_CFG_FMT_2LVL) | fieldPrep(STRTAB_BASE_CFG_SPLIT, STRTAB_SPLIT)
      : fieldPrep(STRTAB_BASE_CFG_FMT, STRTAB_BASE_CFG_FMT_LINEAR)
    return format | fieldPrep(STRTAB_BASE_CFG_LOG2SIZE, log2size)
  }

  get #table(): StreamTable {
    const { twoLevel, log2size } = strtabShape(this.#smmu.features)
    return { twoLevel, base: this.state.base, log2size, split: twoLevel ? STRTAB_SPLIT : 0 }
  }

  /**
   * CFGI_STE of the host: makes the shadow of the entry anew. Where the host may do all that the architecture allows, an entry that is
   * not there is no error, nor is it to say so while there is no table; with Leaf = 0 all entries are made anew, for those of the L1
   * descriptor may be others by now.
   */
  configure(sid: number, leaf: boolean): number {
    const { choices } = this.#smmu.hyp
    if (!choices.anyInvalidation) return this.#configure(sid, leaf)
    if (this.#host.table === null) return OK
    if (!leaf) {
      this.configureAll()
      return OK
    }
    const result = this.#configure(sid, leaf)
    return ABSENT.has(result) ? OK : result
  }

  #configure(sid: number, leaf: boolean): number {
    const { hyp } = this.#smmu
    if (hyp.quirks.has('pool-leak') && sid < 2 ** this.#table.log2size) this.#entry(sid)
    // The host's entry comes first: a StreamID without one must not cost a table.
    const found = this.#convert(sid, leaf)
    // The host's table may be larger than the shadow can be.
    const converted = found === OK && exceeds(sid, this.#table.log2size) ? ERANGE : found
    if (converted !== OK) {
      this.#lose(sid)
      return converted
    }
    if (!this.streams.has(sid) && hyp.streamCount() >= MAX_STREAMS) return ENOMEM
    const entry = this.#entry(sid)
    if (entry.address < 0) return entry.address
    const updated = this.#update(sid, entry.address, entry.leaf)
    if (updated === OK || this.#stands(entry.address)) this.#remember(sid)
    else this.#forget(sid)
    return updated
  }

  /**
   * Where the entry of a StreamID is, or will be, or an error.
   * @returns leaf: false when its L2 table is new; an L1 descriptor without one may be cached as well
   */
  #entry(sid: number): { readonly address: number; readonly leaf: boolean } {
    const found = steAddress(this.#table, sid, this.#smmu.hyp.memory)
    const leaf = found !== STE_ABSENT
    return { address: leaf ? (found < 0 ? EFAULT : found) : this.#growTable(sid), leaf }
  }

  /** Makes `#ste` of the host's entry. */
  #convert(sid: number, leaf: boolean): number {
    const fetched = this.#host.fetch(sid, leaf, this.#hostBytes)
    if (fetched !== OK) return fetched
    this.#ste.set(this.#hostSte)
    return this.#rule(this.#hostSte, this.#ste, this.#smmu.hyp)
  }

  // Forgetting (server/hypervisor/README.md, section 7.4).

  /** A CFGI_STE that cannot be followed: hardware has forgotten the entry, and would find none. */
  #lose(sid: number): void {
    if (this.#host.table === null || !this.streams.has(sid)) return
    this.#hostSte.fill(0n)
    this.#ste.fill(0n)
    if (this.#writeEntry(sid, true)) this.#drop(sid, true)
    else this.#remember(sid)
  }

  /**
   * CFGI_ALL of the host while the SMMU uses the table: what stands in it of each stream is made anew, once in a trap. Nothing
   * that the host stores after it wrote CMDQ_PROD has to be seen.
   */
  configureAll(): void {
    const { trap } = this.#smmu.hyp
    if (this.#host.table === null || trap === this.#renewed) return
    this.#renewed = trap
    for (const sid of [...this.streams.keys()]) this.#renew(sid, true)
    if (this.#smmu.hyp.choices.anyInvalidation) this.#adopt(true)
    else this.#warnUnshadowed()
  }

  /**
   * SMMUEN is about to become 1, perhaps with another table of the host's: what stands in this one of each stream is made
   * anew. The hardware uses no entry before that.
   */
  rebuild(): number {
    for (const sid of [...this.streams.keys()]) if (!this.#renew(sid, false)) return EFAULT
    const { choices, powerMode } = this.#smmu.hyp
    // A driver that has suspended the SMMU sends no CFGI_STE (server/hypervisor/README.md, section 19).
    if (choices.anyInvalidation || powerMode !== null) this.#adopt(false)
    return OK
  }

  /** Entries of the host's that let transactions pass, and that no CFGI_STE has told of: the hardware has no valid entry for them. */
  #warnUnshadowed(): void {
    let first = 0
    let count = 0
    this.#host.forEachEntry(Number.POSITIVE_INFINITY, sid => {
      if (this.streams.has(sid)) return true
      if (count === 0) first = sid
      count++
      return true
    })
    if (count > 0) this.#smmu.warn(HYP_STE_UNSHADOWED, first, count, 0, 0)
  }

  /**
   * Entries of the host's that no CFGI_STE has told of get a shadow as well (server/hypervisor/README.md, section 18).
   * @param live the hardware may use entries
   */
  #adopt(live: boolean): void {
    const rest = this.#host.forEachEntry(2 ** this.#table.log2size, sid => {
      if (this.streams.has(sid)) return true
      const result = live ? this.#configure(sid, true) : this.#place(sid)
      if (result === OK || ABSENT.has(result)) return true
      this.#smmu.warn(HYP_CFGI_STE, sid, 1, result, 0)
      // What there is no room for, or no hardware that follows, will not be there for others either.
      return result === EPERM || result === EFAULT
    })
    if (rest !== null) this.#smmu.warn(HYP_STE_UNSHADOWED, rest, 0, 0, 0)
  }

  /** A new stream, while the hardware uses no entry. */
  #place(sid: number): number {
    if (this.#smmu.hyp.streamCount() >= MAX_STREAMS) return ENOMEM
    const { address } = this.#entry(sid)
    if (address < 0) return address
    return this.#renew(sid, false) ? OK : EFAULT
  }

  /** @param live the hardware may use the entry @returns false when the table could not be changed */
  #renew(sid: number, live: boolean): boolean {
    const { hyp } = this.#smmu
    const address = steAddress(this.#table, sid, hyp.memory)
    if (address < 0 || !hyp.memory.read(address, this.#oldBytes, 0, STRTAB_STE_SIZE)) return false
    const result = this.#convert(sid, true)
    if (result !== OK) {
      // The host has no entry there any more, or one that it must not have.
      if (result !== ENOENT && result !== ERANGE) this.#smmu.warn(HYP_CFGI_STE, sid, 1, result, 0)
      this.#hostSte.fill(0n)
      this.#ste.fill(0n)
    }
    // No CMD_ATC_INV is sent by an SMMU that is off (IHI 0070 section 4.5.1): see `attachAtcs`.
    if (hyp.ats && !live) this.#ste[1] &= ~STRTAB_STE_1_EATS
    const stands = this.#old.every((word, i) => word === this.#ste[i])
    if (!stands && !this.#writeEntry(sid, live)) {
      if (this.#stands(address)) this.#remember(sid)
      return false
    }
    if (result !== OK) this.#drop(sid, live)
    else if (!stands || this.streams.get(sid)?.host.some((word, i) => word !== this.#hostSte[i])) this.#remember(sid)
    return true
  }

  /** A stream whose entry is invalid is forgotten, with its L2 table when that is the last one in it. */
  #drop(sid: number, live: boolean): void {
    const { hyp } = this.#smmu
    const table = this.#table
    this.streams.delete(sid)
    hyp.changed()
    hyp.report.stream(this.#smmu.index, sid, STE_INVALID, STE_INVALID)
    if (!table.twoLevel) return
    const first = sid - (sid & (STRTAB_L2_STES - 1))
    for (const other of this.streams.keys()) if (other >= first && other < first + STRTAB_L2_STES) return
    const l2 = steAddress(table, first, hyp.memory)
    this.#descriptor.fill(0)
    if (!this.#link(sid)) return
    // Unless the hardware may still use it.
    if (!live || this.#invalidate(sid, false)) hyp.pool.release(l2, STRTAB_L2_BYTES)
  }

  // ATS (server/hypervisor/README.md, section 7.5).

  /** SMMUEN has become 1: streams for which the host has enabled ATS have it from now on. */
  attachAtcs(): void {
    for (const { sid, host } of [...this.streams.values()]) if (hasAts(host)) this.#renew(sid, true)
  }

  /** No device uses a translation that it was given before. For an SMMU that is on. */
  emptyAtcs(): boolean {
    const sids: number[] = []
    for (const { sid, shadow } of this.streams.values()) if (hasAts(shadow)) sids.push(sid)
    return sids.length === 0 || this.#emptyAtcs(sids)
  }

  #emptyAtcs(sids: readonly number[]): boolean {
    const substreams = fieldGet(IDR1_SSIDSIZE, this.#smmu.hardware.read32(ARM_SMMU_IDR1)) > 0
    for (const sid of sids) {
      atcInvAll(this.#cmdq.command, sid, false)
      this.#cmdq.issue()
      if (!substreams) continue
      atcInvAll(this.#cmdq.command, sid, true)
      this.#cmdq.issue()
    }
    return this.#cmdq.sync()
  }

  /** Whether `#ste` is in memory: by its word 0, which makes it what it is. */
  #stands(address: number): boolean {
    if (!this.#smmu.hyp.memory.read(address, this.#oldBytes, 0, STRTAB_STE_SIZE)) return false
    return this.#old[0] === this.#ste[0]
  }

  /** An update failed: whoever takes over must not finish what the host was told had not happened. */
  #forget(sid: number): void {
    if (!isValid(this.#old) && this.streams.delete(sid)) this.#smmu.hyp.changed()
  }

  /** An L2 table for the StreamID, in which no entry is valid. @returns where its entry is, or an error */
  #growTable(sid: number): number {
    const { pool } = this.#smmu.hyp
    const l2 = pool.allocate(STRTAB_L2_BYTES)
    if (l2 === ENOMEM) return ENOMEM
    this.#descriptor[0] = (l2 % TWO_POW_32) + STRTAB_SPLIT + 1
    this.#descriptor[1] = Math.floor(l2 / TWO_POW_32)
    if (!this.#link(sid)) return EFAULT
    return l2 + (sid & (STRTAB_L2_STES - 1)) * STRTAB_STE_SIZE
  }

  /** Writes the L1 descriptor of a StreamID. */
  #link(sid: number): boolean {
    const { memory } = this.#smmu.hyp
    const address = l1DescriptorAddress(this.#table, sid)
    const written = memory.write(address, this.#descriptorBytes, 0, STRTAB_L1_DESC_SIZE)
    memory.clean?.(address, STRTAB_L1_DESC_SIZE)
    return written
  }

  /** Writes `#ste`, in the order of server/hypervisor/README.md, section 7.3. @param leaf false: its L1 descriptor is new */
  #update(sid: number, address: number, leaf: boolean): number {
    const { memory, ats, quirks } = this.#smmu.hyp
    if (!memory.read(address, this.#oldBytes, 0, STRTAB_STE_SIZE)) {
      // It may be valid.
      this.#old[0] = STRTAB_STE_0_V
      return EFAULT
    }
    // What the device was told in former times may have been of a page that was donated since.
    if (ats && hasAts(this.#ste) && !hasAts(this.#old)) {
      // An SMMU that is not on yet sends no CMD_ATC_INV (IHI 0070 section 4.5.1).
      if ((this.#smmu.hardware.read32(ARM_SMMU_CR0ACK) & CR0_SMMUEN) === 0) return ENODEV
      if (!this.#emptyAtcs([sid])) return ETIMEDOUT
    }
    const write = (bytes: Uint8Array, from: number, to: number): number => {
      if (!memory.write(address + from, bytes, from, to - from)) return EFAULT
      memory.clean?.(address + from, to - from)
      return OK
    }
    const word0 = (): number => write(this.#bytes, 0, 8)
    const rest = (): number => write(this.#bytes, 8, STRTAB_STE_SIZE)
    const seen = (): number => (this.#invalidate(sid, leaf) ? OK : ETIMEDOUT)
    const order = steOrder(this.#old, this.#ste)
    if (order === 'word 0 last' && quirks.has('ste-word0-first')) return word0() || rest() || seen()
    switch (order) {
      case 'at once':
        return rest() || word0() || seen()
      case 'word 0 last':
        return rest() || seen() || word0() || seen()
      case 'word 0 first':
        return word0() || seen() || rest() || seen()
      case 'over abort':
        return write(ABORT_BYTES, 0, 8) || seen() || rest() || seen() || word0() || seen()
    }
  }

  /** CFGI_STE and CMD_SYNC of the hypervisor's own. @param leaf false: the L1 descriptor as well */
  #invalidate(sid: number, leaf: boolean): boolean {
    cfgiSte(this.#cmdq.command, sid, leaf)
    this.#cmdq.issue()
    return this.#cmdq.sync()
  }

  #remember(sid: number): void {
    const { hyp, index } = this.#smmu
    let stream = this.streams.get(sid)
    if (stream === undefined) {
      stream = {
        sid,
        host: new BigUint64Array(STRTAB_STE_DWORDS),
        shadow: new BigUint64Array(STRTAB_STE_DWORDS),
        trap: 0,
      }
      this.streams.set(sid, stream)
    }
    stream.host.set(this.#hostSte)
    stream.shadow.set(this.#ste)
    stream.trap = hyp.trap
    hyp.changed()
    hyp.report.stream(index, sid, steConfig(this.#hostSte), steConfig(this.#ste))
  }

  /** The entry that stands in the table now, eight 64-bit words; null when there is none. */
  read(sid: number): BigUint64Array | null {
    if (this.state.base === 0) return null
    const { memory } = this.#smmu.hyp
    return readSte(steAddress(this.#table, sid, memory), memory) ?? null
  }

  // Take-over.

  /** Streams are put back one by one, into `streams`. */
  restore(state: ShadowStrtabState): void {
    this.reset()
    Object.assign(this.state, state)
  }

  /**
   * After `restore`: makes the table what the state says, whatever the former hypervisor was doing to it. Entries are
   * those that the present rule gives.
   * @param live the hardware may use entries
   */
  resume(live: boolean): TableTakenOver {
    const changes: string[] = []
    return { changes, problem: this.#resume(live, changes) }
  }

  /** @returns why the table cannot be used, or null */
  #resume(live: boolean, changes: string[]): string | null {
    const { hyp } = this.#smmu
    const { pool, memory } = hyp
    if (this.#table.twoLevel) {
      for (const { address } of steTables(this.#table, memory)) {
        if (pool.claim(address, STRTAB_L2_BYTES) === OK) continue
        return `its shadow stream table is damaged: it leads to 0x${address.toString(16)}`
      }
    }
    const known = new Set<number>()
    for (const { sid, host, shadow } of this.streams.values()) {
      known.add(sid)
      // The former hypervisor may have taken the L2 table away, and not lived to say so.
      const inside = this.#table.twoLevel && sid < 2 ** this.#table.log2size
      if (inside && steAddress(this.#table, sid, memory) === STE_ABSENT && this.#growTable(sid) < 0) {
        return `no L2 table can be had for stream 0x${sid.toString(16)}`
      }
      if (this.read(sid) === null) {
        return this.#hasNoEntry(sid)
      }
      this.#hostSte.set(host)
      this.#ste.set(host)
      if (this.#rule(this.#hostSte, this.#ste, hyp) !== OK) {
        changes.push(`${this.#name(sid)} stays as it is: it would be refused now`)
        continue
      }
      shadow.set(this.#ste)
      if (this.#isInTable(sid)) continue
      if (this.#writeEntry(sid, live) || this.#isPending(sid)) {
        changes.push(`${this.#name(sid)} was rewritten`)
      } else if (this.#abortsMeanwhile(sid)) {
        changes.push(`${this.#name(sid)} aborts until the host acknowledges CMDQ_ERR`)
      } else {
        return this.#cannotWrite(sid)
      }
    }
    this.#ste.fill(0n)
    for (const sid of this.#validEntries()) {
      if (known.has(sid)) continue
      if (!this.#writeEntry(sid, live)) {
        if (!this.#isPending(sid)) return this.#cannotWrite(sid)
        this.#hostSte.fill(0n)
        this.#remember(sid)
      }
      changes.push(`${this.#name(sid)} was taken back, unfinished`)
    }
    return null
  }

  #hasNoEntry(sid: number): string {
    return `its shadow stream table is damaged: it has no entry for stream 0x${sid.toString(16)}`
  }

  #cannotWrite(sid: number): string {
    if (steAddress(this.#table, sid, this.#smmu.hyp.memory) < 0) return this.#hasNoEntry(sid)
    const hangs = !this.#cmdq.idle && !this.#cmdq.stands()
    const why = hangs ? 'the hardware takes no commands, and tells no error' : 'it cannot be written'
    return `the shadow entry of stream 0x${sid.toString(16)} cannot be put right: ${why}`
  }

  /**
   * The host has acknowledged CMDQ_ERR: entries that could not be put right while the hardware stood at the command.
   * @param live the hardware may use entries
   */
  makeUp(live: boolean): void {
    if (!this.#aborts) return
    this.#aborts = false
    this.#cmdq.begin()
    for (const { sid, host } of [...this.streams.values()]) {
      this.#hostSte.set(host)
      this.#ste.set(host)
      if (this.#rule(this.#hostSte, this.#ste, this.#smmu.hyp) !== OK || this.#isInTable(sid)) continue
      if (this.#writeEntry(sid, live)) continue
      this.#aborts = true
      this.#smmu.warn(HYP_CFGI_STE, sid, 1, ETIMEDOUT, 0)
    }
  }

  #name(sid: number): string {
    return `SMMU ${this.#smmu.index}, stream 0x${sid.toString(16)}`
  }

  /** StreamIDs whose entry is valid. */
  #validEntries(): number[] {
    const { memory } = this.#smmu.hyp
    const found: number[] = []
    for (const { address, sid, stes } of steTables(this.#table, memory)) {
      const words = new BigUint64Array(stes * STRTAB_STE_DWORDS)
      memory.read(address, new Uint8Array(words.buffer), 0, words.byteLength)
      for (let i = 0; i < stes; i++) if ((words[i * STRTAB_STE_DWORDS] & STRTAB_STE_0_V) !== 0n) found.push(sid + i)
    }
    return found
  }

  /** Whether the entry is `#ste`; of one that aborts, nothing but word 0 matters. */
  #isInTable(sid: number): boolean {
    const stands = this.read(sid)
    if (stands === null || stands[0] !== this.#ste[0]) return false
    return !translates(steConfig(this.#ste)) || stands.every((word, i) => word === this.#ste[i])
  }

  /**
   * After an update that failed: the entry is as it should be, and hardware that stopped at a command forgets what it has of the former one
   * when the host acknowledges the error (`ShadowCmdq.discard`). No page is taken from devices before.
   */
  #isPending(sid: number): boolean {
    return this.#isInTable(sid) && this.#cmdq.stands()
  }

  /** After an update that failed, and that needs more than one CFGI: of hardware that stopped at a command the entry aborts for now. */
  #abortsMeanwhile(sid: number): boolean {
    const { memory } = this.#smmu.hyp
    const address = steAddress(this.#table, sid, memory)
    if (address < 0 || !this.#cmdq.stands() || !memory.write(address, ABORT_BYTES, 0, 8)) return false
    memory.clean?.(address, 8)
    this.#aborts = true
    return true
  }

  /** Writes `#ste`; when the SMMU is off, at once: it uses no entry, and invalidates all before it does. */
  #writeEntry(sid: number, live: boolean): boolean {
    const { memory } = this.#smmu.hyp
    const address = steAddress(this.#table, sid, memory)
    if (address < 0) return false
    if (live) return this.#update(sid, address, true) === OK
    const written = memory.write(address, this.#bytes, 0, STRTAB_STE_SIZE)
    memory.clean?.(address, STRTAB_STE_SIZE)
    return written
  }

  /** Hypervisor memory that the table takes, L2 tables included. */
  memory(): { readonly base: number; readonly size: number }[] {
    const table = this.#table
    const l2 = table.twoLevel ? [...steTables(table, this.#smmu.hyp.memory)] : []
    return [
      { base: this.state.base, size: this.bytes },
      ...l2.map(({ address }) => ({ base: address, size: STRTAB_L2_BYTES })),
    ]
  }

  /** Live entries that do not lead through the idmap. */
  verify(idmap: Idmap): string[] {
    const problems: string[] = []
    for (const sid of this.streams.keys()) {
      const ste = this.read(sid)
      if (ste === null) continue
      const config = steConfig(ste)
      if (!translates(config)) continue
      const vtcr = fieldGet64(STRTAB_STE_2_VTCR, ste[2])
      const ttb = ste[3] & STRTAB_STE_3_S2TTB_MASK
      if (!hasStage2(config) || vtcr !== idmap.geometry.vtcr || ttb !== BigInt(idmap.root)) {
        problems.push(`${this.#name(sid)}: its entry does not lead through the idmap`)
      }
    }
    return problems
  }
}
