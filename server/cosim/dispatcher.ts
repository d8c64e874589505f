// SPDX-License-Identifier: Apache-2.0
import { randomUUID } from 'node:crypto'
import { openSync } from 'node:fs'
import type { Socket } from 'node:net'
import { ProtocolError } from '../../protocol/errors.ts'
import {
  encodeHold,
  encodeRefuse,
  encodeReply,
  encodeWelcome,
  type Hello,
  Id,
  type MessageFromQemu as Message,
  type Reset,
  type Shutdown,
  type TrapRead,
  type TrapWrite,
} from '../../protocol/generated/messages.ts'
import { enums, VERSION } from '../../protocol/messages.ts'
import type { PolicyFactory } from '../hypervisor/policy/policy.ts'
import type { HypWarning } from '../hypervisor/warnings.ts'
import { FileMemory } from '../machine/fileMemory.ts'
import type { GuestMemory, Machine, Policy, Trap } from '../machine/ports.ts'
import { CountersWriter } from '../trace/counters.ts'
import { RingWriter } from '../trace/ring.ts'
import { Breakpoints, type Hit } from './breakpoints.ts'
import type { ThreadEvent, ThreadOptions } from './control.ts'
import { Inspector } from './inspect.ts'
import { Link, LinkClosed } from './link.ts'
import { type HeldTrap, OperationError, type Release } from './operations.ts'
import { Operator } from './operator.ts'
import { Reporter } from './reporter.ts'
import { hypervisorSections } from './sections.ts'
import { RecordedMemory, WireGuard, WireHardware, WireMemory } from './wirePorts.ts'

const OK = enums.status.ok[0]
const ABORTED = enums.status.aborted[0]

/** A trap whose reply waits for a person. */
interface Held {
  readonly hit: Hit
  readonly seq: number
  readonly lastTrapNs: number
  readonly start: number
  /** ns that the server had spent on it when it was held. */
  readonly spent: number
}

/** Lets breakpoints know of hyp warnings. */
class WatchedReporter extends Reporter {
  watch: Breakpoints | undefined

  override warn(warning: HypWarning, trap: number, smmu: number, a: number, b: number, c: number, d: number): void {
    super.warn(warning, trap, smmu, a, b, c, d)
    if (this.watch?.armed) this.watch.warning(warning.id, warning.expected, smmu)
  }
}

/**
 * The heart of the trap thread: one connection, one machine, one policy. Between a trap and its reply nothing here
 * awaits, logs or builds strings.
 */
