// SPDX-License-Identifier: Apache-2.0
/** Policies: those that decide nothing, and others composed of pkvm's decisions. */
import { describe, expect, test } from 'vitest'
import { observe } from '../../../../server/hypervisor/observe/policy.ts'
import { passthrough } from '../../../../server/hypervisor/passthrough/policy.ts'
import type { CommandRule } from '../../../../server/hypervisor/pkvm/commandRules.ts'
import { PkvmPolicy, pkvm } from '../../../../server/hypervisor/pkvm/policy.ts'
import type { PolicyFactory } from '../../../../server/policy/policy.ts'
import { newTrap, type Trap } from '../../../../server/policy/policy.ts'
import { COMMAND_KEPT, type CommandVerdict } from '../../../../server/policy/report.ts'
import { OK, resultName } from '../../../../server/policy/result.ts'
import { CMDQ_OP_TLBI_NH_ALL, CMDQ_OP_TLBI_NH_VA } from '../../../../server/smmu/commands.ts'
import * as r from '../../../../server/smmu/registers.ts'
import { command, ste, tlbiNhVa } from '../../smmu/fields.ts'
import { Bench, Host, STE, shadowSte } from './support.ts'

const trapOf = (fields: Partial<Trap>): Trap => ({ ...newTrap(), seq: 1, size: 4, ...fields })

/** STE.MEV. */
const [, MEV] = ste({ mev: 1 })

describe.each([
  ['passthrough', passthrough],
  ['observe', observe],
])('%s', (name, factory) => {
  const bench = new Bench()
  const policy = factory(bench.machine, { options: {}, report: bench.report })
  policy.reset()

  test('does not isolate, and says so where isolation is demanded', () => {
    const demanding = factory(bench.machine, { options: { requireIsolation: true }, report: bench.report })
    expect(() => demanding.reset()).toThrow(`no DMA isolation: ${name} has no second stage`)
  })

  test.each([4, 8])('%i bytes are written and read as they are', size => {
    const write = trapOf({ write: true, offset: r.ARM_SMMU_STRTAB_BASE, size, lo: 0x1234_5678, hi: size === 8 ? 9 : 0 })
    policy.access(write)
    expect(write.aborted).toBe(false)
    const read = trapOf({ offset: r.ARM_SMMU_STRTAB_BASE, size, lo: 1, hi: 1 })
    policy.access(read)
    expect(read).toMatchObject({ lo: 0x1234_5678, hi: size === 8 ? 9 : 0, aborted: false })
  })

  test.each([1, 2])('what the hardware aborts is aborted: %i bytes', size => {
    for (const write of [false, true]) {
      const trap = trapOf({ write, offset: r.ARM_SMMU_CR0, size })
      policy.access(trap)
      expect(trap.aborted).toBe(true)
    }
  })

  test('an SMMU that does not exist', () => {
    const trap = trapOf({ smmu: 4 })
    policy.access(trap)
    expect(trap.aborted).toBe(true)
  })
})

