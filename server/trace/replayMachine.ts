// SPDX-License-Identifier: Apache-2.0
/**
 * The hypervisor's ports backed by a recording. What the recorded hypervisor asked is answered as it was answered then;
 * what it did not ask is answered from what the recording shows of memory and registers. What it changed, and what this
 * one changes, is compared.
 */

import type { CpuGuard, HostStage2Registers, Machine } from '../machine/ports.ts'
import type { Halves } from '../smmu/bits.ts'
import { gatedHardware } from '../smmu/gatedHardware.ts'
import type { SmmuHardware } from '../smmu/hardware.ts'
import type { GuestMemory } from '../smmu/memory.ts'
import {
  ARM_SMMU_CMDQ_CONS,
  ARM_SMMU_CMDQ_PROD,
  ARM_SMMU_CR0,
  ARM_SMMU_CR0ACK,
  ARM_SMMU_GBPA,
  ARM_SMMU_IRQ_CTRL,
  ARM_SMMU_IRQ_CTRLACK,
  CMDQ_CONS_ERR,
  GBPA_UPDATE,
} from '../smmu/registers.ts'
import type { MachineDescription } from './format.ts'
import type { Group } from './groups.ts'
import type { RecordOf, TraceRecord } from './records.ts'
import { digest, KEPT_WRITE } from './ring.ts'
import { ShadowQueue } from './shadowQueue.ts'
import { SparseMemory } from './sparseMemory.ts'

/** Something that the hypervisor did to the outside. */
export type Effect = RecordOf<'hardware'> | RecordOf<'memory'> | RecordOf<'guard'>

/** So many accesses of the recording may be left out before the one that comes is called a new one. */
const LOOKAHEAD = 64

/**
 * Registers that follow what software writes: to which register, without which bits, and which bits are the hardware's
 * own.
 */
const FOLLOWERS: Readonly<Record<number, { readonly source: number; readonly cleared: number; readonly own: number }>> =
  {
    [ARM_SMMU_CR0ACK]: { source: ARM_SMMU_CR0, cleared: 0, own: 0 },
    [ARM_SMMU_IRQ_CTRLACK]: { source: ARM_SMMU_IRQ_CTRL, cleared: 0, own: 0 },
    [ARM_SMMU_CMDQ_CONS]: { source: ARM_SMMU_CMDQ_PROD, cleared: CMDQ_CONS_ERR, own: CMDQ_CONS_ERR },
    [ARM_SMMU_GBPA]: { source: ARM_SMMU_GBPA, cleared: GBPA_UPDATE, own: 0 },
  }

/** Clock of reads that the recording doesn't have, ns each: a wait for something that never comes ends. */
const UNKNOWN_READ = 1_000_000

/** Longer than any wait, ns. */
const LONG = 1e15

export class ReplayMachine {
  readonly machine: Machine
  /** Reads of memory that the recording never shows; they were answered with 0. */
  unknownReads = 0
  /** What this hypervisor did in the current group and the recorded one did not, and the other way round. */
  extra: Effect[] = []
  missing: Effect[] = []
  /** Of the current group: what was written where the recording has only its digest, which is the same. By address. */
  readonly longWrites = new Map<number, Uint8Array>()
  /** What EL2 had in its registers, as far as the group tells. */
  #hostStage2: HostStage2Registers | null = null
  #effects: readonly Effect[] = []
  /** Of each effect that concerns the hardware's command queue: its place, or how far PROD moved. */
  #moves: readonly (number | undefined)[] = []
  #next = 0
  readonly #queues: readonly { readonly recorded: ShadowQueue; readonly replayed: ShadowQueue }[]
  /** ns of the server's clock. */
  #time = 0
  /** Registers read since the hypervisor looked at the clock, or changed something. */
  #polled: string[] = []
  /** It looked at the clock since it changed something. */
  #waiting = false
  /** SMMUs that are switched off. */
  readonly #off = new Set<number>()
  readonly #memory: SparseMemory
  readonly #carveout: { readonly base: number; readonly size: number }
  /** Last value written to, and last one read from, a register of the recording or of this run. */
  readonly #written = new Map<string, Halves>()
  readonly #read = new Map<string, Halves>()

