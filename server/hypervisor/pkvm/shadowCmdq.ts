// SPDX-License-Identifier: Apache-2.0
/**
 * The shadow command queue (server/hypervisor/README.md, sections 3.1, 6.3 and 6.5): in hypervisor memory, and the one that the
 * hardware reads. What the filter keeps and what the hypervisor issues is produced here in order; the hardware is given it
 * by a write of CMDQ_PROD that is waited for, or posted with the answer to the trap.
 *
 * Nothing is allocated in here while commands flow.
 */
import { fieldGet } from '../../smmu/bits.ts'
import {
  CMDQ_ENT_WORDS,
  CMDQ_OP_PRI_RESP,
  CMDQ_OP_RESUME,
  CMDQ_OP_STALL_TERM,
  cfgiAll,
  cmdSync,
} from '../../smmu/commands.ts'
import { CMDQ_ENTRY_SIZE, queueAdvance, queueEntries, queueIndex, queuePointer, queueSpace } from '../../smmu/queue.ts'
import {
  ARM_SMMU_CMDQ_BASE,
  ARM_SMMU_CMDQ_CONS,
  ARM_SMMU_CMDQ_PROD,
  ARM_SMMU_GERROR,
  ARM_SMMU_GERRORN,
  CMDQ_CONS_ERR,
  GERROR_CMDQ_ERR,
} from '../../smmu/registers.ts'
import type { SmmuContext } from './context.ts'
import { SHADOW_CMDQ_ENTRIES, SHADOW_CMDQ_LOG2SIZE } from './shadowCmdqSize.ts'
import { StateLayout } from './stateLayout.ts'
import { HYP_CMDQ_ROOM, HYP_CMDQ_STOPPED, HYP_CMDQ_TIMEOUT } from './warnings.ts'

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
  /**
   * No command before it runs any more: the hardware's CMDQ_CONS, or where the commands of the last trap begin when all has been consumed
   * by what is known.
   */
  since: number
  /** Of the command at `since`: where it is in the host's queue, as the host's CMDQ_CONS. */
  origin: number
  /** The hardware was found to have stopped at the command at `cons`, and the host has not acknowledged it. */
  stopped: boolean
}

const NO_STATE: ShadowCmdqState = {
  base: 0,
  prod: 0,
  submitted: 0,
  cons: 0,
  error: 0,
  since: 0,
  origin: 0,
  stopped: false,
}

export const SHADOW_CMDQ_STATE = new StateLayout<ShadowCmdqState>({
  base: 'u53',
  prod: 'u32',
  submitted: 'u32',
  cons: 'u32',
  error: 'u32',
  since: 'u32',
  origin: 'u32',
  stopped: 'flag',
})

/** What a hypervisor that takes over has to know of the commands of its predecessor. */
export interface TakenOver {
  /** Commands that the hardware was given and must not get twice, as far as the queue still holds them. */
  readonly issued: Uint32Array[]
  /**
   * The host acknowledged the error that the hardware stood at, in a trap that was not answered: where its queue is to be copied from
   * again, as its CMDQ_CONS. Or null.
   */
  readonly again: number | null
  readonly sent: SentCommands
}

/** The last commands of the queue, all that may run yet among them. */
export interface SentCommands {
  /** Pointer of the first. */
  readonly at: number
  readonly words: Uint32Array
  /** The place of the host's command that none of them is before, as the host's CMDQ_CONS. */
  readonly origin: number
  /** That is the place of the first. */
  readonly pinned: boolean
}

export class ShadowCmdq {
  readonly #smmu: SmmuContext
  readonly state: ShadowCmdqState = { ...NO_STATE }
  /** Of each entry: the host's CMDQ_CONS as long as the hardware has not consumed it. */
  readonly #origins = new Uint32Array(SHADOW_CMDQ_ENTRIES)
  /** Origin of the commands that are issued: the host's command that they are for, or its next one. */
  origin = 0
  /** A command of the hypervisor is written here, and then issued. */
  readonly command = new Uint32Array(CMDQ_ENT_WORDS)
  readonly #ownWords = new Uint32Array(CMDQ_ENT_WORDS * OWN_ENTRIES)
  readonly #ownBytes = new Uint8Array(this.#ownWords.buffer)
  readonly #ownOrigins = new Uint32Array(OWN_ENTRIES)
  /** Commands in `#ownWords` that are not yet in the queue. */
  #own = 0
  /** Room ran out in this trap: nothing more is appended. */
  #full = false
  /** The hardware did not consume what it was given, and did not say why. Whoever looks into that clears it. */
  timedOut = false

