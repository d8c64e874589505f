// SPDX-License-Identifier: Apache-2.0
/** Stream table entries, transition × order of writes as the hardware saw them (server/hypervisor/README.md, section 7). */
import { beforeEach, describe, expect, test } from 'vitest'
import { MAX_CHECKPOINT } from '../../../../protocol/messages.ts'
import { Hypervisor } from '../../../../server/hypervisor/pkvm/hypervisor.ts'
import { PAGE_OWNED, PAGE_SHARED } from '../../../../server/hypervisor/pkvm/ownership.ts'
import { MAX_STREAMS } from '../../../../server/hypervisor/pkvm/shadowStrtab.ts'
import { hasStage2, nestStream } from '../../../../server/hypervisor/pkvm/steRules.ts'
import { EFAULT, EINVAL, ENODEV, ENOENT, ENOMEM, EPERM, ERANGE, ETIMEDOUT } from '../../../../server/policy/result.ts'
import { fieldGet64, fieldPrep } from '../../../../server/smmu/bits.ts'
import { decodeFeatures, QEMU_NESTED_ID_REGISTERS as QEMU } from '../../../../server/smmu/features.ts'
import * as r from '../../../../server/smmu/registers.ts'
import * as s from '../../../../server/smmu/ste.ts'
import { decodeSte } from '../../../../server/smmu/streamConfig.ts'
import { CONFIG, ste, twoLevelCfg } from '../../smmu/fields.ts'
import {
  Bench,
  CARVEOUT_BASE,
  CARVEOUT_SIZE,
  HOST_CMDQ,
  HOST_L2,
  HOST_STRTAB,
  Host,
  type LogEntry,
  RAM_BASE,
  RAM_SIZE,
  type SetUp,
  STE,
  shadowSte,
  shadowSteAddress,
  successor,
} from './support.ts'

const SID = 0x108
let bench: Bench
let host: Host

function start(setUp: SetUp = {}, sidBits = 16): void {
  bench = new Bench(setUp)
  bench.hyp.reset()
  host = new Host(bench).boot(sidBits)
  expect(bench.report.take()).toEqual([])
}
beforeEach(() => start())

/** What the hardware saw of an entry: writes of its words and commands, in order. */
function seen(log: readonly LogEntry[], address: number): string[] {
  const out: string[] = []
  for (const entry of log) {
    if (entry.what === 'mem' && entry.address >= address && entry.address < address + 64) {
      const first = (entry.address - address) / 8
      const last = first + entry.bytes.length / 8 - 1
      out.push(first === last ? `word ${first}` : `words ${first}-${last}`)
    } else if (entry.what === 'cmd') {
      out.push((entry.words[0] & 0xff) === 3 ? `CFGI_STE ${entry.words[1]} leaf ${entry.words[2]}` : 'SYNC')
    }
  }
  return out
}

const vtcr = () => BigInt(bench.hyp.idmap?.geometry.vtcr ?? 0)
const ttb = () => BigInt(bench.hyp.idmap?.root ?? 0)
const stage2 = () => (vtcr() << 32n) | s.STRTAB_STE_2_S2AA64 | s.STRTAB_STE_2_S2PTW | s.STRTAB_STE_2_S2R

test('nothing is nested without an idmap', () => {
  expect(nestStream(BigUint64Array.from(STE.s1), new BigUint64Array(8), { ...bench.hyp, idmap: null })).toBe(ENODEV)
})

test.each([0, 1, 2, 3, 4, 5, 6, 7])('stage 2 is in Config 0b110 and 0b111 only: %i', config =>
  expect(hasStage2(config)).toBe(config >= 6),
)

