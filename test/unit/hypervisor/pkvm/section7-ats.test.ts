// SPDX-License-Identifier: Apache-2.0
/** PCIe ATS and PRI (server/hypervisor/README.md, section 7): hidden, or let through by name. */
import { describe, expect, test } from 'vitest'
import { EIO, OK } from '../../../../server/policy/result.ts'
import { fieldPrep64 } from '../../../../server/smmu/bits.ts'
import { opcodeName } from '../../../../server/smmu/commands.ts'
import { eventName } from '../../../../server/smmu/events.ts'
import * as r from '../../../../server/smmu/registers.ts'
import { Atc } from '../../../../server/smmu/soft/atc.ts'
import * as S from '../../../../server/smmu/ste.ts'
import { NO_SSID, type Outcome } from '../../../../server/smmu/transaction.ts'
import { CFGI_ALL, SYNC, ste } from '../../smmu/fields.ts'
import { idRegisters, SoftBench, type SoftSetUp } from './soft.ts'
import { Bench, HOST_CMDQ, Host, MiB, RAM_BASE, STE, shadowSte } from './support.ts'

const SID = 0x20
const OWNED = RAM_BASE + 9 * MiB
const P = RAM_BASE + 10 * MiB
const ID = idRegisters({ idr0: r.IDR0_ATS | r.IDR0_PRI | r.IDR0_ATSRECERR, idr1: 4 << 6 })
const EATS = (value: number) => fieldPrep64(S.STRTAB_STE_1_EATS, value)
/** Stage 1 for substreams only: without one, addresses are IPAs. */
const S1_BYPASS = ste({ config: 5, s1ContextPtr: 0x4140_0000, s1CdMax: 2, s1Dss: 1, shCfg: 1 })

const withAts = (words: readonly bigint[], eats = S.STRTAB_STE_1_EATS_TRANS): bigint[] =>
  Array.from({ length: 8 }, (_, i) => (words[i] ?? 0n) | (i === 1 ? EATS(eats) : 0n))

interface World {
  readonly bench: SoftBench
  readonly host: Host
  readonly atc: Atc
  /** A read of the device, by its ATC. */
  read(address: number): string
  /** A read that the device marks as Translated. */
  translated(address: number): string
}

function world(ats: boolean, setUp: SoftSetUp = {}): World {
  const atcs: Atc[] = []
  const bench = new SoftBench({
    ...setUp,
    options: { ats },
    soft: { id: ID, onAtcInvalidate: words => atcs.every(atc => atc.invalidate(words)), ...setUp.soft },
  })
  bench.hyp.reset()
  const host = new Host(bench).boot()
  const atc = new Atc(bench.hw, SID)
  atcs.push(atc)
  const at = (address: number) => ({ sid: SID, lo: address % 2 ** 32, hi: Math.floor(address / 2 ** 32), write: false })
  const name = (outcome: Outcome) => (outcome.kind === 'fault' ? eventName(outcome.event.id) : outcome.kind)
  return {
    bench,
    host,
    atc,
    read: address => name(atc.access({ ...at(address), ssid: NO_SSID, privileged: false, instruction: false })),
    translated: address => name(bench.hw.translatedTransaction(at(address))),
  }
}

