// SPDX-License-Identifier: Apache-2.0
/**
 * The command queue of hardware that is not waited for: CMDQ_PROD is posted, and the host's next CMDQ_CONS told ahead
 * (server/hypervisor/README.md, section 6).
 */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import * as r from '../../../../server/smmu/registers.ts'
import { Bench, Host, type SetUp, STE } from './support.ts'

const SYNC = [0x46 | (2 << 12), 0, 0, 0]

/** A host whose SMMU takes posted writes as QEMU does. */
class AheadBench extends Bench {
  readonly host: Host
  /** What the host reads at CMDQ_CONS without a trap; undefined: it traps. */
  ahead: number | undefined
  posts = 0

  constructor(setUp: SetUp = {}) {
    super(setUp)
    this.hyp.reset()
    this.host = new Host(this).boot()
    const { hw } = this
    hw.post = (offset, value, checkOffset, checkValue, answer) => {
      this.posts++
      const ok = hw.write(offset, 4, value, 0) && hw.get(checkOffset) === checkValue
      this.ahead = ok ? answer : undefined
      return true
    }
  }

  /** The host hands in commands, then looks at CMDQ_CONS. */
  submit(...commands: number[][]): number {
    this.ahead = undefined
    const before = this.posts
    this.host.commands(...commands)
    if (this.posts > before && this.ahead === undefined) this.hyp.postMismatch(0)
    return this.ahead ?? this.read(r.ARM_SMMU_CMDQ_CONS)
  }
}

describe('posted', () => {
  test('one write of CMDQ_PROD, nothing read, and CMDQ_CONS told ahead', () => {
    const bench = new AheadBench()
    bench.hw.logReads = true
    expect(bench.submit([0x12, 0, 0x1000, 0], SYNC)).toBe(bench.host.prod)
    expect(bench.ahead).toBe(bench.host.prod)
    expect(bench.posts).toBe(1)
    expect(bench.hw.reads).toEqual([])
    expect(bench.hw.takeCommands()).toEqual(['TLBI_NH_VA', 'SYNC'])
    // What it would have read by a trap.
    expect(bench.read(r.ARM_SMMU_CMDQ_CONS)).toBe(bench.host.prod)
  })

  test('nothing of a batch is kept: nothing is posted', () => {
    const bench = new AheadBench()
    bench.submit([0x10, 0, 0, 0])
    expect(bench.posts).toBe(0)
    expect(bench.report.take()).toEqual(['HYP_COMMAND_REFUSED'])
  })

  test("the hypervisor's own commands in between are waited for, the rest is posted", () => {
    const bench = new AheadBench()
    bench.host.l1(8)
    bench.host.ste(8, STE.s1)
    bench.submit([0x03, 8, 1, 0], SYNC)
    expect(bench.posts).toBe(1)
    expect(bench.report.take()).toEqual([])
    expect(bench.hw.takeCommands().at(-1)).toBe('SYNC')
  })

  test('a command that the hardware refuses is seen at once, and told as without posting', () => {
    const bench = new AheadBench()
    bench.hw.illegal = 0xee
    const cons = bench.submit([0x12, 0, 0, 0], [0xee, 0, 0, 0], SYNC)
    expect(bench.ahead).toBeUndefined()
    expect(cons).toBe(bench.host.prod | (r.CMDQ_ERR_CERROR_ILL_IDX << 24))
    expect(bench.report.take()).toEqual(['HYP_CMDQ_STOPPED'])
    bench.hw.illegal = -1
    bench.write(r.ARM_SMMU_GERRORN, bench.read(r.ARM_SMMU_GERROR))
    expect(bench.hw.consumed.length).toBe(3)
    bench.submit(SYNC)
    expect(bench.report.take()).toEqual([])
  })

  test('hardware that stands still is waited for, and warned of', () => {
    const bench = new AheadBench()
    bench.hw.stuck = true
    expect(bench.submit(SYNC)).toBe(bench.host.prod)
    expect(bench.report.take()).toEqual(['HYP_CMDQ_TIMEOUT'])
    bench.hw.stuck = false
    bench.submit(SYNC)
    expect(bench.report.take()).toEqual([])
    expect(bench.hw.consumed.length).toBe(2)
  })

  test('a policy that answers CMDQ_CONS by itself is asked', () => {
    const bench = new AheadBench({ overrides: { registers: { [r.ARM_SMMU_CMDQ_CONS]: rule => ({ ...rule }) } } })
    bench.submit(SYNC)
    expect(bench.posts).toBe(0)
  })
})

test('hosts with and without posting see the same, and the hardware gets the same', () => {
  const command = fc.constantFrom(
    [0x12, 0, 0x1000, 0],
    [0x10, 0, 0, 0],
    [0x03, 8, 1, 0],
    [0xee, 0, 0, 0],
    [0x04, 0, 31, 0],
    SYNC,
  )
  const batches = fc.array(
    fc.record({ commands: fc.array(command, { minLength: 1, maxLength: 6 }), acknowledge: fc.boolean() }),
    { minLength: 1, maxLength: 12 },
  )
  fc.assert(
    fc.property(batches, batches => {
      const run = (bench: AheadBench) => {
        bench.host.l1(8)
        bench.host.ste(8, STE.s1)
        bench.hw.illegal = 0xee
        const seen = batches.map(({ commands, acknowledge }) => {
          const cons = bench.submit(...commands)
          const gerror = bench.read(r.ARM_SMMU_GERROR)
          if (acknowledge) bench.write(r.ARM_SMMU_GERRORN, gerror)
          return [cons, gerror, bench.report.take()]
        })
        return { seen, consumed: bench.hw.consumed }
      }
      const posting = new AheadBench()
      const waiting = new AheadBench()
      waiting.hw.post = () => false
      expect(run(posting)).toEqual(run(waiting))
    }),
    { numRuns: 200 },
  )
})
