// SPDX-License-Identifier: Apache-2.0
/** What a missing or too narrow invalidation leaves behind (IHI 0070 sections 4.3 and 4.4), and what the right one removes. */
import { describe, expect, it } from 'vitest'
import type { Field } from '../../../server/smmu/bits.ts'
import * as P from '../../../server/smmu/pagetable.ts'
import type { Caching } from '../../../server/smmu/soft/caches.ts'
import * as S from '../../../server/smmu/ste.ts'
import { C, Driver, R } from './driver.ts'
import { idRegisters, S1_RW, S2_RW, type Stage } from './support.ts'

const SID = 5
const VA = 0x40_1000n
const OLD = 0x4001_0000n
const NEW = 0x4002_0000n
const OLD_PA = OLD.toString(16)
const NEW_PA = NEW.toString(16)
const VMID = 7
const ASID = 3

type Command = readonly [opcode: number, address: number, ...fields: [Field, number][]]
const vmid = (value: number): [Field, number] => [C.CMDQ_TLBI_0_VMID, value]
const asid = (value: number): [Field, number] => [C.CMDQ_TLBI_0_ASID, value]
const leaf: [Field, number] = [C.CMDQ_TLBI_1_LEAF, 1]
const tg = (value: number): [Field, number] => [C.CMDQ_TLBI_1_TG, value]
const ttl = (value: number): [Field, number] => [C.CMDQ_TLBI_1_TTL, value]
const num = (value: number): [Field, number] => [C.CMDQ_TLBI_0_NUM, value]
const scale = (value: number): [Field, number] => [C.CMDQ_TLBI_0_SCALE, value]

class Machine extends Driver {
  s1: Stage = this.stage(false, 39)
  s2: Stage = this.stage(true, 44)
  readonly cdAddress = this.alloc(64)

  /** Stage 1, stage 2 or nested; both stages map VA, or IPA `VA`, to OLD; stage 2 maps memory to itself. */
  translating(config: number, attributes = S1_RW): this {
    this.map(this.s1, VA, config === S.STRTAB_STE_0_CFG_NESTED ? VA : OLD, attributes)
    this.map(this.s2, 0x4000_0000n, 0x4000_0000n, S2_RW, 1)
    this.map(this.s2, VA, OLD)
    this.cd({ t0: this.s1, asid: ASID }, this.cdAddress)
    this.ste({ config, cd: this.cdAddress, stage2: this.s2, vmid: VMID }, this.strtab + 64 * SID)
    return this.on()
  }

  run(...commands: readonly Command[]): this {
    for (const [opcode, address, ...fields] of commands) this.postRaw(opcode, address, ...fields)
    return this.post(C.CMDQ_OP_CMD_SYNC).go()
  }

  at(address = VA): string {
    return this.pa(SID, address)
  }
}

const CACHING: Caching[] = ['architectural', 'walks', 'maximal']

