// SPDX-License-Identifier: Apache-2.0
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { Field } from '../../../server/smmu/bits.ts'
import * as P from '../../../server/smmu/pagetable.ts'
import type { Caching } from '../../../server/smmu/soft/caches.ts'
import { SoftSmmu } from '../../../server/smmu/soft/softSmmu.ts'
import type { Outcome, Transaction } from '../../../server/smmu/transaction.ts'
import { Walker } from '../../../server/smmu/walker.ts'
import { C, Driver, R } from './driver.ts'
import { Random, randomAddress, randomMemory } from './random.ts'
import { linearRegisters, RAM_BASE, S1_RW, S2_RW, type Stage, transaction } from './support.ts'

const PAGES = 24
const BASE = 0x1f_8000
const FIRST_GLOBAL = 21
const RO1 = BigInt(P.ARM_LPAE_PTE_AP_RDONLY)
const GLOBAL = BigInt(P.ARM_LPAE_PTE_nG)
const WRITE2 = BigInt(P.ARM_LPAE_PTE_HAP_WRITE)

/** Streams 0 (stage 1), 1 (stage 2) and 2 (nested), whose tables change, always followed by what the architecture asks for. */
class World extends Driver {
  readonly #r: Random
  readonly walker: Walker
  readonly s1: readonly Stage[] = [this.stage(false, 39), this.stage(false, 39)]
  readonly s2: Stage = this.stage(true, 44)
  readonly cds = [this.alloc(64), this.alloc(64)]
  #free: number[] = []

  constructor(seed: number, caching: Caching) {
    super({ caching })
    this.#r = new Random(seed)
    this.map(this.s2, BigInt(RAM_BASE), BigInt(RAM_BASE), S2_RW, 1)
    for (const stage of [...this.s1, this.s2]) for (let i = 0; i < PAGES; i++) this.#leaf(stage, i)
    this.cds.forEach((_, n) => {
      this.#cd(n)
    })
    for (const sid of [0, 1, 2]) this.#ste(sid)
    this.on()
    this.walker = new Walker(this.smmu.features, this.memory)
    this.walker.setRegisters(linearRegisters(this.strtab, 4))
  }

