// SPDX-License-Identifier: Apache-2.0
/**
 * Whatever an SMMU without stage 2 lets a host do, it does the same with the hypervisor: registers, queues, and where devices get to;
 * and no device ever reaches a page that is not the host's (server/hypervisor/README.md, section 18).
 */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { OK } from '../../../../server/policy/result.ts'
import * as r from '../../../../server/smmu/registers.ts'
import type { SoftSmmuOptions } from '../../../../server/smmu/soft/options.ts'
import { CFGI_ALL, CONFIG, command, linearCfg, SYNC, ste, twoLevelCfg } from '../../smmu/fields.ts'
import { CARVEOUT_BASE, MiB, RAM_BASE } from '../pkvm/support.ts'
import { Beside, CMDQ_LOG2, EVTQ_LOG2, PLACE, putStage1, told, transaction } from './support.ts'

const SIDS = [0, 1, 7, 8, 63, 64, 255, 256, 300, 1023, 1024, 4095] as const
const PAGES = 16
const CMDQ_ENTRIES = 2 ** CMDQ_LOG2

/** A table of a host: 0 is a linear one. */
const TABLES = [
  { split: 0, log2size: 3, where: PLACE.linear },
  { split: 0, log2size: 9, where: PLACE.strtab },
  { split: 0, log2size: 12, where: PLACE.strtab },
  { split: 6, log2size: 9, where: PLACE.strtab },
  { split: 8, log2size: 12, where: PLACE.strtab },
  { split: 10, log2size: 12, where: PLACE.strtab },
] as const
type Table = (typeof TABLES)[number]

const entry = fc.oneof(
  { weight: 4, arbitrary: fc.constant(ste({ config: CONFIG.bypass, shCfg: 1 })) },
  {
    weight: 4,
    arbitrary: fc.constant(ste({ config: CONFIG.s1, s1ContextPtr: PLACE.cd, s1Cir: 1, s1Cor: 1, s1Csh: 3 })),
  },
  { weight: 1, arbitrary: fc.constant(ste({ config: CONFIG.abort })) },
  { weight: 1, arbitrary: fc.constant(ste({ v: 0 })) },
  {
    weight: 1,
    arbitrary: fc.constant(ste({ config: CONFIG.s2, s2Aa64: 1, s2T0sz: 25, s2Sl0: 1, s2Ps: 2, s2ttb: PLACE.tables })),
  },
  { weight: 1, arbitrary: fc.constant(ste({ config: CONFIG.nested, s1ContextPtr: PLACE.cd })) },
  // Fields of stage 2, EL2, ATS and the security state, which mean nothing to this host.
  {
    weight: 2,
    arbitrary: fc
      .record({
        config: fc.constantFrom(CONFIG.bypass, CONFIG.s1),
        strw: fc.constantFrom(0, 2),
        eats: fc.nat(3),
        nsCfg: fc.nat(3),
        s2Vmid: fc.nat(0xffff),
        s2ttb: fc.constantFrom(CARVEOUT_BASE, PLACE.tables),
        s2S: fc.nat(1),
        s2Ha: fc.nat(1),
        cont: fc.nat(15),
      })
      .map(fields => ste({ ...fields, s1ContextPtr: PLACE.cd })),
  },
)

const sid = fc.constantFrom(...SIDS)
const tell = fc.constantFrom('leaf', 'not leaf', 'range', 'all')
const step = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({ do: fc.constant('entry' as const), sid, words: entry, tell, halves: fc.boolean() }),
  },
  {
    weight: 10,
    arbitrary: fc.record({ do: fc.constant('dma' as const), sid, page: fc.nat(PAGES - 1), mapped: fc.boolean() }),
  },
  {
    weight: 3,
    arbitrary: fc.record({ do: fc.constant('cr0' as const), value: fc.nat(15).map(bits => bits & ~r.CR0_PRIQEN) }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant('table' as const),
      table: fc.constantFrom(...TABLES),
      halves: fc.boolean(),
    }),
  },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('queue' as const), halves: fc.boolean() }) },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant('illegal' as const),
      opcode: fc.constantFrom(0, 0x20, 0x28, 0x2a, 0x40, 0x41, 0x70),
    }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('cr1' as const), value: fc.nat(0xfff) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('cr2' as const), value: fc.nat(15) }) },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constant('reserved' as const),
      offset: fc.constantFrom(0x30, 0x48, 0x100, 0x130, 0x4000, 0x68, 0xb0, 0xc0),
    }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('donate' as const), page: fc.nat(PAGES - 1) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('reclaim' as const), page: fc.nat(PAGES - 1) }) },
)
type Step = typeof step extends fc.Arbitrary<infer T> ? T : never