  constructor(description: MachineDescription) {
    this.#memory = new SparseMemory(description.ram)
    this.#queues = description.smmus.map(() => ({ recorded: new ShadowQueue(), replayed: new ShadowQueue() }))
    this.#carveout = description.carveout
    this.machine = {
      memory: {
        ram: description.ram,
        read: (address, target, offset, length) => this.#readMemory(address, target, offset, length),
        write: (address, source, offset, length) => this.#writeMemory(address, source, offset, length),
      } satisfies GuestMemory,
      carveout: description.carveout,
      smmus: description.smmus.map(({ base, size }, smmu) => ({
        ...{ base, size },
        hardware: gatedHardware(this.#hardware(smmu), () => !this.#off.has(smmu)),
      })),
      devices: description.devices,
      guard: this.#guard(),
      el2: { watch: () => true, hostStage2: () => this.#hostStage2 },
      power: {
        resetsToAbort: true,
        set: (smmu, state) => {
          if (state === 'on') this.#off.delete(smmu)
          else this.#off.add(smmu)
          return true
        },
      },
    }
  }

  /**
   * The server's clock for the hypervisor, ms. It waits for hardware by reading the same registers again and again, and
   * looks at the clock in between. What counts is not how long that took, but whether the recorded one began another round
   * or gave up.
   */
  readonly clock = (): number => {
    const next = this.#effects[this.#next]
    const register = next?.kind === 'hardware' && next.write === 0 ? key(next.smmu, next.offset) : ''
    const again = this.#waiting ? this.#polled[0] === register : this.#polled.includes(register)
    this.#waiting = true
    this.#polled = []
    return (again ? this.#time : this.#time + LONG) / 1e6
  }

  /** Memory as the recording shows it and this hypervisor wrote it, for those that are no part of the recording. */
  get shown(): GuestMemory {
    const { ram } = this.machine.memory
    const inside = (address: number, length: number) => this.#memory.contains(address, length)
    return {
      ram,
      read: (address, target, offset, length) => {
        if (!inside(address, length)) return false
        this.#memory.read(address, target, offset, length)
        return true
      },
      write: (address, source, offset, length) => {
        if (!inside(address, length)) return false
        this.#memory.write(address, source, offset, length)
        return true
      },
    }
  }

  /** From now on the hypervisor decides this. */
  begin(group: Group): void {
    if (group.root.kind === 'reset') this.#off.clear()
    this.#effects = joined(group.children)
    this.#hostStage2 = group.children.find(child => child.kind === 'stage2') ?? null
    this.#next = 0
    this.extra = []
    this.missing = []
    this.longWrites.clear()
    this.#time = group.root.start
    this.#notWaiting()
    for (const effect of this.#effects) this.#learn(effect)
    this.#moves = this.#effects.map(effect => this.#moveOf(effect))
  }

  #moveOf(effect: Effect): number | undefined {
    if (effect.kind === 'guard' || effect.write === 0) return undefined
    if (effect.kind === 'hardware') {
      return this.#queues[effect.smmu]?.recorded.register(effect.offset, effect.lo, effect.hi)
    }
    return this.#place(effect.address, 'recorded')
  }

  #place(address: number, run: 'recorded' | 'replayed'): number | undefined {
    for (const queues of this.#queues) {
      const place = queues[run].place(address)
      if (place !== undefined) return place
    }
    return undefined
  }

  /** What the recorded hypervisor did after the last thing that both did is missing. */
  end(): void {
    this.#skip(this.#effects.length)
  }

  /** What an access of the recording says about memory and registers, for those that aren't in it. */
  #learn(effect: Effect): void {
    if (effect.kind === 'memory' && effect.write === 0 && effect.ok === 1 && !this.owns(effect.address)) {
      this.#memory.write(effect.address, effect.bytes, 0, effect.bytes.length)
    } else if (effect.kind === 'hardware' && effect.write === 0 && effect.ok === 1) {
      this.#read.set(key(effect.smmu, effect.offset), { lo: effect.lo, hi: effect.hi })
    }
  }

  /** Memory that only the hypervisor writes. */
  owns(address: number): boolean {
    const { base, size } = this.#carveout
    return address >= base && address < base + size
  }

  /**
   * The next access of the recording that is the same, if there is one. A read is looked for up to the next change only,
   * so that nothing is answered from the future.
   */
  #match(change: boolean, same: (effect: Effect, move: number | undefined) => boolean): Effect | undefined {
    if (change) this.#notWaiting()
    const limit = Math.min(this.#effects.length, this.#next + LOOKAHEAD)
    for (let i = this.#next; i < limit; i++) {
      const effect = this.#effects[i]
      if (effect === undefined) break
      if (same(effect, this.#moves[i])) {
        this.#skip(i)
        this.#next = i + 1
        return effect
      }
      if (!change && isChange(effect)) break
    }
    return undefined
  }

  /** What was read so far is no round of a wait. */
  #notWaiting(): void {
    this.#polled = []
    this.#waiting = false
  }

  #skip(to: number): void {
    for (; this.#next < to; this.#next++) {
      const effect = this.#effects[this.#next]
      if (effect !== undefined && isChange(effect)) this.missing.push(effect)
    }
  }