describe('there is no table', () => {
  const refused = () => {
    host.attach(SID, STE.s1)
    expect(bench.report.warnings).toMatchObject([{ code: 'HYP_CFGI_STE', values: [SID, 1, ENODEV] }])
  }
  const takeOver = () => {
    const kept = bench.hyp.checkpoint().slice()
    bench.hyp = successor(bench)
    bench.hyp.restore(kept)
    bench.hyp.resume()
  }

  test('after a reset, before SMMUEN', () => {
    bench.hw.words.fill(0, r.ARM_SMMU_CR0 / 4)
    bench.hyp.reset()
    host.prepare()
    bench.write(r.ARM_SMMU_CR0, r.CR0_CMDQEN)
    refused()
  })

  test.each(['before SMMUEN', 'behind it'])('after a take-over %s', when => {
    if (when === 'before SMMUEN') {
      bench = new Bench()
      bench.hyp.reset()
      host = new Host(bench)
      host.prepare()
    }
    bench.write(r.ARM_SMMU_CR0, r.CR0_CMDQEN)
    bench.report.take()
    takeOver()
    refused()
  })

  test('for one that is put back without it', () => {
    const { hostStrtab } = bench.hyp.smmus[0]
    expect(hostStrtab.table).not.toBeNull()
    hostStrtab.restore({ ...hostStrtab.state, enabled: false })
    expect(hostStrtab.table).toBeNull()
  })
})

