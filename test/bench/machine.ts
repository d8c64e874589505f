// SPDX-License-Identifier: Apache-2.0
/** A machine without QEMU: a hypervisor on memory and on a register frame that costs next to nothing. */

import { Injector } from '../../server/faults/injector.ts'
import type { FaultRule } from '../../server/faults/rule.ts'
import { Hypervisor } from '../../server/hypervisor/pkvm/hypervisor.ts'
import { PkvmInspect } from '../../server/hypervisor/pkvm/inspect.ts'
import { newTrap, type Policy, type PolicyOptions, type Trap } from '../../server/policy/policy.ts'
import type { Halves } from '../../server/smmu/bits.ts'
import { QEMU_NESTED_ID_REGISTERS } from '../../server/smmu/features.ts'
import type { PowerState, SmmuHardware } from '../../server/smmu/hardware.ts'
import type { GuestMemory } from '../../server/smmu/memory.ts'
import * as r from '../../server/smmu/registers.ts'
import { CountersWriter, createCounters } from '../../server/trace/counters.ts'
import { createRing, RingReader, RingWriter } from '../../server/trace/ring.ts'
import { TracedMemory } from '../../server/trace/tracedMemory.ts'
import { Reporter } from '../../server/trap/reporter.ts'

export const MiB = 2 ** 20
export const RAM_BASE = 0x4000_0000
const SMMU_BASE = 0x0905_0000
const SMMU_SIZE = 0x2_0000

/** Guest RAM in this process. */
export class BufferMemory implements GuestMemory {
  readonly ram: GuestMemory['ram']
  readonly bytes: Uint8Array
  readonly #base: number

  constructor(base: number, size: number) {
    this.ram = [{ base, size }]
    this.bytes = new Uint8Array(size)
    this.#base = base
  }

  read(address: number, target: Uint8Array, targetOffset: number, length: number): boolean {
    const at = address - this.#base
    if (at < 0 || at + length > this.bytes.length) return false
    target.set(this.bytes.subarray(at, at + length), targetOffset)
    return true
  }

  write(address: number, source: Uint8Array, sourceOffset: number, length: number): boolean {
    const at = address - this.#base
    if (at < 0 || at + length > this.bytes.length) return false
    this.bytes.set(source.subarray(sourceOffset, sourceOffset + length), at)
    return true
  }
}

/** Takes every command the moment it is told of it. */
class InstantHardware implements SmmuHardware {
  readonly #words = new Uint32Array(r.ARM_SMMU_FRAME_SIZE / 4)
  /** Commands taken. */
  taken = 0

  constructor() {
    const { idr0, idr1, idr3, idr5 } = QEMU_NESTED_ID_REGISTERS
    this.#words[r.ARM_SMMU_IDR0 >>> 2] = idr0
    this.#words[r.ARM_SMMU_IDR1 >>> 2] = idr1
    this.#words[r.ARM_SMMU_IDR3 >>> 2] = idr3
    this.#words[r.ARM_SMMU_IDR5 >>> 2] = idr5
  }

  /** All but its ID registers is 0. */
  lose(): void {
    this.#words.fill(0, r.ARM_SMMU_CR0 >>> 2)
  }

  read(offset: number, size: number, into: Halves): boolean {
    into.lo = this.#words[offset >>> 2]
    into.hi = size === 8 ? this.#words[(offset >>> 2) + 1] : 0
    return true
  }

  write(offset: number, size: number, lo: number, hi: number): boolean {
    const words = this.#words
    const at = offset >>> 2
    words[at] = lo
    if (size === 8) words[at + 1] = hi
    if (offset === r.ARM_SMMU_GBPA) words[at] = lo & ~r.GBPA_UPDATE
    else if (offset === r.ARM_SMMU_CR0) words[r.ARM_SMMU_CR0ACK >>> 2] = lo
    else if (offset === r.ARM_SMMU_CMDQ_PROD) {
      const wrap = 2 << (words[r.ARM_SMMU_CMDQ_BASE >>> 2] & 0x1f)
      this.taken += (lo - words[r.ARM_SMMU_CMDQ_CONS >>> 2]) & (wrap - 1)
      words[r.ARM_SMMU_CMDQ_CONS >>> 2] = lo
    }
    return true
  }
}

/** The policy pkvm's hypervisor as the trap thread has it: what it does is counted and traced. */
export class BenchMachine {
  readonly hypervisor: Hypervisor
  readonly hardware = new InstantHardware()
  readonly #ring = createRing()
  readonly #reader = new RingReader(this.#ring)
  readonly #reporter: Reporter
  readonly #injector: Injector
  readonly #policy: Policy
  readonly #trap: Trap = { ...newTrap(), write: true, size: 4 }

  /** @param options of the policy, beyond isolation */
  constructor(memory: GuestMemory, carveoutBytes: number, options: PolicyOptions = {}) {
    const writer = new RingWriter(this.#ring)
    this.#reporter = new Reporter(writer, new CountersWriter(createCounters()))
    const { base, size } = memory.ram[0]
    const machine = {
      memory: new TracedMemory(memory, writer),
      carveout: { base: base + size - carveoutBytes, size: carveoutBytes },
      smmus: [{ base: SMMU_BASE, size: SMMU_SIZE, hardware: this.hardware }],
      devices: [],
      guard: { add: () => true, remove: () => true },
      power: {
        resetsToAbort: true,
        set: (_smmu: number, state: PowerState) => {
          if (state === 'off') this.hardware.lose()
          return true
        },
      },
    }
    const hypervisor = new Hypervisor(machine, {
      options: { requireIsolation: true, ...options },
      report: this.#reporter,
    })
    this.hypervisor = hypervisor
    this.#policy = {
      name: 'pkvm',
      inspect: new PkvmInspect(hypervisor),
      access: (trap: Trap) => hypervisor.access(trap),
      reset: () => hypervisor.reset(),
    }
    this.#injector = new Injector(writer, () => {})
    const never = (): never => {
      throw new Error('no fault of a benchmark does this')
    }
    this.#injector.connect(
      {
        machine,
        policy: this.#policy,
        devices: [],
        memory,
        translates: false,
        clock: () => 0,
        irq: never,
        invalidate: never,
        loseState: never,
        warn: never,
        donate: never,
        reclaim: never,
        cut: never,
        garble: never,
        die: never,
      },
      false,
    )
    hypervisor.reset()
    this.drain()
  }

  /** Rules come, see `traps` accesses, and go again. */
  armAndDisarm(rules: readonly FaultRule[], traps: () => void): void {
    this.#injector.arm({ rules, seed: 1 })
    traps()
    this.#injector.disarm()
  }

  /** The guest writes a register. */
  write(offset: number, lo: number, size = 4, hi = 0): void {
    const trap = this.#trap
    trap.seq++
    trap.offset = offset
    trap.size = size
    trap.lo = lo
    trap.hi = hi
    trap.aborted = false
    // As the dispatcher does.
    if (this.#injector.armed) this.#injector.access(this.#policy, trap)
    else this.#policy.access(trap)
  }

  /** Empties the trace, as another thread does in a real run. */
  drain(): void {
    this.#reader.drain(() => {})
  }

  /** @throws Error when something was not as in a real run that goes well. */
  check(): void {
    if (this.#reader.lost > 0) throw new Error(`${this.#reader.lost} trace records were lost`)
    if (this.#reporter.panic !== undefined) throw new Error(this.#reporter.panic)
  }
}
