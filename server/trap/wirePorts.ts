// SPDX-License-Identifier: Apache-2.0
/** The hypervisor's ports over the wire. Every access is written to the trace ring. */
import {
  encodeGuardAdd,
  encodeGuardRemove,
  encodeHwPost,
  encodeHwRead,
  encodeHwWrite,
  encodeMemRead,
  encodeMemWrite,
  encodeSysReg,
  encodeWatch,
  Id,
} from '../../protocol/generated/messages.ts'
import { enums, MAX_BYTES } from '../../protocol/messages.ts'
import type { CpuGuard, El2, HostStage2Registers } from '../machine/ports.ts'
import type { Halves } from '../smmu/bits.ts'
import type { SmmuHardware } from '../smmu/hardware.ts'
import { type GuestMemory, within } from '../smmu/memory.ts'
import type { RingWriter } from '../trace/ring.ts'
import type { Link } from './link.ts'

const OK = enums.status.ok[0]
const RANGE = enums.status.range[0]
const NO_BYTES = new Uint8Array(0)

/** QEMU's SMMU model behind the trap frame. */
export class WireHardware implements SmmuHardware {
  readonly #link: Link
  readonly #ring: RingWriter
  readonly #smmu: number
  readonly #mayPost: () => boolean
  readonly #written: (offset: number) => void

  /**
   * @param mayPost asked at each write that need not be waited for
   * @param written hears of each write
   */
  constructor(
    link: Link,
    ring: RingWriter,
    smmu: number,
    mayPost: () => boolean,
    written: (offset: number) => void = () => {},
  ) {
    this.#written = written
    this.#link = link
    this.#ring = ring
    this.#smmu = smmu
    this.#mayPost = mayPost
  }

