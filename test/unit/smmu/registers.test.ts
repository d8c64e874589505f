// SPDX-License-Identifier: Apache-2.0
/** Values are literals copied from the tables of IHI 0070 chapter 6, on purpose not computed the way the module does. */
import { describe, expect, it } from 'vitest'
import * as r from '../../../server/smmu/registers.ts'

describe('offsets (IHI 0070 sections 6.2.1, 6.2.2)', () => {
  const table: [string, number, 32 | 64, 'RO' | 'RW'][] = [
    ['IDR0', 0x0000, 32, 'RO'],
    ['IDR1', 0x0004, 32, 'RO'],
    ['IDR2', 0x0008, 32, 'RO'],
    ['IDR3', 0x000c, 32, 'RO'],
    ['IDR4', 0x0010, 32, 'RO'],
    ['IDR5', 0x0014, 32, 'RO'],
    ['IIDR', 0x0018, 32, 'RO'],
    ['AIDR', 0x001c, 32, 'RO'],
    ['CR0', 0x0020, 32, 'RW'],
    ['CR0ACK', 0x0024, 32, 'RO'],
    ['CR1', 0x0028, 32, 'RW'],
    ['CR2', 0x002c, 32, 'RW'],
    ['S2PII', 0x0030, 64, 'RW'],
    ['STATUSR', 0x0040, 32, 'RO'],
    ['GBPA', 0x0044, 32, 'RW'],
    ['AGBPA', 0x0048, 32, 'RW'],
    ['IRQ_CTRL', 0x0050, 32, 'RW'],
    ['IRQ_CTRLACK', 0x0054, 32, 'RO'],
    ['GERROR', 0x0060, 32, 'RO'],
    ['GERRORN', 0x0064, 32, 'RW'],
    ['GERROR_IRQ_CFG0', 0x0068, 64, 'RW'],
    ['GERROR_IRQ_CFG1', 0x0070, 32, 'RW'],
    ['GERROR_IRQ_CFG2', 0x0074, 32, 'RW'],
    ['STRTAB_BASE', 0x0080, 64, 'RW'],
    ['STRTAB_BASE_CFG', 0x0088, 32, 'RW'],
    ['CMDQ_BASE', 0x0090, 64, 'RW'],
    ['CMDQ_PROD', 0x0098, 32, 'RW'],
    ['CMDQ_CONS', 0x009c, 32, 'RW'],
    ['EVTQ_BASE', 0x00a0, 64, 'RW'],
    ['EVTQ_IRQ_CFG0', 0x00b0, 64, 'RW'],
    ['EVTQ_IRQ_CFG1', 0x00b8, 32, 'RW'],
    ['EVTQ_IRQ_CFG2', 0x00bc, 32, 'RW'],
    ['PRIQ_BASE', 0x00c0, 64, 'RW'],
    ['PRIQ_IRQ_CFG0', 0x00d0, 64, 'RW'],
    ['PRIQ_IRQ_CFG1', 0x00d8, 32, 'RW'],
    ['PRIQ_IRQ_CFG2', 0x00dc, 32, 'RW'],
    ['GATOS_CTRL', 0x0100, 32, 'RW'],
    ['GATOS_SID', 0x0108, 64, 'RW'],
    ['GATOS_ADDR', 0x0110, 64, 'RW'],
    ['GATOS_PAR', 0x0118, 64, 'RO'],
    ['MPAMIDR', 0x0130, 32, 'RO'],
    ['GMPAM', 0x0138, 32, 'RW'],
    ['GBPMPAM', 0x013c, 32, 'RW'],
    ['VATOS_SEL', 0x0180, 32, 'RW'],
    ['IDR6', 0x0190, 32, 'RO'],
    ['DPT_BASE', 0x0200, 64, 'RW'],
    ['DPT_BASE_CFG', 0x0208, 32, 'RW'],
    ['DPT_CFG_FAR', 0x0210, 64, 'RW'],
    ['EVTQ_PROD', 0x100a8, 32, 'RW'],
    ['EVTQ_CONS', 0x100ac, 32, 'RW'],
    ['PRIQ_PROD', 0x100c8, 32, 'RW'],
    ['PRIQ_CONS', 0x100cc, 32, 'RW'],
  ]

  it.each(table)('%s', (name, offset, bits, access) => {
    expect(r.registerAt(offset)).toMatchObject({ name, offset, bits, access })
    expect(r.registerName(offset)).toBe(name)
    const constant = (r as unknown as Record<string, number>)[`ARM_SMMU_${name}`]
    expect(constant).toBe(offset)
  })

  it('lists no other register', () => expect(r.REGISTERS.map(x => x.name)).toEqual(table.map(([name]) => name)))

  it('keeps fields of one register apart and inside 32 bits', () => {
    for (const register of r.REGISTERS) {
      for (const half of [register.lo, register.hi]) {
        let seen = 0
        for (const [name, mask] of half) {
          expect(mask, `${register.name}.${name}`).toBeGreaterThan(0)
          expect((seen & mask) >>> 0, `${register.name}.${name}`).toBe(0)
          seen |= mask
        }
      }
    }
  })
})

