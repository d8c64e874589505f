// SPDX-License-Identifier: Apache-2.0
import { expect, test } from 'vitest'
import { HYP_CFGI_STE, HYP_CMDQ_SHARE, HYP_WARNINGS } from '../../../../server/hypervisor/pkvm/warnings.ts'
import { formatWarningValues } from '../../../../server/policy/warnings.ts'

test('codes are unique and never renumbered', () => {
  expect(HYP_WARNINGS.map(({ id }) => id)).toEqual(HYP_WARNINGS.map((_, i) => i + 1))
  expect(new Set(HYP_WARNINGS.map(({ code }) => code)).size).toBe(HYP_WARNINGS.length)
  expect(HYP_WARNINGS.map(({ id, code }) => `${id} ${code}`)).toMatchSnapshot()
})

test('each is explained in one sentence, with a section and at most four values', () => {
  for (const { code, section, meaning, values } of HYP_WARNINGS) {
    expect(code).toMatch(/^HYP_[A-Z0-9_]+$/)
    expect(section).toMatch(/^server\/hypervisor\/README\.md#\d+-/)
    expect(meaning).toMatch(/^[A-Z].*\.$/)
    expect(values.length).toBeLessThanOrEqual(4)
    for (const [i, name] of values.entries()) {
      if (name.endsWith('Lo')) expect(values[i + 1]).toBe(`${name.slice(0, -2)}Hi`)
    }
  }
})

test('some are expected of an unmodified driver', () => {
  expect(HYP_WARNINGS.filter(({ expected }) => expected).map(({ code }) => code)).toEqual([
    'HYP_QUEUE_DISABLED_AT_SHUTDOWN',
    'HYP_QUEUE_DISABLED_BY_CRASH_KERNEL',
    'HYP_QUEUE_DISABLED_AT_SUSPEND',
  ])
})

test('values for people', () => {
  expect(formatWarningValues(HYP_CMDQ_SHARE, [0x4000_0000, 0x12, 4096, -1])).toBe(
    'base=0x1240000000 bytes=0x1000 error=EPERM',
  )
  expect(formatWarningValues(HYP_CFGI_STE, [0xffff_fff0, 1, 0xffff_ffea])).toBe('sid=0xfffffff0 leaf=0x1 error=EINVAL')
})
