// SPDX-License-Identifier: Apache-2.0
/**
 * Shadow stream table (server/hypervisor/README.md, section 7): on CFGI_STE the host's entry is copied once, converted, and
 * written to a table in hypervisor memory, in an order in which no half-written entry is ever live.
 */

import { STE_INVALID } from '../../policy/report.ts'
import { EFAULT, EINVAL, ENODEV, ENOENT, ENOMEM, ERANGE, ETIMEDOUT, OK } from '../../policy/result.ts'
import { addressOf, fieldGet, fieldGet64, fieldPrep, fieldPrep64 } from '../../smmu/bits.ts'
import { cfgiSte } from '../../smmu/commands.ts'
import {
  ARM_SMMU_STRTAB_BASE,
  ARM_SMMU_STRTAB_BASE_CFG,
  STRTAB_BASE_CFG_FMT,
  STRTAB_BASE_CFG_FMT_2LVL,
  STRTAB_BASE_CFG_FMT_LINEAR,
  STRTAB_BASE_CFG_LOG2SIZE,
  STRTAB_BASE_CFG_SPLIT,
  STRTAB_BASE_HI_RA,
} from '../../smmu/registers.ts'
import {
  STRTAB_STE_0_CFG,
  STRTAB_STE_0_CFG_BYPASS,
  STRTAB_STE_0_CFG_NESTED,
  STRTAB_STE_0_CFG_S1_TRANS,
  STRTAB_STE_0_CFG_S2_TRANS,
  STRTAB_STE_0_V,
  STRTAB_STE_1_SHCFG,
  STRTAB_STE_1_SHCFG_INCOMING,
  STRTAB_STE_2_S2AA64,
  STRTAB_STE_2_S2ENDI,
  STRTAB_STE_2_S2PTW,
  STRTAB_STE_2_S2R,
  STRTAB_STE_2_VTCR,
  STRTAB_STE_3_S2TTB_MASK,
  STRTAB_STE_DWORDS,
  STRTAB_STE_SIZE,
} from '../../smmu/ste.ts'
import {
  decodeStreamTable,
  l1DescriptorAddress,
  l1DescriptorL2Ptr,
  l1DescriptorStes,
  STRTAB_L1_DESC_SIZE,
  type StreamTable,
  streamTableBytes,
} from '../../smmu/strtab.ts'
import type { Hypervisor } from './hypervisor.ts'
import type { Idmap } from './idmap.ts'
import type { Smmu } from './smmu.ts'

/** StreamID bits inside an L2 table of a 2-level table. */
export const STRTAB_SPLIT = 8
/** Most L1 descriptors. */
export const STRTAB_MAX_L1_ENTRIES = 2 ** 17
const L2_STES = 2 ** STRTAB_SPLIT
const L2_BYTES = L2_STES * STRTAB_STE_SIZE
const WORD = 2 ** 32

/**
 * Makes the shadow of an entry. `shadow` holds a copy of `host` when it is called.
 * @returns OK, or an error, by which the entry is left as it was.
 */
export type StreamRule = (host: BigUint64Array, shadow: BigUint64Array, smmu: Smmu) => number

/** Entries are taken as they are (`--until strtab`, `queues`). */
export const copyStream: StreamRule = () => OK

/** Stage 2 of the hypervisor under whatever the host configured. */
export const nestStream: StreamRule = (host, shadow, smmu) => {
  const config = steConfig(host)
  const { idmap } = smmu.hyp
  if (config === STE_INVALID || (config & 4) === 0) {
    shadow[2] = 0n
    shadow[3] = 0n
    return OK
  }
  if (idmap === null) return ENODEV
  switch (config) {
    case STRTAB_STE_0_CFG_BYPASS:
      setConfig(shadow, STRTAB_STE_0_CFG_S2_TRANS)
      break
    case STRTAB_STE_0_CFG_S1_TRANS:
      setConfig(shadow, STRTAB_STE_0_CFG_NESTED)
      break
    default:
      return EINVAL
  }
  shadow[1] = (host[1] & ~STRTAB_STE_1_SHCFG) | fieldPrep64(STRTAB_STE_1_SHCFG, STRTAB_STE_1_SHCFG_INCOMING)
  shadow[2] =
    fieldPrep64(STRTAB_STE_2_VTCR, idmap.geometry.vtcr) |
    STRTAB_STE_2_S2AA64 |
    (idmap.bigEndian ? STRTAB_STE_2_S2ENDI : 0n) |
    STRTAB_STE_2_S2PTW |
    STRTAB_STE_2_S2R
  shadow[3] = BigInt(idmap.root) & STRTAB_STE_3_S2TTB_MASK
  return OK
}

