// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from 'vitest'
import { decodeFeatures, QEMU_NESTED_ID_REGISTERS } from '../../../server/smmu/features.ts'
import * as r from '../../../server/smmu/registers.ts'

describe('features', () => {
  it('knows the ID registers of QEMU', () => {
    expect(QEMU_NESTED_ID_REGISTERS).toEqual({ idr0: 0x0d44101b, idr1: 0x02730010, idr3: 0x1414, idr5: 0x74 })
    expect(decodeFeatures(QEMU_NESTED_ID_REGISTERS)).toMatchObject({
      s1p: true,
      s2p: true,
      oas: 44,
      ias: 44,
      vaBits: 48,
      vmid16: true,
      asid16: true,
      hyp: false,
      cd2l: false,
      twoLevelStreamTable: true,
      sidSize: 16,
      ssidSize: 0,
      cmdqs: 19,
      evtqs: 19,
      stallModel: 1,
      termModel: true,
      ttEndian: 2,
      ats: false,
      had: true,
      xnx: true,
      ril: true,
      stt: false,
    })
  })

  it.each([
    ['idr0', r.IDR0_HTTU],
    ['idr1', r.IDR1_TABLES_PRESET],
    ['idr3', r.IDR3_S1PI],
    ['idr3', r.IDR3_MPAM],
    ['idr5', r.IDR5_D128],
    ['idr5', r.IDR5_DS],
    ['idr5', 7],
    ['idr5', r.IDR5_VAX],
    ['idr0', r.IDR0_TTF],
  ] as const)('refuses what is not modelled: %s %i', (register, bit) => {
    const id = { ...QEMU_NESTED_ID_REGISTERS, [register]: QEMU_NESTED_ID_REGISTERS[register] | bit }
    expect(() => decodeFeatures(id)).toThrow(/not modelled/)
  })
})