export class Dispatcher {
  readonly #options: ThreadOptions
  readonly #factory: PolicyFactory
  readonly #post: (event: ThreadEvent) => void
  readonly #ring: RingWriter
  readonly #counters: CountersWriter
  readonly #reporter: WatchedReporter
  readonly #breakpoints = new Breakpoints(trap => this.#inspector?.commandsAhead(trap))
  readonly #trap: Trap = {
    seq: 0,
    smmu: 0,
    cpu: 0,
    write: false,
    offset: 0,
    size: 0,
    lo: 0,
    hi: 0,
    time: 0,
    pcLo: 0,
    pcHi: 0,
    aborted: false,
  }
  readonly #eventRecord = Buffer.alloc(32)
  #link: Link | undefined
  #policy: Policy | undefined
  #machine: Machine | undefined
  readonly #operator: Operator
  #inspector: Inspector | undefined
  #held: Held | undefined
  /** The trap before this one was held, so QEMU's time for it says nothing. */
  #heldBefore = false
  #shutdown = false

  constructor(options: ThreadOptions, factory: PolicyFactory, post: (event: ThreadEvent) => void) {
    this.#options = options
    this.#factory = factory
    this.#post = post
    this.#ring = new RingWriter(options.ring)
    this.#counters = new CountersWriter(options.counters)
    this.#reporter = new WatchedReporter(this.#ring, this.#counters)
    this.#reporter.watch = this.#breakpoints
    this.#operator = new Operator(this.#breakpoints, this.#ring)
  }

  /** Takes QEMU's connection. There is one machine: while it is connected, further peers are turned away. */
  attach(socket: Socket): void {
    if (this.#link?.open) {
      socket.destroy()
      return
    }
    this.#link = new Link(socket, {
      message: message => this.#message(message),
      notice: message => this.#notice(message),
      closed: reason => this.#closed(reason),
    })
  }

  /**
   * An operation for the control thread, between two traps or while one is held.
   * @throws OperationError when there is none of that name, or it cannot be done now.
   */
  operate(operation: string, args: readonly unknown[]): unknown {
    try {
      switch (operation) {
        case 'sections':
          return this.#sections()
        case 'held':
          return this.#heldTrap()
        case 'release':
          return this.#release(args[0] as Release)
        default:
          return this.#operator.operate(operation, args)
      }
    } catch (error) {
      // What broke the connection has to end it, whoever asked.
      if (error instanceof LinkClosed || error instanceof ProtocolError) this.#link?.close(error)
      throw error
    } finally {
      this.#link?.replayDeferred()
    }
  }

  #message(message: Message): void {
    switch (message.type) {
      case Id.trapRead:
        return this.#access(message, false)
      case Id.trapWrite:
        return this.#access(message, true)
      case Id.hello:
        return this.#hello(message)
      case Id.reset:
        return this.#reset(message)
      case Id.shutdown:
        return this.#ended(message)
      default:
        if (!this.#notice(message)) this.#outOfPlace(message)
    }
  }

  #access(message: TrapRead | TrapWrite, write: boolean): void {
    const start = this.#ring.now()
    const policy = this.#policy
    const link = this.#link
    if (policy === undefined || link === undefined) return this.#outOfPlace(message)
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
    const lastTrapNs = this.#heldBefore ? 0 : message.lastTrapNs
    this.#heldBefore = false

    if (this.#breakpoints.armed) {
      const hit = this.#breakpoints.before(trap)
      if (hit !== undefined) return this.#hold(link, hit, seq, lastTrapNs, start, 0)
    }
    this.#decide(policy, link, trap, seq, lastTrapNs, start, 0)
  }

  /** @param spent ns of an earlier part of the trap that `start` does not cover. */
  #decide(policy: Policy, link: Link, trap: Trap, seq: number, lastTrapNs: number, start: number, spent: number): void {
    policy.access(trap)

    if (this.#reporter.panic !== undefined && this.#options.panicOnWarn) return this.#panic(link, this.#reporter.panic)
    if (this.#breakpoints.armed) {
      const hit = this.#breakpoints.after(trap)
      if (hit !== undefined) return this.#hold(link, hit, seq, lastTrapNs, start, spent)
    }
    this.#answer(link, trap, seq, lastTrapNs, start, spent)
  }

  #answer(link: Link, trap: Trap, seq: number, lastTrapNs: number, start: number, spent: number): void {
    const answer = !trap.write && !trap.aborted
    encodeReply(link.out, seq, trap.aborted ? ABORTED : OK, answer ? trap.hi : 0, answer ? trap.lo : 0)
    link.flush()
    const duration = spent + this.#ring.now() - start
    this.#ring.trap(trap, lastTrapNs, start, duration)
    this.#counters.trap(trap, lastTrapNs, duration)
  }

  /** The trap waits for a person; the event loop goes on and takes operations. */
  #hold(link: Link, hit: Hit, seq: number, lastTrapNs: number, start: number, spent: number): void {
    encodeHold(link.out, link.nextSeq())
    link.flush()
    const now = this.#ring.now()
    this.#held = { hit, seq, lastTrapNs, start, spent: spent + now - start }
    this.#ring.breakpoint(hit.breakpoint, this.#trap.seq, now)
    this.#counters.add('breakpoints')
    this.#post({ event: 'held', held: { hit, trap: { ...this.#trap } } })
  }

  #heldTrap(): HeldTrap | null {
    return this.#held === undefined ? null : { hit: this.#held.hit, trap: { ...this.#trap } }
  }

  #release({ action, value }: Release): void {
    const held = this.#held
    const policy = this.#policy
    const link = this.#link
    if (held === undefined || policy === undefined || link === undefined) {
      throw new OperationError('state', 'no trap is held')
    }
    const trap = this.#trap
    const decided = held.hit.phase === 'after'
    if (decided && trap.write && (action === 'drop' || value !== undefined)) {
      throw new OperationError('state', 'the write has been carried out already: it can only continue, step or abort')
    }
    this.#held = undefined
    this.#heldBefore = true
    if (action === 'step') this.#breakpoints.step(true)
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
    this.#post({ event: 'released', seq: trap.seq, action })
    const { seq, lastTrapNs, spent } = held
    const start = this.#ring.now()
    try {
      if (decided || answered || action === 'drop' || action === 'abort') {
        this.#answer(link, trap, seq, lastTrapNs, start, spent)
      } else {
        this.#decide(policy, link, trap, seq, lastTrapNs, start, spent)
      }
    } catch (error) {
      link.close(error as Error)
    }
  }

  #hello(hello: Hello): void {
    const link = this.#link
    if (link === undefined || this.#policy !== undefined) return this.#outOfPlace(hello)
    const version = Math.min(hello.maxVersion, VERSION.max)
    if (version < Math.max(hello.minVersion, VERSION.min)) {
      const theirs = `${hello.minVersion} to ${hello.maxVersion}`
      const text = `QEMU speaks protocol versions ${theirs}, this server ${VERSION.min} to ${VERSION.max}`
      encodeRefuse(link.out, hello.seq, VERSION.min, VERSION.max, text)
      link.flush()
      throw new LinkClosed(text)
    }
    const memory = this.#memory(link, hello)
    const machine = this.#connect(link, hello, memory)
    this.#machine = machine
    const policy = this.#factory(machine, { options: this.#options.policyOptions, report: this.#reporter })
    this.#policy = policy
    this.#inspector = new Inspector(machine, policy, memory)
    this.#operator.connect(policy, this.#inspector)
    encodeWelcome(link.out, hello.seq, version, hello.features, randomUUID())
    link.flush()
    this.#post({ event: 'connected', machine: hello })
  }

  #connect(link: Link, hello: Hello, memory: GuestMemory): Machine {
    return {
      memory: new RecordedMemory(memory, this.#ring),
      carveout: { base: hello.carveoutBase, size: hello.carveoutSize },
      smmus: hello.smmus.map(({ base, size }, index) => ({
        base,
        size,
        hardware: new WireHardware(link, this.#ring, index),
      })),
      devices: hello.devices,
      guard: new WireGuard(link, this.#ring),
    }
  }

  /** The shared file if it is the one that this server made for the machine; else over the wire. */
  #memory(link: Link, hello: Hello): GuestMemory {
    const { ramFile } = this.#options
    if (hello.ram.some(({ path }) => path !== ramFile)) return new WireMemory(link, hello.ram)
    return new FileMemory(openSync(ramFile, 'r+'), hello.ram)
  }

  #reset(message: Reset): void {
    const link = this.#link
    if (this.#policy === undefined || link === undefined) return this.#outOfPlace(message)
    const { seq, cause, time } = message
    const start = this.#ring.now()
    this.#policy.reset()
    encodeReply(link.out, seq, OK, 0, 0)
    link.flush()
    this.#ring.reset(cause, time, start, this.#ring.now() - start)
    this.#post({ event: 'reset', cause })
  }

  #ended(message: Shutdown): void {
    this.#shutdown = true
    this.#counters.latency(message.lastTrapNs)
    this.#post({ event: 'shutdown', cause: message.cause, sections: this.#sections() })
  }

  /** What needs no answer. */
  #notice(message: Message): boolean {
    switch (message.type) {
      case Id.event: {
        const record = this.#eventRecord
        record.writeUInt32LE(message.record0Lo, 0)
        record.writeUInt32LE(message.record0Hi, 4)
        record.writeUInt32LE(message.record1Lo, 8)
        record.writeUInt32LE(message.record1Hi, 12)
        record.writeUInt32LE(message.record2Lo, 16)
        record.writeUInt32LE(message.record2Hi, 20)
        record.writeUInt32LE(message.record3Lo, 24)
        record.writeUInt32LE(message.record3Hi, 28)
        this.#ring.event(message.smmu, message.time, record, 0)
        this.#counters.event(message.record0Lo & 0xff)
        if (this.#breakpoints.armed) this.#breakpoints.event(message.smmu, record)
        return true
      }
      case Id.gerror:
        this.#ring.gerror(message.smmu, message.time, message.gerror, message.gerrorn)
        return true
      case Id.guardFault: {
        const { cpu, address, size, write, time, pcLo, pcHi } = message
        this.#ring.guardFault(cpu, address, size, write === 1, time, pcLo, pcHi)
        this.#reporter.guardFault(cpu, address, size, write === 1)
        return true
      }
      case Id.error:
        throw new LinkClosed(`QEMU reported a protocol error of ours: ${message.text}`)
      default:
        return false
    }
  }

  /** Stops at the trap for good: the vCPU waits, the state stays as it is. */
  #panic(link: Link, text: string): void {
    encodeHold(link.out, link.nextSeq())
    link.flush()
    this.#post({ event: 'panic', text, sections: this.#sections() })
  }

  #outOfPlace(message: Message): never {
    throw new ProtocolError(enums.error.state[0], `message ${message.type}, seq ${message.seq}: not allowed now`)
  }

  #sections(): Record<string, unknown> {
    return { ...hypervisorSections(this.#policy, this.#machine), ...this.#reporter.sections() }
  }

  #closed(reason: Error): void {
    this.#policy = undefined
    this.#inspector = undefined
    this.#operator.disconnect()
    this.#held = undefined
    this.#breakpoints.reset()
    const expected = this.#shutdown && reason instanceof LinkClosed
    const message =
      reason instanceof ProtocolError || reason instanceof LinkClosed ? reason.message : String(reason.stack)
    this.#post({ event: 'disconnected', message, expected })
  }
}
