// SPDX-License-Identifier: Apache-2.0
/** Hypervisors with one wrong line each. Whether they are found is measured by `attack --mutants`: it takes too long for a unit test. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import {
  choose,
  firstFailure,
  hangsAfter,
  mutantsOf,
  mutated,
  testTimes,
  timeOf,
} from '../../../server/attack/mutants.ts'

/** Those of a line in a method. */
const of = (line: string) =>
  mutantsOf('a.ts', `class A {\n#locate() {}\n  f() {\n${line}\n${line.endsWith('{') ? '}' : ''}\n}\n}`)

describe('mutants of a line', () => {
  test.each([
    [
      '  if (owner === HOST && size > 0) {',
      ['if (owner !== HOST && size > 0) {', 'if (owner === HOST || size > 0) {', 'if (owner === HOST && size >= 0) {'],
    ],
    ['    if (own !== OK) return EPERM', ['if (own === OK) return EPERM', 'if (own !== OK) return 0']],
    ['    this.#locate()', [';']],
    ['    shadow[3] = BigInt(idmap.root)', [';']],
    ['  const word = ste[0] & ~MASK', ['const word = ste[0] & MASK']],
    ['  return false', ['return true']],
  ])('%s', (line, after) => expect(of(line).map(mutant => mutant.after)).toEqual(after))

  test.each([
    ['  // a === b'],
    [' * a === b'],
    ['  smmu.warn(HYP_UNMAP, a + b)'],
    ["  if (quirks.has('eats') && a) return"],
    // Nothing but a type.
    ['  let a: string | null'],
    // No program.
    ['  const b = true, true = 1'],
  ])('of %s there are none', line => expect(of(line)).toEqual([]))

  test('of the lines of a quirk there are none, of those behind it there are', () => {
    const lines = [
      'function f(quirks, a) {',
      "  if (quirks.has('eats') && a) {",
      '    if (a) {',
      '      return true',
      '    }',
      '  }',
      '  return true',
      '}',
    ]
    expect(mutantsOf('a.ts', lines.join('\n')).map(({ line }) => line)).toEqual([7])
  })

  test('say where they are', () => {
    expect(mutantsOf('a.ts', 'const f = () => {\n\n  return true\n}\n')).toEqual([
      { file: 'a.ts', line: 3, before: 'return true', after: 'return false' },
    ])
  })
})

describe('why the unit tests ended', () => {
  let folder: string
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'cosim-mutants-'))
  })
  afterEach(() => rmSync(folder, { recursive: true }))
  const ending = (...testResults: unknown[]) => {
    const report = join(folder, 'report.json')
    writeFileSync(report, JSON.stringify({ testResults }))
    return firstFailure(report)
  }
  const failed = (why: string) => ({
    assertionResults: [
      { status: 'passed', fullName: 'a' },
      { status: 'failed', fullName: 'b', failureMessages: [why] },
    ],
  })

  test('a test that fails has found the mutant', () => {
    expect(ending({ message: '', assertionResults: [] }, failed('AssertionError: expected 1'))).toEqual({ found: 'b' })
  })

  test('a name that is not there is no finding', () => {
    expect(ending(failed('ReferenceError: OK is not defined\n at x'))).toEqual({
      broken: 'ReferenceError: OK is not defined',
    })
  })

  test('nor is a file that does not load, or a run without a report', () => {
    expect(ending({ message: 'SyntaxError: x\n', assertionResults: [] })).toEqual({ broken: 'SyntaxError: x' })
    expect(ending()).toEqual({ broken: 'the unit tests do not run' })
    expect(firstFailure(join(folder, 'none.json'))).toEqual({ broken: 'the unit tests do not run' })
  })
})

test('what tests take is known by file, with its share of the start, and asked for by parts of paths', () => {
  const folder = mkdtempSync(join(tmpdir(), 'cosim-mutants-'))
  const report = join(folder, 'report.json')
  const file = (name: string, startTime: number, endTime: number) => ({ name, startTime, endTime })
  const testResults = [
    file('/copy/test/unit/hypervisor/pkvm/section6-cmdq.test.ts', 1000, 4000),
    file('/copy/test/unit/hypervisor/pkvm/section6-posted.test.ts', 4000, 5000),
    // One that has no test in it.
    file('/copy/test/unit/smmu/queue.test.ts', 9000, 0),
  ]
  writeFileSync(report, JSON.stringify({ testResults }))
  const times = testTimes(report, 7000)
  rmSync(folder, { recursive: true })
  expect([...times.values()]).toEqual([4000, 2000, 1000])
  expect(timeOf(times, ['test/unit/hypervisor/pkvm/section6'])).toBe(6000)
  expect(timeOf(times, ['test/unit/hypervisor', 'test/unit/smmu/queue'])).toBe(7000)
  expect(timeOf(times, ['test/unit/api'])).toBe(0)
})

test('what does not come to an end is given a time that a process can be started with', () => {
  expect(hangsAfter(20_416.168)).toBe(137_498)
})

test('files whose mutants are asked for, by a part of the path', () => {
  expect(mutated('sharedStage2')).toEqual(['server/hypervisor/pkvm/sharedStage2.ts', 'server/smmu/sharedStage2.ts'])
  expect(mutated().length).toBeGreaterThan(20)
  expect(mutated('no such file')).toEqual([])
})

test('some are chosen, spread over all, the same for the same seed', () => {
  const all = Array.from({ length: 1000 }, (_, line) => ({ file: 'a.ts', line, before: '', after: '' }))
  const parts = choose(all, 50, 7)
  expect(parts).toHaveLength(50)
  for (const [i, part] of parts.entries()) {
    expect(part.map(({ line }) => line).sort((a, b) => a - b)).toEqual(Array.from({ length: 20 }, (_, j) => 20 * i + j))
  }
  const first = (seed: number) => choose(all, 50, seed).map(([mutant]) => mutant?.line)
  expect(first(7)).toEqual(parts.map(([mutant]) => mutant?.line))
  expect(first(8)).not.toEqual(first(7))
  expect(choose(all.slice(0, 3), 50, 7)).toHaveLength(3)
})