  // Streams that share a VMID have the same stage 2, and those with the same VMID and ASID the same stage 1
  // (IHI 0070 section 5.2.1).
  #cd(n: number): void {
    const table = this.#r.below(2)
    this.cd({ t0: this.s1[table], asid: table + 1 }, this.cds[n])
  }

  #ste(sid: number): void {
    const config = [5, 6, 7][sid]
    this.ste({ config, cd: this.cds[this.#r.below(2)], stage2: this.s2, vmid: config }, this.strtab + 64 * sid)
  }

  /** A random leaf for page `i`: its place in the tables stays. */
  #leaf(stage: Stage, i: number): void {
    const r = this.#r
    const input = BigInt(BASE + i * 4096)
    const output = BigInt(stage.stage2 ? RAM_BASE + r.below(512) * 4096 : BASE + r.below(PAGES) * 4096)
    if (stage.stage2) this.map(stage, input, output, r.chance(20) ? S2_RW & ~WRITE2 : S2_RW)
    else this.map(stage, input, output, (r.chance(20) ? S1_RW | RO1 : S1_RW) & ~(i >= FIRST_GLOBAL ? GLOBAL : 0n))
    if (r.chance(15)) this.memory.set64(this.entry(stage, input), 0n)
    if (stage.stage2 || i < FIRST_GLOBAL) return
    // A global page is the same in every address space.
    const descriptor = this.memory.get64(this.entry(stage, input))
    for (const other of this.s1) this.memory.set64(this.entry(other, input), descriptor)
  }

  #post(opcode: number, address: number, ...fields: [Field, number][]): void {
    this.postRaw(opcode, address, ...fields)
    this.go()
  }

  /** Any one of the commands that are enough for pages `from` to `to` of the given VMIDs. */
  #invalidate1(asid: number, from: number, to: number, leafOnly: boolean): void {
    const r = this.#r
    const leaf: [Field, number] = [C.CMDQ_TLBI_1_LEAF, leafOnly && r.chance(70) ? 1 : 0]
    for (const vmid of [5, 7]) {
      const v: [Field, number] = [C.CMDQ_TLBI_0_VMID, vmid]
      const a: [Field, number] = [C.CMDQ_TLBI_0_ASID, asid]
      const opcode = r.pick([C.CMDQ_OP_TLBI_NH_VA, C.CMDQ_OP_TLBI_NH_VAA])
      switch (r.below(4)) {
        case 0:
          this.#post(C.CMDQ_OP_TLBI_NH_ALL, 0, v)
          break
        case 1: {
          const ttl = r.chance(50) ? 3 : 0
          const pages = Math.max(to - from + 1, ttl ? 1 : 2)
          const range: [Field, number][] = [
            [C.CMDQ_TLBI_1_TG, 1],
            [C.CMDQ_TLBI_1_TTL, ttl],
            [C.CMDQ_TLBI_0_NUM, pages - 1],
          ]
          this.#post(opcode, BASE + from * 4096, v, a, leaf, ...range)
          break
        }
        case 2:
          this.#post(C.CMDQ_OP_TLBI_S12_VMALL, 0, v)
          break
        default:
          for (let i = from; i <= to; i++) this.#post(opcode, BASE + i * 4096, v, a, leaf)
      }
    }
  }

  #invalidate2(from: number, to: number, leafOnly: boolean): void {
    const r = this.#r
    const leaf: [Field, number] = [C.CMDQ_TLBI_1_LEAF, leafOnly && r.chance(70) ? 1 : 0]
    for (const vmid of [6, 7]) {
      const v: [Field, number] = [C.CMDQ_TLBI_0_VMID, vmid]
      if (r.chance(30)) {
        this.#post(C.CMDQ_OP_TLBI_S12_VMALL, 0, v)
        continue
      }
      if (from < to && r.chance(50)) {
        this.#post(
          C.CMDQ_OP_TLBI_S2_IPA,
          BASE + from * 4096,
          v,
          leaf,
          [C.CMDQ_TLBI_1_TG, 1],
          [C.CMDQ_TLBI_0_NUM, to - from],
        )
      } else for (let i = from; i <= to; i++) this.#post(C.CMDQ_OP_TLBI_S2_IPA, BASE + i * 4096, v, leaf)
      this.#post(C.CMDQ_OP_TLBI_NH_ALL, 0, v)
    }
  }

  /** Changes something. The result is what has to follow before caches may be trusted again. */
  change(): () => void {
    const r = this.#r
    const kind = r.below(10)
    if (kind === 0) {
      const sid = r.below(3)
      this.#ste(sid)
      const all = r.chance(30)
      return () =>
        all
          ? this.#post(C.CMDQ_OP_CFGI_ALL, 0, [C.CMDQ_CFGI_1_RANGE, 31])
          : this.#post(C.CMDQ_OP_CFGI_STE, 0, [C.CMDQ_CFGI_0_SID, sid], [C.CMDQ_CFGI_1_LEAF, 1])
    }
    if (kind === 1) {
      this.#cd(r.below(2))
      const opcode = r.pick([C.CMDQ_OP_CFGI_CD, C.CMDQ_OP_CFGI_CD_ALL, C.CMDQ_OP_CFGI_STE])
      return () => {
        for (const sid of [0, 2]) this.#post(opcode, 0, [C.CMDQ_CFGI_0_SID, sid], [C.CMDQ_CFGI_1_LEAF, 1])
      }
    }
    const table = r.below(2)
    const stage = r.chance(50) ? this.s2 : this.s1[table]
    const from = r.below(PAGES)
    const to = Math.min(PAGES - 1, from + r.below(4))
    const replaced = kind === 2
    if (replaced) this.#replaceTable(stage, from)
    for (let i = from; i <= to; i++) this.#leaf(stage, i)
    // The pages span two tables: a replaced one concerns all pages of its half.
    const half = BASE + from * 4096 < 0x20_0000 ? [0, 7] : [8, PAGES - 1]
    const [first, last] = replaced ? [Math.min(from, half[0]), Math.max(to, half[1])] : [from, to]
    return () =>
      stage.stage2 ? this.#invalidate2(first, last, !replaced) : this.#invalidate1(table + 1, first, last, !replaced)
  }

  /** Moves the last level table of page `i` to another place, with the same contents. */
  #replaceTable(stage: Stage, i: number): void {
    const entry = this.entry(stage, BigInt(BASE + i * 4096), 2)
    const old = Number(this.memory.get64(entry) & 0xffff_ffff_f000n)
    const table = this.#free.pop() ?? this.alloc(4096)
    for (let at = 0; at < 4096; at += 8) this.memory.set64(table + at, this.memory.get64(old + at))
    this.memory.set64(entry, BigInt(table) | 3n)
    // What is left behind misleads whoever still uses it; it is not used again, because a stage 1 table of another
    // change could then be reached through it.
    for (let at = 0; at < 4096; at += 8) this.memory.set64(old + at, BigInt(RAM_BASE) | 0x7fcn | 3n)
  }

  access(): Transaction {
    const r = this.#r
    const address = BigInt(BASE + r.below(PAGES) * 4096 + r.below(4096))
    return transaction(r.below(3), address, { write: r.chance(40) })
  }
}

