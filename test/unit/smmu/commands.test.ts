// SPDX-License-Identifier: Apache-2.0
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { field, getField } from '../../../server/smmu/bits.ts'
import * as c from '../../../server/smmu/commands.ts'

describe('opcodes (IHI 0070 section 4.1.1)', () => {
  it.each([
    [0x01, 'PREFETCH_CONFIG'],
    [0x02, 'PREFETCH_ADDR'],
    [0x03, 'CFGI_STE'],
    [0x04, 'CFGI_STE_RANGE'],
    [0x05, 'CFGI_CD'],
    [0x06, 'CFGI_CD_ALL'],
    [0x07, 'CFGI_VMS_PIDM'],
    [0x10, 'TLBI_NH_ALL'],
    [0x11, 'TLBI_NH_ASID'],
    [0x12, 'TLBI_NH_VA'],
    [0x13, 'TLBI_NH_VAA'],
    [0x18, 'TLBI_EL3_ALL'],
    [0x1a, 'TLBI_EL3_VA'],
    [0x20, 'TLBI_EL2_ALL'],
    [0x21, 'TLBI_EL2_ASID'],
    [0x22, 'TLBI_EL2_VA'],
    [0x23, 'TLBI_EL2_VAA'],
    [0x28, 'TLBI_S12_VMALL'],
    [0x2a, 'TLBI_S2_IPA'],
    [0x30, 'TLBI_NSNH_ALL'],
    [0x40, 'ATC_INV'],
    [0x41, 'PRI_RESP'],
    [0x44, 'RESUME'],
    [0x45, 'STALL_TERM'],
    [0x46, 'SYNC'],
    [0x50, 'TLBI_S_EL2_ALL'],
    [0x51, 'TLBI_S_EL2_ASID'],
    [0x52, 'TLBI_S_EL2_VA'],
    [0x53, 'TLBI_S_EL2_VAA'],
    [0x58, 'TLBI_S_S12_VMALL'],
    [0x5a, 'TLBI_S_S2_IPA'],
    [0x60, 'TLBI_SNH_ALL'],
    [0x70, 'DPTI_ALL'],
    [0x73, 'DPTI_PA'],
  ])('%i is %s', (opcode, name) => expect(c.opcodeName(opcode)).toBe(name))

  it('calls the others Reserved by number', () => expect(c.opcodeName(0x42)).toBe('opcode 0x42'))
})

describe('fields', () => {
  it.each([
    ['CMDQ_0_OP', 7, 0],
    ['CMDQ_0_SSEC', 10, 10],
    ['CMDQ_0_SSV', 11, 11],
    ['CMDQ_CFGI_0_SSID', 31, 12],
    ['CMDQ_CFGI_0_SID', 63, 32],
    ['CMDQ_CFGI_1_LEAF', 64, 64],
    ['CMDQ_CFGI_1_RANGE', 68, 64],
    ['CMDQ_TLBI_0_NUM', 16, 12],
    ['CMDQ_TLBI_0_SCALE', 24, 20],
    ['CMDQ_TLBI_0_VMID', 47, 32],
    ['CMDQ_TLBI_0_ASID', 63, 48],
    ['CMDQ_TLBI_1_LEAF', 64, 64],
    ['CMDQ_TLBI_1_TTL', 73, 72],
    ['CMDQ_TLBI_1_TG', 75, 74],
    ['CMDQ_ATC_0_GLOBAL', 9, 9],
    ['CMDQ_ATC_1_SIZE', 69, 64],
    ['CMDQ_PRI_1_GRPID', 72, 64],
    ['CMDQ_PRI_1_RESP', 77, 76],
    ['CMDQ_RESUME_0_RESP', 13, 12],
    ['CMDQ_RESUME_1_STAG', 79, 64],
    ['CMDQ_SYNC_0_CS', 13, 12],
    ['CMDQ_SYNC_0_MSH', 23, 22],
    ['CMDQ_SYNC_0_MSIATTR', 27, 24],
    ['CMDQ_SYNC_0_MSIDATA', 63, 32],
  ])('%s is [%i:%i]', (name, hi, lo) => expect((c as unknown as Record<string, unknown>)[name]).toEqual(field(hi, lo)))
})

