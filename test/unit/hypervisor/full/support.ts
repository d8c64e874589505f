// SPDX-License-Identifier: Apache-2.0
/** The policy `full` on a SoftSmmu that caches all it may, beside SMMUs without a hypervisor that are given the same. */
import { fullOverrides } from '../../../../server/hypervisor/full/policy.ts'
import type { PolicyOptions } from '../../../../server/policy/policy.ts'
import { eventName } from '../../../../server/smmu/events.ts'
import type { IdRegisters } from '../../../../server/smmu/features.ts'
import type { GuestMemory } from '../../../../server/smmu/memory.ts'
import * as r from '../../../../server/smmu/registers.ts'
import type { SoftSmmuOptions } from '../../../../server/smmu/soft/options.ts'
import { SoftSmmu } from '../../../../server/smmu/soft/softSmmu.ts'
import { NO_SSID, type Outcome, type Transaction } from '../../../../server/smmu/transaction.ts'
import { cd } from '../../smmu/fields.ts'
import { SoftBench } from '../pkvm/soft.ts'
import { Bench, MiB, RAM_BASE } from '../pkvm/support.ts'

/** A bench with hardware that logs. */
export function fullBench(options: PolicyOptions = {}, id: Partial<IdRegisters> = {}): Bench {
  const bench = new Bench({ options, overrides: fullOverrides(options), ids: [id] })
  bench.hyp.reset()
  return bench
}

/** Where a driver that is not Linux's puts things: all that is small in one page, tables behind it. */
export const PLACE = {
  cmdq: RAM_BASE + MiB,
  evtq: RAM_BASE + MiB + 0x400,
  cd: RAM_BASE + MiB + 0x800,
  linear: RAM_BASE + MiB + 0xc00,
  strtab: RAM_BASE + 2 * MiB,
  l2: RAM_BASE + 3 * MiB,
  tables: RAM_BASE + 4 * MiB,
  data: RAM_BASE + 6 * MiB,
} as const
export const CMDQ_LOG2 = 5
export const EVTQ_LOG2 = 4

export function transaction(sid: number, address: number): Transaction {
  return {
    sid,
    ssid: NO_SSID,
    lo: address % 2 ** 32,
    hi: Math.floor(address / 2 ** 32),
    write: true,
    privileged: false,
    instruction: false,
  }
}

/** Where an access goes, `abort`, or the name of its event. */
export function told(outcome: Outcome): string {
  if (outcome.kind === 'translated') return outcome.pa.toString(16)
  return outcome.kind === 'fault' ? eventName(outcome.event.id) : outcome.kind
}

/** An SMMU with the hypervisor, and two without: one that caches nothing, one that caches all. */
export class Beside {
  readonly bench: SoftBench
  readonly bare: readonly [SoftSmmu, SoftSmmu]
  readonly #into = { lo: 0, hi: 0 }

  constructor(options: PolicyOptions = {}, soft: SoftSmmuOptions = {}) {
    this.bench = new SoftBench({ options, overrides: fullOverrides(options), soft })
    this.bench.hyp.reset()
    const { memory } = this.bench
    const blind: GuestMemory = {
      ram: memory.ram,
      read: (address, target, offset, length) => memory.bus.read(address, target, offset, length),
      // What these write the real one writes as well.
      write: address => address >= RAM_BASE,
    }
    const offsets = [r.ARM_SMMU_IDR0, r.ARM_SMMU_IDR1, r.ARM_SMMU_IDR3, r.ARM_SMMU_IDR5]
    const [idr0, idr1, idr3, idr5] = offsets.map(offset => this.bench.read(offset))
    const id = { idr0, idr1, idr3, idr5 }
    this.bare = [
      new SoftSmmu(blind, { ...soft, id, caching: 'none' }),
      new SoftSmmu(blind, { ...soft, id, caching: 'maximal' }),
    ]
  }

  /** In both, 4 or 8 bytes. */
  write(offset: number, lo: number, hi?: number): void {
    const size = hi === undefined ? 4 : 8
    this.bench.trap(true, offset, size, lo, hi ?? 0)
    for (const smmu of this.bare) smmu.write(offset, size, lo, hi ?? 0)
  }

  /** A 64-bit register, as a whole or by its halves, the high one first. */
  write64(offset: number, address: number, low: number, halves: boolean): void {
    const [lo, hi] = [(address % 2 ** 32) + low, Math.floor(address / 2 ** 32)]
    if (!halves) return this.write(offset, lo, hi)
    this.write(offset + 4, hi)
    this.write(offset, lo)
  }

  /** With the hypervisor and without. */
  read(offset: number): readonly [number, number] {
    const { lo } = this.bench.trap(false, offset, 4)
    this.bare[0].read(offset, 4, this.#into)
    return [lo, this.#into.lo]
  }

  /** With the hypervisor and without; undefined: what is cached would make a difference. */
  translate(t: Transaction): readonly [string, string] | undefined {
    const [plain, cached] = this.bare.map(smmu => told(smmu.translate(t)))
    const here = told(this.bench.hw.translate(t))
    return plain === cached ? [here, plain] : undefined
  }
}

/** A CD at PLACE.cd whose table maps the first MiB of input addresses to PLACE.data. */
export function putStage1({ memory }: SoftBench): void {
  const [level1, level2, level3] = [0, 1, 2].map(i => PLACE.tables + 4096 * i)
  memory.poke64(PLACE.cd, ...cd({ t0sz: 25, epd1: 1, ips: 5, r: 1, a: 1, aset: 1, asid: 1, ttb0: level1, mair: 0xff }))
  memory.poke64(level1, BigInt(level2 + 3))
  memory.poke64(level2, BigInt(level3 + 3))
  for (let i = 0; i < 256; i++) memory.poke64(level3 + 8 * i, BigInt(PLACE.data + 4096 * i) | 0xf43n)
}
