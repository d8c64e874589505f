// SPDX-License-Identifier: Apache-2.0
/**
 * The shadow command queue (server/hypervisor/README.md, sections 3.1, 6.3 and 6.5): in hypervisor memory, and the one that the
 * hardware reads. What the filter keeps and what the hypervisor issues is produced here in order; the hardware is given it
 * by a write of CMDQ_PROD that is waited for, or posted with the answer to the trap.
 *
 * Nothing is allocated in here while commands flow.
 */
import { fieldGet } from '../../smmu/bits.ts'
import { CMDQ_ENT_WORDS, CMDQ_OP_PRI_RESP, CMDQ_OP_RESUME, CMDQ_OP_STALL_TERM, cmdSync } from '../../smmu/commands.ts'
import { CMDQ_ENTRY_SIZE, queueAdvance, queueEntries, queueIndex, queuePointer, queueSpace } from '../../smmu/queue.ts'
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
import type { SmmuContext } from './context.ts'
import { StateLayout } from './stateLayout.ts'
import { HYP_CMDQ_ROOM, HYP_CMDQ_STOPPED, HYP_CMDQ_TIMEOUT } from './warnings.ts'

/** 4096 entries, 64 KiB. */
export const SHADOW_CMDQ_LOG2SIZE = 12
export const SHADOW_CMDQ_ENTRIES = 2 ** SHADOW_CMDQ_LOG2SIZE
export const SHADOW_CMDQ_BYTES = SHADOW_CMDQ_ENTRIES * CMDQ_ENTRY_SIZE
/** Commands of the hypervisor that are gathered before they are written. */
const OWN_ENTRIES = 256

/** Commands that answer something: the hardware must not get one of them twice. Invalidations it may. */
const NON_IDEMPOTENT: ReadonlySet<number> = new Set([CMDQ_OP_PRI_RESP, CMDQ_OP_RESUME, CMDQ_OP_STALL_TERM])

/** What a checkpoint holds. */
export interface ShadowCmdqState {
  /** Address of the queue. */
  base: number
  /** Where the next command goes. */
  prod: number
  /** The hardware's CMDQ_PROD as last written. */
  submitted: number
  /** The hardware's CMDQ_CONS as last read: index and ERR. */
  cons: number
  error: number
}

export const SHADOW_CMDQ_STATE = new StateLayout<ShadowCmdqState>({
  base: 'u53',
  prod: 'u32',
  submitted: 'u32',
  cons: 'u32',
  error: 'u32',
})

export class ShadowCmdq {
  readonly #smmu: SmmuContext
  readonly state: ShadowCmdqState = { base: 0, prod: 0, submitted: 0, cons: 0, error: 0 }
  /** A command of the hypervisor is written here, and then issued. */
  readonly command = new Uint32Array(CMDQ_ENT_WORDS)
  readonly #ownWords = new Uint32Array(CMDQ_ENT_WORDS * OWN_ENTRIES)
  readonly #ownBytes = new Uint8Array(this.#ownWords.buffer)
  /** Commands in `#ownWords` that are not yet in the queue. */
  #own = 0
  /** Room ran out in this trap: what comes after is lost as well. */
  #lost = false
  /** The hardware was found to have stopped at a command. */
  #stopped = false

  constructor(smmu: SmmuContext) {
    this.#smmu = smmu
  }

  reset(): void {
    Object.assign(this.state, { base: 0, prod: 0, submitted: 0, cons: 0, error: 0 } satisfies ShadowCmdqState)
    this.#own = 0
  }

  /** Installs the queue in the hardware. */
  program(base: number): void {
    const { hardware } = this.#smmu
    this.state.base = base
    hardware.write64(ARM_SMMU_CMDQ_BASE, base + SHADOW_CMDQ_LOG2SIZE)
    hardware.write32(ARM_SMMU_CMDQ_PROD, 0)
    hardware.write32(ARM_SMMU_CMDQ_CONS, 0)
  }

  // Produce.

  /** A trap, or an operation outside of traps, begins. */
  begin(): void {
    this.#lost = false
  }

