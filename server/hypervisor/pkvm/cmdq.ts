// SPDX-License-Identifier: Apache-2.0
/**
 * Command queue (server/hypervisor/README.md, section 6). The host's queue is copied once, filtered, and appended to a
 * shadow queue in hypervisor memory, which is the one that the hardware reads; the hypervisor's own commands go the
 * same way. When a trap ends, the hardware has consumed everything, or is given it in front of the answer (`#post`).
 *
 * Nothing is allocated in here while commands flow.
 */

import { COMMAND_DROPPED, COMMAND_KEPT, COMMAND_REWRITTEN, type CommandVerdict } from '../../policy/report.ts'
import { OK } from '../../policy/result.ts'
import type { HypWarning } from '../../policy/warnings.ts'
import { addressOf, fieldGet, getField, setField } from '../../smmu/bits.ts'
import {
  CMDQ_CFGI_1_RANGE,
  CMDQ_CFGI_RANGE_ALL,
  CMDQ_OP_CFGI_ALL,
  CMDQ_OP_CFGI_STE,
  CMDQ_OP_CMD_SYNC,
  CMDQ_OP_PRI_RESP,
  CMDQ_OP_RESUME,
  CMDQ_OP_STALL_TERM,
  CMDQ_OP_TLBI_EL2_ALL,
  CMDQ_OP_TLBI_EL2_ASID,
  CMDQ_OP_TLBI_EL2_VA,
  CMDQ_OP_TLBI_EL2_VAA,
  CMDQ_OP_TLBI_NH_ALL,
  CMDQ_OP_TLBI_NH_ASID,
  CMDQ_OP_TLBI_NH_VA,
  CMDQ_OP_TLBI_NH_VAA,
  CMDQ_OP_TLBI_S2_IPA,
  CMDQ_OP_TLBI_S12_VMALL,
  CMDQ_SYNC_0_CS,
  CMDQ_SYNC_0_CS_IRQ,
  CMDQ_SYNC_0_CS_SEV,
  CMDQ_TLBI_0_VMID,
  cmdSync,
} from '../../smmu/commands.ts'
import {
  CMDQ_ENTRY_SIZE,
  queueAdvance,
  queueBase,
  queueEntries,
  queueIndex,
  queueLog2Size,
  queuePointer,
  queueSpace,
} from '../../smmu/queue.ts'
import {
  ARM_SMMU_CMDQ_BASE,
  ARM_SMMU_CMDQ_CONS,
  ARM_SMMU_CMDQ_PROD,
  ARM_SMMU_GERROR,
  ARM_SMMU_GERRORN,
  CMDQ_CONS_ERR,
  CMDQ_ERR_CERROR_ILL_IDX,
  GERROR_CMDQ_ERR,
} from '../../smmu/registers.ts'
import type { Hypervisor } from './hypervisor.ts'
import { HOST_VMID } from './idmap.ts'
import type { Smmu } from './smmu.ts'
import {
  HYP_CFGI_RANGE,
  HYP_CFGI_STE,
  HYP_CMDQ_FETCH,
  HYP_CMDQ_ROOM,
  HYP_CMDQ_STOPPED,
  HYP_CMDQ_TIMEOUT,
  HYP_COMMAND_REFUSED,
  HYP_COMMAND_VMID,
} from './warnings.ts'

/** Commands that are not to be carried out twice: invalidations may be, these answer something. */
const ONCE: ReadonlySet<number> = new Set([CMDQ_OP_PRI_RESP, CMDQ_OP_RESUME, CMDQ_OP_STALL_TERM])

/** The largest LOG2SIZE that the architecture allows a queue to have. */
export const QUEUE_MAX_LOG2SIZE = 19
/** The shadow queue: 4096 entries, 64 KiB. */
export const SHADOW_CMDQ_LOG2SIZE = 12
const SHADOW_ENTRIES = 2 ** SHADOW_CMDQ_LOG2SIZE
export const SHADOW_CMDQ_BYTES = SHADOW_ENTRIES * CMDQ_ENTRY_SIZE
/** Commands of the hypervisor that are gathered before they are written. */
const OWN_ENTRIES = 256

