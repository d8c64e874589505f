// SPDX-License-Identifier: Apache-2.0
/** A machine to be hostile in: memory, the SMMU model, and a host that knows how a driver begins. */
import type { Hello } from '../../../protocol/generated/messages.ts'
import type { Machine } from '../../../server/machine/ports.ts'
import { newTrap, type Policy } from '../../../server/policy/policy.ts'
import * as r from '../../../server/smmu/registers.ts'
import { SoftSmmu } from '../../../server/smmu/soft/softSmmu.ts'
import { TestMemory } from '../../unit/hypervisor/pkvm/support.ts'
import type { Choices } from '../choices.ts'

const MIB = 2 ** 20
export const RAM = { base: 0x4000_0000, size: 32 * MIB }
export const CARVEOUT = { base: RAM.base + 20 * MIB, size: 12 * MIB }
export const SMMU = { base: 0x0905_0000, size: 0x2_0000 }
const LOG2_ENTRIES = 6
const CMDQ = RAM.base + MIB
const EVTQ = RAM.base + 2 * MIB
const STRTAB = RAM.base + 4 * MIB
const L2 = RAM.base + 5 * MIB
/** Two levels, 8 bits in the second, all that SIDSIZE allows. */
const STRTAB_CFG = (1 << 16) | (8 << 6) | 16
/** Where a host would put its tables, and where it must not. */
const PLACES = [CMDQ, EVTQ, STRTAB, L2, RAM.base, CARVEOUT.base, CARVEOUT.base - 4096, SMMU.base, 0, 2 ** 40]
const STREAMS = 8

const OFFSETS = r.REGISTERS.map(({ offset }) => offset)
const CR0S = [0, r.CR0_CMDQEN, r.CR0_CMDQEN | r.CR0_EVTQEN, r.CR0_CMDQEN | r.CR0_EVTQEN | r.CR0_SMMUEN]

/** A write of the host. */
export interface Write {
  readonly offset: number
  readonly size: number
  readonly lo: number
  readonly hi: number
}

export class FuzzMachine {
  readonly memory = new TestMemory([RAM])
  readonly hardware: SoftSmmu
  /** What the host believes CMDQ_PROD to be. */
  #prod = 0

  constructor() {
    this.hardware = new SoftSmmu(this.memory)
  }

  /** As a policy sees it when nothing is between. */
  get ports(): Machine {
    return {
      memory: this.memory,
      carveout: CARVEOUT,
      smmus: [{ ...SMMU, hardware: this.hardware }],
      devices: DEVICES,
      guard: { add: () => true, remove: () => true },
    }
  }

  /** What a driver writes until its SMMU translates, some of it wrong. */
  *probe(choices: Choices): Generator<Write> {
    const write = (offset: number, lo: number, hi = 0, size = 4): Write => ({ offset, size, lo, hi })
    const base = (offset: number, at: number, low: number) => {
      const address = choices.once(16) ? choices.pick(PLACES) : at
      return write(offset, ((address % 2 ** 32) | low) >>> 0, Math.floor(address / 2 ** 32), 8)
    }
    // One table of the second level, with a span of 2^8.
    this.memory.poke64(STRTAB, BigInt((choices.once(16) ? choices.pick(PLACES) : L2) + 9))
    yield write(r.ARM_SMMU_CR0, 0)
    yield base(r.ARM_SMMU_STRTAB_BASE, STRTAB, 0)
    yield write(r.ARM_SMMU_STRTAB_BASE_CFG, choices.once(16) ? choices.u32() : STRTAB_CFG)
    yield base(r.ARM_SMMU_CMDQ_BASE, CMDQ, LOG2_ENTRIES)
    yield write(r.ARM_SMMU_CMDQ_PROD, 0)
    yield write(r.ARM_SMMU_CMDQ_CONS, 0)
    yield base(r.ARM_SMMU_EVTQ_BASE, EVTQ, LOG2_ENTRIES)
    for (const cr0 of CR0S) yield write(r.ARM_SMMU_CR0, choices.once(32) ? choices.u32() : cr0)
    this.#prod = 0
  }