describe('conversion', () => {
  const noise = [0x0000_0000_0000_0000n, 0xffff_ffff_ffff_ffffn]

  test('V = 0: nothing else', () => {
    host.attach(SID, [0xf000_0000_0000_000en, 1n, 2n, 3n, 4n, 5n, 6n, 7n])
    expect(shadowSte(bench, SID)).toEqual(new Array(8).fill(0n))
    expect(bench.report.streams).toEqual([{ smmu: 0, sid: SID, host: -1, shadow: -1 }])
  })

  test.each([0n, 1n, 2n, 3n])('abort, Config 0b0%i: V and Config, nothing else', config => {
    const [word0] = ste({ config })
    host.attach(SID, [...ste({ config, s1ContextPtr: 0x4000_0000, s1Fmt: 1 }).slice(0, 1), 1n, 2n, 3n, 4n])
    expect(shadowSte(bench, SID)).toEqual([word0, ...new Array(7).fill(0n)])
    expect(bench.report.streams).toEqual([{ smmu: 0, sid: SID, host: Number(config), shadow: Number(config) }])
  })

  test.each(noise)('bypass becomes stage 2 only; words 2 and 3 of the host 0x%s do not matter', word => {
    const [word0, word1] = ste({ config: CONFIG.bypass })
    host.attach(SID, [word0, word1, word, word, 4n])
    expect(shadowSte(bench, SID)).toEqual([
      ...ste({ config: CONFIG.s2, shCfg: 1 }).slice(0, 2),
      stage2(),
      ttb(),
      0n,
      0n,
      0n,
      0n,
    ])
    expect(bench.report.streams).toEqual([{ smmu: 0, sid: SID, host: 4, shadow: 6 }])
  })

  test.each(noise)('stage 1 becomes nested, its context pointer stays; word 2 of the host 0x%s', word => {
    const fields = {
      s1Fmt: 2,
      s1ContextPtr: 0x41_4140_0000,
      s1CdMax: 7,
      s1Dss: 2,
      s1Cir: 1,
      s1Cor: 1,
      s1Csh: 3,
      s1Stalld: 1,
    }
    const [word0, word1] = ste({ ...fields, config: CONFIG.s1, shCfg: 3 })
    host.attach(SID, [word0, word1, word, word])
    const [shadow0, shadow1] = ste({ ...fields, config: CONFIG.nested, shCfg: 1 })
    expect(shadowSte(bench, SID)).toEqual([shadow0, shadow1, stage2(), ttb(), 0n, 0n, 0n, 0n])
    expect(bench.report.streams).toEqual([{ smmu: 0, sid: SID, host: 5, shadow: 7 }])
  })

  test.each([0n, 1n, 2n, 3n])('SHCFG %i becomes: use incoming', shcfg => {
    host.attach(SID, ste({ config: CONFIG.bypass, shCfg: shcfg, mev: 1 }))
    expect(shadowSte(bench, SID)[1]).toBe(ste({ config: CONFIG.s2, shCfg: 1, mev: 1 })[1])
  })

  // IHI 0070 section 5.2, each field with all of its bits set. What is in no list is 0.
  const attributes = { mev: 1, memAttr: 15, mtCfg: 1, allocCfg: 15, privCfg: 3, instCfg: 3 }
  const stage1 = {
    s1Fmt: 3,
    s1ContextPtr: 0xff_ffff_ffff_ffc0n,
    s1CdMax: 31,
    s1Dss: 3,
    s1Cir: 3,
    s1Cor: 3,
    s1Csh: 3,
    s1Stalld: 1,
  }
  test.each([
    ['bypass', CONFIG.bypass, CONFIG.s2, attributes],
    ['stage 1', CONFIG.s1, CONFIG.nested, { ...attributes, ...stage1 }],
  ])('all bits of %s set: only what is listed reaches the hardware', (_, config, becomes, passes) => {
    const ones = 0xffff_ffff_ffff_ffffn
    host.attach(SID, [(ones & ~0xen) | ste({ v: 0, config })[0], ones, ones, ones, ones, ones, ones, ones])
    const [word0, word1] = ste({ ...passes, config: becomes, shCfg: 1 })
    expect(shadowSte(bench, SID)).toEqual([word0, word1, stage2(), ttb(), 0n, 0n, 0n, 0n])
  })

  test.each([
    ['stage 2', STE.s2],
    ['nested', STE.nested],
  ])('%s is refused: dropped, warned of, and the entry is forgotten', (_, words) => {
    host.attach(SID, STE.bypass)
    bench.hw.takeCommands()
    host.attach(SID, words)
    expect(bench.report.warnings).toMatchObject([{ code: 'HYP_CFGI_STE', values: [SID, 1, EINVAL] }])
    expect(shadowSte(bench, SID)).toEqual([])
    expect(bench.hyp.streams()).toEqual([])
    // Word 0, what follows it, and the L2 table, each with a CFGI; then the host's own.
    expect(bench.hw.takeCommands()).toEqual(['CFGI_STE', 'SYNC', 'CFGI_STE', 'SYNC', 'CFGI_STE', 'SYNC', 'SYNC'])
  })

  test('stage 2 fields say what the idmap is', () => {
    host.attach(SID, STE.s1)
    const [, , word2, word3] = shadowSte(bench, SID)
    const field = (mask: bigint) => fieldGet64(mask, (word2 & s.STRTAB_STE_2_VTCR) >> 32n)
    expect(fieldGet64(s.STRTAB_STE_2_S2VMID, word2)).toBe(0)
    expect(field(s.STRTAB_STE_2_VTCR_S2T0SZ)).toBe(64 - 44)
    expect(field(s.STRTAB_STE_2_VTCR_S2SL0)).toBe(2)
    expect(field(s.STRTAB_STE_2_VTCR_S2IR0)).toBe(1)
    expect(field(s.STRTAB_STE_2_VTCR_S2OR0)).toBe(1)
    expect(field(s.STRTAB_STE_2_VTCR_S2SH0)).toBe(3)
    expect(field(s.STRTAB_STE_2_VTCR_S2TG)).toBe(0)
    expect(field(s.STRTAB_STE_2_VTCR_S2PS)).toBe(4)
    for (const flag of [s.STRTAB_STE_2_S2AA64, s.STRTAB_STE_2_S2PTW, s.STRTAB_STE_2_S2R]) {
      expect(word2 & flag).toBe(flag)
    }
    expect(word2 & (s.STRTAB_STE_2_S2ENDI | s.STRTAB_STE_2_S2S)).toBe(0n)
    expect(Number(word3)).toBe(bench.hyp.idmapInfo?.vttbr)
    expect(Number(word3)).toBeGreaterThanOrEqual(CARVEOUT_BASE)
  })

  test('an SMMU that only walks big-endian tables gets S2ENDI', () => {
    start({ ids: [{ idr0: QEMU.idr0 & ~r.IDR0_TTENDIAN }] })
    host.attach(SID, STE.s1)
    expect(shadowSte(bench, SID)[2] & s.STRTAB_STE_2_S2ENDI).toBe(0n)
    start({ ids: [{ idr0: (QEMU.idr0 & ~r.IDR0_TTENDIAN) | fieldPrep(r.IDR0_TTENDIAN, r.IDR0_TTENDIAN_BE) }] })
    host.attach(SID, STE.s1)
    expect(shadowSte(bench, SID)[2] & s.STRTAB_STE_2_S2ENDI).toBe(s.STRTAB_STE_2_S2ENDI)
  })
})