describe.each(CACHING)('TLB, %s', caching => {
  const stage1 = (set = {}, clear = {}) => new Machine({ caching, id: idRegisters(set, clear) }).translating(5)

  it.each<[string, Command, boolean]>([
    ['nothing that concerns it', [C.CMDQ_OP_CFGI_ALL, 0, [C.CMDQ_CFGI_1_RANGE, 31]], false],
    ['NH_VA', [C.CMDQ_OP_TLBI_NH_VA, 0x40_1000, vmid(VMID), asid(ASID)], true],
    ['NH_VA, leaf', [C.CMDQ_OP_TLBI_NH_VA, 0x40_1000, vmid(VMID), asid(ASID), leaf], true],
    ['NH_VA of another VMID', [C.CMDQ_OP_TLBI_NH_VA, 0x40_1000, vmid(VMID + 1), asid(ASID)], false],
    ['NH_VA of another ASID', [C.CMDQ_OP_TLBI_NH_VA, 0x40_1000, vmid(VMID), asid(ASID + 1)], false],
    ['NH_VA of the page below', [C.CMDQ_OP_TLBI_NH_VA, 0x40_0000, vmid(VMID), asid(ASID)], false],
    ['NH_VA of the page above', [C.CMDQ_OP_TLBI_NH_VA, 0x40_2000, vmid(VMID), asid(ASID)], false],
    ['NH_VAA', [C.CMDQ_OP_TLBI_NH_VAA, 0x40_1000, vmid(VMID), asid(0)], true],
    ['NH_VAA of another VMID', [C.CMDQ_OP_TLBI_NH_VAA, 0x40_1000, vmid(0)], false],
    ['NH_ASID', [C.CMDQ_OP_TLBI_NH_ASID, 0, vmid(VMID), asid(ASID)], true],
    ['NH_ASID of another ASID', [C.CMDQ_OP_TLBI_NH_ASID, 0, vmid(VMID), asid(0)], false],
    ['NH_ASID of another VMID', [C.CMDQ_OP_TLBI_NH_ASID, 0, vmid(0), asid(ASID)], false],
    ['NH_ALL', [C.CMDQ_OP_TLBI_NH_ALL, 0, vmid(VMID)], true],
    ['NH_ALL of another VMID', [C.CMDQ_OP_TLBI_NH_ALL, 0, vmid(0)], false],
    ['S12_VMALL', [C.CMDQ_OP_TLBI_S12_VMALL, 0, vmid(VMID)], true],
    ['S12_VMALL of another VMID', [C.CMDQ_OP_TLBI_S12_VMALL, 0, vmid(0)], false],
    ['NSNH_ALL', [C.CMDQ_OP_TLBI_NSNH_ALL, 0], true],
    ['S2_IPA', [C.CMDQ_OP_TLBI_S2_IPA, 0x40_1000, vmid(VMID)], false],
    ['TG 4K, TTL 3', [C.CMDQ_OP_TLBI_NH_VA, 0x40_1000, vmid(VMID), asid(ASID), tg(1), ttl(3)], true],
    ['TG 4K, TTL 2', [C.CMDQ_OP_TLBI_NH_VA, 0x40_1000, vmid(VMID), asid(ASID), tg(1), ttl(2)], false],
    ['TG 16K, TTL 3', [C.CMDQ_OP_TLBI_NH_VA, 0x40_1000, vmid(VMID), asid(ASID), tg(2), ttl(3)], false],
    ['a range that starts at it', [C.CMDQ_OP_TLBI_NH_VA, 0x40_1000, vmid(VMID), asid(ASID), tg(1), num(1)], true],
    ['a range that ends with it', [C.CMDQ_OP_TLBI_NH_VA, 0x40_0000, vmid(VMID), asid(ASID), tg(1), num(1)], true],
    ['a range that ends before it', [C.CMDQ_OP_TLBI_NH_VA, 0x3f_f000, vmid(VMID), asid(ASID), tg(1), num(1)], false],
    ['a range that starts after it', [C.CMDQ_OP_TLBI_NH_VA, 0x40_2000, vmid(VMID), asid(ASID), tg(1), num(31)], false],
    ['a scaled range', [C.CMDQ_OP_TLBI_NH_VA, 0, vmid(VMID), asid(ASID), tg(1), num(4), scale(8)], true],
    [
      'a scaled range that ends before it',
      [C.CMDQ_OP_TLBI_NH_VA, 0, vmid(VMID), asid(ASID), tg(1), num(3), scale(8)],
      false,
    ],
    ['a range of another granule', [C.CMDQ_OP_TLBI_NH_VA, 0, vmid(VMID), asid(ASID), tg(3), num(31), scale(8)], false],
    ['a range over everything', [C.CMDQ_OP_TLBI_NH_VA, 0, vmid(VMID), asid(ASID), tg(1), num(31), scale(31)], true],
    ['EL2_ALL', [C.CMDQ_OP_TLBI_EL2_ALL, 0], false],
  ])('stage 1: %s', (_, command, removes) => {
    const m = stage1({ idr0: R.IDR0_HYP })
    expect(m.at()).toBe(OLD_PA)
    m.map(m.s1, VA, NEW)
    expect(m.at()).toBe(OLD_PA)
    expect(m.run(command).at()).toBe(removes ? NEW_PA : OLD_PA)
    expect(m.read(R.ARM_SMMU_GERROR)).toBe(0)
  })

  it('without stage 2 the VMID does not matter', () => {
    const m = new Machine({ caching, id: idRegisters({}, { idr0: R.IDR0_S2P }) }).translating(5)
    expect(m.at()).toBe(OLD_PA)
    m.map(m.s1, VA, NEW)
    expect(m.run([C.CMDQ_OP_TLBI_NH_ASID, 0, vmid(99), asid(ASID)]).at()).toBe(NEW_PA)
  })

  it('global entries serve and outlive every ASID, and go by VA of any', () => {
    const m = new Machine({ caching }).translating(5, S1_RW & ~BigInt(P.ARM_LPAE_PTE_nG))
    expect(m.at()).toBe(OLD_PA)
    m.map(m.s1, VA, NEW)
    const other = m.stage(false, 39)
    m.map(other, VA, NEW)
    m.ste({ config: 5, cd: m.cd({ t0: other, asid: 9 }), vmid: VMID }, m.strtab + 64 * 6)
    expect(m.pa(6, VA)).toBe(OLD_PA)
    m.ste({ config: 5, cd: m.cd({ t0: other, asid: 9, fields: { aset: 1 } }), vmid: VMID }, m.strtab + 64 * 7)
    expect(m.pa(7, VA)).toBe(NEW_PA)
    expect(m.run([C.CMDQ_OP_TLBI_NH_ASID, 0, vmid(VMID), asid(ASID)]).at()).toBe(OLD_PA)
    expect(m.run([C.CMDQ_OP_TLBI_NH_VA, Number(VA), vmid(VMID), asid(1234)]).at()).toBe(NEW_PA)
  })

  it('streams with the same VMID and ASID share entries', () => {
    const m = stage1()
    expect(m.at()).toBe(OLD_PA)
    const other = m.stage(false, 39)
    m.map(other, VA, NEW)
    m.ste({ config: 5, cd: m.cd({ t0: other, asid: ASID }), vmid: VMID }, m.strtab + 64 * 6)
    expect(m.pa(6, VA)).toBe(OLD_PA)
  })

  it('a block goes by any address in it', () => {
    const m = stage1()
    const block = 0x8000_0000n
    m.map(m.s1, block, 0x6000_0000n, S1_RW, 2)
    expect(m.at(block + 0x1_2345n)).toBe('60012345')
    m.map(m.s1, block, 0x7000_0000n, S1_RW, 2)
    expect(m.at(block + 0x1f_f000n)).toBe('601ff000')
    m.run([C.CMDQ_OP_TLBI_NH_VA, 0x8020_0000, vmid(VMID), asid(ASID), leaf])
    expect(m.at(block)).toBe('60000000')
    m.run([C.CMDQ_OP_TLBI_NH_VA, 0x8010_0000, vmid(VMID), asid(ASID), leaf])
    expect(m.at(block)).toBe('70000000')
  })

  it('stage 2 alone: goes by IPA, not by VA, nor by NH_ALL', () => {
    const m = new Machine({ caching }).translating(6)
    expect(m.at()).toBe(OLD_PA)
    m.map(m.s2, VA, NEW)
    m.run([C.CMDQ_OP_TLBI_NH_ALL, 0, vmid(VMID)], [C.CMDQ_OP_TLBI_NH_VAA, Number(VA), vmid(VMID)])
    expect(m.at()).toBe(OLD_PA)
    expect(m.run([C.CMDQ_OP_TLBI_S2_IPA, Number(VA), vmid(0)]).at()).toBe(OLD_PA)
    expect(m.run([C.CMDQ_OP_TLBI_S2_IPA, Number(VA) + 0x1000, vmid(VMID)]).at()).toBe(OLD_PA)
    expect(m.run([C.CMDQ_OP_TLBI_S2_IPA, Number(VA), vmid(VMID), leaf]).at()).toBe(NEW_PA)
    m.map(m.s2, VA, OLD)
    expect(m.run([C.CMDQ_OP_TLBI_S12_VMALL, 0, vmid(VMID)]).at()).toBe(OLD_PA)
  })

  it.each<[string, Command[], boolean]>([
    ['S2_IPA alone', [[C.CMDQ_OP_TLBI_S2_IPA, Number(VA), vmid(VMID)]], false],
    ['NH_ALL alone', [[C.CMDQ_OP_TLBI_NH_ALL, 0, vmid(VMID)]], caching === 'architectural'],
    [
      'S2_IPA and NH_ALL',
      [
        [C.CMDQ_OP_TLBI_S2_IPA, Number(VA), vmid(VMID), leaf],
        [C.CMDQ_OP_TLBI_NH_ALL, 0, vmid(VMID)],
      ],
      true,
    ],
    [
      'S2_IPA of another VMID and NH_ALL',
      [
        [C.CMDQ_OP_TLBI_S2_IPA, Number(VA), vmid(0)],
        [C.CMDQ_OP_TLBI_NH_ALL, 0, vmid(VMID)],
      ],
      caching === 'architectural',
    ],
    ['S12_VMALL', [[C.CMDQ_OP_TLBI_S12_VMALL, 0, vmid(VMID)]], true],
  ])('nested, stage 2 changed: %s', (_, commands, removes) => {
    const m = new Machine({ caching }).translating(7)
    expect(m.at()).toBe(OLD_PA)
    m.map(m.s2, VA, NEW)
    expect(m.run(...commands).at()).toBe(removes ? NEW_PA : OLD_PA)
  })

  it('nested: a stage 1 block in pieces of stage 2 goes as one', () => {
    const m = new Machine({ caching }).translating(7)
    const block = 0x8000_0000n
    m.map(m.s1, block, 0x20_0000n, S1_RW, 2)
    for (const page of [0n, 1n, 2n]) m.map(m.s2, 0x20_0000n + page * 0x1000n, OLD + page * 0x1000n)
    expect([0n, 1n, 2n].map(page => m.at(block + page * 0x1000n))).toEqual(['40010000', '40011000', '40012000'])
    for (const page of [0n, 1n, 2n]) m.map(m.s2, 0x20_0000n + page * 0x1000n, NEW + page * 0x1000n)
    m.run([C.CMDQ_OP_TLBI_S2_IPA, 0x20_0000, vmid(VMID), tg(1), num(3)])
    m.run([C.CMDQ_OP_TLBI_NH_VA, 0x801f_0000, vmid(VMID), asid(ASID), leaf])
    expect([0n, 1n, 2n].map(page => m.at(block + page * 0x1000n))).toEqual(['40020000', '40021000', '40022000'])
  })

  it('a permission that was taken away, and one that was given', () => {
    const m = stage1()
    expect(m.pa(SID, VA, { write: true })).toBe(OLD_PA)
    m.map(m.s1, VA, OLD, S1_RW | BigInt(P.ARM_LPAE_PTE_AP_RDONLY))
    expect(m.pa(SID, VA, { write: true })).toBe(OLD_PA)
    m.run([C.CMDQ_OP_TLBI_NH_ASID, 0, vmid(VMID), asid(ASID)])
    expect(m.pa(SID, VA, { write: true })).toBe('F_PERMISSION sid=0x5 write S1 IN input=0x401000')
    expect(m.at()).toBe(OLD_PA)
    m.map(m.s1, VA, OLD)
    expect(m.pa(SID, VA, { write: true })).toBe('F_PERMISSION sid=0x5 write S1 IN input=0x401000')
    m.run([C.CMDQ_OP_TLBI_NH_ASID, 0, vmid(VMID), asid(ASID)])
    expect(m.pa(SID, VA, { write: true })).toBe(OLD_PA)
  })

  it('a stage 2 permission that was taken away reports its IPA from the cached entry', () => {
    const m = new Machine({ caching }).translating(7)
    m.map(m.s2, VA, OLD, S2_RW & ~BigInt(P.ARM_LPAE_PTE_HAP_WRITE))
    expect(m.at(VA + 8n)).toBe((OLD + 8n).toString(16))
    expect(m.pa(SID, VA + 8n, { write: true })).toBe('F_PERMISSION sid=0x5 write S2 IN input=0x401008 ipa=0x401000')
  })

  it('faults are not cached', () => {
    const m = stage1()
    expect(m.at(0x2000n)).toBe('F_TRANSLATION sid=0x5 read S1 IN input=0x2000')
    m.map(m.s1, 0x2000n, NEW)
    expect(m.at(0x2000n)).toBe(NEW_PA)
    m.map(m.s1, 0x3000n, NEW, S1_RW & ~BigInt(P.ARM_LPAE_PTE_AF))
    expect(m.at(0x3000n)).toContain('F_ACCESS')
    m.map(m.s1, 0x3000n, NEW)
    expect(m.at(0x3000n)).toBe(NEW_PA)
  })

  it('EL2 and EL2-E2H are worlds of their own', () => {
    const m = new Machine({ caching, id: idRegisters({ idr0: R.IDR0_HYP }) })
    m.map(m.s1, VA, OLD)
    m.cd({ t0: m.s1, asid: ASID }, m.cdAddress)
    m.ste({ config: 5, cd: m.cdAddress, fields: { strw: 2 } }, m.strtab + 64 * SID)
    m.on()
    expect(m.at()).toBe(OLD_PA)
    m.map(m.s1, VA, NEW)
    m.run(
      [C.CMDQ_OP_TLBI_NSNH_ALL, 0],
      [C.CMDQ_OP_TLBI_NH_VAA, Number(VA), vmid(0)],
      [C.CMDQ_OP_TLBI_EL2_ASID, 0, asid(ASID)],
    )
    expect(m.at()).toBe(OLD_PA)
    expect(m.run([C.CMDQ_OP_TLBI_EL2_VA, Number(VA), asid(99)]).at()).toBe(NEW_PA)
    m.write(R.ARM_SMMU_CR0, R.CR0_CMDQEN)
    m.write(R.ARM_SMMU_CR2, R.CR2_E2H)
    m.run([C.CMDQ_OP_CFGI_ALL, 0, [C.CMDQ_CFGI_1_RANGE, 31]])
    m.write(R.ARM_SMMU_CR0, R.CR0_CMDQEN | R.CR0_SMMUEN)
    expect(m.at()).toBe(NEW_PA)
    m.map(m.s1, VA, OLD)
    m.run([C.CMDQ_OP_TLBI_EL2_VA, Number(VA), asid(99)])
    expect(m.at()).toBe(NEW_PA)
    expect(m.run([C.CMDQ_OP_TLBI_EL2_VA, Number(VA), asid(ASID)]).at()).toBe(OLD_PA)
    m.map(m.s1, VA, NEW)
    expect(m.run([C.CMDQ_OP_TLBI_EL2_ASID, 0, asid(ASID)]).at()).toBe(NEW_PA)
    m.map(m.s1, VA, OLD)
    expect(m.run([C.CMDQ_OP_TLBI_EL2_VAA, Number(VA)]).at()).toBe(OLD_PA)
    m.map(m.s1, VA, NEW)
    expect(m.run([C.CMDQ_OP_TLBI_EL2_ALL, 0]).at()).toBe(NEW_PA)
  })
})