/** Registers that read the same. */
const SAME = [
  ['CR0', r.ARM_SMMU_CR0],
  ['CR0ACK', r.ARM_SMMU_CR0ACK],
  ['CR1', r.ARM_SMMU_CR1],
  ['CR2', r.ARM_SMMU_CR2],
  ['GERROR', r.ARM_SMMU_GERROR],
  ['GERRORN', r.ARM_SMMU_GERRORN],
  ['STRTAB_BASE', r.ARM_SMMU_STRTAB_BASE],
  ['STRTAB_BASE_CFG', r.ARM_SMMU_STRTAB_BASE_CFG],
  ['CMDQ_BASE', r.ARM_SMMU_CMDQ_BASE],
  ['CMDQ_PROD', r.ARM_SMMU_CMDQ_PROD],
  ['CMDQ_CONS', r.ARM_SMMU_CMDQ_CONS],
  ['EVTQ_BASE', r.ARM_SMMU_EVTQ_BASE],
] as const

/** Outcomes that a host cannot tell apart by more than the kind of event, or whether there is one. */
const NO_ENTRY = ['C_BAD_STE', 'C_BAD_STREAMID']

class Compared extends Beside {
  #table: Table = TABLES[0]
  #prod = 0
  /** Streams whose entry was stored, and not told of: what hardware has of it is anybody's guess. */
  readonly #untold = new Set<number>()
  readonly #donated = new Set<number>()

  constructor(soft: SoftSmmuOptions = {}) {
    super({}, soft)
    putStage1(this.bench)
    this.#program(this.#table, false)
    this.#queue(false)
    this.write64(r.ARM_SMMU_EVTQ_BASE, PLACE.evtq, EVTQ_LOG2, false)
  }