/** What software sees of an outcome. */
function essence(outcome: Outcome): unknown {
  if (outcome.kind !== 'translated') return outcome
  const { pa, read, write } = outcome
  return { pa, read, write }
}

describe.each<Caching>(['architectural', 'walks', 'maximal'])('SoftSmmu, %s', caching => {
  it('after the right invalidations is the same as a walker without caches', () => {
    const count = { stale: 0, fresh: 0 }
    fc.assert(
      fc.property(fc.nat(2 ** 31), seed => {
        const world = new World(seed, caching)
        for (let step = 0; step < 60; step++) {
          const seen: [Transaction, unknown][] = []
          for (let i = 0; i < 12; i++) {
            const t = world.access()
            const outcome = essence(world.smmu.translate(t))
            expect(outcome, `step ${step}: ${JSON.stringify(t)}`).toEqual(essence(world.walker.translate(t)))
            seen.push([t, outcome])
          }
          const settle = world.change()
          // Before the invalidation, what was translated is still translated the same way.
          for (const [t, before] of seen) {
            const cached = (before as { pa?: number }).pa !== undefined
            const now = essence(world.walker.translate(t))
            if (!cached || JSON.stringify(now) === JSON.stringify(before)) continue
            expect(essence(world.smmu.translate(t))).toEqual(before)
            count.stale++
          }
          settle()
          expect(world.read(R.ARM_SMMU_GERROR)).toBe(0)
          count.fresh++
        }
      }),
      { numRuns: 25 },
    )
    expect(count.stale).toBeGreaterThan(count.fresh / 10)
  })

  it('never throws and always ends, whatever is written to it and whatever its queues and tables hold', () => {
    fc.assert(
      fc.property(
        fc.nat(2 ** 31),
        fc.array(
          fc.record({
            offset: fc.oneof(fc.constantFrom(...R.REGISTERS.map(register => register.offset)), fc.nat(0x20010)),
            size: fc.constantFrom(4, 4, 4, 8, 8, 1, 2, 16),
            lo: fc.oneof(fc.nat(0xffff_ffff), fc.constantFrom(0, 1, 0xd, 0xf, 0x4000_0004, 0x4000_0013, 0x4001_0008)),
            hi: fc.oneof(fc.constant(0), fc.nat(0xffff_ffff)),
          }),
          { maxLength: 60 },
        ),
        (seed, writes) => {
          const { memory, inputBits } = randomMemory(seed)
          const r = new Random(seed)
          const smmu = new SoftSmmu(memory, { caching })
          const into = { lo: 0, hi: 0 }
          for (const { offset, size, lo, hi } of writes) {
            smmu.write(offset, size, lo, hi)
            smmu.read(offset, size, into)
            expect(into.lo >>> 0).toBe(into.lo)
            expect(into.hi >>> 0).toBe(into.hi)
            for (let i = 0; i < 3; i++)
              smmu.translate(transaction(r.below(5), randomAddress(r, inputBits), { write: r.chance(50) }))
          }
        },
      ),
      { numRuns: 80 },
    )
  })
})
