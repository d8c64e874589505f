// SPDX-License-Identifier: Apache-2.0
import { encodeHold } from '../../protocol/generated/messages.ts'
import { OperationError } from '../policy/operationError.ts'
import type { Trap } from '../policy/policy.ts'
import { released } from '../trace/records.ts'
import type { Hit } from './breakpoints.ts'
import type { Link } from './link.ts'
import type { HeldTrap, Release } from './operations.ts'
import type { Thread } from './thread.ts'
import type { WaitingVcpu } from './waitingVcpu.ts'

/** A trap on its way to its answer. */
export interface TrapInProgress {
  /** Request of QEMU. */
  readonly seq: number
  /** Round trip of the trap before, as QEMU measured it, ns. */
  readonly lastTrapNs: number
  readonly start: number
  /** ns that the server had spent on it before `start`. */
  readonly spent: number
}

/** How a trap goes on that is held no longer. */
export interface Onward {
  decide(seq: number, lastTrapNs: number, start: number, spent: number): void
  /** @param hand a value of `released` */
  answer(seq: number, lastTrapNs: number, start: number, spent: number, hand: number): void
}

/** The trap whose reply waits for a person. Meanwhile the event loop goes on, and takes operations. */
export class Holding {
  readonly #thread: Thread
  readonly #link: Link
  readonly #vcpu: WaitingVcpu
  readonly #trap: Trap
  readonly #onward: Onward
  #held: (TrapInProgress & { readonly hit: Hit; readonly callers: readonly bigint[]; parked: boolean }) | undefined
  /** The trap before was held, so QEMU's time for it says nothing. */
  #heldBefore = false

  constructor(thread: Thread, link: Link, vcpu: WaitingVcpu, trap: Trap, onward: Onward) {
    this.#thread = thread
    this.#link = link
    this.#vcpu = vcpu
    this.#trap = trap
    this.#onward = onward
  }

  /** @throws LinkClosed */
  hold(hit: Hit, seq: number, lastTrapNs: number, start: number, spent: number): void {
    const { ring, counters, post } = this.#thread
    encodeHold(this.#link.out, this.#link.nextSeq())
    this.#link.flush()
    const callers = this.#vcpu.callers(this.#trap)
    const parked = this.#thread.debugged && this.#vcpu.park()
    const now = ring.now()
    this.#held = { hit, callers, parked, seq, lastTrapNs, start, spent: spent + now - start }
    ring.breakpoint(hit.breakpoint, this.#trap.seq, now, hit.phase === 'after')
    counters.add('breakpoints')
    post('held', { hit, trap: { ...this.#trap }, callers })
  }

  get held(): HeldTrap | null {
    if (this.#held === undefined) return null
    const { hit, callers } = this.#held
    return { hit, trap: { ...this.#trap }, callers }
  }

  /** Somebody looks with gdb from now on. @throws OperationError when QEMU cannot let them, LinkClosed */
  park(): void {
    const held = this.#held
    if (held === undefined || held.parked) return
    held.parked = this.#vcpu.park()
    if (!held.parked) throw new OperationError('state', 'this QEMU cannot let gdb look at a vCPU whose trap is held')
  }

  /** Request of a held trap that has been decided, 0: there is none. */
  get decided(): number {
    return this.#held?.hit.phase === 'after' ? this.#held.seq : 0
  }

  /** QEMU's time for the last trap, unless a person was part of it. To be asked for once with each trap. */
  measured(lastTrapNs: number): number {
    if (!this.#heldBefore) return lastTrapNs
    this.#heldBefore = false
    return 0
  }

  /** @throws OperationError when that cannot be done with it */
  release({ action, value }: Release): void {
    const held = this.#held
    if (held === undefined) throw new OperationError('state', 'no trap is held')
    const trap = this.#trap
    const decided = held.hit.phase === 'after'
    if (decided && trap.write && (action === 'drop' || value !== undefined)) {
      throw new OperationError('state', 'the write has been carried out already: it can only continue, step or abort')
    }
    this.#held = undefined
    this.#heldBefore = true
    if (action === 'step') this.#thread.breakpoints.step(true)
    const answered = !trap.write && (value !== undefined || action === 'drop')
    if (value !== undefined && action !== 'abort') {
      trap.lo = value.lo
      trap.hi = value.hi
    } else if (answered) {
      trap.lo = 0
      trap.hi = 0
    }
    if (answered) trap.aborted = false
    if (action === 'abort') trap.aborted = true
    this.#thread.post('released', trap.seq, action)
    const { seq, lastTrapNs, spent } = held
    const start = this.#thread.ring.now()
    try {
      const changed = answered || action === 'drop' || action === 'abort'
      if (!changed && !decided) this.#onward.decide(seq, lastTrapNs, start, spent)
      else {
        const hand = !changed ? released.no : decided ? released.changed : released.answered
        this.#onward.answer(seq, lastTrapNs, start, spent, hand)
      }
    } catch (error) {
      this.#link.close(error as Error)
    }
  }

  /** The machine is gone. A trap that was decided has its place on the trace: it is answered from the checkpoint now. */
  end(): void {
    const held = this.#held
    if (held === undefined) return
    this.#held = undefined
    if (held.hit.phase === 'after') {
      this.#thread.ring.trap(this.#trap, held.start, held.spent, held.lastTrapNs, released.no)
    }
    this.#thread.post('released', this.#trap.seq, 'lost')
  }
}
