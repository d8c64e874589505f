// SPDX-License-Identifier: Apache-2.0
/** Boots whose devices' addresses the server translates, or checks. */
import { expect, test } from 'vitest'
import type { Report } from '../../server/cli/report.ts'
import type { TranslateReport } from '../../server/cosim/translator.ts'
import { cosim } from './cli.ts'

test.each([
  ['server', []],
  ['lockstep', []],
  ['lockstep', ['--policy', 'passthrough']],
  ['lockstep', ['--until', 'cmdq']],
] as const)('--translate %s %j', async (mode, args) => {
  const { code, report, stderr } = await cosim(['boot', '--translate', mode, ...args])
  expect(report?.message, stderr).toBeUndefined()
  expect(code).toBe(0)
  const { outcome, workload, translate } = report as Report & { readonly translate: TranslateReport }
  expect(outcome).toBe('ok')
  expect(workload.filter(({ ok }) => ok)).toHaveLength(5)
  expect(translate.mode).toBe(mode)
  expect(translate.misses).toBeGreaterThan(1000)
  expect(translate.findings).toEqual([])
  expect(translate.mismatches).toBe(0)
})
