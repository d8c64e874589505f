// SPDX-License-Identifier: Apache-2.0
import { randomUUID } from 'node:crypto'
import { closeSync, openSync } from 'node:fs'
import type { Socket } from 'node:net'
import { ProtocolError } from '../../protocol/errors.ts'
import {
  encodeCheckpoint,
  encodeHold,
  encodeInvalidate,
  encodeIrq,
  encodeQuit,
  encodeRefuse,
  encodeReply,
  encodeWelcome,
  type Hello,
  Id,
  type MessageFromQemu as Message,
  type Mirrored,
  type Reset,
  type Shutdown,
  type Translate,
  type TrapRead,
  type TrapWrite,
  type Unexpected,
} from '../../protocol/generated/messages.ts'
import { enums, MAX_STRING, VERSION } from '../../protocol/messages.ts'
import { Injector } from '../faults/injector.ts'
import type { FaultPlan } from '../faults/rule.ts'
import { FileMemory } from '../machine/fileMemory.ts'
import type { Machine } from '../machine/ports.ts'
import type { PolicyFactory } from '../policy/policy.ts'
import { newTrap, type Policy, type PolicyState, type Trap } from '../policy/policy.ts'
import { PAGE_DONATE } from '../policy/report.ts'
import { OK as DONE } from '../policy/result.ts'
import type { HypWarning } from '../policy/warnings.ts'
import type { GuestMemory } from '../smmu/memory.ts'
import { ARM_SMMU_IDR0 } from '../smmu/registers.ts'
import { CountersWriter } from '../trace/counters.ts'
import { request } from '../trace/records.ts'
import { RingWriter } from '../trace/ring.ts'
import { TrackedHardware } from '../translate/trackedHardware.ts'
import { Breakpoints, type Hit } from './breakpoints.ts'
import { fillCanary } from './canary.ts'
import { CannotResume, CheckpointWriter, type Envelope, readCheckpoint } from './checkpoint.ts'
import { Inspector } from './inspect.ts'
import { Link, LinkClosed } from './link.ts'
import type { Handover, ThreadEvent, ThreadOptions } from './messages.ts'
import { oops } from './oops.ts'
import { type HeldTrap, OperationError, type Release } from './operations.ts'
import { Operator } from './operator.ts'
import { sharedRamFile } from './ramFile.ts'
import { Reporter } from './reporter.ts'
import { policySections } from './sections.ts'
import { Translator } from './translator.ts'
import { RecordedMemory, WireGuard, WireHardware, WireMemory } from './wirePorts.ts'

const OK = enums.status.ok[0]
const ABORTED = enums.status.aborted[0]
const NO_STATE = new Uint8Array(0)
/** Operations after which accesses are looked at. */
const ARMING: ReadonlySet<string> = new Set(['addBreakpoint', 'enableBreakpoint', 'breakNext', 'armFaults'])

/** A trap whose reply waits for a person. */
interface Held {
  readonly hit: Hit
  readonly seq: number
  readonly lastTrapNs: number
  readonly start: number
  /** ns that the server had spent on it when it was held. */
  readonly spent: number
}

/** Stands for a checkpoint that could not be read. */
const NOTHING: Envelope = {
  session: '',
  policy: '',
  request: 0,
  status: 0,
  lo: 0,
  hi: 0,
  last: 0,
  trap: 0,
  state: NO_STATE,
}

/** Lets breakpoints know of hyp warnings, and fills donated pages as their new owner would. */
class WatchedReporter extends Reporter {
  canaries: GuestMemory | undefined
  watch: Breakpoints | undefined

  override warn(warning: HypWarning, trap: number, smmu: number, a: number, b: number, c: number, d: number): void {
    super.warn(warning, trap, smmu, a, b, c, d)
    if (this.watch?.armed) this.watch.warning(warning.id, warning.expected, smmu)
  }

