// SPDX-License-Identifier: Apache-2.0
/** Linux under the policy `full`, which is for drivers that do more (test/qtest/full.test.ts): it does all that `pkvm` does. */
import { expect, test } from 'vitest'
import { cosim } from './cli.ts'

test('the workload passes, isolated and without a warning, and its recording replays without a difference', async () => {
  const { code, report, stderr } = await cosim(['boot', '--policy', 'full', '--oracle', '--require-isolation'])
  expect(report?.message, stderr).toBeUndefined()
  expect([code, report?.outcome, report?.policy, report?.isolated]).toEqual([0, 'ok', 'full', true])
  expect(report?.workload.map(({ ok }) => ok)).toEqual([true, true, true, true, true])
  expect(report?.oracle).toMatchObject({ violations: [] })
  expect(report?.warnings).toEqual([])
  const replayed = await cosim(['replay', report?.recording?.path ?? ''])
  expect([replayed.code, replayed.stdout], replayed.stderr).toEqual([0, expect.stringContaining('no difference')])
  // For the policy that takes only what Linux does it is the same guest.
  const strict = await cosim(['replay', report?.recording?.path ?? '', '--policy', 'pkvm'])
  expect(strict.stdout).not.toMatch(/HYP_(ACCESS|CFGI|COMMAND)/)
})
