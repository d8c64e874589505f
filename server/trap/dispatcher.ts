// SPDX-License-Identifier: Apache-2.0
import type { Socket } from 'node:net'
import { ProtocolError } from '../../protocol/errors.ts'
import { type Event, type Hello, Id, type MessageFromQemu as Message } from '../../protocol/generated/messages.ts'
import { enums } from '../../protocol/messages.ts'
import type { PolicyFactory } from '../policy/policy.ts'
import { LinkClosed, SocketStream } from './byteStream.ts'
import { CannotResume } from './checkpoint.ts'
import { Connection } from './connection.ts'
import { Link } from './link.ts'
import type { Handover, Post, ThreadOptions } from './messages.ts'
import type { Operations } from './operations.ts'
import { type Call, invoke } from './rpc.ts'
import { Thread } from './thread.ts'
import { ThreadOperations } from './threadOperations.ts'

/** The heart of the trap thread: takes QEMU's messages and the control thread's calls, one at a time. */
export class Dispatcher {
  readonly #thread: Thread
  readonly #operations: Operations
  readonly #eventRecord = Buffer.alloc(32)
  #link: Link | undefined
  /** From hello to the end of the link. */
  #connection: Connection | undefined
  /** The link's end is no surprise: QEMU ends, or another thread takes over. */
  #expected = false

  constructor(options: ThreadOptions, factory: PolicyFactory, post: Post) {
    this.#thread = new Thread(options, factory, post)
    this.#operations = new ThreadOperations(this.#thread, () => this.#connection)
  }

  /** Takes QEMU's connection. There is one machine: while it is connected, further peers are turned away. */
  attach(socket: Socket): void {
    if (this.#link?.open) {
      socket.destroy()
      return
    }
    this.#expected = false
    // A thread that was to take over, and could not, may have written meanwhile.
    this.#thread.ring.goOn()
    this.#link = new Link(new SocketStream(socket), {
      message: message => this.#message(message),
      notice: message => this.#notice(message),
      closed: reason => this.#closed(reason),
    })
  }

  /**
   * An operation for the control thread, between two traps or while one is held.
   * @throws OperationError when it cannot be done now
   */
  operate(call: Call<Operations>): unknown {
    try {
      return invoke(this.#operations, call)
    } catch (error) {
      // What broke the connection has to end it, whoever asked.
      if (error instanceof LinkClosed || error instanceof ProtocolError) this.#link?.close(error)
      throw error
    } finally {
      this.#settle()
    }
  }

  /** After an operation, whatever came of it: QEMU gets the state that it left, and what QEMU sent meanwhile is dealt with. */
  #settle(): void {
    const link = this.#link
    try {
      this.#connection?.path.settle()
      this.#connection?.path.keepNow()
    } catch (error) {
      link?.close(error as Error)
    }
    link?.deliver()
  }

  /** Gives up the machine: QEMU keeps its vCPUs at their traps and looks for another server. */
  retire(): Handover {
    this.#expected = true
    const { path } = this.#connection ?? {}
    const held = path?.holding.held?.trap.seq ?? 0
    this.#link?.close(new LinkClosed('another server takes over'))
    return this.#thread.handover(held)
  }

  /** Takes what another thread left. */
  adopt(left: Handover): void {
    this.#thread.adopt(left)
  }

  #message(message: Message): void {
    const connection = this.#connection
    if (message.type === Id.hello && connection === undefined) return this.#hello(message)
    if (connection === undefined) {
      if (!this.#notice(message)) throw outOfPlace(message)
      return
    }
    connection.path.checkpoints.newest = message.seq
    switch (message.type) {
      case Id.trapRead:
        connection.path.access(message, false)
        break
      case Id.trapWrite:
        connection.path.access(message, true)
        break
      case Id.mirrored:
        connection.path.predicted(message)
        break
      case Id.translate:
        if (!connection.translate(message)) throw outOfPlace(message)
        break
      case Id.reset:
        connection.reset(message)
        break
      case Id.unexpected:
        connection.unexpected(message)
        break
      case Id.shutdown:
        this.#expected = true
        this.#thread.counters.latency(message.lastTrapNs)
        this.#thread.post('shutdown', message.cause, connection.sections())
        break
      default:
        if (!this.#notice(message)) throw outOfPlace(message)
    }
    connection.path.settle()
  }

  #hello(hello: Hello): void {
    const link = this.#link
    if (link === undefined) throw outOfPlace(hello)
    const connection = Connection.open(this.#thread, link, hello)
    this.#connection = connection
    connection.path.checkpoints.newest = hello.seq
    connection.welcome()
    connection.path.settle()
  }

  /** What needs no answer, also while something else is under way. @returns false for everything else */
  #notice(message: Message): boolean {
    const { ring, counters, reporter } = this.#thread
    switch (message.type) {
      case Id.event:
        this.#event(message)
        return true
      case Id.mirrored:
        if (this.#connection === undefined) return false
        this.#connection.path.predictedMeanwhile(message)
        return true
      case Id.gerror:
        ring.gerror(message.smmu, message.time, message.gerror, message.gerrorn)
        counters.add('gerrors')
        return true
      case Id.guardFault: {
        const { cpu, address, size, write, time, pcLo, pcHi } = message
        ring.guardFault(cpu, address, size, write === 1, time, pcLo, pcHi)
        reporter.guardFault(cpu, address, size, write === 1)
        counters.add('guardFaults')
        return true
      }
      case Id.error:
        throw new LinkClosed(`QEMU reported a protocol error of ours: ${message.text}`)
      default:
        return false
    }
  }

  #event(message: Event): void {
    const { ring, counters, breakpoints } = this.#thread
    const record = this.#eventRecord
    record.writeUInt32LE(message.record0Lo, 0)
    record.writeUInt32LE(message.record0Hi, 4)
    record.writeUInt32LE(message.record1Lo, 8)
    record.writeUInt32LE(message.record1Hi, 12)
    record.writeUInt32LE(message.record2Lo, 16)
    record.writeUInt32LE(message.record2Hi, 20)
    record.writeUInt32LE(message.record3Lo, 24)
    record.writeUInt32LE(message.record3Hi, 28)
    ring.event(message.smmu, message.time, record, 0, record.length)
    counters.event(message.record0Lo & 0xff)
    if (breakpoints.armed) breakpoints.event(message.smmu, record)
  }

  #closed(reason: Error): void {
    const { injector, breakpoints, reporter, post } = this.#thread
    injector.disconnect()
    this.#connection?.close()
    this.#connection = undefined
    breakpoints.disconnect()
    reporter.canaries = undefined
    const fault = !(reason instanceof ProtocolError || reason instanceof LinkClosed || reason instanceof CannotResume)
    const message = fault ? String(reason.stack) : reason.message
    post('disconnected', message, this.#expected && reason instanceof LinkClosed, fault)
  }
}

function outOfPlace(message: Message): ProtocolError {
  return new ProtocolError(enums.error.state[0], `message ${message.type}, seq ${message.seq}: not allowed now`)
}