  /** Appends `count` commands, from the one at index `first` of `bytes` on. */
  append(bytes: Uint8Array, first: number, count: number): void {
    const { hyp } = this.#smmu
    const { state } = this
    let done = 0
    while (done < count && !this.#lost) {
      const space = queueSpace(state.prod, state.cons, SHADOW_CMDQ_LOG2SIZE) || this.#makeRoom()
      if (space === 0) {
        this.#lost = true
        this.#smmu.warn(HYP_CMDQ_ROOM, state.prod, state.cons, 0, 0)
        return
      }
      const index = queueIndex(state.prod, SHADOW_CMDQ_LOG2SIZE)
      const part = Math.min(count - done, space, SHADOW_CMDQ_ENTRIES - index)
      const from = (first + done) * CMDQ_ENTRY_SIZE
      hyp.memory.write(state.base + index * CMDQ_ENTRY_SIZE, bytes, from, part * CMDQ_ENTRY_SIZE)
      state.prod = queueAdvance(state.prod, SHADOW_CMDQ_LOG2SIZE, part)
      done += part
    }
  }

  /** @returns entries that there is room for after waiting. */
  #makeRoom(): number {
    const { state } = this
    const { hardware, hyp } = this.#smmu
    // PROD is written even if the hardware should know it: a write that got lost must not block the queue for good.
    state.submitted = state.prod
    hardware.write32(ARM_SMMU_CMDQ_PROD, state.prod)
    hyp.wait.until(this.#hasRoom)
    return queueSpace(state.prod, state.cons, SHADOW_CMDQ_LOG2SIZE)
  }

  /** `command` goes into the queue with the next `sync`, behind everything before it. */
  issue(): void {
    if (this.#own === OWN_ENTRIES) this.#flushOwn()
    this.#ownWords.set(this.command, CMDQ_ENT_WORDS * this.#own++)
  }

  #flushOwn(): void {
    const { hyp, index } = this.#smmu
    const count = this.#own
    this.#own = 0
    for (let i = 0; i < count; i++) hyp.report.hypCommand(index, this.#ownWords[CMDQ_ENT_WORDS * i] & 0xff)
    this.append(this.#ownBytes, 0, count)
  }

  /** CMD_SYNC behind the hypervisor's own commands. @returns whether the hardware has consumed all of them. */
  sync(): boolean {
    cmdSync(this.command)
    this.issue()
    this.#flushOwn()
    return this.#drain() && !this.#lost
  }

  // Post and wait.

  /**
   * At the end of a trap: the hardware is given everything.
   * @param hostCons CMDQ_CONS as the host will read it, without ERR, so that the write may be posted and that read predicted;
   *   null: the write is waited for
   */
  submit(hostCons: number | null): void {
    const { state } = this
    if (state.prod === state.submitted || (hostCons !== null && this.#post(hostCons))) return
    this.#drain()
  }

  /** The hardware has consumed everything when the host looks, or else `settle` is called. */
  #post(hostCons: number): boolean {
    const { state } = this
    const { hardware } = this.#smmu
    const cons = (state.prod | (state.error << 24)) >>> 0
    const answer = (hostCons | (state.error << 24)) >>> 0
    if (!hardware.post(ARM_SMMU_CMDQ_PROD, state.prod, ARM_SMMU_CMDQ_CONS, cons, answer)) return false
    state.submitted = state.prod
    state.cons = state.prod
    return true
  }

  /** The hardware has not consumed what was posted. */
  settle(): void {
    this.#readCons()
    this.#drain()
  }

  /** Lets the hardware have everything, and waits until it has consumed it. */
  #drain(): boolean {
    const { state } = this
    const { hardware, hyp } = this.#smmu
    if (state.prod !== state.submitted) {
      state.submitted = state.prod
      this.#recordCons(hardware.writeThenRead32(ARM_SMMU_CMDQ_PROD, state.prod, ARM_SMMU_CMDQ_CONS))
    }
    if (state.cons === state.prod) return true
    hyp.wait.until(this.#consumed)
    if (state.cons === state.prod) return true
    const warning = this.#stopped ? HYP_CMDQ_STOPPED : HYP_CMDQ_TIMEOUT
    this.#smmu.warn(warning, state.prod, state.cons, hardware.read32(ARM_SMMU_GERROR), 0)
    return false
  }

  #readCons(): void {
    this.#recordCons(this.#smmu.hardware.read32(ARM_SMMU_CMDQ_CONS))
  }

  /** @param cons the hardware's CMDQ_CONS as it was read */
  #recordCons(cons: number): void {
    this.state.cons = queuePointer(cons, SHADOW_CMDQ_LOG2SIZE)
    this.state.error = fieldGet(CMDQ_CONS_ERR, cons)
  }

  /** Hardware that stopped at a command does not go on before the host acknowledges it: waiting would not help. */
  #hasStopped(): boolean {
    const { hardware } = this.#smmu
    const gerror = hardware.read32(ARM_SMMU_GERROR) ^ hardware.read32(ARM_SMMU_GERRORN)
    this.#stopped = (gerror & GERROR_CMDQ_ERR) !== 0
    return this.#stopped
  }

