// SPDX-License-Identifier: Apache-2.0
import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { outputs } from '../../../server/trace/generate.ts'
import { f64At, layouts, u32At } from '../../../server/trace/layout.ts'
import { kinds } from '../../../server/trace/records.ts'

test.each([...outputs()])('%s is up to date (npm run generate)', (path, text) => {
  expect(readFileSync(new URL(`../../../server/trace/${path}`, import.meta.url), 'utf8')).toBe(text)
})

test('ids are unique, and fit into the 32 bits that a block has for its kinds', () => {
  const ids = Object.values(kinds).map(({ id }) => id)
  expect(new Set(ids).size).toBe(ids.length)
  expect(Math.min(...ids)).toBeGreaterThan(0)
  expect(Math.max(...ids)).toBeLessThan(32)
})

test('only the last field of a kind has no fixed length', () => {
  for (const [name, { fields }] of Object.entries(kinds)) {
    for (const type of Object.values(fields).slice(0, -1)) expect(type, name).toMatch(/^(u32|flag|f64)$/)
  }
})

test('places in the ring: words in order, doubles at even ones', () => {
  expect(layouts[kinds.hardware.id]?.fields.map(({ name, word }) => [name, word])).toEqual([
    ['smmu', 1],
    ['write', 2],
    ['start', 4],
    ['duration', 6],
    ['offset', 7],
    ['size', 8],
    ['lo', 9],
    ['hi', 10],
    ['ok', 11],
  ])
  expect(u32At.hardware).toEqual({ smmu: 1, write: 2, duration: 6, offset: 7, size: 8, lo: 9, hi: 10, ok: 11 })
  expect(f64At.hardware).toEqual({ start: 2 })
  expect(u32At.event).toEqual({ smmu: 1 })
})
