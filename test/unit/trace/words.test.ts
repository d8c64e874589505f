// SPDX-License-Identifier: Apache-2.0
/** Numbers are written in one way wherever people read them. */
import { globSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { counted, grouped, micros, tenths, took } from '../../../server/trace/words.ts'
import * as web from '../../../server/web/src/format.ts'
import { ROOT } from '../docs/markdown.ts'

test('thousands, decimals, plurals', () => {
  expect([grouped(7), grouped(43_788), tenths(323), tenths(14_820.26)]).toEqual(['7', '43,788', '323.0', '14,820.3'])
  expect([0, 1, 2000].map(n => counted(n, 'access', 'accesses'))).toEqual(['0 accesses', '1 access', '2,000 accesses'])
  expect([4.064, 323, 0.04].map(micros)).toEqual(['4.1 µs', '323.0 µs', '0.0 µs'])
  expect([took(4.064), took(0)]).toEqual(['4.1 µs', 'answered by QEMU'])
})

test('the dashboard writes them as the command line does', () => {
  for (const n of [1, 1234, 1_234_567]) expect(web.count(n)).toBe(grouped(n))
  for (const us of [4.064, 323, 999.9]) expect(web.micros(us)).toBe(micros(us))
  expect([web.micros(4064), web.micros(2_500_000)]).toEqual(['4.1 ms', '2.5 s'])
  expect([web.bytes(1), web.bytes(1536)]).toEqual(['1 B', '1.5 KiB'])
})

const NOUNS =
  'pages|rows|matches|notes|rules|findings|sessions|traps|records|cells|operations|programs|accesses|commands|warnings|times|jobs|mutants|machines|campaigns|differences|translations|decisions|faults|injected faults|places'
/** A number in front of one of them that may be 1; limits in capitals are more, and a rate has no singular. */
const UNCOUNTED = new RegExp(`\\{(?!counted|rate\\b|[A-Z_]+\\})[^{}]*\\} (?:${NOUNS})\\b(?!/s)`)

test('what is counted is so by the one helper: one page, two pages', () => {
  const files = globSync(
    'server/{cli,trace,sessions,fleet,run,api,recorded,faults,testing,control,web}/**/*.{ts,tsx}',
    {
      cwd: ROOT,
    },
  )
  expect(files.length).toBeGreaterThan(100)
  const found = files.flatMap(file =>
    readFileSync(join(ROOT, file), 'utf8')
      .split('\n')
      .flatMap((line, i) => (UNCOUNTED.test(line) ? [`${file}:${i + 1}: ${line.trim()}`] : [])),
  )
  // What a database that was tampered with has is no report of anything.
  expect(found.filter(text => !text.includes('DamagedDatabase'))).toEqual([])
})

test('nothing else puts marks between thousands', () => {
  const files = globSync('server/**/*.{ts,tsx}', { cwd: ROOT }).filter(file => file !== 'server/trace/words.ts')
  expect(files.filter(file => /toLocaleString\(|NumberFormat/.test(readFileSync(join(ROOT, file), 'utf8')))).toEqual([])
})
