// SPDX-License-Identifier: Apache-2.0
import { ProtocolError } from '../../protocol/errors.ts'
import {
  type Event,
  type Hello,
  Id,
  type MessageFromQemu as Message,
  type Shutdown,
} from '../../protocol/generated/messages.ts'
import type { PolicyFactory } from '../policy/policy.ts'
import { type ByteStream, LinkClosed } from './byteStream.ts'
import { CannotResume } from './checkpoint.ts'
import { Connection } from './connection.ts'
import { Door, outOfPlace } from './door.ts'
import type { Link } from './link.ts'
import type { Handover, Post, ThreadOptions } from './messages.ts'
import type { Operations } from './operations.ts'
import { refuseFor } from './refusal.ts'
import { type Call, invoke } from './rpc.ts'
import { Thread } from './thread.ts'
import { ThreadOperations } from './threadOperations.ts'

type Leaving = Pick<Shutdown, 'cause' | 'lastTrapNs'>

/** The heart of the trap thread: takes QEMU's messages and the control thread's calls, one at a time. */
export class Dispatcher {
  readonly #thread: Thread
  readonly #operations: Operations
  readonly #eventRecord = Buffer.alloc(32)
  readonly #door: Door
  /** The machine's: the last one that was let in. */
  #link: Link | undefined
  /** From hello to the end of the link. */
  #connection: Connection | undefined
  /** The link's end is no surprise: QEMU ends, or another thread takes over. */
  #expected = false
  /** QEMU has said that it ends while something was asked of it. */
  #leaving: Leaving | undefined

  constructor(options: ThreadOptions, factory: PolicyFactory, post: Post) {
    this.#thread = new Thread(options, factory, post)
    this.#operations = new ThreadOperations(this.#thread, () => this.#connection)
    this.#door = new Door(
      (link, hello) => this.#admit(link, hello),
      reason => post('turnedAway', reason.message),
      options.handshakeMs,
      options.token,
    )
  }

  /** Takes a connection of which nothing was read yet. */
  attach(stream: ByteStream): void {
    this.#door.knock(stream)
  }

  /** A peer said hello. There is one machine: while it is connected, others are turned away. */
  #admit(link: Link, hello: Hello): void {
    if (this.#link?.open) throw new LinkClosed('another machine is connected')
    this.#link = link
    this.#expected = false
    this.#leaving = undefined
    // A thread that was to take over, and could not, may have written meanwhile.
    this.#thread.ring.goOn()
    const refused = (reason: Error) => {
      this.#disconnect()
      this.#thread.post('refused', reason.message, hello.resumed === 1)
    }
    link.handlers = { message: outOfTurn, notice: message => this.#notice(message), closed: refused }
    let connection: Connection
    try {
      connection = Connection.open(this.#thread, link, hello)
      this.#connection = connection
      connection.path.checkpoints.newest = hello.seq
      connection.welcome()
    } catch (error) {
      return refuseFor(error as Error, link, hello)
    }
    link.handlers = {
      message: message => this.#message(connection, message),
      notice: message => this.#notice(message),
      closed: reason => this.#closed(reason),
    }
    link.deadline = Number.POSITIVE_INFINITY
    connection.path.settle()
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
      this.#connection?.sample()
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
    this.#door.close()
    this.#link?.close(new LinkClosed('another server takes over'))
    return this.#thread.handover(held)
  }

  /** Takes what another thread left. */
  adopt(left: Handover): void {
    this.#thread.adopt(left)
  }

  #message(connection: Connection, message: Message): void {
    connection.path.checkpoints.newest = message.seq
    switch (message.type) {
      case Id.trapRead:
        connection.path.access(message, false)
        break
      case Id.trapWrite:
        connection.path.access(message, true)
        break
      case Id.predictedRead:
        connection.path.predicted(message)
        break
      case Id.translate:
        if (!connection.translate(message)) throw outOfPlace(message)
        break
      case Id.reset:
        connection.reset(message)
        break
      case Id.stage2Changed:
        connection.stage2Changed(message)
        break
      case Id.postMismatch:
        connection.postMismatch(message)
        break
      case Id.shutdown:
        this.#shutdown(connection, message)
        break
      default:
        if (!this.#notice(message)) throw outOfPlace(message)
    }
    connection.path.settle()
    connection.sample()
  }

  /** QEMU ends, and answers nothing any more. */
  #shutdown(connection: Connection, { cause, lastTrapNs }: Leaving): void {
    this.#leaving = undefined
    this.#expected = true
    this.#thread.counters.latency(lastTrapNs)
    connection.oracles.whole(false)
    this.#thread.post('shutdown', cause, connection.sections())
  }

  /** What needs no answer, also while something else is under way. @returns false for everything else */
  #notice(message: Message): boolean {
    const { ring, counters, reporter } = this.#thread
    switch (message.type) {
      case Id.event:
        this.#event(message)
        return true
      case Id.predictedRead:
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
      case Id.reset:
        this.#connection?.oracles.resetAhead()
        return false
      case Id.shutdown:
        // It comes in its turn, unless QEMU closes the link before, without an answer.
        this.#leaving = { cause: message.cause, lastTrapNs: message.lastTrapNs }
        return false
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

  /** Nothing of the machine is left. */
  #disconnect(): void {
    const { injector, breakpoints } = this.#thread
    injector.disconnect()
    this.#connection?.close()
    this.#connection = undefined
    breakpoints.disconnect()
  }

  #closed(reason: Error): void {
    if (reason instanceof LinkClosed && this.#connection !== undefined && this.#leaving !== undefined) {
      this.#shutdown(this.#connection, this.#leaving)
    }
    this.#disconnect()
    const fault = !(reason instanceof ProtocolError || reason instanceof LinkClosed || reason instanceof CannotResume)
    const message = fault ? String(reason.stack) : reason.message
    this.#thread.post('disconnected', message, this.#expected && reason instanceof LinkClosed, fault)
  }
}

/** Before it is welcome, the machine says nothing that would have to be answered. */
function outOfTurn(message: Message): never {
  throw outOfPlace(message)
}