describe.each(CACHING)('configuration caches, %s', caching => {
  const sid = (value: number): [Field, number] => [C.CMDQ_CFGI_0_SID, value]
  const ssid = (value: number): [Field, number] => [C.CMDQ_CFGI_0_SSID, value]
  const range = (value: number): [Field, number] => [C.CMDQ_CFGI_1_RANGE, value]

  it.each<[string, Command, boolean]>([
    ['TLBI_NSNH_ALL', [C.CMDQ_OP_TLBI_NSNH_ALL, 0], false],
    ['CFGI_STE', [C.CMDQ_OP_CFGI_STE, 0, sid(SID), leaf], true],
    ['CFGI_STE of another stream', [C.CMDQ_OP_CFGI_STE, 0, sid(SID + 1)], false],
    ['CFGI_STE_RANGE over it', [C.CMDQ_OP_CFGI_ALL, 0, sid(7), range(1)], true],
    ['CFGI_STE_RANGE beside it', [C.CMDQ_OP_CFGI_ALL, 0, sid(3), range(1)], false],
    ['CFGI_ALL', [C.CMDQ_OP_CFGI_ALL, 0, range(31)], true],
    ['CFGI_CD', [C.CMDQ_OP_CFGI_CD, 0, sid(SID)], false],
    ['CFGI_CD_ALL', [C.CMDQ_OP_CFGI_CD_ALL, 0, sid(SID)], false],
  ])('STE changed: %s', (_, command, removes) => {
    const m = new Machine({ caching }).translating(5)
    expect(m.at()).toBe(OLD_PA)
    m.ste({ config: S.STRTAB_STE_0_CFG_BYPASS }, m.strtab + 64 * SID)
    expect(m.at()).toBe(OLD_PA)
    expect(m.run(command).at()).toBe(removes ? VA.toString(16) : OLD_PA)
  })

  it.each<[string, Command, boolean]>([
    ['CFGI_CD', [C.CMDQ_OP_CFGI_CD, 0, sid(SID), ssid(0), leaf], true],
    ['CFGI_CD of another SubstreamID', [C.CMDQ_OP_CFGI_CD, 0, sid(SID), ssid(1)], false],
    ['CFGI_CD of another stream', [C.CMDQ_OP_CFGI_CD, 0, sid(SID + 1), ssid(0)], false],
    ['CFGI_CD_ALL', [C.CMDQ_OP_CFGI_CD_ALL, 0, sid(SID)], true],
    ['CFGI_STE', [C.CMDQ_OP_CFGI_STE, 0, sid(SID), leaf], true],
    ['CFGI_STE_RANGE', [C.CMDQ_OP_CFGI_ALL, 0, sid(0), range(3)], true],
    ['TLBI_NSNH_ALL', [C.CMDQ_OP_TLBI_NSNH_ALL, 0], false],
  ])('CD changed: %s', (_, command, removes) => {
    const m = new Machine({ caching }).translating(5)
    expect(m.at()).toBe(OLD_PA)
    const other = m.stage(false, 39)
    m.map(other, VA, NEW)
    m.cd({ t0: other, asid: ASID + 1 }, m.cdAddress)
    expect(m.at()).toBe(OLD_PA)
    expect(m.run(command).at()).toBe(removes ? NEW_PA : OLD_PA)
  })

  it('SMMUEN does not empty caches', () => {
    const m = new Machine({ caching }).translating(5)
    expect(m.at()).toBe(OLD_PA)
    m.map(m.s1, VA, NEW)
    m.ste({ config: 0 }, m.strtab + 64 * SID)
    m.write(R.ARM_SMMU_CR0, R.CR0_CMDQEN)
    expect(m.at()).toBe(VA.toString(16))
    m.write(R.ARM_SMMU_CR0, R.CR0_CMDQEN | R.CR0_SMMUEN)
    expect(m.at()).toBe(OLD_PA)
  })

  it('an invalid STE and an invalid CD: cached only when caching maximally', () => {
    const m = new Machine({ caching }).on()
    expect(m.at()).toBe('C_BAD_STE sid=0x5')
    m.ste({ config: 5, cd: m.cdAddress }, m.strtab + 64 * SID)
    expect(m.at()).toBe(caching === 'maximal' ? 'C_BAD_STE sid=0x5' : 'C_BAD_CD sid=0x5')
    m.run([C.CMDQ_OP_CFGI_STE, 0, sid(SID), leaf])
    expect(m.at()).toBe('C_BAD_CD sid=0x5')
    m.map(m.s1, VA, OLD)
    m.cd({ t0: m.s1 }, m.cdAddress)
    expect(m.at()).toBe(caching === 'maximal' ? 'C_BAD_CD sid=0x5' : OLD_PA)
    m.run([C.CMDQ_OP_CFGI_CD, 0, sid(SID), ssid(0), leaf])
    expect(m.at()).toBe(OLD_PA)
  })

  it('level 1 descriptors need the non-leaf command when caching maximally', () => {
    const m = new Machine({ caching })
    const l1 = m.alloc(64)
    m.on(0)
    m.write64(R.ARM_SMMU_STRTAB_BASE, l1)
    m.write(R.ARM_SMMU_STRTAB_BASE_CFG, (1 << 16) | (6 << 6) | 9)
    m.write(R.ARM_SMMU_CR0, R.CR0_SMMUEN | R.CR0_CMDQEN)
    const at = () => m.pa(70, 0x1000n)
    expect(at()).toBe('C_BAD_STREAMID sid=0x46')
    const l2 = m.alloc(4096)
    m.ste({ config: 4 }, l2 + 64 * 6)
    m.memory.set64(l1 + 8, BigInt(l2) | 7n)
    expect(at()).toBe(caching === 'maximal' ? 'C_BAD_STREAMID sid=0x46' : '1000')
    m.run([C.CMDQ_OP_CFGI_STE, 0, sid(70), leaf])
    expect(at()).toBe(caching === 'maximal' ? 'C_BAD_STREAMID sid=0x46' : '1000')
    m.run([C.CMDQ_OP_CFGI_STE, 0, sid(64)])
    expect(at()).toBe('1000')
    m.memory.set64(l1 + 8, 0n)
    m.run([C.CMDQ_OP_CFGI_ALL, 0, sid(64), range(5)])
    expect(at()).toBe('C_BAD_STREAMID sid=0x46')
  })

  it('level 1 context descriptors likewise', () => {
    const m = new Machine({ caching, id: idRegisters({ idr0: R.IDR0_CD2L, idr1: 8 << 6 }) }).on()
    const l1 = m.alloc(64)
    m.ste({ config: 5, cd: l1, fields: { s1CdMax: 8, s1Fmt: 1 } }, m.strtab + 64 * SID)
    const at = () => m.pa(SID, VA, { ssid: 70 })
    expect(at()).toBe('C_BAD_SUBSTREAMID sid=0x5 ssid=0x46')
    const l2 = m.alloc(4096)
    m.map(m.s1, VA, OLD)
    m.cd({ t0: m.s1 }, l2 + 64 * 6)
    m.memory.set64(l1 + 8, BigInt(l2) | 1n)
    expect(at()).toBe(caching === 'maximal' ? 'C_BAD_SUBSTREAMID sid=0x5 ssid=0x46' : OLD_PA)
    m.run([C.CMDQ_OP_CFGI_CD, 0, sid(SID), ssid(70), leaf])
    expect(at()).toBe(caching === 'maximal' ? 'C_BAD_SUBSTREAMID sid=0x5 ssid=0x46' : OLD_PA)
    m.run([C.CMDQ_OP_CFGI_CD, 0, sid(SID), ssid(70)])
    expect(at()).toBe(OLD_PA)
  })
})