/**
 * Decides about one command of the host: the four words at `at`, a copy that may be changed.
 * @returns COMMAND_KEPT as it is, COMMAND_REWRITTEN when the rule changed it, COMMAND_DROPPED when the hardware must not get it
 */
export type CommandRule = (words: Uint32Array, at: number, smmu: Smmu) => CommandVerdict

/** A change of the rule of an opcode, given the rule that stood there. */
export type CommandOverrides = Readonly<Record<number, (rule: CommandRule) => CommandRule>>

const passThrough: CommandRule = () => COMMAND_KEPT

function dropWith(warning: HypWarning, words: Uint32Array, at: number, smmu: Smmu): typeof COMMAND_DROPPED {
  smmu.warn(warning, words[at], words[at + 1], words[at + 2], words[at + 3])
  return COMMAND_DROPPED
}

const dropAndWarn: CommandRule = (words, at, smmu) => dropWith(HYP_COMMAND_REFUSED, words, at, smmu)

/** TLBI with a VMID: the host has only its own. */
const requireHostVmid: CommandRule = (words, at, smmu) =>
  getField(words, CMDQ_TLBI_0_VMID, at) === HOST_VMID ? COMMAND_KEPT : dropWith(HYP_COMMAND_VMID, words, at, smmu)

/** CFGI_STE_RANGE: only as CFGI_ALL. */
const requireCfgiAll: CommandRule = (words, at, smmu) =>
  getField(words, CMDQ_CFGI_1_RANGE, at) === CMDQ_CFGI_RANGE_ALL
    ? COMMAND_KEPT
    : dropWith(HYP_CFGI_RANGE, words, at, smmu)

/** CS = IRQ becomes SEV without an MSI address, so that the hardware never writes where the host says. */
const syncWithoutMsi: CommandRule = (words, at) => {
  if (getField(words, CMDQ_SYNC_0_CS, at) !== CMDQ_SYNC_0_CS_IRQ) return COMMAND_KEPT
  setField(words, CMDQ_SYNC_0_CS, CMDQ_SYNC_0_CS_SEV, at)
  words[at + 2] = 0
  words[at + 3] = 0
  return COMMAND_REWRITTEN
}

const shadowStream: CommandRule = (words, at, smmu) => {
  const sid = words[at + 1]
  const leaf = words[at + 2] & 1
  const result = smmu.strtab.configure(sid, leaf === 1)
  if (result === OK) return COMMAND_KEPT
  smmu.warn(HYP_CFGI_STE, sid, leaf, result, 0)
  return COMMAND_DROPPED
}

/** The filter: a rule for each opcode, none where every command is passed on. */
export function commandRules(shadowStreams: boolean, overrides: CommandOverrides = {}): (CommandRule | undefined)[] {
  const rules = new Array<CommandRule | undefined>(256).fill(undefined)
  if (shadowStreams) rules[CMDQ_OP_CFGI_STE] = shadowStream
  rules[CMDQ_OP_CFGI_ALL] = requireCfgiAll
  rules[CMDQ_OP_TLBI_NH_ALL] = dropAndWarn
  rules[CMDQ_OP_TLBI_NH_ASID] = requireHostVmid
  rules[CMDQ_OP_TLBI_NH_VA] = requireHostVmid
  rules[CMDQ_OP_TLBI_NH_VAA] = requireHostVmid
  rules[CMDQ_OP_TLBI_EL2_ALL] = dropAndWarn
  rules[CMDQ_OP_TLBI_EL2_ASID] = dropAndWarn
  rules[CMDQ_OP_TLBI_EL2_VA] = dropAndWarn
  rules[CMDQ_OP_TLBI_EL2_VAA] = dropAndWarn
  rules[CMDQ_OP_TLBI_S12_VMALL] = dropAndWarn
  rules[CMDQ_OP_TLBI_S2_IPA] = dropAndWarn
  rules[CMDQ_OP_CMD_SYNC] = syncWithoutMsi
  for (const [opcode, change] of Object.entries(overrides)) {
    const at = Number(opcode) & 0xff
    rules[at] = change(rules[at] ?? passThrough)
  }
  return rules
}