  override pages(operation: number, base: number, size: number, owner: number, result: number): void {
    super.pages(operation, base, size, owner, result)
    if (this.canaries !== undefined && operation === PAGE_DONATE && result === DONE) {
      fillCanary(this.canaries, base, size)
    }
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
  readonly #trap = newTrap()
  /** Not the one at hand, whatever the peer sends while that is being decided. */
  readonly #ahead = newTrap()
  readonly #eventRecord = Buffer.alloc(32)
  #link: Link | undefined
  #policy: Policy | undefined
  #machine: Machine | undefined
  readonly #operator: Operator
  readonly #injector: Injector
  #inspector: Inspector | undefined
  #held: Held | undefined
  /** The trap before this one was held, so QEMU's time for it says nothing. */
  #heldBefore = false
  #shutdown = false
  #translator: Translator | undefined
  /** Of the present or the last machine. */
  #ramFd: number | undefined
  #checkpoint: CheckpointWriter | undefined
  /** `generation` of the policy's state that QEMU has. */
  #kept = -1
  /** The newest request of QEMU. */
  #newest = 0
  /** After a take-over, until the first request is answered: the answer that may have been lost. */
  #resumed: Envelope | undefined
  /** The machine runs, but nobody can decide its traps: only a reset helps. */
  #lost: string | undefined
  /** The policy finished something while it took over. */
  #unkept = false
  /** Of the machine that this thread was made for: what comes later is as with any server. */
  #onRefusal: ThreadOptions['onRefusal']
  #retired = false
  /** The first trap of a connection is told, with the time at which it was answered. */
  #first = true

  constructor(options: ThreadOptions, factory: PolicyFactory, post: (event: ThreadEvent) => void) {
    this.#options = options
    this.#onRefusal = options.onRefusal
    this.#factory = factory
    this.#post = post
    this.#ring = new RingWriter(options.ring)
    this.#counters = new CountersWriter(options.counters)
    this.#reporter = new WatchedReporter(this.#ring, this.#counters)
    this.#reporter.watch = this.#breakpoints
    this.#operator = new Operator(this.#breakpoints, this.#ring)
    this.#injector = new Injector(this.#ring, firing => {
      this.#counters.add('faults')
      post({ event: 'fired', firing })
    })
    this.#injector.prepare(options.faults)
  }

  /** Takes QEMU's connection. There is one machine: while it is connected, further peers are turned away. */
  attach(socket: Socket): void {
    if (this.#link?.open) {
      socket.destroy()
      return
    }
    this.#retired = false
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
      if (ARMING.has(operation)) this.#askAgain()
      switch (operation) {
        case 'sections':
          return this.#sections()
        case 'checkpoint':
          return this.#currentCheckpoint()
        case 'held':
          return this.#heldTrap()
        case 'release':
          return this.#release(args[0] as Release)
        case 'armFaults':
          return this.#injector.arm({ rules: args[0] as FaultPlan['rules'], seed: Number(args[1]) })
        case 'disarmFaults':
          return this.#injector.disarm()
        case 'faults':
          return this.#injector.status()
        case 'openFaults':
          return this.#injector.open(args[0] as readonly string[], args[1] as number | undefined)
        case 'fireFault':
          return this.#injector.fire(String(args[0]))
        default:
          return this.#operator.operate(operation, args)
      }
    } catch (error) {
      // What broke the connection has to end it, whoever asked.
      if (error instanceof LinkClosed || error instanceof ProtocolError) this.#link?.close(error)
      throw error
    } finally {
      this.#link?.replayDeferred()
      this.#keepNow()
    }
  }

  /** What is about to be armed is to see the next access: QEMU must not answer it by itself. */
  #askAgain(): void {
    if (this.#breakpoints.armed || this.#injector.armed || !this.#link?.open) return
    for (const { hardware } of this.#machine?.smmus ?? []) hardware.read(ARM_SMMU_IDR0, 4, { lo: 0, hi: 0 })
  }

  /** Gives up the machine: QEMU keeps its vCPUs at their traps and looks for another server. */
  retire(): Handover {
    this.#retired = true
    const held = this.#held === undefined ? 0 : this.#trap.seq
    this.#link?.close(new LinkClosed('another server takes over'))
    return this.#handover(held)
  }

  #handover(held: number): Handover {
    return {
      held,
      breakpoints: this.#breakpoints.list(),
      report: this.#reporter.state,
      faults: this.#injector.state,
    }
  }

  /** Takes what another thread left. */
  adopt({ breakpoints, report, faults }: Handover): void {
    for (const { id, ...spec } of breakpoints) {
      this.#breakpoints.remove(id)
      this.#breakpoints.add(spec, id)
    }
    this.#reporter.adopt(report)
    this.#injector.adopt(faults)
  }

  #message(message: Message): void {
    this.#newest = message.seq
    switch (message.type) {
      case Id.trapRead:
        return this.#access(message, false)
      case Id.trapWrite:
        return this.#access(message, true)
      case Id.hello:
        return this.#hello(message)
      case Id.reset:
        return this.#reset(message)
      case Id.translate:
        return this.#translate(message)
      case Id.shutdown:
        return this.#ended(message)
      case Id.unexpected:
        return this.#unexpected(message)
      default:
        if (!this.#notice(message)) this.#outOfPlace(message)
    }
  }

  #access(message: TrapRead | TrapWrite, write: boolean): void {
    const start = this.#ring.now()
    const policy = this.#policy
    const link = this.#link
    if (policy === undefined || link === undefined) return this.#outOfPlace(message)
    if (this.#resumed !== undefined && this.#repeated(link, message)) return
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

  /** A read that QEMU answered as it had been told to: it counts as a trap that took the server no time. */
  #mirrored(message: Mirrored): void {
    const trap = this.#ahead
    trap.seq = ++this.#trap.seq
    trap.smmu = message.smmu
    trap.cpu = message.cpu
    trap.offset = message.offset
    trap.size = 4
    trap.time = message.time
    trap.pcHi = message.pcHi
    trap.pcLo = message.pcLo
    trap.lo = message.value
    this.#ring.trap(trap, 0, this.#ring.now(), 0)
    this.#counters.trap(trap, 0, 0)
    this.#counters.add('mirrored')
  }

  #unexpected(message: Unexpected): void {
    const policy = this.#policy
    if (policy === undefined) return this.#outOfPlace(message)
    const { smmu, offset, value } = message
    const start = this.#ring.now()
    policy.postMismatch?.(smmu)
    this.#keepNow()
    this.#ring.request(request.unexpected, 0, start, this.#ring.now() - start, smmu, offset, value)
  }

  /** @param spent ns of an earlier part of the trap that `start` does not cover. */
  #decide(policy: Policy, link: Link, trap: Trap, seq: number, lastTrapNs: number, start: number, spent: number): void {
    if (this.#injector.armed) this.#injector.access(policy, trap)
    else policy.access(trap)

    if (this.#reporter.panic !== undefined && this.#options.panicOnWarn) return this.#panic(link, this.#reporter.panic)
    if (this.#breakpoints.armed) {
      const hit = this.#breakpoints.after(trap)
      if (hit !== undefined) return this.#hold(link, hit, seq, lastTrapNs, start, spent)
    }
    this.#answer(link, trap, seq, lastTrapNs, start, spent)
  }

  #answer(link: Link, trap: Trap, seq: number, lastTrapNs: number, start: number, spent: number): void {
    const answer = !trap.write && !trap.aborted
    const status = trap.aborted ? ABORTED : OK
    const hi = answer ? trap.hi : 0
    const lo = answer ? trap.lo : 0
    const state = this.#policy?.state
    if (state !== undefined && state.generation !== this.#kept) this.#keep(link, state, seq, status, hi, lo)
    encodeReply(link.out, seq, status, hi, lo)
    link.flush()
    if (this.#first) this.#answered()
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

  /** QEMU is to have the policy's state, and which request it includes; sent with what is flushed next. */
  #keep(link: Link, state: PolicyState | undefined, seq: number, status: number, hi: number, lo: number): void {
    const writer = this.#checkpoint
    if (writer === undefined) return
    this.#kept = state?.generation ?? 0
    const bytes = writer.write(state?.checkpoint() ?? NO_STATE, seq, this.#newest, status, hi, lo, this.#trap.seq)
    encodeCheckpoint(link.out, link.nextSeq(), bytes)
  }

  #currentCheckpoint(): Uint8Array {
    const { state } = this.#policy ?? {}
    if (this.#checkpoint === undefined) throw new OperationError('state', 'no machine is connected')
    return this.#checkpoint.write(state?.checkpoint() ?? NO_STATE, 0, this.#newest, OK, 0, 0, this.#trap.seq).slice()
  }

  /** Outside of a trap, or while one is held: what was done is to survive. */
  #keepNow(): void {
    const link = this.#link
    const state = this.#policy?.state
    // A policy that could not take over knows nothing worth keeping.
    if (!link?.open || state === undefined || state.generation === this.#kept || this.#lost !== undefined) return
    // A held trap that has been decided is in the state: should it be repeated, it has its answer.
    const held = this.#held?.hit.phase === 'after' ? this.#held : undefined
    const { write, aborted, lo, hi } = this.#trap
    const value = held !== undefined && !write && !aborted
    this.#keep(link, state, held?.seq ?? 0, held && aborted ? ABORTED : OK, value ? hi : 0, value ? lo : 0)
    link.flush()
  }

  /** The policy has begun what must be finished, or has finished it. While it takes over, QEMU hears of it afterwards. */
  #persist(): void {
    if (this.#policy === undefined) this.#unkept = true
    else this.#keepNow()
  }

  /** The first request after a take-over. Returns whether it needs no decision. */
  #repeated(link: Link, message: TrapRead | TrapWrite): boolean {
    const resumed = this.#resumed
    if (this.#lost !== undefined) {
      if (this.#onRefusal === 'reset') {
        encodeReply(link.out, message.seq, ABORTED, 0, 0)
        link.flush()
        return true
      }
      encodeQuit(link.out, link.nextSeq(), 1, this.#lost)
      link.flush()
      throw new CannotResume(this.#lost)
    }
    if (resumed === undefined || message.seq !== resumed.request) return false
    encodeReply(link.out, message.seq, resumed.status, resumed.hi, resumed.lo)
    link.flush()
    this.#answered()
    return true
  }

  #answered(): void {
    this.#first = false
    this.#resumed = undefined
    this.#post({ event: 'first-trap', at: performance.timeOrigin + performance.now() })
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
    const session = hello.session === '' ? randomUUID() : hello.session
    const memory = this.#memory(link, hello)
    this.#reporter.canaries = this.#options.canaries === true ? memory : undefined
    const guard = new WireGuard(link, this.#ring)
    const machine = this.#connect(link, hello, memory, guard)
    this.#machine = machine
    const policy = this.#factory(machine, {
      options: this.#options.policyOptions,
      report: this.#reporter,
      persist: () => this.#persist(),
    })
    this.#checkpoint = new CheckpointWriter(session, policy.name)
    this.#kept = -1
    this.#unkept = false
    this.#first = true
    let repairs: string[] = []
    if (hello.resumed === 1) {
      try {
        const start = this.#ring.now()
        repairs = this.#resume(hello, policy)
        this.#ring.request(request.resume, 0, start, this.#ring.now() - start)
      } catch (error) {
        if (!this.#cannotResume(link, hello, error as Error)) return
      }
    }
    if (hello.resumed === 1) {
      this.#translator?.reset()
      this.#translator?.announce(link)
    }
    this.#policy = policy
    this.#inspector = new Inspector(machine, policy, memory)
    this.#operator.connect(policy, this.#inspector)
    this.#connectFaults(link, machine, policy, hello, memory)
    encodeWelcome(link.out, hello.seq, version, hello.features, session)
    link.flush()
    this.#post({ event: 'connected', machine: hello, resumed: hello.resumed === 1, repairs })
    if (this.#lost !== undefined) this.#post({ event: 'lost', message: this.#lost })
    else this.#onRefusal = undefined
    if (this.#unkept) this.#keepNow()
  }

  /** Goes on with a running machine. @throws Error when that is not possible. */
  #resume(hello: Hello, policy: Policy): string[] {
    const envelope = readCheckpoint(hello.checkpoint)
    if (envelope.session !== hello.session) throw new CannotResume('its checkpoint is of another session')
    if (envelope.policy !== policy.name) {
      throw new CannotResume(`it runs under policy ${envelope.policy}, this server has ${policy.name}`)
    }
    this.#resumed = envelope
    this.#trap.seq = envelope.trap + Math.max(0, hello.lastSeq - envelope.last)
    policy.state?.restore(envelope.state)
    try {
      return policy.state?.resume?.() ?? []
    } catch (error) {
      if (this.#onRefusal === 'leave') throw error
      // If the request that waits is a reset, none of this matters.
      this.#lost = this.#refusal(error as Error)
      return []
    }
  }

  #refusal(error: Error): string {
    if (error instanceof LinkClosed || error instanceof ProtocolError) throw error
    const bug = error instanceof TypeError || error instanceof ReferenceError
    const text = `the running machine cannot be taken over: ${bug ? error.stack : error.message}`
    // What the wire takes as text; the reason may quote a checkpoint that anybody made.
    return text
      .toWellFormed()
      .replaceAll('\0', '')
      .slice(0, MAX_STRING / 4)
  }

  /** Returns whether the machine is taken all the same, to be reset. */
  #cannotResume(link: Link, hello: Hello, error: Error): boolean {
    const text = this.#refusal(error)
    switch (this.#onRefusal) {
      case 'reset':
        this.#lost = text
        this.#resumed ??= NOTHING
        return true
      case 'leave':
        this.#post({ event: 'refused', message: text })
        throw new LinkClosed(text)
      default:
        encodeRefuse(link.out, hello.seq, VERSION.min, VERSION.max, text)
        link.flush()
        throw new LinkClosed(text)
    }
  }

  #connect(link: Link, hello: Hello, memory: GuestMemory, guard: WireGuard): Machine {
    // With breakpoints, every access is to come by.
    const capable = !this.#options.faithful && (hello.features & enums.feature.mirror[0]) !== 0
    const mayPost = () => capable && !this.#breakpoints.armed
    const hardware = hello.smmus.map((_, index) => new WireHardware(link, this.#ring, index, mayPost))
    const { translate = 'hardware' } = this.#options
    const tracked = translate === 'hardware' ? undefined : hardware.map(port => new TrackedHardware(port, memory))
    this.#translator = tracked && new Translator(translate, memory, this.#ring, tracked)
    return {
      memory: new RecordedMemory(memory, this.#ring),
      carveout: { base: hello.carveoutBase, size: hello.carveoutSize },
      smmus: hello.smmus.map(({ base, size }, index) => ({
        base,
        size,
        hardware: (tracked ?? hardware)[index],
      })),
      devices: hello.devices,
      guard,
    }
  }

  #connectFaults(link: Link, machine: Machine, policy: Policy, hello: Hello, memory: GuestMemory): void {
    const answered = (seq: number) => void link.call(seq)
    const around = {
      machine,
      policy,
      devices: hello.devices,
      memory,
      translates: this.#translator?.mode === 'server',
      clock: () => this.#trap.time,
      irq: (smmu: number, line: number) => {
        const seq = link.nextSeq()
        encodeIrq(link.out, seq, smmu, line)
        answered(seq)
      },
      invalidate: (smmu: number) => {
        const seq = link.nextSeq()
        encodeInvalidate(link.out, seq, smmu, enums.invalidateScope.all[0], 0)
        answered(seq)
      },
      warn: (warning: HypWarning, trap: number, smmu: number) => this.#reporter.warn(warning, trap, smmu, 0, 0, 0, 0),
      donate: (base: number, size: number, vm: number) => this.#operator.operate('donate', [base, size, vm]) as number,
      reclaim: (base: number, size: number, vm: number) =>
        this.#operator.operate('reclaim', [base, size, vm]) as number,
      cut: (): never => {
        throw new LinkClosed('a fault cut the connection')
      },
      garble: () => link.garble(),
      die: (): never => {
        this.#post({ event: 'killed', left: this.#handover(0) })
        process.exit(1)
      },
    }
    try {
      this.#injector.connect(around, hello.resumed === 1)
    } catch (error) {
      throw new LinkClosed(`faults: ${(error as Error).message}`)
    }
    if (this.#translator !== undefined) this.#translator.faults = this.#injector
  }

  /** The shared file if this server may open it; else over the wire. */
  #memory(link: Link, hello: Hello): GuestMemory {
    const file = sharedRamFile(hello.ram, this.#options.ramFile)
    if (file === undefined) return new WireMemory(link, hello.ram)
    this.#closeRam()
    this.#ramFd = openSync(file, 'r+')
    return new FileMemory(this.#ramFd, hello.ram)
  }

  #closeRam(): void {
    if (this.#ramFd !== undefined) closeSync(this.#ramFd)
    this.#ramFd = undefined
  }

  #reset(message: Reset): void {
    const link = this.#link
    if (this.#policy === undefined || link === undefined) return this.#outOfPlace(message)
    const { seq, cause, time } = message
    const start = this.#ring.now()
    if (this.#lost !== undefined) this.#onRefusal = undefined
    this.#lost = undefined
    this.#resumed = undefined
    this.#translator?.reset()
    if (this.#injector.armed) this.#injector.reset(this.#policy)
    else this.#policy.reset()
    this.#translator?.announce(link)
    this.#keep(link, this.#policy.state, seq, OK, 0, 0)
    encodeReply(link.out, seq, OK, 0, 0)
    link.flush()
    this.#ring.reset(cause, time, start, this.#ring.now() - start)
    this.#counters.add('resets')
    this.#post({ event: 'reset', cause })
  }

  #translate(message: Translate): void {
    const link = this.#link
    if (this.#translator === undefined || link === undefined) return this.#outOfPlace(message)
    this.#translator.request(link, message)
    link.flush()
    this.#counters.add('translations')
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
      case Id.mirrored:
        this.#mirrored(message)
        return true
      case Id.gerror:
        this.#ring.gerror(message.smmu, message.time, message.gerror, message.gerrorn)
        this.#counters.add('gerrors')
        return true
      case Id.guardFault: {
        const { cpu, address, size, write, time, pcLo, pcHi } = message
        this.#ring.guardFault(cpu, address, size, write === 1, time, pcLo, pcHi)
        this.#reporter.guardFault(cpu, address, size, write === 1)
        this.#counters.add('guardFaults')
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
    const sections = { ...this.#sections(), oops: oops(text, this.#trap, this.#policy) }
    this.#post({ event: 'panic', text, sections })
  }

  #outOfPlace(message: Message): never {
    throw new ProtocolError(enums.error.state[0], `message ${message.type}, seq ${message.seq}: not allowed now`)
  }

  #sections(): Record<string, unknown> {
    return {
      ...policySections(this.#policy, this.#machine),
      ...this.#reporter.sections(),
      ...(this.#translator && { translate: this.#translator.report() }),
      ...(this.#injector.state && { faults: this.#injector.status() }),
    }
  }

  #closed(reason: Error): void {
    this.#policy = undefined
    this.#lost = undefined
    this.#resumed = undefined
    this.#inspector = undefined
    this.#operator.disconnect()
    this.#injector.disconnect()
    if (this.#held !== undefined) this.#post({ event: 'released', seq: this.#trap.seq, action: 'lost' })
    this.#held = undefined
    this.#breakpoints.reset()
    const expected = (this.#shutdown || this.#retired) && reason instanceof LinkClosed
    const fault = !(reason instanceof ProtocolError || reason instanceof LinkClosed || reason instanceof CannotResume)
    const message = fault ? String(reason.stack) : reason.message
    this.#post({ event: 'disconnected', message, expected, fault })
  }
}