describe('what only caching beyond the usual shows', () => {
  it('a table that was replaced and invalidated as a leaf only', () => {
    for (const caching of CACHING) {
      const m = new Machine({ caching }).translating(5)
      expect(m.at()).toBe(OLD_PA)
      // A new level 3 table in the place of the old one.
      const entry = m.entry(m.s1, VA, 2)
      m.memory.set64(entry, 0n)
      m.map(m.s1, VA, NEW)
      m.run([C.CMDQ_OP_TLBI_NH_VA, Number(VA), vmid(VMID), asid(ASID), leaf])
      expect(m.at()).toBe(caching !== 'architectural' ? OLD_PA : NEW_PA)
      m.run([C.CMDQ_OP_TLBI_NH_VA, Number(VA), vmid(VMID), asid(ASID)])
      expect(m.at()).toBe(NEW_PA)
    }
  })

  it('the same of stage 2, in a nested walk', () => {
    const m = new Machine({ caching: 'maximal' }).translating(7)
    expect(m.at()).toBe(OLD_PA)
    m.memory.set64(m.entry(m.s2, VA, 2), 0n)
    m.map(m.s2, VA, NEW)
    m.run([C.CMDQ_OP_TLBI_S2_IPA, Number(VA), vmid(VMID), leaf], [C.CMDQ_OP_TLBI_NH_ALL, 0, vmid(VMID)])
    expect(m.at()).toBe(OLD_PA)
    m.run([C.CMDQ_OP_TLBI_S2_IPA, Number(VA), vmid(VMID)], [C.CMDQ_OP_TLBI_NH_ALL, 0, vmid(VMID)])
    expect(m.at()).toBe(NEW_PA)
  })

  it('a level hint leaves tables below the named level', () => {
    const m = new Machine({ caching: 'maximal' }).translating(5)
    expect(m.at()).toBe(OLD_PA)
    m.memory.set64(m.entry(m.s1, VA, 2), 0n)
    m.map(m.s1, VA, NEW)
    m.run([C.CMDQ_OP_TLBI_NH_VA, 0x40_0000, vmid(VMID), asid(ASID), tg(1), ttl(2), num(1)])
    expect(m.at()).toBe(OLD_PA)
    m.run([C.CMDQ_OP_TLBI_NH_VA, 0x40_0000, vmid(VMID), asid(ASID), tg(1), ttl(3), num(1)])
    expect(m.at()).toBe(NEW_PA)
  })

  it('the stage 2 translation of a stage 1 table', () => {
    for (const caching of CACHING) {
      const m = new Machine({ caching })
      // Stage 1 tables lie at IPA = PA + 0x10_0000_0000 and are mapped page by page.
      const offset = 0x10_0000_0000n
      const leafAddress = m.map(m.s1, VA, VA)
      m.map(m.s1, VA + 0x1000n, VA + 0x1000n)
      const table = BigInt(leafAddress - (leafAddress % 4096))
      m.memory.set64(m.entry(m.s1, VA, 2), table + offset + 3n)
      m.map(m.s2, 0x4000_0000n, 0x4000_0000n, S2_RW, 1)
      m.map(m.s2, table + offset, table)
      m.map(m.s2, VA, OLD)
      m.map(m.s2, VA + 0x1000n, OLD)
      m.cd({ t0: m.s1, asid: ASID }, m.cdAddress)
      m.ste({ config: 7, cd: m.cdAddress, stage2: m.s2, vmid: VMID }, m.strtab + 64 * SID)
      m.on()
      expect(m.at()).toBe(OLD_PA)
      // Hypervisor takes the page of the table away and forgets to say so.
      m.memory.set64(m.entry(m.s2, table + offset), 0n)
      const next = m.at(VA + 0x1000n)
      const fault = `F_TRANSLATION sid=0x5 read S2 TT input=0x402000 ipa=0x${(table + offset).toString(16)}`
      expect(next).toBe(caching !== 'architectural' ? OLD_PA : fault)
      m.run([C.CMDQ_OP_TLBI_S2_IPA, Number(table + offset), vmid(VMID), leaf], [C.CMDQ_OP_TLBI_NH_ALL, 0, vmid(VMID)])
      expect(m.at(VA + 0x1000n)).toBe(fault)
    }
  })

  it('contiguous entries are one: each of them must be right, and any of them removes all', () => {
    const m = new Machine({ caching: 'maximal' }).translating(5)
    const CONT = BigInt(P.ARM_LPAE_PTE_HI_CONT) << 32n
    const base = 0x60_0000n
    for (let page = 0n; page < 16n; page++)
      m.map(m.s1, base + page * 0x1000n, 0x4010_0000n + page * 0x1000n, S1_RW | CONT)
    expect(m.at(base + 0x5678n)).toBe('40105678')
    m.map(m.s1, base + 0x3000n, NEW)
    expect(m.at(base + 0x3000n)).toBe('40103000')
    m.run([C.CMDQ_OP_TLBI_NH_VA, Number(base) + 0xf000, vmid(VMID), asid(ASID), leaf])
    expect(m.at(base + 0x3000n)).toBe(NEW_PA)
    // A contiguous bit on descriptors that are not contiguous does not stretch them.
    m.map(m.s1, 0x80_0000n, 0x4010_1000n, S1_RW | CONT)
    expect(m.at(0x80_0000n)).toBe('40101000')
    expect(m.at(0x80_1000n)).toContain('F_TRANSLATION')
  })
})

describe('no caching', () => {
  it('follows the tables at once', () => {
    const m = new Machine({ caching: 'none' }).translating(7)
    expect(m.at()).toBe(OLD_PA)
    m.map(m.s2, VA, NEW)
    expect(m.at()).toBe(NEW_PA)
    m.ste({ config: 4 }, m.strtab + 64 * SID)
    expect(m.at()).toBe(VA.toString(16))
    m.run([C.CMDQ_OP_TLBI_NSNH_ALL, 0], [C.CMDQ_OP_CFGI_ALL, 0, [C.CMDQ_CFGI_1_RANGE, 31]])
    expect(m.read(R.ARM_SMMU_GERROR)).toBe(0)
  })
})