/** Config of an entry, STE_INVALID if it is not valid. */
export function steConfig(ste: BigUint64Array): number {
  return (ste[0] & STRTAB_STE_0_V) === 0n ? STE_INVALID : fieldGet64(STRTAB_STE_0_CFG, ste[0])
}

function setConfig(ste: BigUint64Array, config: number): void {
  ste[0] = (ste[0] & ~STRTAB_STE_0_CFG) | fieldPrep64(STRTAB_STE_0_CFG, config)
}

/** What the host configured for a StreamID, and what stands in the shadow table. */
export interface Stream {
  readonly sid: number
  /** Eight 64-bit words. */
  readonly host: BigUint64Array
  readonly shadow: BigUint64Array
  /** Trap of the last change. */
  trap: number
}

export class ShadowStreamTable {
  readonly #hyp: Hypervisor
  readonly #smmu: Smmu
  readonly #rule: StreamRule
  readonly #host = new BigUint64Array(STRTAB_STE_DWORDS)
  readonly #hostBytes = new Uint8Array(this.#host.buffer)
  readonly #shadow = new BigUint64Array(STRTAB_STE_DWORDS)
  readonly #shadowBytes = new Uint8Array(this.#shadow.buffer)
  readonly #old = new BigUint64Array(STRTAB_STE_DWORDS)
  readonly #oldBytes = new Uint8Array(this.#old.buffer)
  readonly #descriptor = new Uint32Array(2)
  readonly #descriptorBytes = new Uint8Array(this.#descriptor.buffer)

  /** The host's registers as it wrote them. */
  hostBaseLo = 0
  hostBaseHi = 0
  hostCfg = 0
  /** The host's table while SMMUEN is set. */
  #hostTable: StreamTable | null = null

  /** Address of the shadow table: its L1 descriptors, or its entries when it is linear. */
  base = 0
  #twoLevel = false
  /** L1 descriptors or entries. */
  #entries = 0
  /** By StreamID, those that were shadowed. */
  readonly streams = new Map<number, Stream>()

  constructor(hyp: Hypervisor, smmu: Smmu, rule: StreamRule) {
    this.#hyp = hyp
    this.#smmu = smmu
    this.#rule = rule
  }

  reset(): void {
    this.hostBaseLo = 0
    this.hostBaseHi = 0
    this.hostCfg = 0
    this.#hostTable = null
    this.base = 0
    this.streams.clear()
  }

  get twoLevel(): boolean {
    return this.#twoLevel
  }

  /** Takes the shape of the table from what the SMMU supports. */
  shape(): void {
    const { sidBits } = this.#smmu
    this.#twoLevel = this.#smmu.twoLevel && sidBits > STRTAB_SPLIT
    this.#entries = this.#twoLevel ? Math.min(2 ** (sidBits - STRTAB_SPLIT), STRTAB_MAX_L1_ENTRIES) : 2 ** sidBits
  }

  /** Bytes of the shadow table that exist from the start. */
  get bytes(): number {
    return this.#entries * (this.#twoLevel ? STRTAB_L1_DESC_SIZE : STRTAB_STE_SIZE)
  }