  read(offset: number, size: number, into: Halves): boolean {
    const start = this.#ring.now()
    const seq = this.#link.nextSeq()
    encodeHwRead(this.#link.out, seq, this.#smmu, offset, size)
    const answer = this.#link.call(seq)
    const ok = answer.type === Id.done && answer.status === OK
    into.lo = ok ? answer.valueLo : 0
    into.hi = ok ? answer.valueHi : 0
    this.#ring.hardware(this.#smmu, false, start, this.#ring.now() - start, offset, size, into.lo, into.hi, ok)
    return ok
  }

  write(offset: number, size: number, lo: number, hi: number): boolean {
    this.#written(offset)
    const start = this.#ring.now()
    const seq = this.#link.nextSeq()
    encodeHwWrite(this.#link.out, seq, this.#smmu, offset, size, hi, lo)
    const answer = this.#link.call(seq)
    const ok = answer.type === Id.done && answer.status === OK
    this.#ring.hardware(this.#smmu, true, start, this.#ring.now() - start, offset, size, lo, hi, ok)
    return ok
  }

  /** Both requests leave in one frame buffer; QEMU serves them in order. */
  writeThenRead(offset: number, value: number, readOffset: number, into: Halves): boolean {
    this.#written(offset)
    const start = this.#ring.now()
    const link = this.#link
    const write = link.nextSeq()
    encodeHwWrite(link.out, write, this.#smmu, offset, 4, 0, value)
    const read = link.nextSeq()
    encodeHwRead(link.out, read, this.#smmu, readOffset, 4)
    const written = link.call(write)
    const writeOk = written.type === Id.done && written.status === OK
    const between = this.#ring.now()
    const answer = link.call(read)
    const readOk = answer.type === Id.done && answer.status === OK
    into.lo = readOk ? answer.valueLo : 0
    into.hi = 0
    this.#ring.hardware(this.#smmu, true, start, between - start, offset, 4, value, 0, writeOk)
    this.#ring.hardware(this.#smmu, false, between, this.#ring.now() - between, readOffset, 4, into.lo, 0, readOk)
    return writeOk && readOk
  }

  /** Leaves with the reply, in front of it. */
  post(offset: number, value: number, checkOffset: number, checkValue: number, answer: number): boolean {
    if (!this.#mayPost()) return false
    this.#written(offset)
    const link = this.#link
    encodeHwPost(link.out, link.nextSeq(), this.#smmu, offset, value, checkOffset, checkValue, answer)
    this.#ring.hardware(this.#smmu, true, this.#ring.now(), 0, offset, 4, value, 0, true)
    return true
  }
}

/** Guest memory by messages: for a server that cannot open the file behind it. */
export class WireMemory implements GuestMemory {
  readonly ram: GuestMemory['ram']
  readonly #link: Link

  constructor(link: Link, ram: GuestMemory['ram']) {
    this.#link = link
    this.ram = ram
  }

  read(address: number, target: Uint8Array, targetOffset: number, length: number): boolean {
    if (!this.#contains(address, length)) return false
    for (let done = 0; done < length; done += MAX_BYTES) {
      const count = Math.min(length - done, MAX_BYTES)
      const seq = this.#link.nextSeq()
      encodeMemRead(this.#link.out, seq, address + done, count)
      const answer = this.#link.call(seq)
      if (answer.type !== Id.data || answer.status !== OK || answer.bytes.length !== count) return false
      target.set(answer.bytes, targetOffset + done)
    }
    return true
  }

  write(address: number, source: Uint8Array, sourceOffset: number, length: number): boolean {
    if (!this.#contains(address, length)) return false
    for (let done = 0; done < length; done += MAX_BYTES) {
      const count = Math.min(length - done, MAX_BYTES)
      const seq = this.#link.nextSeq()
      const from = sourceOffset + done
      encodeMemWrite(this.#link.out, seq, address + done, source.subarray(from, from + count))
      const answer = this.#link.call(seq)
      if (answer.type !== Id.done || answer.status !== OK) return false
    }
    return true
  }

  #contains(address: number, length: number): boolean {
    return within(this.ram, address, length)
  }
}

/** EL2 of the machine's vCPUs. */
export class WireEl2 implements El2 {
  /** Told of what QEMU answers. */
  readonly #told: (registers: HostStage2Registers) => void
  readonly #link: Link
  readonly #ring: RingWriter

  constructor(link: Link, ring: RingWriter, told: (registers: HostStage2Registers) => void) {
    this.#link = link
    this.#ring = ring
    this.#told = told
  }

  watch = (page: number, on: boolean): boolean => {
    const link = this.#link
    const seq = link.nextSeq()
    encodeWatch(link.out, seq, page, on ? 1 : 0)
    const answer = link.call(seq)
    return answer.type === Id.done && answer.status === OK
  }

  hostStage2(): HostStage2Registers | null {
    const [vttbrLo, vttbrHi] = this.#sysReg(enums.sysReg.hostVttbr[0])
    const [vtcrLo, vtcrHi] = this.#sysReg(enums.sysReg.hostVtcr[0])
    if (vttbrLo === 0 && vttbrHi === 0) return null
    this.#ring.stage2(0, 0, true, vttbrLo, vttbrHi, vtcrLo, vtcrHi, NO_BYTES, 0, 0)
    const registers = { vttbrLo, vttbrHi, vtcrLo, vtcrHi }
    this.#told(registers)
    return registers
  }

  #sysReg(reg: number): readonly [lo: number, hi: number] {
    const link = this.#link
    const seq = link.nextSeq()
    encodeSysReg(link.out, seq, 0, reg)
    const answer = link.call(seq)
    return answer.type === Id.done && answer.status === OK ? [answer.valueLo, answer.valueHi] : [0, 0]
  }
}

/** QEMU's CPU view of memory. */
export class WireGuard implements CpuGuard {
  readonly #link: Link
  readonly #ring: RingWriter

  constructor(link: Link, ring: RingWriter) {
    this.#link = link
    this.#ring = ring
  }

  add(base: number, size: number): boolean {
    const seq = this.#link.nextSeq()
    encodeGuardAdd(this.#link.out, seq, base, size)
    return this.#finish(seq, true, base, size)
  }

  remove(base: number, size: number): boolean {
    const seq = this.#link.nextSeq()
    encodeGuardRemove(this.#link.out, seq, base, size)
    return this.#finish(seq, false, base, size)
  }

  #finish(seq: number, add: boolean, base: number, size: number): boolean {
    const answer = this.#link.call(seq)
    // QEMU keeps so many separate ranges and no more.
    if (answer.type === Id.done && answer.status === RANGE) return false
    if (answer.type !== Id.done || answer.status !== OK) {
      const range = `0x${base.toString(16)}, ${size} bytes`
      throw new Error(`QEMU refused to ${add ? 'guard' : 'unguard'} ${range} from the CPUs`)
    }
    this.#ring.guard(add, base, size)
    return true
  }
}