export class CommandQueue {
  readonly #hyp: Hypervisor
  readonly #smmu: Smmu
  readonly #rules: readonly (CommandRule | undefined)[]
  readonly #posts: boolean
  readonly #words = new Uint32Array(4 * SHADOW_ENTRIES)
  readonly #bytes = new Uint8Array(this.#words.buffer)
  /** Commands at the start of `#words` that are kept but not yet in the shadow queue. */
  #pending = 0
  readonly #ownWords = new Uint32Array(4 * OWN_ENTRIES)
  readonly #ownBytes = new Uint8Array(this.#ownWords.buffer)
  #own = 0
  /** Room ran out in this trap: what comes after is lost as well. */
  #lost = false
  #stopped = false
  /** After a take-over: commands of the trap that is repeated which the hardware has already and must not get twice. */
  #carriedOut: Uint32Array[] = []

  /** The host's registers as it wrote them. */
  hostBaseLo = 0
  hostBaseHi = 0
  hostProd = 0
  hostCons = 0
  /** The host's queue while it is enabled. */
  #hostAddress = 0
  #hostLog2size = 0

  /** Address of the shadow queue. */
  base = 0
  prod = 0
  /** The hardware's PROD as last written. */
  #submitted = 0
  /** The hardware's CONS as last read: pointer and ERR. */
  cons = 0
  error = 0

  /** @param posts the host's CMDQ_CONS is what this class says, so that it may be told ahead */
  constructor(hyp: Hypervisor, smmu: Smmu, rules: readonly (CommandRule | undefined)[], posts: boolean) {
    this.#hyp = hyp
    this.#smmu = smmu
    this.#rules = rules
    this.#posts = posts
  }

  reset(): void {
    this.hostBaseLo = 0
    this.hostBaseHi = 0
    this.hostProd = 0
    this.hostCons = 0
    this.base = 0
    this.prod = 0
    this.#submitted = 0
    this.cons = 0
    this.error = 0
    this.#pending = 0
    this.#own = 0
    this.#carriedOut = []
  }

  /** Installs the shadow queue (server/hypervisor/README.md, section 3.1). */
  program(base: number): void {
    this.base = base
    this.#smmu.write64(ARM_SMMU_CMDQ_BASE, base + SHADOW_CMDQ_LOG2SIZE)
    this.#smmu.write32(ARM_SMMU_CMDQ_PROD, 0)
    this.#smmu.write32(ARM_SMMU_CMDQ_CONS, 0)
  }

  /** The host's queue by its base register. */
  get hostAddress(): number {
    return queueBase(this.hostBaseLo, this.hostBaseHi, this.hostLog2size, CMDQ_ENTRY_SIZE)
  }

  get hostLog2size(): number {
    return queueLog2Size(this.hostBaseLo, QUEUE_MAX_LOG2SIZE)
  }

  get hostBytes(): number {
    return CMDQ_ENTRY_SIZE * 2 ** this.hostLog2size
  }

  /** CMDQEN 0 → 1. */
  enable(): number {
    this.locateHost()
    return this.#hyp.share.sharePinned(this.#hostAddress, this.hostBytes)
  }

  /** CMDQEN 1 → 0. */
  disable(): number {
    return this.#hyp.share.unsharePinned(this.#hostAddress, this.hostBytes)
  }

  /** The base register cannot change while the queue is enabled. */
  locateHost(): void {
    this.#hostLog2size = this.hostLog2size
    this.#hostAddress = this.hostAddress
  }