  constructor(smmu: SmmuContext) {
    this.#smmu = smmu
  }

  reset(): void {
    Object.assign(this.state, NO_STATE)
    this.#own = 0
    this.origin = 0
  }

  /** Installs the queue in the hardware. */
  program(base: number): void {
    const { hardware } = this.#smmu
    this.state.base = base
    hardware.write64(ARM_SMMU_CMDQ_BASE, base + SHADOW_CMDQ_LOG2SIZE)
    hardware.write32(ARM_SMMU_CMDQ_PROD, 0)
    hardware.write32(ARM_SMMU_CMDQ_CONS, 0)
  }

  /** Its hardware was switched off: there is nothing in it any more. */
  empty(): void {
    Object.assign(this.state, { ...NO_STATE, base: this.state.base })
    this.#own = 0
    this.timedOut = false
  }

  /** After a power-on, while it is off: the queue is empty, and installed in the hardware again. */
  restart(): void {
    this.empty()
    this.program(this.state.base)
  }

  // Produce.

  /** A trap, or an operation outside of traps, begins. */
  begin(): void {
    this.#full = false
    if (!this.idle) return
    this.state.since = this.state.prod
    this.state.origin = this.origin
  }

  /**
   * Appends `count` commands, from the one at index `first` of `bytes` on; `origins` has that of each.
   * @returns how many there was room for
   */
  append(bytes: Uint8Array, origins: Uint32Array, first: number, count: number): number {
    const { hyp } = this.#smmu
    const { state } = this
    const overruns = hyp.quirks.has('batch-over-4096')
    let done = 0
    while (done < count && !this.#full) {
      const space = overruns ? SHADOW_CMDQ_ENTRIES : this.space || this.#makeRoom()
      if (space === 0) {
        this.#full = true
        this.#smmu.warn(HYP_CMDQ_ROOM, state.prod, state.cons, 0, 0)
        break
      }
      const index = queueIndex(state.prod, SHADOW_CMDQ_LOG2SIZE)
      const part = Math.min(count - done, space, SHADOW_CMDQ_ENTRIES - index)
      const from = (first + done) * CMDQ_ENTRY_SIZE
      const at = state.base + index * CMDQ_ENTRY_SIZE
      hyp.memory.write(at, bytes, from, part * CMDQ_ENTRY_SIZE)
      hyp.memory.clean?.(at, part * CMDQ_ENTRY_SIZE)
      for (let i = 0; i < part; i++) this.#origins[index + i] = origins[first + done + i]
      state.prod = queueAdvance(state.prod, SHADOW_CMDQ_LOG2SIZE, part)
      done += part
    }
    return done
  }

  /** There was no room for a command: it is not in the queue. */
  get full(): boolean {
    return this.#full
  }

  /** Entries that there is room for, by what is known of the hardware. */
  get space(): number {
    return queueSpace(this.state.prod, this.state.cons, SHADOW_CMDQ_LOG2SIZE)
  }

  /** @returns entries that there is room for after waiting. */
  #makeRoom(): number {
    const { state } = this
    const { hardware, hyp } = this.#smmu
    // PROD is written even if the hardware should know it: a write that got lost must not block the queue for good.
    state.submitted = state.prod
    hardware.write32(ARM_SMMU_CMDQ_PROD, state.prod)
    hyp.wait.until(this.#hasRoom)
    return this.space
  }

