// SPDX-License-Identifier: Apache-2.0
/** A recording with injected faults: replay injects them again, and what they led to is no difference. */
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { Injector } from '../../../server/faults/injector.ts'
import { expectRules } from '../../../server/faults/plan.ts'
import { ReplayFaults } from '../../../server/faults/replayFaults.ts'
import type { FaultPlan } from '../../../server/faults/rule.ts'
import { pkvm } from '../../../server/hypervisor/pkvm/policy.ts'
import type { PolicyFactory } from '../../../server/policy/policy.ts'
import { OK } from '../../../server/policy/result.ts'
import { groups } from '../../../server/trace/groups.ts'
import { TraceReader } from '../../../server/trace/reader.ts'
import { request } from '../../../server/trace/records.ts'
import { Replay } from '../../../server/trace/replay.ts'
import type { RingWriter } from '../../../server/trace/ring.ts'
import { warningsOf } from '../../../server/trace/warnings.ts'
import { benchMachine, folder, RecordedBench, recording, scriptedBoot } from './synthetic.ts'

/** pKVM behind rules, as the trap thread puts them together. */
function withFaults(plan: FaultPlan, ring: RingWriter): { factory: PolicyFactory; injector: Injector } {
  const injector = new Injector(ring, () => {})
  injector.prepare(plan)
  const factory: PolicyFactory = (machine, context) => {
    const policy = pkvm(machine, context)
    injector.connect(
      {
        machine,
        policy,
        devices: [],
        memory: machine.memory,
        translates: false,
        clock: () => 0,
        irq() {},
        invalidate() {},
        loseState() {},
        warn: (warning, trap, smmu) => context.report.warn(warning, trap, smmu, 0, 0, 0, 0),
        donate: () => OK,
        reclaim: () => OK,
        cut() {
          throw new Error('cut')
        },
        garble() {},
        die() {
          throw new Error('end')
        },
      },
      false,
    )
    const decided = Object.create(policy) as typeof policy
    return Object.assign(decided, {
      access: (trap: Parameters<typeof policy.access>[0]) => injector.access(policy, trap),
      reset: () => injector.reset(policy),
    })
  }
  return { factory, injector }
}

async function recorded(
  plan: FaultPlan,
  during: (bench: RecordedBench, ring: RingWriter, injector: Injector) => void = bench => scriptedBoot(bench),
): Promise<TraceReader> {
  const path = join(folder(), 'faulty')
  await recording(
    path,
    writer => {
      const { factory, injector } = withFaults(plan, writer)
      during(new RecordedBench(writer, {}, factory), writer, injector)
    },
    { header: { policy: 'pkvm', policyOptions: {}, machine: benchMachine, faults: plan }, ring: 1 << 24 },
  )
  return TraceReader.open(path)
}

function replayed(reader: TraceReader, injected: ReplayFaults | undefined) {
  const told = { rewritten: true, warnings: warningsOf(reader.header) }
  const run = new Replay(reader.header.machine, pkvm, {}, told, injected)
  const differences = [...run.run(groups(reader.records()))].flatMap(({ divergence }) => divergence?.differences ?? [])
  return { differences: differences.map(({ subject }) => subject), run }
}

const fired = (reader: TraceReader): number => [...reader.records()].filter(({ kind }) => kind === 'fault').length

const rule = (where: object, what: object, when?: object): FaultPlan => {
  const rules: unknown = [{ name: 'a', where, what, ...(when && { when }) }]
  expectRules(rules, {})
  return { rules, seed: 7 }
}

test.each([
  [
    'a register that is read wrong',
    rule({ at: 'register', register: 'IDR1', access: 'read' }, { do: 'set', value: 5 }),
  ],
  [
    'a write that is lost',
    rule({ at: 'register', register: 'CMDQ_PROD', access: 'write' }, { do: 'drop' }, { nth: 9 }),
  ],
  [
    'writes that come late',
    rule({ at: 'register', register: 'CMDQ_PROD', access: 'write' }, { do: 'postpone', traps: 2 }, { nth: 6 }),
  ],
  [
    'commands that are dropped, by chance',
    rule({ at: 'command', command: 'TLBI_NH_VA' }, { do: 'drop' }, { times: 'always', probability: 0.5 }),
  ],
  ['a command that hangs', rule({ at: 'command', command: 'CFGI_STE' }, { do: 'cerror', error: 'ILL' })],
  ['hardware that does not take a write', rule({ at: 'hardware', register: 'CR0', access: 'write' }, { do: 'drop' })],
])('%s', async (_what, plan) => {
  const reader = await recorded(plan)
  expect(fired(reader)).toBeGreaterThan(0)
  const again = replayed(reader, new ReplayFaults(plan, []))
  expect(again.differences).toEqual([])
  expect(again.run.faults).toBe(0)
  // Without the rules something is different: it was they that did it.
  const without = replayed(reader, undefined)
  expect(without.differences.length).toBeGreaterThan(0)
  expect(without.run.faults).toBe(fired(reader))
})

test('a rule that waits for a console line fires where it did', async () => {
  const plan = rule(
    { at: 'register', register: 'CMDQ_CONS', access: 'read' },
    { do: 'set', value: 3 },
    { console: 'now', nth: 2 },
  )
  const reader = await recorded(plan, (bench, ring, injector) => {
    scriptedBoot(bench, 5)
    injector.open(['a'])
    const [low, high] = injector.bitsOf(['a'])
    ring.request(request.faultsOpened, 0, ring.now(), 0, low, high, 0, 0)
    for (let i = 0; i < 4; i++) bench.read(0x9c)
  })
  expect(fired(reader)).toBe(1)
  expect(replayed(reader, new ReplayFaults(plan, [])).differences).toEqual([])
})

test('another seed is another run', async () => {
  const plan = rule({ at: 'command', command: 'TLBI_NH_VA' }, { do: 'drop' }, { times: 'always', probability: 0.5 })
  const reader = await recorded(plan)
  expect(replayed(reader, new ReplayFaults({ ...plan, seed: 8 }, [])).differences).toContain('fault')
})

test('what was armed later is not known, and said', async () => {
  const plan = rule({ at: 'register', register: 'IDR1', access: 'read' }, { do: 'set', value: 5 })
  const reader = await recorded(plan, (bench, ring) => {
    scriptedBoot(bench, 2)
    ring.request(request.faultsArmed, 0, ring.now(), 0, 1, 0, 0, 0)
    ring.fault(1, 0, 0, 0, 1, 0)
    bench.read(0x1f4)
  })
  const injected = new ReplayFaults(plan, [])
  const { differences, run } = replayed(reader, injected)
  expect(differences).toEqual([])
  expect([run.faults, injected.lost]).toEqual([1, true])
})