  #on(bits: number): boolean {
    return (this.bench.read(r.ARM_SMMU_CR0) & bits) !== 0
  }

  #program(table: Table, halves: boolean): void {
    this.#table = table
    const { split, log2size, where } = table
    // What stood there was of another table.
    const { memory } = this.bench
    memory.poke(where, new Uint8Array(split === 0 ? 64 * 2 ** log2size : 8 * 2 ** (log2size - split)))
    memory.poke(PLACE.l2, new Uint8Array(64 * 4096))
    this.write64(r.ARM_SMMU_STRTAB_BASE, where, 0, halves)
    this.write(r.ARM_SMMU_STRTAB_BASE_CFG, split === 0 ? linearCfg(log2size) : twoLevelCfg(log2size, split))
  }

  #queue(halves: boolean): void {
    this.#prod = 0
    this.write64(r.ARM_SMMU_CMDQ_BASE, PLACE.cmdq, CMDQ_LOG2, halves)
    this.write(r.ARM_SMMU_CMDQ_PROD, 0)
    this.write(r.ARM_SMMU_CMDQ_CONS, 0)
  }

  #store(sid: number, words: readonly bigint[]): void {
    const { memory } = this.bench
    const { split, where } = this.#table
    if (split === 0) return memory.poke64(where + 64 * sid, ...words)
    const l2 = PLACE.l2 + (sid >>> split) * 2 ** (split + 6)
    memory.poke64(l2 + 64 * (sid % 2 ** split), ...words)
    memory.poke64(where + 8 * (sid >>> split), BigInt(l2 + split + 1))
  }

  /** @returns whether they were carried out */
  #commands(...commands: readonly (readonly number[])[]): boolean {
    const [cons] = this.read(r.ARM_SMMU_CMDQ_CONS)
    const used = (this.#prod - (cons & 0xf_ffff) + 2 * CMDQ_ENTRIES) % (2 * CMDQ_ENTRIES)
    if (used + commands.length > CMDQ_ENTRIES) return false
    for (const words of commands) {
      const at = PLACE.cmdq + 16 * (this.#prod % CMDQ_ENTRIES)
      this.bench.memory.poke(at, new Uint8Array(Uint32Array.from(words).buffer))
      this.#prod = (this.#prod + 1) % (2 * CMDQ_ENTRIES)
    }
    this.write(r.ARM_SMMU_CMDQ_PROD, this.#prod)
    this.settle()
    return this.#on(r.CR0_CMDQEN) && this.read(r.ARM_SMMU_CMDQ_CONS)[0] === this.#prod
  }

  /** Late hardware is late without a hypervisor, too, and not at the same time. */
  settle(): void {
    for (const smmu of [this.bench.hw, ...this.bare]) smmu.step()
  }

  /** Goes on after errors, as a driver does: the command is replaced. */
  #acknowledge(): void {
    for (let i = 0; i < CMDQ_ENTRIES; i++) {
      const [gerror] = this.read(r.ARM_SMMU_GERROR)
      const [gerrorn] = this.read(r.ARM_SMMU_GERRORN)
      if (((gerror ^ gerrorn) & r.GERROR_CMDQ_ERR) === 0) return
      const [cons] = this.read(r.ARM_SMMU_CMDQ_CONS)
      this.bench.memory.poke(PLACE.cmdq + 16 * (cons % CMDQ_ENTRIES), new Uint8Array(Uint32Array.from(SYNC).buffer))
      this.write(r.ARM_SMMU_GERRORN, gerror)
      this.settle()
    }
  }

  run(what: Step): void {
    const { hyp } = this.bench
    const page = (index: number) => PLACE.data + 4096 * index
    switch (what.do) {
      case 'entry': {
        if (what.sid >= 2 ** this.#table.log2size) return
        this.#store(what.sid, what.words)
        const { sid } = what
        const told = {
          leaf: command('CFGI_STE', { sid, leaf: 1 }),
          'not leaf': command('CFGI_STE', { sid, leaf: 0 }),
          range: command('CFGI_STE_RANGE', { sid, range: 3 }),
          all: CFGI_ALL,
        }
        // A new L2 table has to be told of as such; what an entry led to as well.
        const first = this.#table.split === 0 || what.tell !== 'leaf' ? [] : [told['not leaf']]
        this.#untold.add(sid)
        const tlbi = [command('CFGI_CD_ALL', { sid }), command('TLBI_NH_ALL'), SYNC]
        if (this.#commands(...first, told[what.tell], ...tlbi)) this.#untold.delete(sid)
        break
      }
      case 'dma':
        this.#dma(what.sid, what.mapped ? 4096 * what.page : page(what.page))
        break
      case 'cr0': {
        // A table or queue that is not right is another matter.
        this.#acknowledge()
        const rises = what.value & ~this.bench.read(r.ARM_SMMU_CR0)
        this.write(r.ARM_SMMU_CR0, what.value)
        if ((rises & r.CR0_SMMUEN) !== 0) this.#untold.clear()
        // What was cached before is the driver's to invalidate.
        if ((rises & r.CR0_SMMUEN) !== 0 && this.#on(r.CR0_CMDQEN)) {
          this.#commands(CFGI_ALL, command('TLBI_NSNH_ALL'), SYNC)
        }
        break
      }
      case 'table':
        if (!this.#on(r.CR0_SMMUEN)) this.#program(what.table, what.halves)
        break
      case 'queue':
        if (!this.#on(r.CR0_CMDQEN)) this.#queue(what.halves)
        break
      case 'illegal':
        this.#commands(command(what.opcode), SYNC)
        break
      case 'cr1':
        this.write(r.ARM_SMMU_CR1, what.value)
        break
      case 'cr2':
        this.write(r.ARM_SMMU_CR2, what.value)
        break
      case 'reserved':
        this.write(what.offset, 0xffff_ffff)
        expect(this.read(what.offset)).toEqual([0, 0])
        break
      case 'donate':
        this.#acknowledge()
        if (hyp.donate(page(what.page), 4096, 1) === OK) this.#donated.add(page(what.page))
        break
      case 'reclaim':
        if (hyp.reclaim(page(what.page), 4096, 1) === OK) this.#donated.delete(page(what.page))
        break
    }
  }

  #dma(sid: number, address: number): void {
    const t = transaction(sid, address)
    const direct = told(this.bench.hw.translate(t))
    for (const page of this.#donated) expect(direct).not.toBe(page.toString(16))
    if (!this.#on(r.CR0_SMMUEN)) {
      // Without the hypervisor it would pass.
      expect(direct).toBe('abort')
      return
    }
    const both = this.translate(t)
    if (both === undefined || this.#untold.has(sid)) return
    const [here, bare] = both
    if (this.#donated.has(Number.parseInt(bare, 16))) expect(here).toBe('F_TRANSLATION')
    else if (NO_ENTRY.includes(here)) {
      const small = this.#table.log2size <= 10
      expect(small ? NO_ENTRY : [...NO_ENTRY, 'abort']).toContain(bare)
    } else expect(here).toBe(bare)
  }

  check(): void {
    for (const [name, offset] of SAME) {
      const [here, bare] = this.read(offset)
      expect([name, here.toString(16)]).toEqual([name, bare.toString(16)])
    }
    expect(this.bench.report.take().filter(code => code !== 'HYP_CMDQ_STOPPED')).toEqual([])
  }
}

const steps = fc.array(step, { minLength: 5, maxLength: 60 })

test.each<[string, SoftSmmuOptions]>([
  ['hardware that is prompt', {}],
  ['hardware that takes its time', { lag: { update: () => 2, early: () => false, command: () => 1 } }],
])('the host’s view is that of an SMMU without stage 2: %s', (_name, soft) => {
  fc.assert(
    fc.property(steps, steps => {
      const compared = new Compared(soft)
      for (const what of steps) {
        compared.run(what)
        compared.settle()
        compared.check()
      }
    }),
    { numRuns: 150 },
  )
})

test('hypervisor memory is out of reach, whatever the entries say', () => {
  fc.assert(
    fc.property(fc.array(fc.tuple(sid, entry), { maxLength: 8 }), entries => {
      const compared = new Compared()
      for (const [sid, words] of entries) compared.run({ do: 'entry', sid, words, tell: 'all', halves: false })
      compared.run({ do: 'cr0', value: r.CR0_SMMUEN | r.CR0_CMDQEN })
      for (const sid of SIDS) {
        for (const address of [CARVEOUT_BASE, CARVEOUT_BASE + 5 * MiB, RAM_BASE + 32 * MiB - 8]) {
          const outcome = told(compared.bench.hw.translate(transaction(sid, address)))
          expect(outcome).toMatch(/^(F_TRANSLATION|abort|C_BAD_.*)$/)
        }
      }
    }),
    { numRuns: 50 },
  )
})