  /** `command` goes into the queue with the next `sync`, behind everything before it. */
  issue(): void {
    if (this.#own === OWN_ENTRIES) this.#flushOwn()
    this.#ownOrigins[this.#own] = this.origin
    this.#ownWords.set(this.command, CMDQ_ENT_WORDS * this.#own++)
  }

  #flushOwn(): void {
    const { hyp, index } = this.#smmu
    const count = this.#own
    this.#own = 0
    for (let i = 0; i < count; i++) hyp.report.hypCommand(index, this.#ownWords[CMDQ_ENT_WORDS * i] & 0xff)
    this.append(this.#ownBytes, this.#ownOrigins, 0, count)
  }

  /** CMD_SYNC behind the hypervisor's own commands. @returns whether the hardware has consumed all of them. */
  sync(): boolean {
    cmdSync(this.command)
    this.issue()
    this.#flushOwn()
    return this.#drain() && !this.#full
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
    if (this.idle) return true
    hyp.wait.until(this.#consumed)
    if (this.idle) return true
    this.timedOut = !state.stopped
    const warning = state.stopped ? HYP_CMDQ_STOPPED : HYP_CMDQ_TIMEOUT
    this.#smmu.warn(warning, state.prod, state.cons, hardware.read32(ARM_SMMU_GERROR), 0)
    return false
  }

  #readCons(): void {
    this.#recordCons(this.#smmu.hardware.read32(ARM_SMMU_CMDQ_CONS))
  }

  /** @param cons the hardware's CMDQ_CONS as it was read */
  #recordCons(cons: number): void {
    const { state } = this
    state.cons = queuePointer(cons, SHADOW_CMDQ_LOG2SIZE)
    state.error = fieldGet(CMDQ_CONS_ERR, cons)
    if (this.idle) return
    state.since = state.cons
    state.origin = this.#origins[queueIndex(state.cons, SHADOW_CMDQ_LOG2SIZE)]
  }

  /** Hardware that stopped at a command does not go on before the host acknowledges it: waiting would not help. */
  #hasStopped(): boolean {
    const { hardware } = this.#smmu
    const gerror = hardware.read32(ARM_SMMU_GERROR) ^ hardware.read32(ARM_SMMU_GERRORN)
    this.state.stopped = (gerror & GERROR_CMDQ_ERR) !== 0
    return this.state.stopped
  }