describe('builders', () => {
  const dwords = (build: (cmd: Uint32Array) => void): string[] => {
    const cmd = new BigUint64Array(2).fill(0xdeadbeefdeadbeefn)
    build(new Uint32Array(cmd.buffer))
    return [...cmd].map(dword => dword.toString(16))
  }
  it.each([
    ['CFGI_STE', (cmd: Uint32Array) => c.cfgiSte(cmd, 0x108, true), ['10800000003', '1'], 'CFGI_STE sid=0x108 leaf'],
    [
      'CFGI_STE',
      (cmd: Uint32Array) => c.cfgiSte(cmd, 0xffffffff, false),
      ['ffffffff00000003', '0'],
      'CFGI_STE sid=0xffffffff',
    ],
    ['CFGI_ALL', (cmd: Uint32Array) => c.cfgiAll(cmd), ['4', '1f'], 'CFGI_ALL'],
    ['SYNC', (cmd: Uint32Array) => c.cmdSync(cmd), ['46', '0'], 'SYNC cs=none'],
    ['SYNC', (cmd: Uint32Array) => c.cmdSync(cmd, c.CMDQ_SYNC_0_CS_SEV), ['2046', '0'], 'SYNC cs=sev'],
    ['TLBI_NH_ALL', (cmd: Uint32Array) => c.tlbiNhAll(cmd, 5), ['500000010', '0'], 'TLBI_NH_ALL vmid=5'],
    ['TLBI_NSNH_ALL', (cmd: Uint32Array) => c.tlbiNsnhAll(cmd), ['30', '0'], 'TLBI_NSNH_ALL'],
    [
      'TLBI_S12_VMALL',
      (cmd: Uint32Array) => c.tlbiS12Vmall(cmd, 0xffff),
      ['ffff00000028', '0'],
      'TLBI_S12_VMALL vmid=65535',
    ],
    [
      'TLBI_S2_IPA',
      (cmd: Uint32Array) => c.tlbiS2Ipa(cmd, 1, 0xf_ffff_ffff_f123, true),
      ['10000002a', 'ffffffffff001'],
      'TLBI_S2_IPA vmid=1 addr=0xffffffffff000 leaf',
    ],
    [
      'TLBI_S2_IPA',
      (cmd: Uint32Array) => c.tlbiS2IpaRange(cmd, 0, 0x40000000, true, 12, 31, 9),
      ['91f02a', '40000401'],
      'TLBI_S2_IPA vmid=0 addr=0x40000000 tg=4K num=31 scale=9 leaf',
    ],
    [
      'TLBI_S2_IPA',
      (cmd: Uint32Array) => c.tlbiS2IpaRange(cmd, 0, 0x40000000, false, 16, 1, 0),
      ['102a', '40000c00'],
      'TLBI_S2_IPA vmid=0 addr=0x40000000 tg=64K num=1 scale=0',
    ],
  ])('%s', (_, build, expected, text) => {
    expect(dwords(build)).toEqual(expected)
    const cmd = new Uint32Array(4)
    build(cmd)
    expect(c.describeCommand(cmd)).toBe(text)
  })

  it('writes at the place it is told and nowhere else', () => {
    const cmds = new Uint32Array(12)
    c.tlbiS2IpaRange(cmds, 7, 0x1000, true, 14, 3, 2, 4)
    expect([...cmds.subarray(0, 4), ...cmds.subarray(8)]).toEqual(new Array(8).fill(0))
    expect(c.describeCommand(cmds, 4)).toBe('TLBI_S2_IPA vmid=7 addr=0x1000 tg=16K num=3 scale=2 leaf')
  })

  it('covers any number of granules exactly with range commands', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 2 ** 36 }), granules => {
        let left = granules
        let commands = 0
        while (left > 0) {
          const scale = c.tlbiRangeScale(left)
          const units = c.tlbiRangeUnits(left, scale)
          expect(units).toBeGreaterThan(0)
          expect(units).toBeLessThanOrEqual(32)
          left -= units * 2 ** scale
          commands++
        }
        expect(left).toBe(0)
        expect(commands).toBeLessThanOrEqual(8)
      }),
    )
  })
})