describe('hidden', () => {
  test('the host sees no ATS and no PRI', () => {
    const { bench } = world(false)
    const features = r.IDR0_ATS | r.IDR0_PRI | r.IDR0_ATSRECERR
    expect(bench.peek(r.ARM_SMMU_IDR0) & features).toBe(features)
    expect(bench.read(r.ARM_SMMU_IDR0) & features).toBe(0)
  })

  test.each([0, r.CR0_ATSCHK])('CR0.ATSCHK is 1, and reads as 0; the host wrote 0x%s', bit => {
    const { bench } = world(false)
    bench.write(r.ARM_SMMU_CR0, 0xd | bit)
    expect(bench.peek(r.ARM_SMMU_CR0)).toBe(0xd | r.CR0_ATSCHK)
    expect(bench.read(r.ARM_SMMU_CR0)).toBe(0xd)
    expect(bench.read(r.ARM_SMMU_CR0ACK)).toBe(0xd)
    expect(bench.report.take()).toEqual([])
  })

  test('without ATS in the hardware ATSCHK is 0', () => {
    const bench = new Bench()
    bench.hyp.reset()
    bench.write(r.ARM_SMMU_CR0, r.CR0_ATSCHK)
    expect(bench.hw.get(r.ARM_SMMU_CR0)).toBe(0)
  })

  test('PRIQEN is RES0', () => {
    const { bench } = world(false)
    bench.write64(r.ARM_SMMU_PRIQ_BASE, P + 3)
    bench.write(r.ARM_SMMU_CR0, 0xf)
    expect(bench.peek(r.ARM_SMMU_CR0)).toBe(0xd | r.CR0_ATSCHK)
    expect(bench.hyp.donate(P, 4096, 1)).toBe(OK)
  })

  test.each(['strtab', 'nested'] as const)('EATS is cleared (--until %s)', until => {
    const bench = new Bench({ options: { until } })
    bench.hyp.reset()
    const host = new Host(bench).boot()
    for (const kind of [STE.s1, STE.bypass]) {
      host.attach(SID, withAts(kind))
      expect((shadowSte(bench, SID)[1] ?? 0n) & S.STRTAB_STE_1_EATS).toBe(0n)
    }
    expect(bench.report.take()).toEqual([])
  })

  test('devices get no translations, and what they mark as Translated does not pass', () => {
    const { bench, host, read, translated } = world(false)
    host.attach(SID, withAts(S1_BYPASS))
    expect(bench.dma(SID, OWNED)).toBe('done')
    expect(read(OWNED)).toBe('abort')
    expect(translated(OWNED)).toBe('F_TRANSL_FORBIDDEN')
    bench.write(r.ARM_SMMU_CR0, 0)
    expect(translated(OWNED)).toBe('F_TRANSL_FORBIDDEN')
    bench.write(r.ARM_SMMU_CR0, 0xd)
    expect(translated(OWNED)).toBe('F_TRANSL_FORBIDDEN')
  })

  test('devices that may send Translated transactions since firmware was there', () => {
    const bench = new SoftBench({ soft: { id: ID } })
    bench.poke(r.ARM_SMMU_CR0, r.CR0_SMMUEN)
    const at = { sid: SID, lo: OWNED, hi: 0, write: false }
    expect(bench.hw.translatedTransaction(at).kind).toBe('translated')
    bench.hyp.reset()
    new Host(bench).boot()
    expect(bench.hw.translatedTransaction(at).kind).toBe('fault')
  })
})

