// SPDX-License-Identifier: Apache-2.0
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { type Case, decodeCase } from '../../../server/attack/cases.ts'
import { explain } from '../../../server/attack/explain.ts'
import { partition } from '../../../server/hypervisor/partition/policy.ts'
import { pkvm } from '../../../server/hypervisor/pkvm/policy.ts'
import * as R from '../../../server/smmu/registers.ts'
import { PLAIN, RAM, read, write } from './support.ts'

const ROOT = fileURLToPath(new URL('../../../', import.meta.url))
const CASES = `${ROOT}test/attack/cases/`

/** Files of the lines that decided. */
const deciders = (lines: readonly string[]) =>
  lines.flatMap(line => /\(decided at (\S+):\d+\)$/.exec(line)?.slice(1) ?? [])

const of = (steps: Case['steps']): Case => ({
  ...{ kind: 'test', message: '', policy: 'test', mode: 'hostile', seed: 1 },
  setup: { ...PLAIN, sidBits: 16, twoLevel: true },
  steps,
})
const steps = [
  read(R.ARM_SMMU_IDR0),
  write(R.ARM_SMMU_CR1, 0xd75),
  write(R.ARM_SMMU_CR0, R.CR0_CMDQEN),
  { do: 'donate' as const, base: RAM, size: 4096, vm: 1 },
]

test('a step is decided by a rule, not by what the rule reaches the hardware through', () => {
  const folder = 'server/hypervisor/pkvm'
  expect(deciders(explain(of(steps), pkvm))).toEqual([
    `${folder}/frame.ts`,
    `${folder}/frame.ts`,
    `${folder}/cr0.ts`,
    `${folder}/idmap.ts`,
  ])
  expect(deciders(explain(of(steps.slice(0, 3)), partition))).toEqual(
    Array.from({ length: 3 }, () => 'server/hypervisor/partition/smmu.ts'),
  )
})

test('so it is in every case that is kept', () => {
  const found = new Set<string>()
  for (const file of readdirSync(CASES)) {
    const case_ = decodeCase(readFileSync(`${CASES}${file}`, 'utf8'), file)
    for (const file of deciders(explain(case_, pkvm))) found.add(file)
  }
  expect(found.size).toBeGreaterThan(3)
  for (const file of found) {
    expect(existsSync(ROOT + file)).toBe(true)
    expect(file).toMatch(/^server\/hypervisor\/(pkvm|common)\//)
    expect(file).not.toMatch(/hardwareFrame|tableMemory|wait/)
  }
})
