// SPDX-License-Identifier: Apache-2.0
import { describe, expect, test } from 'vitest'
import { LinePattern } from '../../../server/faults/linePattern.ts'

test.each([
  ['login:', '(none) login: ', true],
  ['^\\[ +\\d+\\.\\d+\\] smp: .*CPUs?$', '[    0.123456] smp: Brought up 1 node, 2 CPUs', true],
  ['"event":"device"', '@cosim {"event":"devices"}', false],
  ['(?i)PANIC|Oops', 'kernel panic', true],
])('%s on %s', (pattern, line, expected) => {
  expect(new LinePattern(pattern).test(line)).toBe(expected)
})

describe('time that grows with the line only', () => {
  test.each([
    ['(a+)+$', `${'a'.repeat(8_191)}b`],
    ['(a|a)*b', 'a'.repeat(8_192)],
    ['^(([a-z])+.)+[A-Z]([a-z])+$', 'a'.repeat(8_192)],
    ['(.*)*(.*)*(.*)*x', 'a'.repeat(8_192)],
  ])('%s', (text, line) => {
    const pattern = new LinePattern(text)
    const started = performance.now()
    for (let i = 0; i < 10; i++) expect(pattern.test(line)).toBe(false)
    expect(performance.now() - started).toBeLessThan(5_000)
  })
})

test.each([
  ['(a', 'missing closing'],
  ['a{1001}', 'invalid repeat count'],
  ['(((a{100}){100}){100}){100}', 'invalid repeat count'],
  ['[^a]{900}[^a]{900}', 'the pattern is too large'],
  ['((x?){30}){30}y', 'the pattern is too large'],
  ['(?=a)b', 'invalid or unsupported'],
  ['(a)\\1', 'invalid escape sequence'],
])('%s is refused', (pattern, message) => {
  expect(() => new LinePattern(pattern)).toThrow(message)
})
