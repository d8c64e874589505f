// SPDX-License-Identifier: Apache-2.0
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { Bits } from '../../../server/smmu/bits.ts'
import { commandBits } from '../../../server/smmu/commandFields.ts'
import { ARM_SMMU_GERROR_IRQ_CFG0, describeRegister, REGISTERS, registerBits } from '../../../server/smmu/registers.ts'

const shown = (bits: readonly Bits[]) => bits.map(({ name, hi, lo, value }) => `${name} [${hi}:${lo}] ${value}`)
const number = (words: Uint32Array) => words.reduceRight((sum, word) => (sum << 32n) | BigInt(word), 0n)

describe('fields of commands', () => {
  test('CMD_TLBI_NH_VA (IHI 0070 section 4.4.2)', () => {
    // NUM 2, SCALE 1, VMID 3, ASID 0x12; Leaf, TTL 3, TG 4 KiB, address 0x7f_ffed_0000.
    const words = Uint32Array.of(0x0010_2012, 0x0012_0003, 0xffed_0000 | 0x701, 0x7f)
    expect(shown(commandBits(words))).toEqual([
      'Opcode [7:0] 0x12',
      'NUM [16:12] 2',
      'SCALE [24:20] 1',
      'VMID [47:32] 3',
      'ASID [63:48] 0x12',
      'Leaf [64:64] 1',
      'TTL [73:72] 3',
      'TG [75:74] 1',
      'Address [127:76] 0x7fffed0000',
    ])
  })
  test('CMD_CFGI_STE (IHI 0070 section 4.3.1)', () => {
    expect(shown(commandBits(Uint32Array.of(0x03, 0x18, 1, 0)))).toEqual([
      'Opcode [7:0] 3',
      'SSec [10:10] 0',
      'StreamID [63:32] 0x18',
      'Leaf [64:64] 1',
    ])
  })
  test('CMD_SYNC (IHI 0070 section 4.7.3)', () => {
    // CS 1, MSH 3, MSIAttr 0xf, MSIData 0x55, MSIAddress 0xab_fee0_0044.
    expect(shown(commandBits(Uint32Array.of(0x0fc0_1046, 0x55, 0xfee0_0044, 0xab)))).toEqual([
      'Opcode [7:0] 0x46',
      'CS [13:12] 1',
      'MSH [23:22] 3',
      'MSIAttr [27:24] 0xf',
      'MSIData [63:32] 0x55',
      'MSIAddress [119:66] 0xabfee00044',
    ])
  })
  test('of any command: no two fields share a bit, and each value is that of its bits', () => {
    const word = fc.integer({ min: 0, max: 0xffff_ffff })
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 255 }), word, word, word, word, (opcode, a, b, c, d) => {
        const words = Uint32Array.of(((a & 0xffff_ff00) | opcode) >>> 0, b, c, d)
        let taken = 0n
        for (const { name, hi, lo, value } of commandBits(words)) {
          const mask = ((1n << BigInt(hi - lo + 1)) - 1n) << BigInt(lo)
          expect(taken & mask, name).toBe(0n)
          taken |= mask
          const place = /Address/.test(name) ? 64n : BigInt(lo)
          expect(BigInt(value), name).toBe((number(words) & mask) >> place)
        }
      }),
    )
  })
})

test('of any register: no two fields share a bit, and each value is that of its bits', () => {
  const word = fc.integer({ min: 0, max: 0xffff_ffff })
  for (const { offset, bits: width, name: register } of REGISTERS) {
    fc.assert(
      fc.property(word, word, (lo, hi) => {
        const value64 = (BigInt(width === 64 ? hi : 0) << 32n) | BigInt(lo)
        let taken = 0n
        for (const { name, hi: top, lo: bottom, value } of registerBits(offset, lo, width === 64 ? hi : 0)) {
          const mask = ((1n << BigInt(top - bottom + 1)) - 1n) << BigInt(bottom)
          expect(taken & mask, `${register} ${name}`).toBe(0n)
          taken |= mask
          const place = name === 'ADDR' ? 0n : BigInt(bottom)
          expect(BigInt(value), `${register} ${name}`).toBe((value64 & mask) >> place)
        }
      }),
      { numRuns: 20 },
    )
  }
})

test('an address above 2^53 keeps its low bits', () => {
  expect(describeRegister(ARM_SMMU_GERROR_IRQ_CFG0, 0x0000_0004, 0x0080_0000)).toContain('ADDR=0x80000000000004')
})