describe('fields (IHI 0070 section 6.3)', () => {
  it.each([
    ['IDR0_RME_IMPL', 0x40000000],
    ['IDR0_ST_LVL', 0x18000000],
    ['IDR0_TERM_MODEL', 0x04000000],
    ['IDR0_STALL_MODEL', 0x03000000],
    ['IDR0_ATSRECERR', 0x00800000],
    ['IDR0_TTENDIAN', 0x00600000],
    ['IDR0_VATOS', 0x00100000],
    ['IDR0_CD2L', 0x00080000],
    ['IDR0_VMID16', 0x00040000],
    ['IDR0_VMW', 0x00020000],
    ['IDR0_PRI', 0x00010000],
    ['IDR0_ATOS', 0x00008000],
    ['IDR0_SEV', 0x00004000],
    ['IDR0_MSI', 0x00002000],
    ['IDR0_ASID16', 0x00001000],
    ['IDR0_NS1ATS', 0x00000800],
    ['IDR0_ATS', 0x00000400],
    ['IDR0_HYP', 0x00000200],
    ['IDR0_DORMHINT', 0x00000100],
    ['IDR0_HTTU', 0x000000c0],
    ['IDR0_BTM', 0x00000020],
    ['IDR0_COHACC', 0x00000010],
    ['IDR0_TTF', 0x0000000c],
    ['IDR0_S1P', 0x00000002],
    ['IDR0_S2P', 0x00000001],
    ['IDR1_ECMDQ', 0x80000000],
    ['IDR1_TABLES_PRESET', 0x40000000],
    ['IDR1_QUEUES_PRESET', 0x20000000],
    ['IDR1_REL', 0x10000000],
    ['IDR1_ATTR_TYPES_OVR', 0x08000000],
    ['IDR1_ATTR_PERMS_OVR', 0x04000000],
    ['IDR1_CMDQS', 0x03e00000],
    ['IDR1_EVTQS', 0x001f0000],
    ['IDR1_PRIQS', 0x0000f800],
    ['IDR1_SSIDSIZE', 0x000007c0],
    ['IDR1_SIDSIZE', 0x0000003f],
    ['IDR2_BA_VATOS', 0x000003ff],
    ['IDR3_AIE', 0x00800000],
    ['IDR3_MTEPERM', 0x00400000],
    ['IDR3_THE', 0x00200000],
    ['IDR3_S2PO', 0x00100000],
    ['IDR3_S2PI', 0x00080000],
    ['IDR3_S1PI', 0x00040000],
    ['IDR3_EPAN', 0x00020000],
    ['IDR3_PASIDTT', 0x00010000],
    ['IDR3_DPT', 0x00008000],
    ['IDR3_PTWNNC', 0x00004000],
    ['IDR3_E0PD', 0x00002000],
    ['IDR3_BBML', 0x00001800],
    ['IDR3_RIL', 0x00000400],
    ['IDR3_STT', 0x00000200],
    ['IDR3_FWB', 0x00000100],
    ['IDR3_MPAM', 0x00000080],
    ['IDR3_PPS', 0x00000020],
    ['IDR3_XNX', 0x00000010],
    ['IDR3_PBHA', 0x00000008],
    ['IDR3_HAD', 0x00000004],
    ['IDR5_STALL_MAX', 0xffff0000],
    ['IDR5_VAX', 0x00000c00],
    ['IDR5_D128', 0x00000100],
    ['IDR5_DS', 0x00000080],
    ['IDR5_GRAN64K', 0x00000040],
    ['IDR5_GRAN16K', 0x00000020],
    ['IDR5_GRAN4K', 0x00000010],
    ['IDR5_OAS', 0x00000007],
    ['IIDR_PRODUCTID', 0xfff00000],
    ['IIDR_VARIANT', 0x000f0000],
    ['IIDR_REVISION', 0x0000f000],
    ['IIDR_IMPLEMENTER', 0x00000fff],
    ['CR0_DPT_WALK_EN', 0x400],
    ['CR0_VMW', 0x1c0],
    ['CR0_ATSCHK', 0x10],
    ['CR0_CMDQEN', 0x8],
    ['CR0_EVTQEN', 0x4],
    ['CR0_PRIQEN', 0x2],
    ['CR0_SMMUEN', 0x1],
    ['CR1_TABLE_SH', 0xc00],
    ['CR1_TABLE_OC', 0x300],
    ['CR1_TABLE_IC', 0x0c0],
    ['CR1_QUEUE_SH', 0x030],
    ['CR1_QUEUE_OC', 0x00c],
    ['CR1_QUEUE_IC', 0x003],
    ['CR2_REC_CFG_ATS', 0x8],
    ['CR2_PTM', 0x4],
    ['CR2_RECINVSID', 0x2],
    ['CR2_E2H', 0x1],
    ['GBPA_UPDATE', 0x80000000],
    ['GBPA_ABORT', 0x00100000],
    ['GBPA_INSTCFG', 0x000c0000],
    ['GBPA_PRIVCFG', 0x00030000],
    ['GBPA_SHCFG', 0x00003000],
    ['GBPA_ALLOCCFG', 0x00000f00],
    ['GBPA_MTCFG', 0x00000010],
    ['GBPA_MEMATTR', 0x0000000f],
    ['IRQ_CTRL_EVTQ_IRQEN', 0x4],
    ['IRQ_CTRL_PRIQ_IRQEN', 0x2],
    ['IRQ_CTRL_GERROR_IRQEN', 0x1],
    ['GERROR_DPT_ERR', 0x400],
    ['GERROR_CMDQP_ERR', 0x200],
    ['GERROR_SFM_ERR', 0x100],
    ['GERROR_MSI_GERROR_ABT_ERR', 0x80],
    ['GERROR_MSI_PRIQ_ABT_ERR', 0x40],
    ['GERROR_MSI_EVTQ_ABT_ERR', 0x20],
    ['GERROR_MSI_CMDQ_ABT_ERR', 0x10],
    ['GERROR_PRIQ_ABT_ERR', 0x8],
    ['GERROR_EVTQ_ABT_ERR', 0x4],
    ['GERROR_CMDQ_ERR', 0x1],
    ['STRTAB_BASE_LO_ADDR', 0xffffffc0],
    ['STRTAB_BASE_HI_ADDR', 0x00ffffff],
    ['STRTAB_BASE_HI_RA', 0x40000000],
    ['STRTAB_BASE_CFG_FMT', 0x00030000],
    ['STRTAB_BASE_CFG_SPLIT', 0x000007c0],
    ['STRTAB_BASE_CFG_LOG2SIZE', 0x0000003f],
    ['CMDQ_CONS_ERR', 0x7f000000],
    ['Q_BASE_LO_ADDR', 0xffffffe0],
    ['Q_BASE_LOG2SIZE', 0x0000001f],
    ['Q_BASE_HI_RWA', 0x40000000],
    ['Q_OVERFLOW_FLAG', 0x80000000],
    ['MSI_CFG2_SH', 0x30],
    ['MSI_CFG2_MEMATTR', 0x0f],
    ['PRIQ_IRQ_CFG2_LO', 0x80000000],
  ])('%s', (name, mask) => expect((r as unknown as Record<string, number>)[name]).toBe(mask))

  it.each([32, 36, 40, 42, 44, 48, 52, 56].map((bits, i) => [i, bits]))('OAS %i is %i bits', (encoding, bits) =>
    expect(r.oasBits(encoding)).toBe(bits),
  )
})

