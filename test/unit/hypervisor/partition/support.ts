// SPDX-License-Identifier: Apache-2.0
/** A partitioned machine with an SMMU in software, and a guest that behaves like Linux. */
import { guestOnly, type Partition, partition } from '../../../../server/hypervisor/partition/policy.ts'
import type { Machine } from '../../../../server/machine/ports.ts'
import { newTrap, type Policy, type Trap } from '../../../../server/policy/policy.ts'
import type { IdRegisters } from '../../../../server/smmu/features.ts'
import { QEMU_NESTED_ID_REGISTERS } from '../../../../server/smmu/features.ts'
import type { SmmuHardware } from '../../../../server/smmu/hardware.ts'
import { readRegister } from '../../../../server/smmu/hardware.ts'
import type { SoftSmmuOptions } from '../../../../server/smmu/soft/options.ts'
import { SoftSmmu } from '../../../../server/smmu/soft/softSmmu.ts'
import { NO_SSID, type Outcome } from '../../../../server/smmu/transaction.ts'
import {
  type Bench,
  CARVEOUT_BASE,
  CARVEOUT_SIZE,
  Host,
  MiB,
  RAM_BASE,
  SMMU_BASE,
  TestGuard,
  TestMemory,
  TestReport,
} from '../pkvm/support.ts'

/** StreamIDs of the guest, of another partition, and of nobody: beside the guest's, and in another L2 table. */
export const GUEST = 8
export const GUEST_TOO = 0x105
export const FOREIGN = 0x10
export const NOBODY = 0x11
export const NOWHERE = 0x300

/** Memory of the other partition; below it is the guest's. */
export const VAULT = { base: RAM_BASE + 16 * MiB, size: 2 * MiB }

export const device = (sid: number) => ({ smmu: 0, sid, name: `device-${sid}`, model: 'test' })

/** The guest's and another partition. */
export function two(machine: Machine): Partition[] {
  const [guest] = guestOnly(machine)
  return [
    {
      ...guest,
      streams: [GUEST, GUEST_TOO].map(sid => ({ smmu: 0, sid })),
      ranges: [{ base: RAM_BASE, size: 16 * MiB }, guest.ranges[1]],
    },
    { name: 'vault', streams: [{ smmu: 0, sid: FOREIGN }], ranges: [VAULT] },
  ]
}

export class PartitionBench {
  readonly memory = new TestMemory()
  readonly smmu: SoftSmmu
  readonly report = new TestReport()
  readonly guard = new TestGuard()
  readonly machine: Machine
  readonly host: Host
  readonly partitions: readonly Partition[]
  policy: Policy
  /** Host looks at the hardware's queue, which here is its own. */
  readonly hardware = [{ takeCommands: () => [] }]
  protected readonly trapped = newTrap()

  constructor(
    partitions: (machine: Machine) => Partition[] = two,
    ids: Partial<IdRegisters> = {},
    port?: SmmuHardware,
    soft: Partial<SoftSmmuOptions> = {},
  ) {
    this.smmu = new SoftSmmu(this.memory, { id: { ...QEMU_NESTED_ID_REGISTERS, ...ids }, ...soft })
    this.machine = {
      memory: this.memory,
      carveout: { base: CARVEOUT_BASE, size: CARVEOUT_SIZE },
      smmus: [{ base: SMMU_BASE, size: 0x2_0000, hardware: port ?? this.smmu }],
      devices: [GUEST, GUEST_TOO, FOREIGN].map(device),
      guard: this.guard,
    }
    this.partitions = partitions(this.machine)
    this.policy = this.make()
    this.host = new Host(this as unknown as Bench)
  }

  /** The same policy again, as a server that takes over makes it. */
  make(partitions = this.partitions): Policy {
    return partition(this.machine, { options: {}, report: this.report }, [...partitions])
  }

  trap(write: boolean, offset: number, size: number, lo = 0, hi = 0): Trap {
    const trap = this.trapped
    Object.assign(trap, { seq: trap.seq + 1, write, offset, size, lo: lo >>> 0, hi: hi >>> 0, aborted: false })
    this.decide()
    return trap
  }

  protected decide(): void {
    this.policy.access(this.trapped)
  }

  write(offset: number, value: number): void {
    this.trap(true, offset, 4, value)
  }

  write64(offset: number, value: number, hi = 0): void {
    this.trap(true, offset, 8, value % 2 ** 32, Math.floor(value / 2 ** 32) | hi)
  }

  read(offset: number): number {
    return this.trap(false, offset, 4).lo
  }

  /** What the hardware has in a register. */
  hw(offset: number): number {
    return readRegister(this.smmu, offset).lo
  }

  translate(sid: number, address: number, write = true): Outcome {
    const [lo, hi] = [address % 2 ** 32, Math.floor(address / 2 ** 32)]
    return this.smmu.translate({ sid, ssid: NO_SSID, lo, hi, write, privileged: false, instruction: false })
  }

  /** What the host asks for once it is up: nothing is counted here. */
  forget(): void {}

  /** Reset, and a guest that has its SMMU running. */
  boot(): this {
    this.policy.reset()
    this.host.boot()
    return this
  }
}
