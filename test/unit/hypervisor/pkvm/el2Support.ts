// SPDX-License-Identifier: Apache-2.0
/** A machine whose EL2 keeps tables for its host, followed by the hypervisor. */
import type { HostStage2Registers } from '../../../../server/machine/ports.ts'
import { Bench, Host, MiB, RAM_BASE, type SetUp, STE } from './support.ts'

/** 4 KiB, 40 bits, two concatenated tables at level 1. */
const VTCR = (64 - 40) | (1 << 6) | (2 << 16)
export const ROOT = RAM_BASE + 14 * MiB
export const L2 = ROOT + 0x2000
export const L3 = ROOT + 0x3000
/** The 2 MiB that L3 maps. */
export const REGION = RAM_BASE + 8 * MiB
export const PAGE = REGION + 0x5000
export const ANNOTATION_EL2 = 0x2000000000000002n
export const ANNOTATION_VM = (2n << 60n) | (0x1000n << 4n) | 4n

export const registers: HostStage2Registers = { vttbrLo: ROOT + 1, vttbrHi: 0, vtcrLo: VTCR, vtcrHi: 0 }

export class FakeEl2 {
  readonly watched = new Set<number>()
  now: HostStage2Registers | null = null
  watch = (page: number, on: boolean): boolean => {
    if (on) this.watched.add(page)
    else this.watched.delete(page)
    return true
  }
  hostStage2 = (): HostStage2Registers | null => this.now
}

export const descriptor = (page: number) => L3 + 8 * ((page - REGION) / 4096)

/** Puts tables into RAM with which EL2 keeps nothing from its host, but for L3's 2 MiB in blocks. */
export function pokeTables({ memory }: Bench): void {
  memory.poke64(ROOT + 8 * (RAM_BASE / 2 ** 30), BigInt(L2) | 3n)
  memory.poke64(L2 + 8 * ((REGION / 2 ** 21) % 512), BigInt(L3) | 3n)
}

/** Host and SMMU run, EL2 has taken nothing yet. */
export class El2Bench extends Bench {
  readonly el2: FakeEl2
  readonly host: Host

  constructor(setUp: SetUp = {}) {
    const el2 = new FakeEl2()
    super({ ...setUp, el2 })
    this.el2 = el2
    this.hyp.reset()
    pokeTables(this)
    this.host = new Host(this).boot()
    this.host.attach(8, STE.bypass)
    el2.now = registers
    if (!this.changed(true)) throw new Error("EL2's tables are not followed")
  }

  /** EL2 leaves. */
  changed(all: boolean, pages: readonly number[] = []): boolean {
    return this.hyp.stage2Changed({ ...registers, cpu: 0, time: 0, all, pages })
  }

  /** Stores a descriptor as EL2 would, and leaves EL2. */
  store(page: number, value: bigint): boolean {
    this.memory.poke64(descriptor(page), value)
    return this.changed(false, [L3])
  }
}