describe('pkvm, changed in one place', () => {
  test('a command that pkvm drops is passed on', () => {
    const bench = new Bench({ overrides: { commands: { [CMDQ_OP_TLBI_NH_ALL]: () => () => COMMAND_KEPT } } })
    bench.hyp.reset()
    new Host(bench).boot().commands([CMDQ_OP_TLBI_NH_ALL, 0, 0, 0], command('TLBI_EL2_ALL'))
    expect(bench.hw.takeCommands()).toEqual(['TLBI_NH_ALL'])
    expect(bench.report.take()).toEqual(['HYP_COMMAND_REFUSED'])
  })

  test('what a file returns and is no verdict drops the command', () => {
    const none = Number('7') as CommandVerdict
    const bench = new Bench({ overrides: { commands: { [CMDQ_OP_TLBI_NH_ALL]: () => () => none } } })
    bench.hyp.reset()
    new Host(bench).boot().commands([CMDQ_OP_TLBI_NH_ALL, 0, 0, 0])
    expect(bench.hw.takeCommands()).toEqual([])
  })

  test('a command is watched, and decided as before', () => {
    const vmids: number[] = []
    const watch =
      (rule: CommandRule): CommandRule =>
      (words, at, smmu) => {
        vmids.push(words[at + 1] & 0xffff)
        return rule(words, at, smmu)
      }
    const bench = new Bench({ overrides: { commands: { [CMDQ_OP_TLBI_NH_VA]: watch, 64: watch } } })
    bench.hyp.reset()
    new Host(bench).boot().commands(tlbiNhVa(0), command('TLBI_NH_VA', { vmid: 3 }), command('ATC_INV', { sid: 5 }))
    expect(vmids).toEqual([0, 3, 5])
    expect(bench.hw.takeCommands()).toEqual(['TLBI_NH_VA', 'ATC_INV'])
  })

  test('a register answers otherwise', () => {
    const bench = new Bench({
      overrides: {
        registers: {
          [r.ARM_SMMU_IDR0]: rule => ({
            ...rule,
            read(smmu, trap) {
              rule.read?.(smmu, trap)
              trap.lo = (trap.lo | r.IDR0_VMID16) >>> 0
            },
          }),
        },
      },
    })
    bench.hyp.reset()
    expect(bench.read(r.ARM_SMMU_IDR0) & (r.IDR0_VMID16 | r.IDR0_S2P)).toBe(r.IDR0_VMID16)
  })

  test('a register that pkvm does not have', () => {
    const bench = new Bench({
      overrides: {
        registers: {
          [r.ARM_SMMU_IDR2]: rule => ({ ...rule, read: (_, trap) => Object.assign(trap, { lo: 42, hi: 0 }) }),
        },
      },
    })
    bench.hyp.reset()
    expect(bench.read(r.ARM_SMMU_IDR2)).toBe(42)
    bench.write(r.ARM_SMMU_IDR2, 1)
    expect(bench.report.take()).toEqual(['HYP_ACCESS_DIRECTION'])
  })

  test.each([2, -4, 0x2_0000])('no register can be at offset %i', offset => {
    expect(() => new Bench({ overrides: { registers: { [offset]: rule => rule } } })).toThrow(RangeError)
  })

  test('streams are shadowed otherwise', () => {
    const bench = new Bench({
      overrides: {
        stream: rule => (host, shadow, context) => {
          const result = rule(host, shadow, context)
          if (result === OK) shadow[1] |= MEV
          return result
        },
      },
    })
    bench.hyp.reset()
    const host = new Host(bench).boot()
    host.attach(8, STE.s1)
    expect(shadowSte(bench, 8)[1]).toBe(STE.s1[1] | MEV)
    host.attach(8, STE.s2)
    expect(bench.report.take()).toEqual(['HYP_CFGI_STE'])
  })

  test('as a file of a user would have it', () => {
    const factory: PolicyFactory = (machine, context) => pkvm(machine, context, { name: 'mine' })
    const bench = new Bench()
    const policy = factory(bench.machine, { options: { until: 'cmdq' }, report: bench.report })
    policy.reset()
    const trap = trapOf({ offset: r.ARM_SMMU_IDR0 })
    policy.access(trap)
    expect(trap.lo).toBe((bench.hw.get(0) & ~0x4_2201) >>> 0)
    expect(policy.name).toBe('mine')
    expect(policy).toBeInstanceOf(PkvmPolicy)
    expect((policy as PkvmPolicy).hypervisor.upTo).toBe('cmdq')
    expect(pkvm(bench.machine, { options: {}, report: bench.report }).name).toBe('pkvm')
  })
})

test('results have names', () => {
  expect([0, -1, -12, -110, -5 >>> 0, -99].map(resultName)).toEqual([
    'OK',
    'EPERM',
    'ENOMEM',
    'ETIMEDOUT',
    'EIO',
    'error -99',
  ])
})