describe('let through', () => {
  test('the host sees them, and CR0.ATSCHK as it wrote it', () => {
    const { bench } = world(true)
    expect(bench.read(r.ARM_SMMU_IDR0) & r.IDR0_ATS).toBe(r.IDR0_ATS)
    for (const value of [0xd, 0xd | r.CR0_ATSCHK]) {
      bench.write(r.ARM_SMMU_CR0, value)
      expect(bench.read(r.ARM_SMMU_CR0)).toBe(value)
      expect(bench.read(r.ARM_SMMU_CR0ACK)).toBe(value)
      expect(bench.peek(r.ARM_SMMU_CR0)).toBe(0xd | r.CR0_ATSCHK)
    }
    bench.write64(r.ARM_SMMU_PRIQ_BASE, P + 3)
    bench.write(r.ARM_SMMU_CR0, 0xf)
    expect(bench.peek(r.ARM_SMMU_CR0)).toBe(0xf | r.CR0_ATSCHK)
    expect(bench.report.take()).toEqual([])
  })

  const { STRTAB_STE_1_EATS_TRANS: TRANS, STRTAB_STE_1_EATS_S1CHK: SPLIT, STRTAB_STE_1_EATS_DPT: DPT } = S
  test.each([
    ['stage 1', STE.s1, TRANS, TRANS],
    ['stage 1, split-stage, which needs a stage 2', STE.s1, SPLIT, 0],
    ['stage 1, reserved', STE.s1, DPT, 0],
    ['bypass: there is no ATS', STE.bypass, TRANS, 0],
  ])('EATS of %s', (_, words, eats, shadow) => {
    const bench = new Bench({ options: { ats: true } })
    bench.hyp.reset()
    const host = new Host(bench).boot()
    host.attach(SID, withAts(words, eats))
    expect((shadowSte(bench, SID)[1] ?? 0n) & S.STRTAB_STE_1_EATS).toBe(EATS(shadow))
  })

  test('a donation takes the page from the ATC', () => {
    const { bench, host, atc, read } = world(true)
    host.attach(SID, withAts(S1_BYPASS))
    expect(read(P)).toBe('translated')
    expect(atc.size).toBe(1)
    expect(bench.hyp.donate(P, 4096, 1)).toBe(OK)
    expect(atc.size).toBe(0)
    expect(read(P)).toBe('abort')
    expect(read(OWNED)).toBe('translated')
    expect(bench.report.take()).toEqual([])
  })

  test('of one kind, where the SMMU has no substreams', () => {
    const bench = new Bench({ options: { ats: true }, ids: [{ idr1: ID.idr1 & ~r.IDR1_SSIDSIZE }] })
    bench.hyp.reset()
    const host = new Host(bench).boot()
    host.attach(SID, withAts(STE.s1))
    bench.hw.takeCommands()
    expect(bench.hyp.donate(P, 4096, 1)).toBe(OK)
    expect(bench.hw.takeCommands().slice(-4)).toEqual(['TLBI_NH_ALL', 'SYNC', 'ATC_INV', 'SYNC'])
  })

  test('ATC_INV of both kinds goes behind the invalidation of TLBs', () => {
    const bench = new Bench({ options: { ats: true }, ids: [{ idr1: ID.idr1 }] })
    bench.hyp.reset()
    const host = new Host(bench).boot()
    host.attach(SID, withAts(STE.s1))
    host.attach(SID + 1, STE.s1)
    bench.hw.consumed = []
    expect(bench.hyp.donate(P, 4096, 1)).toBe(OK)
    const names = bench.hw.consumed.map(([word]) => opcodeName((word ?? 0) & 0xff))
    expect(names.slice(-5)).toEqual(['TLBI_NH_ALL', 'SYNC', 'ATC_INV', 'ATC_INV', 'SYNC'])
    expect(bench.hw.consumed.slice(-3, -1)).toEqual([
      [0x40, SID, 52, 0],
      [0x40 | (1 << 11) | (1 << 9), SID, 52, 0],
    ])
  })

  test('a device that does not answer keeps the page from being donated', () => {
    const { bench, host, atc, read } = world(true)
    host.attach(SID, withAts(S1_BYPASS))
    expect(read(P)).toBe('translated')
    atc.answers = false
    expect(bench.hyp.donate(P, 4096, 1)).toBe(EIO)
    expect(read(P)).toBe('translated')
    expect(bench.report.take()).toEqual(['HYP_CMDQ_STOPPED', 'HYP_UNMAP'])
  })

  test('a device that does not answer gets no ATS', () => {
    const { bench, host, atc, translated } = world(true)
    host.attach(SID, S1_BYPASS)
    atc.answers = false
    host.attach(SID, withAts(S1_BYPASS))
    expect(bench.report.take()).toEqual(['HYP_CMDQ_STOPPED', 'HYP_CFGI_STE', 'HYP_CMDQ_STOPPED'])
    expect(translated(P)).toBe('F_TRANSL_FORBIDDEN')
  })

  test('a stream that loses its ATS behind a device that does not answer: what its ATC kept is not used', () => {
    let answers = true
    const onAtcInvalidate = (words: Uint32Array) => (words[1] === SID ? atc.invalidate(words) : answers)
    const { bench, host, atc, read } = world(true, { soft: { onAtcInvalidate } })
    host.attach(SID - 1, S1_BYPASS)
    host.attach(SID, withAts(S1_BYPASS))
    expect(read(P)).toBe('translated')
    host.ste(SID - 1, withAts(S1_BYPASS))
    host.ste(SID, STE.invalid)
    const { prod } = host
    answers = false
    host.commands(CFGI_ALL, SYNC)
    answers = true
    expect(bench.report.take()).toContain('HYP_CMDQ_STOPPED')
    // The host takes its CFGI_ALL back.
    bench.memory.poke(HOST_CMDQ + 16 * prod, new Uint8Array(Uint32Array.from(SYNC).buffer))
    bench.write(r.ARM_SMMU_GERRORN, bench.read(r.ARM_SMMU_GERROR))
    expect(bench.hyp.donate(P, 4096, 1)).toBe(OK)
    expect(read(P)).not.toBe('translated')
  })

  /** Ways in which the stream has no ATS for a while; a page is donated meanwhile. */
  const gaps: [string, (world: World) => void, (world: World) => void][] = [
    ['detached', ({ host }) => host.attach(SID, STE.abort), ({ host }) => host.attach(SID, withAts(S1_BYPASS))],
    ['EATS = 0', ({ host }) => host.attach(SID, S1_BYPASS), ({ host }) => host.attach(SID, withAts(S1_BYPASS))],
    ['SMMUEN = 0', ({ bench }) => bench.write(r.ARM_SMMU_CR0, 0xc), ({ bench }) => bench.write(r.ARM_SMMU_CR0, 0xd)],
    [
      'SMMUEN = 0 and CMDQEN = 0',
      ({ bench }) => bench.write(r.ARM_SMMU_CR0, 0),
      ({ bench }) => bench.write(r.ARM_SMMU_CR0, 0xd),
    ],
    [
      'the entry is gone',
      ({ host }) => {
        host.l1(SID, 0, 0)
        host.commands([0x04, 0, 31, 0])
      },
      ({ host }) => host.attach(SID, withAts(S1_BYPASS)),
    ],
  ]
  test.each(gaps)('%s: what the ATC kept of before is not used', (_, off, on) => {
    const all = world(true)
    const { bench, host, atc, read } = all
    host.attach(SID, withAts(S1_BYPASS))
    expect(read(P)).toBe('translated')
    off(all)
    expect(bench.hyp.donate(P, 4096, 1)).toBe(OK)
    expect(read(P)).not.toBe('translated')
    on(all)
    expect(atc.size).toBe(0)
    expect(read(P)).toBe('abort')
    expect(read(OWNED)).toBe('translated')
    // It has ATS again, and so is told of the next page.
    expect(bench.hyp.donate(OWNED, 4096, 1)).toBe(OK)
    expect(read(OWNED)).toBe('abort')
    expect(bench.report.take().filter(code => code !== 'HYP_QUEUE_DISABLED_AT_SHUTDOWN')).toEqual([])
  })

  /** A stream has ATS, SMMUEN is 0 meanwhile, and becomes 1 in hardware that acknowledges after so many accesses. */
  function enabledLate(accesses: number): World {
    let wait = 0
    const all = world(true, { soft: { lag: { update: () => wait, early: () => false, command: () => 0 } } })
    const { bench, host, read } = all
    host.attach(SID, withAts(S1_BYPASS))
    expect(read(P)).toBe('translated')
    bench.write(r.ARM_SMMU_CR0, 0xc)
    expect(bench.hyp.donate(P, 4096, 1)).toBe(OK)
    wait = accesses
    bench.write(r.ARM_SMMU_CR0, 0xd)
    return all
  }

  test('hardware that acknowledges SMMUEN late: its ATCs are emptied then, not before', () => {
    const { bench, atc, read } = enabledLate(20)
    expect(bench.peek(r.ARM_SMMU_CR0ACK) & r.CR0_SMMUEN).toBe(r.CR0_SMMUEN)
    expect(atc.size).toBe(0)
    expect(read(P)).toBe('abort')
    expect(read(OWNED)).toBe('translated')
    expect(bench.report.take()).toEqual([])
  })

  test('hardware that does not acknowledge SMMUEN in time: the stream has no ATS', () => {
    const { bench, host, translated } = enabledLate(1000)
    expect(bench.report.take()).toEqual(['HYP_CR0ACK'])
    host.attach(SID, withAts(S1_BYPASS))
    expect(bench.report.take()).toEqual(['HYP_CFGI_STE'])
    bench.hw.step()
    expect(bench.peek(r.ARM_SMMU_CR0ACK) & r.CR0_SMMUEN).toBe(r.CR0_SMMUEN)
    expect(translated(P)).toBe('F_TRANSL_FORBIDDEN')
    expect(bench.hyp.streams().map(({ shadow }) => shadow[1] & S.STRTAB_STE_1_EATS)).toEqual([0n])
  })
})