describe('reading', () => {
  const cmd = (lo: bigint, hi: bigint) => new Uint32Array(new BigUint64Array([lo, hi]).buffer)

  it('reads a page number of 52 bits exactly', () => {
    expect(c.commandPage(cmd(0x12n, 0xffff_ffff_ffff_f001n))).toBe(2 ** 52 - 1)
    expect(c.commandPage(cmd(0x12n, 0x0000_0001_2345_6000n))).toBe(0x123456)
  })

  it('reads the MSI address of a CMD_SYNC', () => {
    const sync = cmd(0x1234_0000_0000_1046n, 0xff00_0008_0000_0047n)
    expect(c.syncMsiAddress(sync)).toBe(0x8_0000_0044)
    expect(getField(sync, c.CMDQ_SYNC_0_MSIDATA)).toBe(0x12340000)
    expect(c.describeCommand(sync)).toBe('SYNC cs=irq msi=0x800000044 data=0x12340000')
  })

  it.each([
    [0x0000_0008_0000_0001n, 0n, 'PREFETCH_CONFIG sid=0x8'],
    [0x0000_0008_0000_5802n, 0x1000_0003n, 'PREFETCH_ADDR sid=0x8 ssid=0x5 addr=0x10000000 size=3'],
    [0x0000_0008_0000_0403n, 0n, 'CFGI_STE sid=0x8 secure'],
    [0x0000_0100_0000_0004n, 7n, 'CFGI_STE_RANGE sid=0x100 range=7'],
    [0x0000_0008_0000_3005n, 1n, 'CFGI_CD sid=0x8 ssid=0x3 leaf'],
    [0x0000_0008_0000_0006n, 0n, 'CFGI_CD_ALL sid=0x8'],
    [0x0003_0000_0000_0011n, 0n, 'TLBI_NH_ASID vmid=0 asid=3'],
    [0x0003_0002_0000_0012n, 0xffff_0000_0000_0001n, 'TLBI_NH_VA vmid=2 asid=3 addr=0xffff000000000000 leaf'],
    [0x0003_0002_0011_f012n, 0x1000_0700n, 'TLBI_NH_VA vmid=2 asid=3 addr=0x10000000 tg=4K num=31 scale=1 ttl=3'],
    [0x0000_0002_0000_0013n, 0x1000n, 'TLBI_NH_VAA vmid=2 addr=0x1000'],
    [0x0000_0000_0000_0020n, 0n, 'TLBI_EL2_ALL'],
    [0x0009_0000_0000_0021n, 0n, 'TLBI_EL2_ASID asid=9'],
    [0x0009_0000_0000_0022n, 0x1000n, 'TLBI_EL2_VA asid=9 addr=0x1000'],
    [0x0000_0008_0000_1a40n, 0x2000_0001n, 'ATC_INV sid=0x8 ssid=0x1 global addr=0x20000000 size=1'],
    [0x0000_0008_0000_0041n, 0x2005n, 'PRI_RESP sid=0x8 group=5 resp=2'],
    [0x0000_0008_0000_1044n, 0x1234n, 'RESUME sid=0x8 stag=0x1234 retry'],
    [0x0000_0008_0000_0045n, 0n, 'STALL_TERM sid=0x8'],
    [0x00ffn, 0n, 'opcode 0xff'],
  ])('%x %x', (lo, hi, text) => expect(c.describeCommand(cmd(lo, hi))).toBe(text))

  it('describes anything', () => {
    fc.assert(
      fc.property(fc.uint32Array({ minLength: 4, maxLength: 4 }), words => {
        expect(c.describeCommand(words)).toMatch(/^[A-Zo]/)
      }),
    )
  })
})