  /** Any access, mostly to what there is. */
  write(choices: Choices): Write {
    const offset = choices.once(8) ? choices.integer(SMMU.size + 8) : choices.pick(OFFSETS)
    const size = choices.once(6) ? choices.pick([1, 2, 3, 8]) : 4
    if (choices.once(3)) {
      const address = choices.pick(PLACES) + choices.below(64)
      return { offset, size, lo: (address % 2 ** 32) >>> 0, hi: Math.floor(address / 2 ** 32) }
    }
    return { offset, size, lo: choices.u32(), hi: size === 8 ? choices.u32() : 0 }
  }

  /** Commands in the host's queue, and the write that hands them over. */
  commands(choices: Choices): Write {
    const count = 1 + choices.below(8)
    for (let i = 0; i < count; i++) {
      const opcode = choices.pick([
        1, 2, 3, 4, 5, 6, 0x10, 0x11, 0x12, 0x13, 0x20, 0x28, 0x2a, 0x30, 0x40, 0x41, 0x44, 0x46, 0xff,
      ])
      const words = Uint32Array.of(
        opcode | (choices.u32() & ~0xff),
        choices.below(2 * STREAMS),
        choices.u32(),
        choices.u32(),
      )
      this.memory.poke(CMDQ + 16 * ((this.#prod + i) % 2 ** LOG2_ENTRIES), new Uint8Array(words.buffer))
    }
    this.#prod = (this.#prod + count) % 2 ** (LOG2_ENTRIES + 1)
    return { offset: r.ARM_SMMU_CMDQ_PROD, size: 4, lo: this.#prod, hi: 0 }
  }

  /** An entry of the host's stream table. */
  ste(choices: Choices): void {
    const config = choices.pick([0b1001, 0b1011, 0b0001, 0b1101, 0b1111, 0, choices.byte()])
    const words = Uint32Array.from({ length: 16 }, () => choices.u32())
    words[0] = (config | ((choices.pick(PLACES) + choices.below(2) * 64) & ~0x3f)) >>> 0
    if (choices.once(2)) words.fill(0, 2)
    this.memory.poke(L2 + 64 * choices.below(2 * STREAMS), new Uint8Array(words.buffer))
  }

  /** Anything, anywhere that is the host's. */
  scribble(choices: Choices): void {
    const at = choices.pick([CMDQ, EVTQ, STRTAB, L2]) + 8 * choices.below(1024)
    this.memory.poke(at, choices.bytes(64))
  }

  /** A host that does a bit of everything, without a wire. @returns the policy's answers */
  trouble(policy: Policy, choices: Choices): string {
    const trap = newTrap()
    const outcomes: string[] = []
    const access = ({ offset, size, lo, hi }: Write, write: boolean) => {
      Object.assign(trap, {
        seq: trap.seq + 1,
        write,
        offset,
        size,
        lo: write ? lo : 0,
        hi: write ? hi : 0,
        aborted: false,
      })
      policy.access(trap)
      outcomes.push(`${write ? 'w' : 'r'}${offset < 0x200 ? offset.toString(16) : '-'}${trap.aborted ? '!' : ''}`)
    }
    for (let steps = 0; steps < 32 && choices.left > 0; steps++) {
      switch (choices.below(6)) {
        case 0:
          for (const write of this.probe(choices)) access(write, true)
          break
        case 1:
          access(this.commands(choices), true)
          break
        case 2:
          this.ste(choices)
          break
        case 3:
          this.scribble(choices)
          break
        default:
          access(this.write(choices), choices.once(2))
      }
    }
    return outcomes.join(' ')
  }
}

const DEVICES = [{ smmu: 0, sid: 8, name: 'disk0', model: 'virtio-blk-pci' }]

/** How this machine describes itself. */
export const HELLO: Omit<Hello, 'type' | 'seq'> = {
  minVersion: 1,
  maxVersion: 1,
  features: 15,
  session: '',
  resumed: 0,
  lastSeq: 0,
  checkpoint: new Uint8Array(0),
  qemuVersion: 'fuzz',
  vcpus: 1,
  carveoutBase: CARVEOUT.base,
  carveoutSize: CARVEOUT.size,
  ram: [{ ...RAM, path: '', offset: 0 }],
  smmus: [{ ...SMMU, irqEvtq: 1, irqPriq: 2, irqCmdSync: 3, irqGerror: 4 }],
  devices: DEVICES,
}