  /** Installs the empty shadow table (server/hypervisor/README.md, section 3.2). */
  program(base: number): void {
    this.base = base
    const log2size = Math.log2(this.#entries) + (this.#twoLevel ? STRTAB_SPLIT : 0)
    const cfg = this.#twoLevel
      ? fieldPrep(STRTAB_BASE_CFG_FMT, STRTAB_BASE_CFG_FMT_2LVL) | fieldPrep(STRTAB_BASE_CFG_SPLIT, STRTAB_SPLIT)
      : fieldPrep(STRTAB_BASE_CFG_FMT, STRTAB_BASE_CFG_FMT_LINEAR)
    this.#smmu.write64(ARM_SMMU_STRTAB_BASE, base, STRTAB_BASE_HI_RA)
    this.#smmu.write32(ARM_SMMU_STRTAB_BASE_CFG, cfg | fieldPrep(STRTAB_BASE_CFG_LOG2SIZE, log2size))
  }

  /** The host's table by its registers; null when the shadow cannot follow its format or size. */
  check(): StreamTable | null {
    const format = fieldGet(STRTAB_BASE_CFG_FMT, this.hostCfg)
    const split = fieldGet(STRTAB_BASE_CFG_SPLIT, this.hostCfg)
    const log2size = fieldGet(STRTAB_BASE_CFG_LOG2SIZE, this.hostCfg)
    const { sidBits } = this.#smmu
    if (this.#twoLevel) {
      if (format !== STRTAB_BASE_CFG_FMT_2LVL || split !== STRTAB_SPLIT) return null
      if (log2size <= STRTAB_SPLIT || 2 ** (log2size - STRTAB_SPLIT) > STRTAB_MAX_L1_ENTRIES) return null
    } else if (format !== STRTAB_BASE_CFG_FMT_LINEAR || log2size > sidBits) {
      return null
    }
    return decodeStreamTable(this.hostBaseLo, this.hostBaseHi, this.hostCfg, sidBits, this.#twoLevel)
  }

  /** SMMUEN 0 → 1, after `check`. */
  enable(table: StreamTable): number {
    const result = this.#hyp.share.sharePinned(table.base, streamTableBytes(table))
    if (result === OK) this.#hostTable = table
    return result
  }

  /** SMMUEN 1 → 0. */
  disable(): number {
    const table = this.#hostTable
    this.#hostTable = null
    return table === null ? OK : this.#hyp.share.unsharePinned(table.base, streamTableBytes(table))
  }

  /** The host's table while SMMUEN is set. */
  get hostTable(): StreamTable | null {
    return this.#hostTable
  }

  /** CFGI_STE of the host. */
  configure(sid: number, leaf: boolean): number {
    const table = this.#hostTable
    if (table === null) return ENODEV
    if (!leaf) return EINVAL
    if (sid >= 2 ** table.log2size) return ERANGE
    const address = this.#shadowAddress(sid)
    // The host's entry comes first: a StreamID without one must not cost a table.
    const fetched = table.twoLevel ? this.#fetchTwoLevel(table, sid) : this.#fetchLinear(table, sid)
    if (fetched !== OK) return fetched
    this.#shadow.set(this.#host)
    const converted = this.#rule(this.#host, this.#shadow, this.#smmu)
    if (converted !== OK) return converted
    if (!this.streams.has(sid) && this.#hyp.streamCount() >= MAX_STREAMS) return ENOMEM
    const place = address > 0 ? address : this.#growShadow(sid)
    if (place < 0) return place
    const updated = this.#update(sid, place)
    if (updated === OK || this.#stands(place)) this.#remember(sid)
    else this.#forget(sid)
    return updated
  }

  /** Whether `#shadow` is in memory, whole and valid. */
  #stands(address: number): boolean {
    if (!this.#hyp.memory.read(address, this.#oldBytes, 0, STRTAB_STE_SIZE)) return false
    return (this.#shadow[0] & STRTAB_STE_0_V) !== 0n && this.#old.every((word, i) => word === this.#shadow[i])
  }

  /** An update failed: whoever takes over must not finish what the host was told had not happened. */
  #forget(sid: number): void {
    const valid = (this.#old[0] & STRTAB_STE_0_V) !== 0n
    if (valid || !this.streams.delete(sid)) return
    this.#hyp.changed()
  }

  #fetchLinear(table: StreamTable, sid: number): number {
    const address = table.base + sid * STRTAB_STE_SIZE
    return this.#hyp.memory.read(address, this.#hostBytes, 0, STRTAB_STE_SIZE) ? OK : EFAULT
  }

  #fetchTwoLevel(table: StreamTable, sid: number): number {
    const { memory, share } = this.#hyp
    if (!memory.read(l1DescriptorAddress(table, sid), this.#descriptorBytes, 0, STRTAB_L1_DESC_SIZE)) return EFAULT
    const [lo, hi] = this.#descriptor
    const stes = l1DescriptorStes(lo, table.split)
    if (stes === 0) return ENOENT
    const index = sid & (L2_STES - 1)
    if (index >= stes) return ENOENT
    const l2 = l1DescriptorL2Ptr(lo, hi, stes)
    const shared = share.share(l2, stes * STRTAB_STE_SIZE)
    if (shared !== OK) return shared
    const read = memory.read(l2 + index * STRTAB_STE_SIZE, this.#hostBytes, 0, STRTAB_STE_SIZE)
    const unshared = share.unshare(l2, stes * STRTAB_STE_SIZE)
    return read ? unshared : EFAULT
  }

  /** Where the shadow entry of a StreamID is; 0 when its L2 table does not exist yet. */
  #shadowAddress(sid: number): number {
    if (!this.#twoLevel) return this.base + sid * STRTAB_STE_SIZE
    const l1 = this.base + (sid >>> STRTAB_SPLIT) * STRTAB_L1_DESC_SIZE
    this.#hyp.memory.read(l1, this.#descriptorBytes, 0, STRTAB_L1_DESC_SIZE)
    const [lo, hi] = this.#descriptor
    const stes = l1DescriptorStes(lo, STRTAB_SPLIT)
    return stes === 0 ? 0 : l1DescriptorL2Ptr(lo, hi, stes) + (sid & (L2_STES - 1)) * STRTAB_STE_SIZE
  }

  /** An L2 table for the StreamID, in which no entry is valid. */
  #growShadow(sid: number): number {
    const table = this.#hyp.pool.allocate(L2_BYTES)
    if (table < 0) return ENOMEM
    const l1 = this.base + (sid >>> STRTAB_SPLIT) * STRTAB_L1_DESC_SIZE
    this.#descriptor[0] = (table % WORD) + STRTAB_SPLIT + 1
    this.#descriptor[1] = Math.floor(table / WORD)
    if (!this.#hyp.memory.write(l1, this.#descriptorBytes, 0, STRTAB_L1_DESC_SIZE)) return EFAULT
    return table + (sid & (L2_STES - 1)) * STRTAB_STE_SIZE
  }

  #update(sid: number, address: number): number {
    const { memory } = this.#hyp
    if (!memory.read(address, this.#oldBytes, 0, STRTAB_STE_SIZE)) return EFAULT
    const wasValid = (this.#old[0] & STRTAB_STE_0_V) !== 0n
    const isValid = (this.#shadow[0] & STRTAB_STE_0_V) !== 0n
    const bytes = this.#shadowBytes
    // Word 0 alone is a whole entry that is invalid or aborts. Without its second stage, the former one would be none.
    if (wasValid && (!isValid || (steConfig(this.#shadow) & 4) === 0)) {
      if (!memory.write(address, bytes, 0, 8)) return EFAULT
      if (!this.#invalidate(sid)) return ETIMEDOUT
      if (!memory.write(address + 8, bytes, 8, STRTAB_STE_SIZE - 8)) return EFAULT
    } else {
      if (!memory.write(address + 8, bytes, 8, STRTAB_STE_SIZE - 8)) return EFAULT
      if (!wasValid && isValid && !this.#invalidate(sid)) return ETIMEDOUT
      if (!memory.write(address, bytes, 0, 8)) return EFAULT
    }
    return this.#invalidate(sid) ? OK : ETIMEDOUT
  }

  /** CFGI_STE and CMD_SYNC of the hypervisor's own. */
  #invalidate(sid: number): boolean {
    const { cmdq } = this.#smmu
    const at = cmdq.issue()
    cfgiSte(cmdq.ownWords, sid, true, at)
    return cmdq.sync()
  }

  #remember(sid: number): void {
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
    stream.host.set(this.#host)
    stream.shadow.set(this.#shadow)
    stream.trap = this.#hyp.trap
    this.#hyp.changed()
    this.#hyp.report.stream(this.#smmu.index, sid, steConfig(this.#host), steConfig(this.#shadow))
  }

  /** The entry that stands in the shadow table now, eight 64-bit words; null when there is no L2 table. */
  readShadow(sid: number): BigUint64Array | null {
    if (this.base === 0 || sid >= this.#entries * (this.#twoLevel ? L2_STES : 1)) return null
    const address = this.#shadowAddress(sid)
    const ste = new BigUint64Array(STRTAB_STE_DWORDS)
    if (address <= 0 || !this.#hyp.memory.read(address, new Uint8Array(ste.buffer), 0, STRTAB_STE_SIZE)) return null
    return ste
  }

  /** Tables of the shadow that stand in memory besides the first level, by the number of their L1 descriptor. */
  *#level2(): Generator<{ index: number; address: number }> {
    if (!this.#twoLevel) return
    const level1 = new Uint32Array(2 * this.#entries)
    const bytes = new Uint8Array(level1.buffer)
    this.#hyp.memory.read(this.base, bytes, 0, bytes.length)
    for (let index = 0; index < this.#entries; index++) {
      const [lo, hi] = [level1[2 * index], level1[2 * index + 1]]
      const stes = l1DescriptorStes(lo, STRTAB_SPLIT)
      if (stes > 0) yield { index, address: l1DescriptorL2Ptr(lo, hi, stes) }
    }
  }

  /**
   * After `restore`: makes the table what the state says, whatever the former hypervisor was doing to it. Entries are
   * those that the present rule gives.
   * @param live the hardware takes commands
   * @returns what was changed, in words; null when the table cannot be used.
   */
  resume(live: boolean): string[] | null {
    const { pool } = this.#hyp
    const changes: string[] = []
    const known = new Set<number>()
    for (const { address } of this.#level2()) if (pool.claim(address, L2_BYTES) !== OK) return null
    for (const { sid, host, shadow } of this.streams.values()) {
      known.add(sid)
      const stands = this.readShadow(sid)
      if (stands === null) return null
      this.#host.set(host)
      this.#shadow.set(host)
      if (this.#rule(this.#host, this.#shadow, this.#smmu) !== OK) {
        changes.push(`${this.#name(sid)} stays as it is: it would be refused now`)
        continue
      }
      shadow.set(this.#shadow)
      if (stands.every((word, i) => word === this.#shadow[i])) continue
      if (!this.#put(sid, live)) return null
      changes.push(`${this.#name(sid)} was rewritten`)
    }
    this.#shadow.fill(0n)
    for (const sid of this.#liveEntries()) {
      if (known.has(sid)) continue
      if (!this.#put(sid, live)) return null
      changes.push(`${this.#name(sid)} was taken back, unfinished`)
    }
    return changes
  }

  #name(sid: number): string {
    return `SMMU ${this.#smmu.index}, stream 0x${sid.toString(16)}`
  }

  /** StreamIDs whose shadow entry is valid. */
  #liveEntries(): number[] {
    const found: number[] = []
    const tables = this.#twoLevel ? [...this.#level2()] : [{ index: 0, address: this.base }]
    const count = this.#twoLevel ? L2_STES : this.#entries
    const stes = new BigUint64Array(count * STRTAB_STE_DWORDS)
    for (const { index, address } of tables) {
      this.#hyp.memory.read(address, new Uint8Array(stes.buffer), 0, count * STRTAB_STE_SIZE)
      for (let i = 0; i < count; i++) {
        if ((stes[i * STRTAB_STE_DWORDS] & STRTAB_STE_0_V) !== 0n) found.push(index * count + i)
      }
    }
    return found
  }

  /** Writes `#shadow`; without the hardware's cooperation when that takes no commands, and so uses no entry. */
  #put(sid: number, live: boolean): boolean {
    const address = this.#shadowAddress(sid)
    if (live) return this.#update(sid, address) === OK
    return this.#hyp.memory.write(address, this.#shadowBytes, 0, STRTAB_STE_SIZE)
  }

  /** Live entries that do not lead through the idmap. */
  verify(idmap: Idmap): string[] {
    const problems: string[] = []
    for (const sid of this.streams.keys()) {
      const ste = this.readShadow(sid)
      if (ste === null) continue
      const config = steConfig(ste)
      if (config === STE_INVALID || (config & 4) === 0) continue
      const vtcr = fieldGet64(STRTAB_STE_2_VTCR, ste[2])
      const ttb = ste[3] & STRTAB_STE_3_S2TTB_MASK
      if ((config & 2) === 0 || vtcr !== idmap.geometry.vtcr || ttb !== BigInt(idmap.root)) {
        problems.push(
          `SMMU ${this.#smmu.index}, stream 0x${sid.toString(16)}: its entry does not lead through the idmap`,
        )
      }
    }
    return problems
  }

  /** For a checkpoint: what `restore` takes. */
  save(into: Uint32Array, at: number): number {
    into[at] = this.hostBaseLo
    into[at + 1] = this.hostBaseHi
    into[at + 2] = this.hostCfg
    into[at + 3] = this.#hostTable === null ? 0 : 1
    into[at + 4] = this.base % WORD
    into[at + 5] = this.base / WORD
    return at + STRTAB_STATE_WORDS
  }

  restore(from: Uint32Array, at: number): number {
    this.reset()
    this.shape()
    this.hostBaseLo = from[at]
    this.hostBaseHi = from[at + 1]
    this.hostCfg = from[at + 2]
    this.#hostTable = from[at + 3] === 0 ? null : this.check()
    this.base = addressOf(from[at + 4], from[at + 5])
    return at + STRTAB_STATE_WORDS
  }
}

/** Streams that a machine may have: all are in the checkpoint, and QEMU keeps MAX_CHECKPOINT bytes of it (76 for each). */
export const MAX_STREAMS = 4096

/** 32-bit words that `save` writes. */
export const STRTAB_STATE_WORDS = 6
