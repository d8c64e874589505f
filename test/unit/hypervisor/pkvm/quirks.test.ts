// SPDX-License-Identifier: Apache-2.0
/** Known defects of the posted versions (server/hypervisor/README.md, section 13): each shows what its row says, and none is on by default. */
import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { QUIRKS, type QuirkName } from '../../../../server/hypervisor/pkvm/quirks.ts'
import { OK } from '../../../../server/policy/result.ts'
import { fieldPrep } from '../../../../server/smmu/bits.ts'
import { QEMU_NESTED_ID_REGISTERS as QEMU } from '../../../../server/smmu/features.ts'
import * as r from '../../../../server/smmu/registers.ts'
import * as s from '../../../../server/smmu/ste.ts'
import { CONFIG, CS_IRQ, cfgiSte, command, SYNC, ste, tlbiNhVa } from '../../smmu/fields.ts'
import {
  Bench,
  HOST_CMDQ,
  HOST_EVTQ,
  HOST_L2,
  HOST_STRTAB,
  Host,
  idmapEntry,
  RAM_BASE,
  type SetUp,
  STE,
  shadowSte,
  shadowSteAddress,
} from './support.ts'

const SID = 0x108
const PAGE = RAM_BASE + 0x30_0000

interface Up {
  readonly bench: Bench
  readonly host: Host
}

/** What the hardware gets of these commands. */
const passes = (...commands: number[][]) =>
  [
    ({ bench, host }: Up) => {
      host.commands(...commands)
      return bench.hw.consumed
    },
    commands,
    {},
  ] as const

