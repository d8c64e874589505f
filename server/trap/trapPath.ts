// SPDX-License-Identifier: Apache-2.0
import {
  encodeHold,
  encodeReply,
  Id,
  type PredictedRead,
  type TrapRead,
  type TrapWrite,
} from '../../protocol/generated/messages.ts'
import { enums } from '../../protocol/messages.ts'
import type { Injector } from '../faults/injector.ts'
import { newTrap, type Policy, type Trap } from '../policy/policy.ts'
import type { CountersWriter } from '../trace/counters.ts'
import { released } from '../trace/records.ts'
import type { RingWriter } from '../trace/ring.ts'
import type { Breakpoints } from './breakpoints.ts'
import { Checkpoints } from './checkpoints.ts'
import { Holding, type Onward } from './holding.ts'
import type { Link } from './link.ts'
import type { Reporter } from './reporter.ts'
import type { TakeOver } from './takeOver.ts'
import type { Thread } from './thread.ts'
import type { WaitingVcpu } from './waitingVcpu.ts'

const OK = enums.status.ok[0]
const ABORTED = enums.status.aborted[0]

/** Predicted reads that wait for the end of something else: a guest that reads without end must not fill memory. */
const MAX_LATER = 4096

/**
 * The way of a trap, from QEMU's request to its answer: the hot path. Between the two nothing here awaits, logs or builds
 * strings.
 */
export class TrapPath implements Onward {
  readonly holding: Holding
  readonly checkpoints: Checkpoints
  readonly #thread: Thread
  readonly #ring: RingWriter
  readonly #counters: CountersWriter
  readonly #reporter: Reporter
  readonly #breakpoints: Breakpoints
  readonly #injector: Injector
  readonly #panicOnWarn: boolean
  /** Return addresses that are recorded with each trap; 0: none. */
  readonly #callStacks: number
  readonly #vcpu: WaitingVcpu
  readonly #link: Link
  readonly #policy: Policy
  /** The one that is decided, or was decided last. */
  readonly #trap = newTrap()
  /** The machine ran before: until its first request is answered. */
  #takeOver: TakeOver | undefined
  /** Scratch trap for reads that QEMU answered by itself. */
  readonly #predicted = newTrap()
  /** Such reads that were told while something else was under way. */
  readonly #later: PredictedRead[] = []
  readonly #panic: (text: string) => void
  /** The first trap of a connection is told, with the time at which it was answered. */
  #first = true