  /** CMDQ_PROD was written with CMDQEN = 1: everything up to it goes to the hardware. */
  processHost(): void {
    const log2size = this.#hostLog2size
    this.#lost = false
    let left = queueEntries(this.hostProd, this.hostCons, log2size)
    let cons = queuePointer(this.hostCons, log2size)
    while (left > 0) {
      const index = queueIndex(cons, log2size)
      const count = Math.min(left, SHADOW_ENTRIES, (1 << log2size) - index)
      const address = this.#hostAddress + index * CMDQ_ENTRY_SIZE
      if (!this.#hyp.memory.read(address, this.#bytes, 0, count * CMDQ_ENTRY_SIZE)) {
        const hi = Math.floor(address / 2 ** 32)
        this.#smmu.warn(HYP_CMDQ_FETCH, address >>> 0, hi, left * CMDQ_ENTRY_SIZE, 0)
        break
      }
      this.#filter(count)
      cons = queueAdvance(cons, log2size, count)
      left -= count
    }
    this.hostCons = queuePointer(this.hostProd, log2size)
    this.#carriedOut = []
    if (this.prod !== this.#submitted && !this.#post()) this.#drain()
  }

  /**
   * Hands everything to the hardware with the answer to this trap: it has consumed it when the host looks, or else `settle`
   * is called.
   */
  #post(): boolean {
    const { hardware } = this.#smmu
    if (!this.#posts || hardware.post === undefined) return false
    const cons = (this.prod | (this.error << 24)) >>> 0
    const answer = ((this.hostCons & ~CMDQ_CONS_ERR) | (this.error << 24)) >>> 0
    if (!hardware.post(ARM_SMMU_CMDQ_PROD, this.prod, ARM_SMMU_CMDQ_CONS, cons, answer)) return false
    this.#submitted = this.prod
    this.cons = this.prod
    return true
  }

  /** The hardware has not consumed what was posted. */
  settle(): void {
    this.#readCons()
    this.#drain()
  }

  #filter(count: number): void {
    const words = this.#words
    const rules = this.#rules
    const smmu = this.#smmu
    const { report } = this.#hyp
    const end = 4 * count
    this.#pending = 0
    for (let at = 0; at < end; at += 4) {
      const opcode = words[at] & 0xff
      const rule = rules[opcode]
      let verdict = rule === undefined ? COMMAND_KEPT : rule(words, at, smmu)
      // A policy file is not type-checked: what is no verdict must not pass.
      if (verdict !== COMMAND_KEPT && verdict !== COMMAND_REWRITTEN) verdict = COMMAND_DROPPED
      if (this.#carriedOut.length > 0 && verdict !== COMMAND_DROPPED && this.#wasCarriedOut(words, at)) {
        verdict = COMMAND_DROPPED
      }
      report.command(smmu.index, opcode, verdict)
      if (verdict !== COMMAND_DROPPED) {
        const to = 4 * this.#pending++
        if (to !== at) {
          words[to] = words[at]
          words[to + 1] = words[at + 1]
          words[to + 2] = words[at + 2]
          words[to + 3] = words[at + 3]
        }
      }
    }
    this.#flush()
  }