describe('order of writes', () => {
  const invalidate = [`CFGI_STE ${SID} leaf 1`, 'SYNC']
  const s1 = { config: CONFIG.s1, s1ContextPtr: 0x4140_0000, s1Cir: 1, s1Cor: 1, s1Csh: 3, shCfg: 1 }
  const kinds = {
    invalid: STE.invalid,
    abort: STE.abort,
    reserved: ste({ config: 2 }),
    bypass: STE.bypass,
    'bypass, attributes': ste({ config: CONFIG.bypass, shCfg: 1, mtCfg: 1, memAttr: 5 }),
    s1: STE.s1,
    's1, other CD': ste({ ...s1, s1ContextPtr: 0x4150_0000 }),
    's1, SSIDs': ste({ ...s1, s1Fmt: 1, s1CdMax: 6, s1Dss: 2 }),
    's1, SSIDs, DSS bypass': ste({ ...s1, s1Fmt: 1, s1CdMax: 6, s1Dss: 1 }),
    's1, SSIDs, DSS terminate': ste({ ...s1, s1Fmt: 1, s1CdMax: 6, s1Dss: 0 }),
    's1, other CD and attributes': ste({ ...s1, s1ContextPtr: 0x4150_0000, mtCfg: 1, memAttr: 5 }),
  }
  type Kind = keyof typeof kinds
  const names = Object.keys(kinds) as Kind[]
  const rows = names.flatMap(from => names.map(to => ({ from, to })))
  const stopping: readonly Kind[] = ['invalid', 'abort', 'reserved']
  const bypassing: readonly Kind[] = ['bypass', 'bypass, attributes']

  /** By server/hypervisor/README.md, section 7.3. */
  function order(from: Kind, to: Kind): string[] {
    const [a, b] = [kinds[from], kinds[to]]
    if (stopping.includes(from) && stopping.includes(to)) return ['words 1-7', 'word 0', ...invalidate]
    if (stopping.includes(from)) return ['words 1-7', ...invalidate, 'word 0', ...invalidate]
    if (stopping.includes(to)) return ['word 0', ...invalidate, 'words 1-7', ...invalidate]
    if (a[0] === b[0] || a[1] === b[1]) return ['words 1-7', 'word 0', ...invalidate]
    const same = (a[1] & ~0xffn) === (b[1] & ~0xffn)
    if (same && bypassing.includes(from)) return ['words 1-7', ...invalidate, 'word 0', ...invalidate]
    if (same && bypassing.includes(to)) return ['word 0', ...invalidate, 'words 1-7', ...invalidate]
    return ['word 0', ...invalidate, 'words 1-7', ...invalidate, 'word 0', ...invalidate]
  }

  test.each(rows)('$from → $to', ({ from, to }) => {
    host.attach(SID, kinds[from])
    const address = shadowSteAddress(bench, SID)
    const log = bench.record()
    host.attach(SID, kinds[to])
    expect(bench.report.take()).toEqual([])
    // The last pair is the host's own.
    expect(seen(log, address)).toEqual([...order(from, to), ...invalidate])
    expect(shadowSte(bench, SID)[0] & 1n).toBe(to === 'invalid' ? 0n : 1n)
  })

  /** What an entry does to transactions: its bits, without those that its Config makes no use of. */
  function effect(words: readonly bigint[]): string {
    const config = (words[0] >> 1n) & 7n
    if ((words[0] & 1n) === 0n || config < 4n) return 'abort'
    const [word0, word1, ...rest] = words
    // Without stage 1: V and Config; S1DSS to S1CSH, S1STALLD and STRW are ignored.
    return config & 1n ? words.join() : [word0 & 0xfn, word1 & ~0xc800_00ffn, ...rest].join()
  }

  /** All entries that consist of one of the values of each word. */
  const mixes = (values: readonly ReadonlySet<bigint>[]): bigint[][] =>
    values.reduce<bigint[][]>((all, word) => all.flatMap(mix => [...word].map(value => [...mix, value])), [[]])

  // No order of the words of a fetch is promised, nor that they are read at one time (IHI 0070 section 3.21.3).
  test.each(rows)(
    '$from → $to: whatever mixture of words is fetched, it does what one of them does, or aborts',
    ({ from, to }) => {
      host.attach(SID, kinds[from])
      const address = shadowSteAddress(bench, SID)
      const old = shadowSte(bench, SID)
      const standing = [...old]
      const log = bench.record()
      host.attach(SID, kinds[to])
      const allowed = new Set(['abort', effect(old), effect(shadowSte(bench, SID))])
      let values = standing.map(word => new Set([word]))
      let invalidated = false
      for (const entry of log) {
        if (entry.what === 'cmd') {
          // After CFGI_STE and CMD_SYNC nothing is left of what was fetched before.
          if ((entry.words[0] & 0xff) === 3) invalidated = true
          else if (invalidated) {
            values = standing.map(word => new Set([word]))
            invalidated = false
          }
        } else if (entry.what === 'mem' && entry.address >= address && entry.address < address + 64) {
          invalidated = false
          const stored = new BigUint64Array(entry.bytes.slice().buffer)
          for (const [i, word] of stored.entries()) {
            const at = (entry.address - address) / 8 + i
            standing[at] = word
            values[at].add(word)
          }
          for (const mix of mixes(values)) expect(allowed).toContain(effect(mix))
        }
      }
      expect(standing).toEqual(shadowSte(bench, SID))
    },
  )

  test.each(rows)(
    '$from → $to: whatever the hardware fetches meanwhile is an entry that the architecture knows',
    ({ from, to }) => {
      host.attach(SID, kinds[from])
      const address = shadowSteAddress(bench, SID)
      const standing = new Uint8Array(BigUint64Array.from(bench.memory.peekWords(address, 8)).buffer)
      const features = decodeFeatures(QEMU)
      const log = bench.record()
      host.attach(SID, kinds[to])
      for (const entry of log) {
        if (entry.what !== 'mem' || entry.address < address || entry.address >= address + 64) continue
        standing.set(entry.bytes, entry.address - address)
        const valid = ((standing[0] ?? 0) & 1) !== 0
        const known = decodeSte(new Uint32Array(standing.buffer), features, false) !== undefined
        expect(!valid || known, `after the write at +${entry.address - address}`).toBe(true)
      }
    },
  )

  test('an update that the hardware does not confirm is not finished by whoever takes over', () => {
    host.attach(SID, STE.invalid)
    bench.hw.stuck = true
    host.attach(SID, STE.bypass)
    expect(bench.report.take()).toContain('HYP_CFGI_STE')
    expect(bench.hyp.streams().map(({ sid }) => sid)).toEqual([])
    bench.hw.stuck = false
    bench.hw.consume()
    const checkpoint = bench.hyp.checkpoint().slice()
    const next = new Hypervisor(bench.machine, {
      options: { waitPolls: 50 },
      report: bench.report,
      clock: () => bench.now++,
    })
    next.restore(checkpoint)
    next.resume()
    expect(shadowSte(bench, SID)[0] & 1n).toBe(0n)
  })

  test('more streams than a checkpoint can hold are refused, known ones are not', () => {
    start({}, 16)
    const { streams } = bench.hyp.smmus[0]?.shadowStrtab ?? { streams: new Map() }
    host.attach(SID, STE.s1)
    for (let sid = 0x1_0000; streams.size < MAX_STREAMS; sid++) streams.set(sid, { ...streams.get(SID), sid } as never)
    host.attach(SID + 1, STE.bypass)
    expect(bench.report.take()).toEqual(['HYP_CFGI_STE'])
    host.attach(SID, STE.bypass)
    expect(bench.report.take()).toEqual([])
    expect(bench.hyp.checkpoint().length).toBeLessThan(MAX_CHECKPOINT - 150_000)
  })

  test('the first entry of an L2 table: the table is there, all invalid, before the hardware can find it', () => {
    host.l1(SID)
    host.ste(SID, STE.s1)
    const log = bench.record()
    host.cfgiSte(SID)
    const address = shadowSteAddress(bench, SID)
    const l1 = Number(bench.hw.get64(r.ARM_SMMU_STRTAB_BASE) & 0xff_ffff_ffff_ffc0n) + 8 * (SID >>> 8)
    const table = address - 64 * (SID & 0xff)
    expect(table % 16384).toBe(0)
    const writes = log.flatMap(entry => (entry.what === 'mem' ? [[entry.address, entry.bytes.length]] : []))
    const installed = writes.findIndex(([at]) => at === l1)
    expect(writes[installed][1]).toBe(8)
    expect(writes.findIndex(([at]) => at === table)).toBeLessThan(installed)
    expect(writes.findIndex(([at]) => at === address + 8)).toBeGreaterThan(installed)
    expect(Number(bench.memory.peek64(l1) & 0x1fn)).toBe(9)
  })

  test('the same entry again is written again', () => {
    host.attach(SID, STE.s1)
    const log = bench.record()
    host.cfgiSte(SID)
    expect(seen(log, shadowSteAddress(bench, SID))).toEqual(['words 1-7', 'word 0', ...invalidate, ...invalidate])
  })

  const [invalid, abort] = [0n, 1n]
  test.each([
    ['invalid → valid stays invalid', STE.invalid, STE.s1, invalid],
    ['valid → invalid is invalid at once', STE.s1, STE.invalid, invalid],
    ['abort → valid goes on to abort', STE.abort, STE.s1, abort],
    ['valid → abort aborts at once', STE.s1, STE.abort, abort],
  ])('a hardware that does not take the invalidation: %s, also after a take-over', (_, from, to, word0) => {
    host.attach(SID, from)
    bench.hw.stuck = true
    host.attach(SID, to)
    expect(bench.report.warnings.find(({ code }) => code === 'HYP_CFGI_STE')?.values).toEqual([SID, 1, ETIMEDOUT])
    expect(shadowSte(bench, SID)[0]).toBe(word0)
    // It stands still for whoever takes over as well.
    const next = successor(bench)
    next.restore(bench.hyp.checkpoint().slice())
    next.resume()
    expect(shadowSte(bench, SID)[0]).toBe(word0)
  })
})

