// SPDX-License-Identifier: Apache-2.0
/**
 * The server's end of the ring, written by hand from protocol/README.md, section "The ring": for what the real one never does.
 */

import { dlopen, getRawPointer } from 'node:ffi'
import type { Socket } from 'node:net'
import { closeFile, type SharedFile, sharedFile, unmap, view } from '../../server/machine/sharedMemory.ts'

/** Indices of 32-bit words of the area. */
export const WORD = {
  toQemuTail: 0x000 >> 2,
  toQemuHead: 0x040 >> 2,
  toServerTail: 0x080 >> 2,
  toServerHead: 0x0c0 >> 2,
  serverSleeps: 0x100 >> 2,
  qemuSleeps: 0x140 >> 2,
} as const

/** Bits of the two words that say who sleeps. */
export const PUT = 1
export const TAKEN = 2

const BYTES = 4096

/** The size of the area of rings with that capacity. */
export const areaSize = (capacity: number): number => BYTES + 2 * capacity

/** The descriptor of a socket. */
export function descriptor(socket: Socket): number {
  const fd = (socket as unknown as { _handle: { fd: number } | null })._handle?.fd
  if (fd === undefined) throw new Error('the socket is closed')
  return fd
}

/** Sends bytes, and any number of descriptors with the first of them. */
export function sendDescriptors(socket: Socket, bytes: Uint8Array, fds: readonly number[]): void {
  const { functions } = dlopen(null, { sendmsg: { arguments: ['i32', 'u64', 'i32'], return: 'i64' } })
  const control = Buffer.alloc(16 + 8 * Math.ceil(fds.length / 2))
  control.writeBigUInt64LE(BigInt(16 + 4 * fds.length))
  control.writeInt32LE(SOL_SOCKET, 8)
  control.writeInt32LE(SCM_RIGHTS, 12)
  fds.forEach((fd, i) => {
    control.writeInt32LE(fd, 16 + 4 * i)
  })
  const data = Buffer.from(bytes)
  const vector = words(at(data), BigInt(data.length))
  const header = words(0n, 0n, at(vector), 1n, at(control), fds.length > 0 ? BigInt(control.length) : 0n, 0n)
  const sent = functions.sendmsg(descriptor(socket), at(header), 0)
  if (sent !== BigInt(data.length)) throw new Error(`sendmsg: ${sent} of ${data.length} bytes`)
}

const SOL_SOCKET = 1
const SCM_RIGHTS = 1
const at = (bytes: Buffer): bigint => getRawPointer(bytes)
const words = (...values: readonly bigint[]): Buffer => Buffer.from(BigUint64Array.from(values).buffer)

export class Ring {
  readonly capacity: number
  readonly words: Int32Array
  /** Bytes to QEMU; byte number n is at n modulo the capacity. */
  readonly toQemu: Uint8Array
  readonly toServer: Uint8Array
  readonly file: SharedFile
  /** Doorbells that came and that were sent. */
  bells = 0
  rung = 0
  put = 0
  taken = 0
  /** Bytes that found no room. */
  #waiting = new Uint8Array(0)

  constructor(capacity: number) {
    this.capacity = capacity
    this.file = sharedFile('ring', areaSize(capacity))
    const area = view(this.file)
    this.words = new Int32Array(area, 0, BYTES / 4)
    this.toQemu = new Uint8Array(area, BYTES, capacity)
    this.toServer = new Uint8Array(area, BYTES + capacity, capacity)
  }

  load(word: number): number {
    return Atomics.load(this.words, word) >>> 0
  }

  store(word: number, value: number): void {
    Atomics.store(this.words, word, value | 0)
  }

  /** Puts bytes in, as far as there is room; the others follow with the next `flush`. */
  send(bytes: Uint8Array, socket: Socket): void {
    this.#waiting = Buffer.concat([this.#waiting, bytes])
    this.flush(socket)
  }

  flush(socket: Socket): void {
    const room = this.capacity - ((this.put - this.load(WORD.toQemuHead)) >>> 0)
    const now = this.#waiting.subarray(0, room)
    if (now.length === 0) return
    this.copyIn(now)
    this.#waiting = this.#waiting.slice(now.length)
    this.put = (this.put + now.length) >>> 0
    this.store(WORD.toQemuTail, this.put)
    this.#wake(PUT, socket)
  }

  /** Writes bytes behind those that were put in, without telling QEMU. */
  copyIn(bytes: Uint8Array, at = this.put): void {
    for (let i = 0; i < bytes.length; i++) this.toQemu[(at + i) % this.capacity] = bytes[i] ?? 0
  }

  /** Puts bytes in without looking at what QEMU says, and rings. */
  force(bytes: Uint8Array, socket: Socket): void {
    this.copyIn(bytes)
    this.put = (this.put + bytes.length) >>> 0
    this.store(WORD.toQemuTail, this.put)
    socket.write(Buffer.alloc(1))
  }

  /** Takes all bytes out. */
  take(socket: Socket): Buffer {
    const bytes = Buffer.alloc((this.load(WORD.toServerTail) - this.taken) >>> 0)
    for (let i = 0; i < bytes.length; i++) bytes[i] = this.toServer[(this.taken + i) % this.capacity] ?? 0
    this.taken = (this.taken + bytes.length) >>> 0
    if (bytes.length > 0) {
      this.store(WORD.toServerHead, this.taken)
      this.#wake(TAKEN, socket)
    }
    return bytes
  }

  /** Has QEMU ring; @returns false: there is something to do already. */
  doze(): boolean {
    this.store(WORD.serverSleeps, this.#waiting.length > 0 ? PUT | TAKEN : PUT)
    if (this.load(WORD.toServerTail) !== this.taken) return false
    return this.#waiting.length === 0 || (this.put - this.load(WORD.toQemuHead)) >>> 0 === this.capacity
  }

  #wake(what: number, socket: Socket): void {
    if ((this.load(WORD.qemuSleeps) & what) === 0) return
    this.store(WORD.qemuSleeps, 0)
    this.rung++
    socket.write(Buffer.alloc(1))
  }

  dispose(): void {
    closeFile(this.file.fd)
    unmap(this.file)
  }
}
