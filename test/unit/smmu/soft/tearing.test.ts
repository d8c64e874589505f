// SPDX-License-Identifier: Apache-2.0
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { SoftSmmu } from '../../../../server/smmu/soft/softSmmu.ts'
import { TornFetches } from '../../../../server/smmu/soft/tearing.ts'
import { C, R } from '../driver.ts'
import { FlatMemory, RAM_BASE, transaction } from '../support.ts'

const SID = 3
const STE = RAM_BASE + 64 * SID
const CMDQ = RAM_BASE + 0x1000
const EVTQ = RAM_BASE + 0x2000

/** An SMMU whose fetches are torn as `pick` says, a driver that stores words and says so, and what a fetch finds. */
class Torn {
  readonly memory = new FlatMemory(0x4000)
  readonly torn: TornFetches
  readonly smmu: SoftSmmu
  #prod = 0

  constructor(pick: (values: number) => number) {
    this.torn = new TornFetches(this.memory, pick)
    this.smmu = new SoftSmmu(this.memory, { torn: this.torn, caching: 'none' })
    this.smmu.write(R.ARM_SMMU_STRTAB_BASE, 8, RAM_BASE, 0)
    this.smmu.write(R.ARM_SMMU_STRTAB_BASE_CFG, 4, 4, 0)
    this.smmu.write(R.ARM_SMMU_CMDQ_BASE, 8, CMDQ + 4, 0)
    this.smmu.write(R.ARM_SMMU_EVTQ_BASE, 8, EVTQ + 4, 0)
    this.smmu.write(R.ARM_SMMU_CR0, 4, R.CR0_SMMUEN | R.CR0_CMDQEN | R.CR0_EVTQEN, 0)
  }

  store(index: number, value: bigint): void {
    this.torn.storing(STE + 8 * index, 8)
    this.memory.set64(STE + 8 * index, value)
  }

  /** The eight words that a translation reads. */
  fetch(): bigint[] {
    let words: readonly bigint[] = []
    this.smmu.translate(transaction(SID, 0n), step => {
      if (step.what === 'STE') words = step.words ?? []
    })
    return [...words]
  }

  command(...cmds: (readonly [opcode: number, sid?: number])[]): void {
    for (const [opcode, sid = 0] of cmds) {
      const at = CMDQ + 16 * (this.#prod++ % 16)
      this.memory.set64(at, BigInt(opcode) | (BigInt(sid) << 32n))
      this.memory.set64(at + 8, opcode === C.CMDQ_OP_CFGI_ALL ? 31n : 1n)
    }
    this.smmu.write(R.ARM_SMMU_CMDQ_PROD, 4, this.#prod % 32, 0)
  }
}

const OLDEST = () => 0
const LATEST = (values: number) => values - 1

describe('torn fetches (IHI 0070 section 3.21.3)', () => {
  it('each word is one that stood there since the structure was invalidated', () => {
    const t = new Torn(OLDEST)
    t.memory.set64(STE, 0x10n)
    t.store(0, 0x20n)
    t.store(0, 0x30n)
    t.store(2, 0x2n)
    expect(t.fetch().slice(0, 3)).toEqual([0x10n, 0n, 0n])
    const now = new Torn(LATEST)
    now.store(0, 0x20n)
    now.store(2, 0x2n)
    expect(now.fetch().slice(0, 3)).toEqual([0x20n, 0n, 0x2n])
  })

  it.each<[string, (readonly [number, number?])[], bigint]>([
    ['CFGI_STE alone', [[C.CMDQ_OP_CFGI_STE, SID]], 1n],
    ['CMD_SYNC alone', [[C.CMDQ_OP_CMD_SYNC]], 1n],
    ['CFGI_STE and CMD_SYNC', [[C.CMDQ_OP_CFGI_STE, SID], [C.CMDQ_OP_CMD_SYNC]], 2n],
    ['of another stream', [[C.CMDQ_OP_CFGI_STE, SID + 1], [C.CMDQ_OP_CMD_SYNC]], 1n],
    ['CMD_SYNC before CFGI_STE', [[C.CMDQ_OP_CMD_SYNC], [C.CMDQ_OP_CFGI_STE, SID]], 1n],
    ['CFGI_ALL and CMD_SYNC', [[C.CMDQ_OP_CFGI_ALL], [C.CMDQ_OP_CMD_SYNC]], 2n],
  ])('%s', (_, commands, seen) => {
    const t = new Torn(OLDEST)
    t.memory.set64(STE, 1n)
    t.store(0, 2n)
    t.command(...commands)
    expect(t.fetch()[0]).toBe(seen)
  })

  it('property: a fetch is made of values that the words had, and of all mixes of them', () => {
    const store = fc.tuple(fc.nat(7), fc.bigInt(0n, 3n))
    fc.assert(
      fc.property(
        fc.array(fc.oneof(store, fc.constant('settle' as const)), { maxLength: 30 }),
        fc.nat(),
        (steps, seed) => {
          let state = seed
          const t = new Torn(values => {
            state = (state * 1_103_515_245 + 12_345) % 2 ** 31
            return state % values
          })
          let held: Set<bigint>[] = Array.from({ length: 8 }, () => new Set([0n]))
          const current = new Array<bigint>(8).fill(0n)
          for (const step of steps) {
            if (step === 'settle') {
              t.command([C.CMDQ_OP_CFGI_STE, SID], [C.CMDQ_OP_CMD_SYNC])
              held = current.map(value => new Set([value]))
            } else {
              const [index, value] = step
              t.store(index, value)
              current[index] = value
              held[index].add(value)
            }
            for (const [i, word] of t.fetch().entries()) expect(held[i].has(word)).toBe(true)
          }
        },
      ),
    )
  })

  it('commands are not torn, also where as many are fetched as an entry is long', () => {
    const t = new Torn(OLDEST)
    t.torn.storing(CMDQ, 64)
    t.memory.set64(STE, 1n)
    t.store(0, 2n)
    // Before, the queue held zeroes: opcode 0 is illegal.
    t.command([C.CMDQ_OP_CFGI_STE, SID], ...new Array<[number]>(3).fill([C.CMDQ_OP_CMD_SYNC]))
    const into = { lo: 0, hi: 0 }
    t.smmu.read(R.ARM_SMMU_CMDQ_CONS, 4, into)
    expect(into.lo).toBe(4)
    expect(t.fetch()[0]).toBe(2n)
  })

  it('nothing else is torn, and a reset forgets', () => {
    const t = new Torn(OLDEST)
    t.torn.storing(EVTQ, 32)
    t.smmu.translate(transaction(0, 0n))
    expect(t.memory.get64(EVTQ)).toBe(4n)
    t.store(0, 1n)
    expect(t.torn.size).toBe(5)
    t.smmu.reset()
    expect(t.torn.size).toBe(0)
  })
})