describe('refused', () => {
  function refused(sid: number, error: number, leaf = 1): void {
    const pages = bench.hyp.pool.used
    bench.report.streams = []
    host.cfgiSte(sid, leaf)
    expect(bench.report.warnings).toMatchObject([{ code: 'HYP_CFGI_STE', values: [sid, leaf, error] }])
    expect(bench.hw.takeCommands()).toEqual(['SYNC'])
    expect(bench.hyp.pool.used).toBe(pages)
    expect(bench.report.streams).toEqual([])
    bench.report.take()
  }

  test('leaf = 0', () => {
    host.l1(SID)
    host.ste(SID, STE.s1)
    refused(SID, EINVAL, 0)
  })

  test('SMMUEN = 0', () => {
    host.l1(SID)
    host.ste(SID, STE.s1)
    bench.write(r.ARM_SMMU_CR0, r.CR0_CMDQEN | r.CR0_EVTQEN)
    refused(SID, ENODEV)
  })

  test.each([0x1_0000, 0x1_0108, 0x7fff_ffff, 0xffff_ffff])('StreamID 0x%s, beyond the table', sid => {
    refused(sid, ERANGE)
  })

  test('StreamIDs beyond a small table of the host', () => {
    bench.write(r.ARM_SMMU_CR0, r.CR0_CMDQEN | r.CR0_EVTQEN)
    bench.write(r.ARM_SMMU_STRTAB_BASE_CFG, twoLevelCfg(9))
    bench.write(r.ARM_SMMU_CR0, r.CR0_CMDQEN | r.CR0_EVTQEN | r.CR0_SMMUEN)
    host.attach(0x1ff, STE.s1)
    expect(bench.report.take()).toEqual([])
    bench.hw.takeCommands()
    refused(0x200, ERANGE)
  })

  test('a table of the host that is larger than the StreamIDs of the SMMU', () => {
    bench.write(r.ARM_SMMU_CR0, r.CR0_CMDQEN | r.CR0_EVTQEN)
    bench.write(r.ARM_SMMU_STRTAB_BASE_CFG, twoLevelCfg(25))
    bench.write64(r.ARM_SMMU_STRTAB_BASE, HOST_STRTAB)
    bench.write(r.ARM_SMMU_CR0, r.CR0_CMDQEN | r.CR0_EVTQEN | r.CR0_SMMUEN)
    expect(bench.report.take()).toEqual([])
    bench.hw.takeCommands()
    refused(0x1_0000, ERANGE)
    refused(0x1ff_ffff, ERANGE)
  })

  test('an L1 descriptor with span 0', () => {
    refused(SID, ENOENT)
    host.l1(SID, HOST_L2, 0)
    refused(SID, ENOENT)
  })

  test.each([10, 11, 12, 31])('a span of %i, more than SPLIT allows', span => {
    host.l1(SID, HOST_L2, span)
    refused(SID, ENOENT)
  })

  test('an index beyond the span', () => {
    host.l1(SID, HOST_L2, 4)
    host.ste(0x107, STE.s1)
    refused(0x108, ENOENT)
    host.cfgiSte(0x107)
    expect(bench.report.take()).toEqual([])
  })

  const places: [string, number, number][] = [
    ['zero', 0, EFAULT],
    ['on MMIO', 0x0905_0000, EFAULT],
    ['above RAM', RAM_BASE + RAM_SIZE, EFAULT],
    ['at the end of RAM, in hypervisor memory', RAM_BASE + RAM_SIZE - 16384, EPERM],
    ['in hypervisor memory', CARVEOUT_BASE, EPERM],
    ['in the middle of hypervisor memory', CARVEOUT_BASE + CARVEOUT_SIZE / 2, EPERM],
    ['the command queue', HOST_CMDQ, EPERM],
    ['the L1 table itself', HOST_STRTAB, EPERM],
    ['at 2^52', 2 ** 52, EFAULT],
  ]
  test.each(places)('an L2 table at %s', (_, address, error) => {
    host.l1(SID, address)
    refused(SID, error)
  })

  test('a page of a VM', () => {
    expect(bench.hyp.donate(HOST_L2 + 0x2000, 4096, 5)).toBe(0)
    bench.hw.takeCommands()
    host.l1(SID)
    refused(SID, EPERM)
  })

  test('no memory for the shadow L2 table; entries of tables that exist still work', () => {
    start({ options: { poolPages: 54 } })
    host.attach(0x0, STE.s1)
    expect(bench.report.take()).toEqual([])
    bench.hyp.pool.limit = bench.hyp.pool.used + 3
    bench.hw.takeCommands()
    host.l1(SID)
    refused(SID, ENOMEM)
    expect(bench.hyp.pool.failures).toBeGreaterThan(0)
    host.attach(0x1, STE.s1)
    expect(bench.report.take()).toEqual([])
  })
})

