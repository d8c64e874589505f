// SPDX-License-Identifier: Apache-2.0
/**
 * The command queue of hardware that is not waited for: CMDQ_PROD is posted, and the host's next CMDQ_CONS predicted
 * (server/hypervisor/README.md, section 6).
 */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import * as r from '../../../../server/smmu/registers.ts'
import { CFGI_ALL, cfgiSte, command, SYNC, tlbiNhVa } from '../../smmu/fields.ts'
import { Bench, Host, type SetUp, STE, successor } from './support.ts'

/** A host whose SMMU takes posted writes as QEMU does. */
class PostingBench extends Bench {
  readonly host: Host
  /** What the host reads at CMDQ_CONS without a trap; undefined: it traps. */
  predicted: number | undefined
  posts = 0

  constructor(setUp: SetUp = {}) {
    super(setUp)
    this.hyp.reset()
    this.host = new Host(this).boot()
    const { hw } = this
    hw.post = (offset, value, checkOffset, checkValue, answer) => {
      this.posts++
      const ok = hw.write(offset, 4, value, 0) && hw.get(checkOffset) === checkValue
      this.predicted = ok ? answer : undefined
      return true
    }
  }

  /** The host hands in commands, then looks at CMDQ_CONS. */
  submit(...commands: number[][]): number {
    this.predicted = undefined
    const before = this.posts
    this.host.commands(...commands)
    if (this.posts > before && this.predicted === undefined) this.hyp.postMismatch(0)
    return this.predicted ?? this.read(r.ARM_SMMU_CMDQ_CONS)
  }
}

describe('posted', () => {
  test('one write of CMDQ_PROD, nothing read, and CMDQ_CONS predicted', () => {
    const bench = new PostingBench()
    bench.hw.logReads = true
    expect(bench.submit(tlbiNhVa(0x1000), SYNC)).toBe(bench.host.prod)
    expect(bench.predicted).toBe(bench.host.prod)
    expect(bench.posts).toBe(1)
    expect(bench.hw.reads).toEqual([])
    expect(bench.hw.takeCommands()).toEqual(['TLBI_NH_VA', 'SYNC'])
    // What it would have read by a trap.
    expect(bench.read(r.ARM_SMMU_CMDQ_CONS)).toBe(bench.host.prod)
  })

  test('nothing of a batch is kept: nothing is posted', () => {
    const bench = new PostingBench()
    bench.submit(command('TLBI_NH_ALL'))
    expect(bench.posts).toBe(0)
    expect(bench.report.take()).toEqual(['HYP_COMMAND_REFUSED'])
  })

  test("the hypervisor's own commands in between are waited for, the rest is posted", () => {
    const bench = new PostingBench()
    bench.host.l1(8)
    bench.host.ste(8, STE.s1)
    bench.submit(cfgiSte(8), SYNC)
    expect(bench.posts).toBe(1)
    expect(bench.report.take()).toEqual([])
    expect(bench.hw.takeCommands().at(-1)).toBe('SYNC')
  })

  test('only what the host hands in itself: not what goes on when it reads CONS or acknowledges an error', () => {
    const bench = new PostingBench()
    const { host, hw } = bench
    hw.illegal = 0xee
    host.commands(command(0xee), tlbiNhVa(0), SYNC)
    const { posts } = bench
    hw.illegal = -1
    bench.write(r.ARM_SMMU_GERRORN, bench.read(r.ARM_SMMU_GERROR))
    expect(bench.posts).toBe(posts)
    hw.post = () => false
    hw.stuck = true
    host.l1(8)
    host.ste(8, STE.s1)
    host.commands(tlbiNhVa(0), cfgiSte(8), SYNC)
    hw.stuck = false
    hw.consume()
    hw.post = () => expect.fail('posted')
    expect(bench.read(r.ARM_SMMU_CMDQ_CONS) & 0xfffff).toBe(host.prod)
  })

  test('a command that the hardware refuses is seen at once, and told as without posting', () => {
    const bench = new PostingBench()
    bench.hw.illegal = 0xee
    const cons = bench.submit(tlbiNhVa(0), command(0xee), SYNC)
    expect(bench.predicted).toBeUndefined()
    expect(cons).toBe((bench.host.prod - 2) | (r.CMDQ_ERR_CERROR_ILL_IDX << 24))
    expect(bench.report.take()).toEqual(['HYP_CMDQ_STOPPED'])
    bench.hw.illegal = -1
    bench.write(r.ARM_SMMU_GERRORN, bench.read(r.ARM_SMMU_GERROR))
    // CFGI_ALL in its place and a CMD_SYNC in that of the SYNC behind it, then both again from the host's queue.
    expect(bench.hw.takeCommands()).toEqual(['TLBI_NH_VA', 'CFGI_STE_RANGE', 'SYNC', 'opcode 0xee', 'SYNC'])
    bench.submit(SYNC)
    expect(bench.report.take()).toEqual([])
  })

  test('whoever takes over before it is seen tells it as it would have been told', () => {
    const bench = new PostingBench()
    const { host, hw } = bench
    bench.submit(tlbiNhVa(0), SYNC)
    hw.illegal = 0xee
    host.commands(command('TLBI_NH_ALL'), tlbiNhVa(0x1000), command(0xee), SYNC)
    expect(bench.predicted).toBeUndefined()
    const next = successor(bench)
    next.restore(bench.hyp.checkpoint().slice())
    next.resume()
    bench.hyp = next
    expect(bench.read(r.ARM_SMMU_CMDQ_CONS)).toBe((host.prod - 2) | (r.CMDQ_ERR_CERROR_ILL_IDX << 24))
    hw.illegal = -1
    hw.takeCommands()
    bench.write(r.ARM_SMMU_GERRORN, bench.read(r.ARM_SMMU_GERROR))
    expect(hw.takeCommands()).toEqual(['CFGI_STE_RANGE', 'SYNC', 'opcode 0xee', 'SYNC'])
    expect(bench.read(r.ARM_SMMU_CMDQ_CONS) & 0xfffff).toBe(host.prod)
  })

  test('hardware that stands still is waited for, and warned of', () => {
    const bench = new PostingBench()
    bench.hw.stuck = true
    expect(bench.submit(SYNC)).toBe(bench.host.prod - 1)
    expect(bench.report.take()).toEqual(['HYP_CMDQ_TIMEOUT'])
    bench.hw.stuck = false
    bench.submit(SYNC)
    expect(bench.report.take()).toEqual([])
    expect(bench.hw.consumed.length).toBe(2)
  })

  test('a policy that answers CMDQ_CONS by itself is asked', () => {
    const bench = new PostingBench({ overrides: { registers: { [r.ARM_SMMU_CMDQ_CONS]: rule => ({ ...rule }) } } })
    bench.submit(SYNC)
    expect(bench.posts).toBe(0)
  })
})

test('hosts with and without posting see the same, and the hardware gets the same', () => {
  const anyCommand = fc.constantFrom(
    tlbiNhVa(0x1000),
    command('TLBI_NH_ALL'),
    cfgiSte(8),
    command(0xee),
    CFGI_ALL,
    SYNC,
  )
  const batches = fc.array(
    fc.record({ commands: fc.array(anyCommand, { minLength: 1, maxLength: 6 }), acknowledge: fc.boolean() }),
    { minLength: 1, maxLength: 12 },
  )
  fc.assert(
    fc.property(batches, batches => {
      const run = (bench: PostingBench) => {
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
      const posting = new PostingBench()
      const waiting = new PostingBench()
      waiting.hw.post = () => false
      expect(run(posting)).toEqual(run(waiting))
    }),
    { numRuns: 200 },
  )
})
