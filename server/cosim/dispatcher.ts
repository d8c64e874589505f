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
import { FileMemory } from '../machine/fileMemory.ts'
import type { GuestMemory, Machine, Policy, Trap } from '../machine/ports.ts'
import { CountersWriter } from '../trace/counters.ts'
import { RingWriter } from '../trace/ring.ts'
import type { ThreadEvent, ThreadOptions } from './control.ts'
import { Link, LinkClosed } from './link.ts'
import { Reporter } from './reporter.ts'
import { RecordedMemory, WireGuard, WireHardware, WireMemory } from './wirePorts.ts'

const OK = enums.status.ok[0]
const ABORTED = enums.status.aborted[0]

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
  readonly #reporter: Reporter
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
  #shutdown = false

  constructor(options: ThreadOptions, factory: PolicyFactory, post: (event: ThreadEvent) => void) {
    this.#options = options
    this.#factory = factory
    this.#post = post
    this.#ring = new RingWriter(options.ring)
    this.#counters = new CountersWriter(options.counters)
    this.#reporter = new Reporter(this.#ring, this.#counters)
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

  /** Operations for the control thread, between traps. @throws Error when there is none of that name, or it fails. */
  operate(operation: string, _args: readonly unknown[]): unknown {
    switch (operation) {
      case 'sections':
        return this.#sections()
      default:
        throw new Error(`no operation "${operation}"`)
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
    const lastTrapNs = message.lastTrapNs

    policy.access(trap)

    if (this.#reporter.panic !== undefined && this.#options.panicOnWarn) return this.#panic(link, this.#reporter.panic)
    const answer = !write && !trap.aborted
    encodeReply(link.out, seq, trap.aborted ? ABORTED : OK, answer ? trap.hi : 0, answer ? trap.lo : 0)
    link.flush()
    const duration = this.#ring.now() - start
    this.#ring.trap(trap, lastTrapNs, start, duration)
    this.#counters.trap(trap, lastTrapNs, duration)
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
    const machine = this.#machine(link, hello)
    this.#policy = this.#factory(machine, { options: this.#options.policyOptions, report: this.#reporter })
    encodeWelcome(link.out, hello.seq, version, hello.features, randomUUID())
    link.flush()
    this.#post({ event: 'connected', machine: hello })
  }

  #machine(link: Link, hello: Hello): Machine {
    return {
      memory: new RecordedMemory(this.#memory(link, hello), this.#ring),
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
    return { ...this.#policy?.describe?.(), ...this.#reporter.sections() }
  }

  #closed(reason: Error): void {
    this.#policy = undefined
    const expected = this.#shutdown && reason instanceof LinkClosed
    const message =
      reason instanceof ProtocolError || reason instanceof LinkClosed ? reason.message : String(reason.stack)
    this.#post({ event: 'disconnected', message, expected })
  }
}