describe('the host', () => {
  test('L2 pages are shared for the time of the copy only', () => {
    const states: number[] = []
    bench.memory.beforeRead = address => {
      if (address >= HOST_L2 && address < HOST_L2 + 16384) states.push(bench.hyp.ownership.stateAt(address))
    }
    host.attach(SID, STE.s1)
    expect(states).toEqual([PAGE_SHARED])
    expect(bench.hyp.ownership.stateAt(HOST_L2)).toBe(PAGE_OWNED)
  })

  test.each([1, 2, 5, 7, 8, 9])('span %i: the pages of that L2 table', span => {
    host.l1(0x100, HOST_L2, span)
    host.ste(0x100, STE.s1)
    bench.report.operations = []
    host.cfgiSte(0x100)
    const size = Math.max(4096, 64 * 2 ** (span - 1))
    expect(bench.report.operations).toMatchObject([
      { base: HOST_L2, size },
      { base: HOST_L2, size },
    ])
    expect(bench.report.take()).toEqual([])
  })

  test('L1 descriptor and entry are read once, and used as they were read', () => {
    host.l1(SID)
    host.ste(SID, STE.bypass)
    const reads: number[] = []
    bench.memory.afterRead = (address, length) => {
      if (address >= CARVEOUT_BASE || address < HOST_STRTAB) return
      reads.push(length)
      // What is looked at twice would be something else the second time.
      if (address < HOST_L2) host.l1(SID, CARVEOUT_BASE)
      else host.ste(SID, STE.nested)
    }
    host.cfgiSte(SID)
    expect(reads).toEqual([8, 64])
    expect(bench.report.take()).toEqual([])
    expect(shadowSte(bench, SID)[0]).toBe(ste({ config: CONFIG.s2 })[0])
  })

  test("writes to the host's memory never happen", () => {
    bench.memory.onWrite = address => expect(address).toBeGreaterThanOrEqual(CARVEOUT_BASE)
    for (const words of [STE.s1, STE.abort, STE.bypass, STE.invalid, STE.nested]) host.attach(SID, words)
  })
})