/** By quirk: what is looked at, what it is with the quirk; without it, it is something else. */
const EFFECTS: Readonly<Record<QuirkName, readonly [look: (up: Up) => unknown, value: unknown, setUp?: SetUp]>> = {
  'cmd-sync-msi': passes(command('SYNC', { cs: CS_IRQ, msiAddress: 0x4000_0000, msiData: 7 })),
  'vmid-check-void': passes(command('TLBI_NH_VA', { vmid: 1, address: 0x1000 }), command('TLBI_NH_ASID', { vmid: 9 })),
  's2-ipa-unfiltered': passes(command('TLBI_S2_IPA', { address: 0x1000 })),
  'cfgi-all-range-warns-only': passes(command('CFGI_STE_RANGE', { sid: 8, range: 3 })),
  'ste-word0-first': [
    ({ bench, host }) => {
      host.attach(SID, STE.abort)
      const address = shadowSteAddress(bench, SID)
      const log = bench.record()
      host.attach(SID, STE.bypass)
      const stored = log.flatMap(entry => (entry.what === 'mem' ? [entry.address - address] : []))
      return stored.filter(offset => offset >= 0 && offset < 64)
    },
    [0, 8],
  ],
  'ste-config-110': [
    ({ bench, host }) => {
      host.attach(SID, STE.s2)
      const [word0, , , word3] = shadowSte(bench, SID)
      return [word0, Number(word3)]
    },
    [STE.s2[0], expect.any(Number)],
  ],
  'queue-base-unaligned': [
    ({ bench, host }) => {
      // 512 entries are 16 KiB: aligned hardware writes to the page before.
      host.prepare()
      bench.write64(r.ARM_SMMU_EVTQ_BASE, HOST_EVTQ + 0x1000 + 9)
      bench.write(r.ARM_SMMU_CR0, r.CR0_CMDQEN | r.CR0_EVTQEN)
      return bench.hyp.donate(HOST_EVTQ, 4096, 1)
    },
    OK,
  ],
  'queues-unshared': [({ bench }) => bench.hyp.donate(HOST_EVTQ, 4096, 1), OK],
  'span-ignored': [
    ({ bench, host }) => {
      host.l1(SID, HOST_L2 + 0x40, 0)
      bench.memory.poke64(HOST_L2 + 0x40 + 64 * (SID & 0xff), ...ste({ config: CONFIG.bypass }))
      host.cfgiSte(SID)
      return bench.report.take()
    },
    [],
  ],
  'pool-leak': [
    ({ bench, host }) => {
      const before = bench.hyp.pool.used
      host.attach(SID, STE.s2)
      return bench.hyp.pool.used - before
    },
    4,
  ],
  'cmdqs-unchecked': [
    ({ bench }) => bench.report.probes,
    [null],
    { ids: [{ idr1: (QEMU.idr1 & ~r.IDR1_CMDQS) | fieldPrep(r.IDR1_CMDQS, 8) }] },
  ],
  'batch-over-4096': [
    ({ bench, host }) => {
      const log2size = 13
      host.prepare()
      bench.write64(r.ARM_SMMU_CMDQ_BASE, PAGE + log2size)
      bench.write(r.ARM_SMMU_CR0, r.CR0_CMDQEN)
      const words = new Uint32Array(4 * 5000)
      for (let i = 0; i < 5000; i++) words.set(tlbiNhVa(i << 12), 4 * i)
      bench.memory.poke(PAGE, new Uint8Array(words.buffer))
      bench.hw.takeCommands()
      bench.write(r.ARM_SMMU_CMDQ_PROD, 5000)
      // What did not fit came over what was there.
      return bench.hw.consumed.every((words, i) => words[2] === i << 12)
    },
    false,
  ],
  'irq-cfg-msi': [
    ({ bench }) => {
      bench.write64(r.ARM_SMMU_GERROR_IRQ_CFG0, PAGE)
      bench.write64(r.ARM_SMMU_EVTQ_IRQ_CFG0, PAGE)
      return [bench.hw.get64(r.ARM_SMMU_GERROR_IRQ_CFG0), bench.hw.get64(r.ARM_SMMU_EVTQ_IRQ_CFG0), bench.report.take()]
    },
    [BigInt(PAGE), BigInt(PAGE), []],
  ],
  eats: [
    ({ bench, host }) => {
      host.attach(SID, ste({ config: CONFIG.s1, s1ContextPtr: 0x4140_0000, eats: 1 }))
      return shadowSte(bench, SID)[1] & s.STRTAB_STE_1_EATS
    },
    1n << 28n,
  ],
  'no-tlbi-while-off': [
    ({ bench }) => {
      bench.write(r.ARM_SMMU_CR0, r.CR0_CMDQEN)
      bench.hw.takeCommands()
      bench.write(r.ARM_SMMU_CR0, r.CR0_CMDQEN | r.CR0_SMMUEN)
      return bench.hw.takeCommands()
    },
    [],
  ],
  'power-unowned': [
    ({ bench }) => [bench.hyp.power(0, 'off'), bench.hyp.powerState(0)],
    [OK, 'on'],
    { options: { power: 'keep' }, power: () => ({ resetsToAbort: true, set: () => true }) },
  ],
  'shutdown-panics': [
    ({ bench }) => {
      bench.write(r.ARM_SMMU_CR0, 0)
      return bench.report.take()
    },
    ['HYP_EVTQ_DISABLED'],
  ],
  'idmap-never-initialised': [
    ({ bench }) => [bench.hyp.donate(PAGE, 4096, 1), idmapEntry(bench, PAGE)?.target],
    [OK, PAGE],
  ],
  'bypass-shcfg-ored': [
    ({ bench, host }) => {
      host.attach(SID, ste({ config: CONFIG.bypass, shCfg: 2 }))
      return shadowSte(bench, SID)[1]
    },
    ste({ config: CONFIG.bypass, shCfg: 3 })[1],
  ],
  'no-s2ptw': [
    ({ bench, host }) => {
      host.attach(SID, STE.s1)
      return shadowSte(bench, SID)[2] & s.STRTAB_STE_2_S2PTW
    },
    0n,
  ],
  'l1-double-fetch': [
    ({ bench, host }) => {
      host.l1(SID)
      host.ste(SID, STE.bypass)
      const reads: number[] = []
      bench.memory.afterRead = (address, length) => {
        if (address >= HOST_STRTAB && address < HOST_L2 + 0x4000) reads.push(length)
      }
      host.cfgiSte(SID)
      return reads
    },
    [8, 8, 64],
  ],
  'l2-share-unchecked': [
    ({ bench, host }) => {
      host.l1(SID, HOST_CMDQ)
      bench.memory.poke64(HOST_CMDQ + 64 * (SID & 0xff), ...ste({ config: CONFIG.bypass }))
      host.commands(cfgiSte(SID), SYNC)
      return bench.report.take()
    },
    [],
  ],
  'gbpa-attributes-lost': [({ bench }) => bench.hw.get(r.ARM_SMMU_GBPA), r.GBPA_ABORT],
}

function up(quirks: readonly string[], setUp: SetUp = {}): Up {
  const bench = new Bench({ ...setUp, options: { ...setUp.options, quirks } })
  bench.hyp.reset()
  const host = new Host(bench)
  if (bench.hyp.isolated) host.boot()
  bench.report.take()
  return { bench, host }
}

describe.each(Object.entries(EFFECTS))('%s', (name, [look, value, setUp]) => {
  test('shows its effect', () => expect(look(up([name], setUp))).toEqual(value))
  test('is off by default', () => expect(look(up([], setUp))).not.toEqual(value))
})

test('an unknown one is refused, with those that there are', () => {
  expect(() => up(['no-such-thing'])).toThrow(/no quirk "no-such-thing": there are .*cmd-sync-msi/)
})

test('the behaviour reference lists them', () => {
  const file = readFileSync(new URL('../../../../server/hypervisor/README.md', import.meta.url), 'utf8')
  const text = file.slice(file.indexOf('\n## 13. '), file.indexOf('\n## 14. '))
  const rows = [...text.matchAll(/^\| `([a-z0-9-]+)` +\| (.*?) +\| (.*?) +\|$/gm)]
  expect(Object.fromEntries(rows.map(([, name = '', versions, effect]) => [name, { versions, effect }]))).toEqual(
    QUIRKS,
  )
})