  readonly #consumed = (): boolean => {
    this.#readCons()
    return this.state.cons === this.state.prod || this.#hasStopped()
  }

  readonly #hasRoom = (): boolean => {
    this.#readCons()
    return queueSpace(this.state.prod, this.state.cons, SHADOW_CMDQ_LOG2SIZE) > 0 || this.#hasStopped()
  }

  /** CMDQ_CONS.ERR. That of idle hardware is the one that was read when it became idle. */
  currentError(): number {
    if (this.state.cons !== this.state.prod) this.#readCons()
    return this.state.error
  }

  /**
   * The host acknowledges CMDQ_ERR: it has replaced the command that it took for the illegal one in its own queue, from which
   * everything was copied long ago. What the hardware stopped at is in the shadow queue and would stop it again. A CMD_SYNC
   * goes there, as Linux would put there (IHI 0070 section 7.1).
   */
  acknowledge(): void {
    const { state } = this
    this.#readCons()
    if (state.error !== CMDQ_ERR_CERROR_ILL_IDX || state.cons === state.prod) return
    const words = new Uint32Array(CMDQ_ENT_WORDS)
    cmdSync(words)
    const at = state.base + queueIndex(state.cons, SHADOW_CMDQ_LOG2SIZE) * CMDQ_ENTRY_SIZE
    this.#smmu.hyp.memory.write(at, new Uint8Array(words.buffer), 0, CMDQ_ENTRY_SIZE)
  }

  // Take-over.

  restore(state: ShadowCmdqState): void {
    const { base, prod, submitted, cons, error } = state
    this.reset()
    Object.assign(this.state, {
      base,
      prod: queuePointer(prod, SHADOW_CMDQ_LOG2SIZE),
      submitted: queuePointer(submitted, SHADOW_CMDQ_LOG2SIZE),
      cons: queuePointer(cons, SHADOW_CMDQ_LOG2SIZE),
      error: error & 0x7f,
    } satisfies ShadowCmdqState)
  }

  /**
   * After `restore`: goes on where the hardware is, which may have been given more than the checkpoint knows of. What it
   * was given comes again when the host's write is repeated, and then goes behind it: moving PROD back would make the
   * hardware run through the whole queue.
   * @returns commands that the hardware was given already and must not get twice; null when its PROD is not one that the
   *   former hypervisor can have written
   */
  resume(): Uint32Array[] | null {
    const { state } = this
    const { hardware, hyp } = this.#smmu
    const known = state.prod
    state.prod = queuePointer(hardware.read32(ARM_SMMU_CMDQ_PROD), SHADOW_CMDQ_LOG2SIZE)
    state.submitted = state.prod
    this.#readCons()
    const count = queueEntries(state.prod, known, SHADOW_CMDQ_LOG2SIZE)
    if (count > SHADOW_CMDQ_ENTRIES) return null
    const issued: Uint32Array[] = []
    for (let i = 0; i < count; i++) {
      const command = new Uint32Array(CMDQ_ENT_WORDS)
      const index = queueIndex(queueAdvance(known, SHADOW_CMDQ_LOG2SIZE, i), SHADOW_CMDQ_LOG2SIZE)
      const address = state.base + index * CMDQ_ENTRY_SIZE
      if (!hyp.memory.read(address, new Uint8Array(command.buffer), 0, CMDQ_ENTRY_SIZE)) return null
      if (NON_IDEMPOTENT.has(command[0] & 0xff)) issued.push(command)
    }
    return issued
  }
}