describe('linear table', () => {
  beforeEach(() => start({ ids: [{ idr1: (QEMU.idr1 & ~r.IDR1_SIDSIZE) | 8 }] }, 8))

  test.each([0, 1, 0x80, 0xff])('StreamID %i', sid => {
    const words = Array.from({ length: 8 }, (_, i) => STE.s1[i] ?? 0n)
    bench.memory.poke64(HOST_STRTAB + 64 * sid, ...words)
    host.cfgiSte(sid)
    expect(bench.report.take()).toEqual([])
    expect(shadowSte(bench, sid)[0]).toBe(ste({ config: CONFIG.nested, s1ContextPtr: 0x4140_0000 })[0])
  })

  test('beyond the table', () => {
    host.cfgiSte(0x100)
    expect(bench.report.warnings).toMatchObject([{ values: [0x100, 1, ERANGE] }])
  })
})

test('the streams can be asked for', () => {
  host.attach(SID, STE.s1)
  host.attach(9, STE.bypass)
  const [first, second] = bench.hyp.streams()
  expect(first).toMatchObject({ smmu: 0, sid: 9 })
  expect(first.host[0]).toBe(9n)
  expect(first.shadow[0]).toBe(13n)
  expect(second.sid).toBe(SID)
  expect([...second.shadow]).toEqual(shadowSte(bench, SID))
  expect(second.trap).toBeGreaterThan(0)
  expect(bench.hyp.smmus[0].shadowStrtab.read(0x500)).toBeNull()
  expect(bench.hyp.smmus[0].shadowStrtab.read(0x1_0000)).toBeNull()
})
