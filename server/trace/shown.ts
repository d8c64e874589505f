// SPDX-License-Identifier: Apache-2.0
/** What a recording shows of guest memory and registers at a moment, byte by byte: what it does not show is not there. */

import type { Halves } from '../smmu/bits.ts'
import { POWER_STATES } from '../smmu/hardware.ts'
import { type GuestMemory, within } from '../smmu/memory.ts'
import { ARM_SMMU_CR0, ARM_SMMU_GBPA, GBPA_UPDATE } from '../smmu/registers.ts'
import type { MachineDescription } from './format.ts'
import type { Group } from './groups.ts'
import { released, request, type TraceRecord } from './records.ts'

const PAGE = 4096

interface Page {
  readonly bytes: Uint8Array
  /** 1: the byte is known. */
  readonly known: Uint8Array
  /** Who may change it: it may be a page of several memories. */
  readonly owner: object
}

const NOBODY = {}
/** Whole pages of zeros, and of what is not known, take no room, however many a recording claims. */
const ZEROS: Page = { bytes: new Uint8Array(PAGE), known: new Uint8Array(PAGE).fill(1), owner: NOBODY }
const UNKNOWN: Page = { bytes: new Uint8Array(PAGE), known: new Uint8Array(PAGE), owner: NOBODY }

/** Content of long writes, which the recording has only a digest of; by address. */
export type LongWrites = ReadonlyMap<number, Uint8Array>

/** Guest memory of which only some is known. A read of what is not known fails, and is remembered. */
export class ShownMemory implements GuestMemory {
  readonly ram: GuestMemory['ram']
  /** The last read that failed because the recording does not show it. */
  missing: { readonly address: number; readonly length: number } | undefined
  readonly #pages = new Map<number, Page>()
  /** Hypervisor memory, all 0 where nobody wrote since the reset. */
  readonly #zeroed: { readonly base: number; readonly size: number }
  #isZeroed = false
  #owner: object = {}

  constructor({ ram, carveout }: Pick<MachineDescription, 'ram' | 'carveout'>) {
    this.ram = ram
    this.#zeroed = carveout
  }