  /** @param panic a warning stops the machine here: its text */
  constructor(
    thread: Thread,
    link: Link,
    vcpu: WaitingVcpu,
    session: string,
    policy: Policy,
    panic: (text: string) => void,
  ) {
    this.#thread = thread
    this.#ring = thread.ring
    this.#counters = thread.counters
    this.#reporter = thread.reporter
    this.#breakpoints = thread.breakpoints
    this.#injector = thread.injector
    this.#panicOnWarn = thread.options.panicOnWarn
    this.#link = link
    this.#policy = policy
    this.#panic = panic
    this.#callStacks = thread.options.callStacks ?? 0
    this.#vcpu = vcpu
    this.holding = new Holding(thread, link, vcpu, this.#trap, this)
    this.checkpoints = new Checkpoints(link, session, policy, this.#trap)
  }

  /** The trap that is decided, or was decided last. */
  get trap(): Readonly<Trap> {
    return this.#trap
  }

  /** The machine ran before. */
  resume(takeOver: TakeOver): void {
    this.#takeOver = takeOver
    this.#trap.seq = takeOver.traps
    this.checkpoints.suspended = takeOver.lost !== undefined
  }

  /** Nobody can decide traps, and why: only a reset helps. */
  get lost(): string | undefined {
    return this.#takeOver?.lost
  }

  /** The machine is being reset: what was before it does not matter any more. */
  startOver(): void {
    this.#takeOver = undefined
    this.checkpoints.suspended = false
  }

  access(message: TrapRead | TrapWrite, write: boolean): void {
    const start = this.#ring.now()
    if (this.#takeOver?.answers(message)) {
      if (this.#takeOver.lost === undefined) this.#answered()
      return
    }
    const trap = this.#trap
    trap.seq++
    trap.smmu = message.smmu
    trap.cpu = message.cpu
    trap.write = write
    trap.offset = message.offset
    trap.size = message.size
    trap.time = message.time
    trap.pcHi = message.pcHi
    trap.pcLo = message.pcLo
    trap.lo = message.type === Id.trapWrite ? message.valueLo : 0
    trap.hi = message.type === Id.trapWrite ? message.valueHi : 0
    trap.aborted = false
    // The nested calls below reuse no object of this message's type, but the trap may be held.
    const seq = message.seq
    const lastTrapNs = this.holding.measured(message.lastTrapNs)

    if (this.#callStacks !== 0) this.#recordStack()

    if (this.#breakpoints.armed) {
      const hit = this.#breakpoints.before(trap)
      if (hit !== undefined) return this.holding.hold(hit, seq, lastTrapNs, start, 0)
    }
    this.decide(seq, lastTrapNs, start, 0)
  }

  #recordStack(): void {
    const { cpu } = this.#trap
    const frames = this.#vcpu.frames(cpu, this.#callStacks)
    if (frames.length > 0) this.#ring.stack(cpu, frames, 0, frames.length)
  }

  /** @param spent ns of an earlier part of the trap that `start` does not cover */
  decide(seq: number, lastTrapNs: number, start: number, spent: number): void {
    const trap = this.#trap
    if (this.#injector.armed) this.#injector.access(this.#policy, trap)
    else this.#policy.access(trap)

    if (this.#panicOnWarn && this.#reporter.panic !== undefined) return this.stop(this.#reporter.panic)
    if (this.#breakpoints.armed) {
      const hit = this.#breakpoints.after(trap)
      if (hit !== undefined) return this.holding.hold(hit, seq, lastTrapNs, start, spent)
    }
    this.answer(seq, lastTrapNs, start, spent, released.no)
  }

  /** @param hand a value of `released` */
  answer(seq: number, lastTrapNs: number, start: number, spent: number, hand: number): void {
    const trap = this.#trap
    const link = this.#link
    const answer = !trap.write && !trap.aborted
    const status = trap.aborted ? ABORTED : OK
    const hi = answer ? trap.hi : 0
    const lo = answer ? trap.lo : 0
    this.checkpoints.beforeAnswer(seq, status, hi, lo)
    encodeReply(link.out, seq, status, hi, lo)
    link.flush()
    if (this.#first) this.#answered()
    const duration = spent + this.#ring.now() - start
    this.#ring.trap(trap, start, duration, lastTrapNs, hand)
    this.#counters.trap(trap, lastTrapNs, duration)
  }

  /** A read that QEMU answered as it had been told to: it counts as a trap that took the server no time. */
  predicted(message: PredictedRead): void {
    const trap = this.#predicted
    trap.seq = ++this.#trap.seq
    trap.smmu = message.smmu
    trap.cpu = message.cpu
    trap.offset = message.offset
    trap.size = 4
    trap.time = message.time
    trap.pcHi = message.pcHi
    trap.pcLo = message.pcLo
    trap.lo = message.value
    this.#ring.trap(trap, this.#ring.now(), 0, 0, released.no)
    this.#counters.trap(trap, 0, 0)
    this.#counters.predicted(message.smmu)
  }

  /** The same while something else is under way: on the trace, all that belongs to that comes first. */
  predictedMeanwhile(message: PredictedRead): void {
    if (this.#later.length >= MAX_LATER) this.settle()
    this.#later.push({ ...message })
  }

  /** Nothing is under way any more. */
  settle(): void {
    if (this.#later.length > 0) for (const message of this.#later.splice(0)) this.predicted(message)
  }

  /** Outside of a trap, or while one is held: what was done is to survive. @throws LinkClosed */
  keepNow(): void {
    // A held trap that has been decided is in the state: should it be repeated, it has its answer.
    const seq = this.holding.decided
    const { write, aborted, lo, hi } = this.#trap
    const value = seq !== 0 && !write && !aborted
    this.checkpoints.keepNow(seq, seq !== 0 && aborted ? ABORTED : OK, value ? hi : 0, value ? lo : 0)
  }

  #answered(): void {
    this.#first = false
    this.#takeOver = undefined
    this.#thread.post('firstTrap', performance.timeOrigin + performance.now())
  }

  /** Stops for good: the vCPU waits for an answer, the state stays as it is. */
  stop(text: string): void {
    encodeHold(this.#link.out, this.#link.nextSeq())
    this.#link.flush()
    this.#panic(text)
  }
}