  /** Appends the kept commands. */
  #flush(): void {
    const count = this.#pending
    this.#pending = 0
    if (count > 0) this.#append(this.#bytes, count)
  }

  /** A command of the hypervisor itself: its four words go where this says, in `ownWords`. */
  issue(): number {
    if (this.#pending > 0) this.#flush()
    if (this.#own === OWN_ENTRIES) this.#flushOwn()
    return 4 * this.#own++
  }

  get ownWords(): Uint32Array {
    return this.#ownWords
  }

  #flushOwn(): void {
    const count = this.#own
    this.#own = 0
    for (let i = 0; i < count; i++) this.#hyp.report.hypCommand(this.#smmu.index, this.#ownWords[4 * i] & 0xff)
    if (count > 0) this.#append(this.#ownBytes, count)
  }

  /** CMD_SYNC after the hypervisor's own commands; waits until the hardware has consumed all. */
  sync(): boolean {
    cmdSync(this.#ownWords, undefined, this.issue())
    this.#flushOwn()
    return this.#drain() && !this.#lost
  }

  /** A new operation outside of `processHost` begins. */
  begin(): void {
    this.#lost = false
  }

  #append(bytes: Uint8Array, count: number): void {
    let done = 0
    while (done < count && !this.#lost) {
      let space = queueSpace(this.prod, this.cons, SHADOW_CMDQ_LOG2SIZE)
      if (space === 0) {
        // Told again even if it knows: a write that got lost must not block the queue for good.
        this.#submitted = this.prod
        this.#smmu.write32(ARM_SMMU_CMDQ_PROD, this.prod)
        this.#hyp.wait.until(this.#hasRoom)
        space = queueSpace(this.prod, this.cons, SHADOW_CMDQ_LOG2SIZE)
        if (space === 0) {
          this.#lost = true
          this.#smmu.warn(HYP_CMDQ_ROOM, this.prod, this.cons, 0, 0)
          return
        }
      }
      const index = queueIndex(this.prod, SHADOW_CMDQ_LOG2SIZE)
      const part = Math.min(count - done, space, SHADOW_ENTRIES - index)
      const from = done * CMDQ_ENTRY_SIZE
      this.#hyp.memory.write(this.base + index * CMDQ_ENTRY_SIZE, bytes, from, part * CMDQ_ENTRY_SIZE)
      this.prod = queueAdvance(this.prod, SHADOW_CMDQ_LOG2SIZE, part)
      done += part
    }
  }

  /** Lets the hardware have everything, and waits until it is consumed. */
  #drain(): boolean {
    if (this.prod !== this.#submitted) {
      this.#submitted = this.prod
      this.#took(this.#smmu.writeThenRead32(ARM_SMMU_CMDQ_PROD, this.prod, ARM_SMMU_CMDQ_CONS))
    }
    if (this.cons === this.prod) return true
    this.#hyp.wait.until(this.#consumed)
    if (this.cons === this.prod) return true
    const warning = this.#stopped ? HYP_CMDQ_STOPPED : HYP_CMDQ_TIMEOUT
    this.#smmu.warn(warning, this.prod, this.cons, this.#smmu.read32(ARM_SMMU_GERROR), 0)
    return false
  }

  #readCons(): void {
    this.#took(this.#smmu.read32(ARM_SMMU_CMDQ_CONS))
  }

  /** The hardware's CONS as it was read. */
  #took(cons: number): void {
    this.cons = queuePointer(cons, SHADOW_CMDQ_LOG2SIZE)
    this.error = fieldGet(CMDQ_CONS_ERR, cons)
  }

  /** A hardware that stopped at a command does not go on before the host acknowledges it: waiting would not help. */
  #hasStopped(): boolean {
    const gerror = this.#smmu.read32(ARM_SMMU_GERROR) ^ this.#smmu.read32(ARM_SMMU_GERRORN)
    this.#stopped = (gerror & GERROR_CMDQ_ERR) !== 0
    return this.#stopped
  }

  /**
   * The host acknowledges errors. It has replaced the command that it took for the illegal one, in its own queue, from which
   * everything was copied long ago; what the hardware stopped at is in the shadow queue and would stop it again. A CMD_SYNC
   * goes there, as Linux would put there (IHI 0070 section 7.1;
   * server/hypervisor/README.md, section 6.4).
   * @param gerrorn what the host writes
   */
  acknowledged(gerrorn: number): void {
    if (!this.#hasStopped() || ((gerrorn ^ this.#smmu.read32(ARM_SMMU_GERROR)) & GERROR_CMDQ_ERR) !== 0) return
    this.#readCons()
    if (this.error !== CMDQ_ERR_CERROR_ILL_IDX || this.cons === this.prod) return
    const words = new Uint32Array(CMDQ_ENTRY_SIZE / 4)
    cmdSync(words)
    const at = this.base + queueIndex(this.cons, SHADOW_CMDQ_LOG2SIZE) * CMDQ_ENTRY_SIZE
    this.#hyp.memory.write(at, new Uint8Array(words.buffer), 0, CMDQ_ENTRY_SIZE)
  }

  readonly #consumed = (): boolean => {
    this.#readCons()
    return this.cons === this.prod || this.#hasStopped()
  }

  readonly #hasRoom = (): boolean => {
    this.#readCons()
    return queueSpace(this.prod, this.cons, SHADOW_CMDQ_LOG2SIZE) > 0 || this.#hasStopped()
  }

  /**
   * CMDQ_CONS as the host reads it: its own pointer with the hardware's ERR. An idle hardware's ERR is the one that was
   * read when it became idle.
   */
  hostConsWithError(): number {
    if (this.cons !== this.prod) this.#readCons()
    return ((this.hostCons & ~CMDQ_CONS_ERR) | (this.error << 24)) >>> 0
  }

  /**
   * After `restore`: goes on where the hardware is, which may have been given more than the checkpoint knows of. What it
   * was given comes again when the host's write is repeated, and then goes behind it: moving PROD back would make the
   * hardware run through the whole queue.
   */
  resume(): boolean {
    const known = this.prod
    this.prod = queuePointer(this.#smmu.read32(ARM_SMMU_CMDQ_PROD), SHADOW_CMDQ_LOG2SIZE)
    this.#submitted = this.prod
    this.#readCons()
    const count = queueEntries(this.prod, known, SHADOW_CMDQ_LOG2SIZE)
    if (count > SHADOW_ENTRIES) return false
    this.#carriedOut = []
    for (let i = 0; i < count; i++) {
      const command = new Uint32Array(4)
      const index = queueIndex(queueAdvance(known, SHADOW_CMDQ_LOG2SIZE, i), SHADOW_CMDQ_LOG2SIZE)
      const bytes = new Uint8Array(command.buffer)
      if (!this.#hyp.memory.read(this.base + index * CMDQ_ENTRY_SIZE, bytes, 0, CMDQ_ENTRY_SIZE)) return false
      if (ONCE.has(command[0] & 0xff)) this.#carriedOut.push(command)
    }
    return true
  }

  #wasCarriedOut(words: Uint32Array, at: number): boolean {
    const found = this.#carriedOut.findIndex(command => command.every((word, i) => word === words[at + i]))
    if (found >= 0) this.#carriedOut.splice(found, 1)
    return found >= 0
  }

  /** For a checkpoint: what `restore` takes. */
  save(into: Uint32Array, at: number): number {
    into[at] = this.hostBaseLo
    into[at + 1] = this.hostBaseHi
    into[at + 2] = this.hostProd
    into[at + 3] = this.hostCons
    into[at + 4] = this.prod
    into[at + 5] = this.#submitted
    into[at + 6] = this.cons
    into[at + 7] = this.error
    into[at + 8] = this.base % 2 ** 32
    into[at + 9] = this.base / 2 ** 32
    return at + CMDQ_STATE_WORDS
  }

  restore(from: Uint32Array, at: number): number {
    this.reset()
    this.hostBaseLo = from[at]
    this.hostBaseHi = from[at + 1]
    this.hostProd = from[at + 2]
    this.hostCons = from[at + 3]
    this.prod = queuePointer(from[at + 4], SHADOW_CMDQ_LOG2SIZE)
    this.#submitted = queuePointer(from[at + 5], SHADOW_CMDQ_LOG2SIZE)
    this.cons = queuePointer(from[at + 6], SHADOW_CMDQ_LOG2SIZE)
    this.error = from[at + 7] & 0x7f
    this.base = addressOf(from[at + 8], from[at + 9])
    this.locateHost()
    return at + CMDQ_STATE_WORDS
  }
}

/** 32-bit words that `save` writes. */
export const CMDQ_STATE_WORDS = 10