  readonly #consumed = (): boolean => {
    this.#readCons()
    return this.idle || this.#hasStopped()
  }

  readonly #hasRoom = (): boolean => {
    this.#readCons()
    return this.space > 0 || this.#hasStopped()
  }

  /** Whether the hardware has consumed everything so far, by what is known of it. */
  get idle(): boolean {
    return this.state.cons === this.state.prod
  }

  /** Lets the hardware have everything so far. @returns whether it has consumed it */
  catchUp(): boolean {
    return this.idle || this.#drain()
  }

  /** Whether the hardware stands at a command, and will until the host acknowledges that. */
  stands(): boolean {
    return !this.idle && this.#hasStopped()
  }

  /**
   * CMDQ_CONS as the host reads it: where the hardware is in the host's queue, and ERR. That of idle hardware is the one that
   * was read when it became idle.
   * @param fetched where the hardware is when it has consumed everything
   */
  hostCons(fetched: number): number {
    const { state } = this
    if (!this.idle) this.#readCons()
    return this.withError(this.idle ? fetched : state.origin)
  }

  /** A CMDQ_CONS of the host's with ERR as last read. */
  withError(cons: number): number {
    return ((cons & ~CMDQ_CONS_ERR) | (this.state.error << 24)) >>> 0
  }

  /**
   * What the hardware has not consumed is not to run: it becomes CMD_SYNCs, and counts as the host's command at `origin`. The
   * hardware must not be reading commands: its queue is off, or it has stopped (IHI 0070 section 7.1).
   *
   * The first becomes CFGI_ALL: a CFGI_STE of the hypervisor's own may be among them, for an entry that counts as invalid already.
   */
  discard(origin: number): void {
    const { state } = this
    const { memory } = this.#smmu.hyp
    const words = new Uint32Array(CMDQ_ENT_WORDS)
    cfgiAll(words)
    const bytes = new Uint8Array(words.buffer)
    for (let at = state.cons; at !== state.prod; at = queueAdvance(at, SHADOW_CMDQ_LOG2SIZE)) {
      const index = queueIndex(at, SHADOW_CMDQ_LOG2SIZE)
      memory.write(state.base + index * CMDQ_ENTRY_SIZE, bytes, 0, CMDQ_ENTRY_SIZE)
      memory.clean?.(state.base + index * CMDQ_ENTRY_SIZE, CMDQ_ENTRY_SIZE)
      this.#origins[index] = origin
      cmdSync(words)
    }
    state.since = state.cons
    state.origin = origin
  }

  // Take-over.

  restore(state: ShadowCmdqState): void {
    const { base, prod, submitted, cons, error, since, origin, stopped } = state
    Object.assign(this.state, {
      base,
      prod: queuePointer(prod, SHADOW_CMDQ_LOG2SIZE),
      submitted: queuePointer(submitted, SHADOW_CMDQ_LOG2SIZE),
      cons: queuePointer(cons, SHADOW_CMDQ_LOG2SIZE),
      error: error & 0x7f,
      since: queuePointer(since, SHADOW_CMDQ_LOG2SIZE),
      origin,
      stopped,
    } satisfies ShadowCmdqState)
    this.#origins.fill(origin)
  }

  /**
   * After `restore`: goes on where the hardware is, which may have been given more than the checkpoint knows of. What it
   * was given comes again when the host's write is repeated, and then goes behind it: moving PROD back would make the
   * hardware run through the whole queue.
   * @param fetched where the host's queue was copied up to: the commands that come again begin there
   * @returns null when the queue cannot be read
   */
  resume(fetched: number): TakenOver | null {
    const { state } = this
    const { prod: known, since, origin, cons: before } = state
    const [pending, stopped] = [!this.idle, state.stopped]
    state.prod = queuePointer(this.#smmu.hardware.read32(ARM_SMMU_CMDQ_PROD), SHADOW_CMDQ_LOG2SIZE)
    state.submitted = state.prod
    this.#readCons()
    const { cons, prod } = state
    const stands = this.stands()
    const again = pending && stopped && !(stands && cons === before) ? origin : null
    const entries = (to: number, from: number) => queueEntries(to, from, SHADOW_CMDQ_LOG2SIZE)
    const inKnown = entries(cons, since) < entries(known, since)
    const from = inKnown ? since : known
    const sent = this.#read(from)
    const given = this.#read(known)
    if (sent === null || given === null) return null
    state.since = from
    state.origin = inKnown ? origin : (again ?? fetched)
    this.#origins.fill(state.origin)
    // Where the hardware has stopped, the rest will not run.
    const rest = stands ? entries(prod, cons) : 0
    const issued: Uint32Array[] = []
    for (let i = 0; i < given.length / CMDQ_ENT_WORDS - rest; i++) {
      const command = given.slice(CMDQ_ENT_WORDS * i, CMDQ_ENT_WORDS * (i + 1))
      if (NON_IDEMPOTENT.has(command[0] & 0xff)) issued.push(command)
    }
    const first = queueAdvance(prod, SHADOW_CMDQ_LOG2SIZE, -sent.length / CMDQ_ENT_WORDS)
    return { issued, again, sent: { at: first, words: sent, origin: state.origin, pinned: inKnown && pending } }
  }

  /** Commands from `from` up to PROD, as far as the queue still holds them; null when it cannot be read. */
  #read(from: number): Uint32Array | null {
    const { base, prod } = this.state
    const count = Math.min(SHADOW_CMDQ_ENTRIES, queueEntries(prod, from, SHADOW_CMDQ_LOG2SIZE))
    const words = new Uint32Array(CMDQ_ENT_WORDS * count)
    const bytes = new Uint8Array(words.buffer)
    for (let i = 0; i < count; i++) {
      const index = queueIndex(prod - count + i, SHADOW_CMDQ_LOG2SIZE)
      const address = base + index * CMDQ_ENTRY_SIZE
      if (!this.#smmu.hyp.memory.read(address, bytes, i * CMDQ_ENTRY_SIZE, CMDQ_ENTRY_SIZE)) return null
    }
    return words
  }

  /**
   * After a take-over.
   * @param at pointer of the first of some commands
   * @param places of each of them: where it is in the host's queue, as the host's CMDQ_CONS
   */
  place(at: number, places: Uint32Array): void {
    for (let i = 0; i < places.length; i++) this.#origins[queueIndex(at + i, SHADOW_CMDQ_LOG2SIZE)] = places[i]
    if (!this.idle) this.#readCons()
  }
}