  #readMemory(address: number, target: Uint8Array, offset: number, length: number): boolean {
    const found = this.#match(
      false,
      effect =>
        effect.kind === 'memory' && effect.write === 0 && effect.address === address && effect.length === length,
    )
    if (found?.kind === 'memory') {
      if (found.ok === 0) return false
      // Host memory may have changed since it was read before. Hypervisor memory is as this hypervisor wrote it.
      if (!this.owns(address) || !this.#memory.knows(address, length)) {
        target.set(found.bytes, offset)
        return true
      }
    }
    if (!this.#memory.contains(address, length)) return false
    if (!this.#memory.knows(address, length)) this.unknownReads++
    this.#memory.read(address, target, offset, length)
    return true
  }

  #writeMemory(address: number, source: Uint8Array, offset: number, length: number): boolean {
    const bytes = source.subarray(offset, offset + length)
    const ok = this.#memory.contains(address, length)
    const kept = ok && length <= KEPT_WRITE
    const crc = ok && !kept ? digest(bytes) : 0
    const place = this.#place(address, 'replayed')
    const found = this.#match(
      true,
      (effect, there) =>
        effect.kind === 'memory' &&
        effect.write === 1 &&
        (effect.address === address || (place !== undefined && place === there)) &&
        effect.length === length &&
        effect.digest === crc &&
        (!kept || Buffer.compare(effect.bytes, bytes) === 0),
    )
    if (found === undefined) {
      const content = kept ? new Uint8Array(bytes) : new Uint8Array()
      const effect = { address, length, done: 0, digest: crc, ok: ok ? 1 : 0, bytes: content }
      this.extra.push({ kind: 'memory', write: 1, ...effect })
    }
    if (!ok) return false
    if (!kept && crc !== 0 && found !== undefined) this.longWrites.set(address, new Uint8Array(bytes))
    if (!kept && crc === 0) this.#memory.zero(address, length)
    else this.#memory.write(address, source, offset, length)
    return true
  }

  #hardware(smmu: number): SmmuHardware {
    return {
      read: (offset, size, into) => {
        const found = this.#match(
          false,
          effect =>
            effect.kind === 'hardware' &&
            effect.write === 0 &&
            effect.smmu === smmu &&
            effect.offset === offset &&
            effect.size === size,
        )
        this.#polled.push(key(smmu, offset))
        if (found?.kind === 'hardware') {
          into.lo = found.lo
          into.hi = found.hi
          return found.ok === 1
        }
        this.#time += UNKNOWN_READ
        const { lo, hi } = this.#register(smmu, offset)
        into.lo = lo
        into.hi = hi
        return true
      },
      write: (offset, size, lo, hi) => {
        const moved = this.#queues[smmu]?.replayed.register(offset, lo, hi)
        const found = this.#match(
          true,
          (effect, there) =>
            effect.kind === 'hardware' &&
            effect.write === 1 &&
            effect.smmu === smmu &&
            effect.offset === offset &&
            effect.size === size &&
            ((effect.lo === lo && effect.hi === hi) || (moved !== undefined && moved === there)),
        )
        this.#written.set(key(smmu, offset), { lo, hi })
        if (found?.kind === 'hardware') return found.ok === 1
        this.extra.push({ kind: 'hardware', smmu, write: 1, start: 0, duration: 0, offset, size, lo, hi, ok: 1 })
        return true
      },
    }
  }

  /** What a register most likely holds: what was written to it or to the one it follows, else what it last showed. */
  #register(smmu: number, offset: number): Halves {
    const shown = this.#read.get(key(smmu, offset)) ?? { lo: 0, hi: 0 }
    const { source, cleared, own } = FOLLOWERS[offset] ?? { source: offset, cleared: 0, own: 0 }
    const written = this.#written.get(key(smmu, source))
    if (written === undefined) return shown
    return { lo: ((written.lo & ~cleared) | (shown.lo & own)) >>> 0, hi: written.hi }
  }

  #guard(): CpuGuard {
    const change = (add: number, base: number, size: number) => {
      const found = this.#match(
        true,
        effect => effect.kind === 'guard' && effect.add === add && effect.base === base && effect.size === size,
      )
      if (found === undefined) this.extra.push({ kind: 'guard', add, base, size })
      return true
    }
    return { add: (base, size) => change(1, base, size), remove: (base, size) => change(0, base, size) }
  }
}

function isChange(effect: Effect): boolean {
  return effect.kind === 'guard' || effect.write === 1
}

function key(smmu: number, offset: number): string {
  return `${smmu}:${offset}`
}

/** The accesses of a group, reads that were split put together. */
function joined(children: readonly TraceRecord[]): Effect[] {
  const effects: Effect[] = []
  let parts: Uint8Array[] = []
  for (const child of children) {
    if (child.kind === 'hardware' || child.kind === 'guard') effects.push(child)
    else if (child.kind === 'memory') {
      const whole = child.write === 1 || child.ok === 0 || child.bytes.length === child.length
      if (whole) {
        effects.push(child)
        continue
      }
      parts.push(child.bytes)
      if (child.done + child.bytes.length < child.length) continue
      effects.push({ ...child, done: 0, bytes: Buffer.concat(parts) })
      parts = []
    }
  }
  return effects
}