  read(address: number, target: Uint8Array, offset: number, length: number): boolean {
    if (!this.#contains(address, length)) return false
    for (let i = 0; i < length; i++) {
      const page = this.#pages.get(Math.floor((address + i) / PAGE))
      const at = (address + i) % PAGE
      if (page?.known[at] === 1) target[offset + i] = page.bytes[at] ?? 0
      else if (page === undefined && this.#isZeroed && this.#owned(address + i)) target[offset + i] = 0
      else {
        this.missing = { address, length }
        return false
      }
    }
    return true
  }

  write(): boolean {
    throw new Error('a recording cannot be written to')
  }

  /** @param content undefined: something that is not known */
  set(address: number, length: number, content: Uint8Array | 'zeros' | undefined): void {
    if (!this.#contains(address, length)) return
    for (let done = 0; done < length; ) {
      const at = (address + done) % PAGE
      const count = Math.min(PAGE - at, length - done)
      const number = (address + done - at) / PAGE
      const told = content instanceof Uint8Array && content.length >= length
      if (count === PAGE && !told) this.#pages.set(number, content === 'zeros' ? ZEROS : UNKNOWN)
      else {
        const page = this.#own(number)
        if (told) page.bytes.set(content.subarray(done, done + count), at)
        else page.bytes.fill(0, at, at + count)
        page.known.fill(told || content === 'zeros' ? 1 : 0, at, at + count)
      }
      done += count
    }
  }

  /** @param reset the machine was reset, which zeroes hypervisor memory; else nothing is known of anything */
  forget(reset: boolean): void {
    this.#pages.clear()
    this.#isZeroed = reset
  }

  /** As it is now, on its own. */
  copy(): ShownMemory {
    const copy = new ShownMemory({ ram: this.ram, carveout: this.#zeroed })
    copy.#isZeroed = this.#isZeroed
    for (const [number, page] of this.#pages) copy.#pages.set(number, page)
    // From now on both change pages of their own.
    this.#owner = {}
    return copy
  }

  #own(number: number): Page {
    const former = this.#pages.get(number)
    if (former?.owner === this.#owner) return former
    const { bytes, known } = former ?? UNKNOWN
    const page = { bytes: bytes.slice(), known: known.slice(), owner: this.#owner }
    if (former === undefined && this.#isZeroed) {
      for (let i = 0; i < PAGE; i++) page.known[i] = this.#owned(number * PAGE + i) ? 1 : 0
    }
    this.#pages.set(number, page)
    return page
  }

  #owned(address: number): boolean {
    const { base, size } = this.#zeroed
    return address >= base && address < base + size
  }

  #contains(address: number, length: number): boolean {
    return within(this.ram, address, length)
  }
}

/** Whose registers: what the hardware was told, or what the host wrote. */
export type View = 'hardware' | 'host'

/** The machine as the recording shows it after what was learned. */
export class Shown {
  readonly memory: ShownMemory
  readonly #machine: Pick<MachineDescription, 'ram' | 'carveout'>
  /** By SMMU and offset of 32 bits. */
  readonly #registers: Readonly<Record<View, Map<string, number>>> = { hardware: new Map(), host: new Map() }
  /** Registers that never change, by the same key. */
  readonly #identity = new Map<string, number>()
  #lastSeq = 0
  /** Shown without a gap since the machine was reset. */
  #sinceReset = false

  /** @param memory of the machine; nothing is known of it yet, or it is a copy */
  constructor(machine: Pick<MachineDescription, 'ram' | 'carveout'>, memory = new ShownMemory(machine)) {
    this.#machine = machine
    this.memory = memory
  }

  /** As it is now, on its own. */
  copy(): Shown {
    const copy = new Shown(this.#machine, this.memory.copy())
    for (const view of ['hardware', 'host'] as const) {
      for (const [name, value] of this.#registers[view]) copy.#registers[view].set(name, value)
    }
    for (const [name, value] of this.#identity) copy.#identity.set(name, value)
    copy.#lastSeq = this.#lastSeq
    copy.#sinceReset = this.#sinceReset
    return copy
  }

  /** Records are missing: whatever was known may have been changed by them. */
  lost(): void {
    this.#forget(false)
  }

  #forget(reset: boolean): void {
    this.memory.forget(reset)
    this.#sinceReset = reset
    for (const view of Object.values(this.#registers)) view.clear()
  }

  /** Takes in a decision and what was done for it. */
  group({ root, children, whole }: Group, long: LongWrites): void {
    if (root.kind === 'reset') this.#forget(true)
    if (!whole) this.lost()
    if (root.kind === 'trap') {
      if (this.#lastSeq !== 0 && root.seq !== this.#lastSeq + 1) this.lost()
      this.#lastSeq = root.seq
    }
    for (const child of children) this.record(child, long)
    if (root.kind === 'request' && root.request === request.power && root.result === 0) {
      if (POWER_STATES[root.v1] === 'off') this.#off(root.v0)
    }
    const written = root.kind === 'trap' && root.write === 1 && root.aborted === 0
    if (written && root.released !== released.answered) {
      this.#set('host', root.smmu, root.offset, root.size, root)
    }
  }

  /** An SMMU lost its power, and what was in its registers: it comes back as from a reset. */
  #off(smmu: number): void {
    const { hardware } = this.#registers
    for (const name of [...hardware.keys()]) if (name.startsWith(`${smmu}:`)) hardware.delete(name)
    hardware.set(key(smmu, ARM_SMMU_CR0), 0)
  }

  /** Takes in what stands outside of any decision. */
  record(record: TraceRecord, long: LongWrites = new Map()): void {
    if (record.kind === 'lost') this.lost()
    else if (record.kind === 'hardware' && record.ok === 1) {
      this.#set('hardware', record.smmu, record.offset, record.size, record)
      if (record.offset < ARM_SMMU_CR0) this.#identity.set(key(record.smmu, record.offset), record.lo)
    } else if (record.kind === 'memory' && record.ok === 1) {
      const { write, address, length, done, digest, bytes } = record
      if (bytes.length === length || write === 0) this.memory.set(address + done, bytes.length, bytes)
      else this.memory.set(address, length, digest === 0 ? 'zeros' : long.get(address))
    }
  }

  /** 32 bits of a register; undefined if the recording does not show it. CR0 is 0 after a reset. */
  register(view: View, smmu: number, offset: number): number | undefined {
    if (offset < ARM_SMMU_CR0) return this.#identity.get(key(smmu, offset))
    return this.#registers[view].get(key(smmu, offset)) ?? (offset === ARM_SMMU_CR0 && this.#sinceReset ? 0 : undefined)
  }

  #set(view: View, smmu: number, offset: number, size: number, { lo, hi }: Halves): void {
    const registers = this.#registers[view]
    registers.set(key(smmu, offset), offset === ARM_SMMU_GBPA ? (lo & ~GBPA_UPDATE) >>> 0 : lo)
    if (size === 8) registers.set(key(smmu, offset + 4), hi)
  }
}

function key(smmu: number, offset: number): string {
  return `${smmu}:${offset}`
}
