// SPDX-License-Identifier: Apache-2.0
/**
 * The real QEMU's SMMU as a function: tables and a transaction in, its answer out. The test itself is the server, in translate
 * mode `lockstep`: every DMA of `edu` makes QEMU send what its model came to. Nothing is answered from QEMU's caches.
 */
import { once } from 'node:events'
import { closeSync, openSync, writeSync } from 'node:fs'
import { createServer, type Server, type Socket } from 'node:net'
import { FrameReader, FrameWriter } from '../../protocol/framing.ts'
import {
  Decoder,
  encodeHwWrite,
  encodeInvalidate,
  encodeReply,
  encodeTranslated,
  encodeTranslateMode,
  encodeWelcome,
  Id,
  type MessageFromQemu,
  type Translate,
} from '../../protocol/generated/messages.ts'
import { enums } from '../../protocol/messages.ts'
import { ARM_SMMU_EVTQ_BASE } from '../../server/smmu/registers.ts'
import { type Answer, newAnswer, setRequested } from '../../server/translate/answer.ts'
import { EDU_ARGS, EDU_SID, Edu } from './edu.ts'
import { QtestMachine, RAM, SMMU } from './machine.ts'

/** What a device does: one byte at an address. */
export interface Access {
  readonly address: bigint
  readonly write: boolean
}

/** A register of the SMMU: offset, size in bytes, value. */
export type RegisterWrite = readonly [offset: number, size: 4 | 8, value: number]

export const LOCKSTEP_SID = EDU_SID

/** The SMMU's event queue: events are heard of even when it is full. */
const EVTQ = RAM + 0x70_0000

const EVENTS: readonly RegisterWrite[] = [[ARM_SMMU_EVTQ_BASE, 8, EVTQ]]

/** What QEMU told of one access. */
interface Seen {
  readonly address: bigint
  readonly answer: Answer
}

const addressOf = (hi: number, lo: number): bigint => (BigInt(hi) << 32n) | BigInt(lo)

export class LockstepMachine {
  readonly #machine = new QtestMachine()
  readonly #out = new FrameWriter()
  #server: Server | undefined
  #edu: Edu | undefined
  #fd: number | undefined
  #seq = 0
  /** Requests of ours that QEMU has not answered. */
  #pending = 0
  #ready: (() => void) | undefined
  #seen: Seen[] = []
  #problem: Error | undefined

  /** Starts a QEMU with these registers. */
  static async start(registers: readonly RegisterWrite[], memoryMiB: number): Promise<LockstepMachine> {
    const lockstep = new LockstepMachine()
    try {
      await lockstep.#start(registers, memoryMiB)
    } catch (error) {
      await lockstep.dispose()
      throw error
    }
    return lockstep
  }

  async #start(registers: readonly RegisterWrite[], memoryMiB: number): Promise<void> {
    const ready = new Promise<void>(resolve => {
      this.#ready = resolve
    })
    this.#server = createServer(socket => this.#connected(socket, registers))
    this.#server.listen(this.#machine.socket)
    await once(this.#server, 'listening')
    await this.#machine.start({ args: [...EDU_ARGS, '-global', 'arm-smmuv3.stage=nested'], memoryMiB })
    await ready
    this.#edu = await Edu.enable(this.#machine.qtest)
    this.#fd = openSync(this.#machine.ramFile, 'r+')
  }

  /** Guest memory from the start of RAM on. */
  write(offset: number, bytes: Uint8Array): void {
    if (this.#fd !== undefined) writeSync(this.#fd, bytes, 0, bytes.length, offset)
  }

  /** QEMU's answers, in order. What is written is 0. */
  async run(accesses: readonly Access[]): Promise<Answer[]> {
    this.#seen = []
    const { qtest } = this.#machine
    // Whatever the batch before left in QEMU's caches goes with this trap.
    await Promise.all([
      qtest.read(SMMU, 4),
      ...accesses.map(({ address, write }) =>
        write ? this.#edu?.dmaWrite(address, 1) : this.#edu?.dmaRead(address, 1),
      ),
      // QEMU waits for the answer to a trap, so everything before it has arrived.
      qtest.read(SMMU, 4),
    ])
    if (this.#problem) throw this.#problem
    let next = 0
    const answers = accesses.map(({ address }) => {
      const seen = this.#seen[next]
      if (seen?.address !== address) return newAnswer()
      next++
      return seen.answer
    })
    if (next !== this.#seen.length) throw new Error('QEMU translated what nobody accessed')
    return answers
  }

  #connected(socket: Socket, registers: readonly RegisterWrite[]): void {
    const input = new FrameReader()
    const decoder = new Decoder('server')
    socket.on('error', () => {})
    socket.on('data', (chunk: Buffer) => {
      try {
        input.push(chunk)
        while (input.next()) {
          this.#take(decoder.decode(input.buffer, input.start, input.end) as MessageFromQemu, registers)
        }
        socket.write(Buffer.from(this.#out.buffer.subarray(0, this.#out.length)))
        this.#out.reset()
      } catch (error) {
        this.#problem = error as Error
        socket.destroy()
      }
    })
  }

  #request(encode: (seq: number) => void): void {
    this.#pending++
    encode(++this.#seq)
  }

  #take(message: MessageFromQemu, registers: readonly RegisterWrite[]): void {
    const out = this.#out
    switch (message.type) {
      case Id.hello:
        encodeWelcome(out, message.seq, 1, 0, 'test')
        break
      case Id.reset:
        for (const [offset, size, value] of [...EVENTS, ...registers]) {
          this.#request(seq => encodeHwWrite(out, seq, 0, offset, size, Math.floor(value / 2 ** 32), value % 2 ** 32))
        }
        this.#request(seq => encodeTranslateMode(out, seq, 0, enums.translateMode.lockstep[0]))
        encodeReply(out, message.seq, 0, 0, 0)
        break
      case Id.done:
        if (message.status !== 0) this.#problem = new Error(`a request was answered with ${message.status}`)
        if (--this.#pending === 0) this.#ready?.()
        break
      case Id.trapRead:
      case Id.trapWrite:
        this.#forget()
        encodeReply(out, message.seq, 0, 0, 0)
        break
      case Id.translate:
        this.#translate(message)
        break
      default:
    }
  }

  /** What precedes an answer is done when QEMU goes on. */
  #forget(): void {
    this.#request(seq => encodeInvalidate(this.#out, seq, 0, enums.invalidateScope.all[0], 0))
  }

  #translate(message: Translate): void {
    const answer = newAnswer()
    setRequested(answer, message)
    this.#seen.push({ address: addressOf(message.iovaHi, message.iovaLo), answer })
    this.#forget()
    encodeTranslated(this.#out, message.seq, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
  }

  async dispose(): Promise<void> {
    if (this.#fd !== undefined) closeSync(this.#fd)
    this.#server?.close()
    await this.#machine.dispose()
  }
}
