// SPDX-License-Identifier: Apache-2.0
import { RAM, SMMU } from './machine.ts'

/** Where the guest counts, two numbers of 8 bytes: accesses that completed, and accesses that were aborted. */
export const COUNTS = RAM + 0x100_0000

const movz = (register: number, value: number) => (0xd280_0000 | (value << 5) | register) >>> 0
const movk16 = (register: number, value: number) => (0xf2a0_0000 | (value << 5) | register) >>> 0
const load = (register: number, value: number) => [movz(register, value & 0xffff), movk16(register, value >>> 16)]

/** arm64 code, at an address that is a multiple of 2 KiB: reads SMMU_IDR0 for ever, with `pause` idle rounds between. */
export function readingGuest(pause: number): Uint8Array {
  const code = new Uint32Array(0xc00 / 4)
  const main = [
    0x1000_4004, // adr x4, vectors (0x800 from here)
    0xd518_c004, // msr vbar_el1, x4
    0xd503_3fdf, // isb
    ...load(0, SMMU),
    ...load(3, COUNTS),
    ...load(7, pause),
    0xb940_0002, // loop: ldr w2, [x0]
    0x9100_04a5, //       add x5, x5, #1
    0xf900_0065, //       str x5, [x3]
    0xaa07_03e6, //       mov x6, x7
    0xf100_04c6, // idle: subs x6, x6, #1
    0x54ff_ffe1, //       b.ne idle
    0x17ff_fffa, //       b loop
  ]
  code.set(main)
  // A synchronous exception of EL1 with its own stack: count it, and skip the instruction.
  code.set(
    [
      0x9100_0508, // add x8, x8, #1
      0xf900_0468, // str x8, [x3, #8]
      0xd538_402a, // mrs x10, elr_el1
      0x9100_114a, // add x10, x10, #4
      0xd518_402a, // msr elr_el1, x10
      0xd69f_03e0, // eret
    ],
    (0x800 + 0x200) / 4,
  )
  return new Uint8Array(code.buffer)
}