describe('registerName', () => {
  it.each([
    [0x94, 'CMDQ_BASE+4'],
    [0x84, 'STRTAB_BASE+4'],
    [0x22, 'CR0+2'],
    [0x86, 'STRTAB_BASE+6'],
    [0x60, 'GERROR'],
    [0x1f0, '0x1f0'],
    [0xfe0, 'ID_REGS+0x10'],
    [0x8020, 'S_CR0'],
    [0x9000, '0x9000'],
    [0x10000, 'PAGE1+0x0'],
    [0x100ae, 'EVTQ_CONS+2'],
  ])('%i is %s', (offset, name) => expect(r.registerName(offset)).toBe(name))
})

describe('describeRegister', () => {
  it.each([
    [r.ARM_SMMU_CR0, 0xd, 0, 'CMDQEN EVTQEN SMMUEN'],
    [r.ARM_SMMU_CR0, 0, 0, '0'],
    [r.ARM_SMMU_IDR1, 0x02730010, 0, 'CMDQS=0x13 EVTQS=0x13 SIDSIZE=0x10'],
    [r.ARM_SMMU_GBPA, 0x80101000, 0, 'UPDATE ABORT SHCFG=1'],
    [r.ARM_SMMU_CMDQ_BASE, 0x48000008, 0x40000000, 'LOG2SIZE=8 RA ADDR=0x48000000'],
    [r.ARM_SMMU_STRTAB_BASE, 0x48000040, 1, 'ADDR=0x148000040'],
    [r.ARM_SMMU_CMDQ_CONS, 0x01000005, 0, 'ERR=1 index=5'],
    [r.ARM_SMMU_EVTQ_PROD, 0x80000001, 0, 'OVFLG index=1'],
    [r.ARM_SMMU_GERROR_IRQ_CFG1, 0x20, 0, '0x20'],
    [0x1f0, 0x20, 1, '0x100000020'],
  ])('%i: %i %i', (offset, lo, hi, text) => expect(r.describeRegister(offset, lo, hi)).toBe(text))
})
