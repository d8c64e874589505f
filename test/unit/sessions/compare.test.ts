// SPDX-License-Identifier: Apache-2.0
/** What is told as a change between two times, and what comes and goes with the seed. */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { CatalogueEntry, Verdict } from '../../../server/faults/rule.ts'
import { AGAIN, compareCampaigns } from '../../../server/sessions/campaignReport.ts'
import { type Comparison, compare, comparisonText, isWorse, type Place } from '../../../server/sessions/compare.ts'
import { Database, planOf, type Row } from '../../../server/sessions/database.ts'
import { type CellResult, cellsOf, MatrixDatabase } from '../../../server/sessions/matrix.ts'
import type { SessionResult } from '../../../server/sessions/session.ts'
import { GRAVITY } from '../../../server/sessions/verdict.ts'

const MAIN = fileURLToPath(new URL('../../../server/cli/main.ts', import.meta.url))

/** `ok 9, io-error 1`: so many sessions. */
const samples = (text: string) =>
  text
    .split(', ')
    .filter(part => part !== '')
    .flatMap(part => {
      const [verdict, count] = part.split(' ')
      const one = { verdict, good: verdict === 'recovered', gravity: (GRAVITY as readonly string[]).indexOf(verdict) }
      return Array.from({ length: Number(count) }, () => one)
    })
const place = (name: string, before: string, after: string): Place => ({
  ...{ name, before: samples(before), after: samples(after) },
})
const changes = ({ differences }: Comparison) =>
  differences.map(({ name, change, told }) => `${name} ${change}${told ? '!' : ''}`)

describe('a place that was tried with several seeds', () => {
  test.each([
    // 2 of C(20, 10).
    ['recovered 10', 'io-error 10', ['a worse!'], 2 / 184_756],
    ['io-error 10', 'recovered 10', ['a better!'], 2 / 184_756],
    ['recovered 10', 'unaffected 10', ['a worse!'], 2 / 184_756],
    // Of two tests: gravity tells more than the expectation.
    ['recovered 10', 'io-error 9, guest-oops 1', ['a worse!'], (2 * 2) / 184_756],
    ['guest-oops 10', 'guest-hung 10', ['a milder!'], 2 / 184_756],
    ['guest-hung 10', 'guest-oops 10', ['a graver!'], 2 / 184_756],
    // One failure of ten is what chance gives: 1.
    ['recovered 10', 'recovered 9, io-error 1', ['a worse'], 1],
    ['recovered 9, io-error 1', 'recovered 10', ['a better'], 1],
    ['recovered 9, io-error 1', 'recovered 9, io-error 1', [], undefined],
    ['recovered 3, io-error 1', 'recovered 6, io-error 2', [], undefined],
    ['recovered 1', 'io-error 1', ['a worse'], 1],
    ['recovered 3', 'io-error 3', ['a worse'], 0.1],
    ['io-error 4', '', ['a not run'], 1],
    ['', 'io-error 4', ['a not run'], 1],
  ] as const)('%s → %s', (before, after, expected, p) => {
    const comparison = compare([place('a', before, after)])
    expect(changes(comparison)).toEqual(expected)
    if (p !== undefined) expect(comparison.differences[0]?.p).toBeCloseTo(p, 9)
    expect(isWorse(comparison)).toBe(/ (worse|graver)!$/.test(expected[0] ?? ''))
    expect(comparison.same).toBe(expected.length === 0 ? 1 : 0)
  })

  test('verdicts of one gravity that change places are neither worse nor better', () => {
    const one = (verdict: string) => Array.from({ length: 10 }, () => ({ verdict, good: false, gravity: 0 }))
    const comparison = compare([{ name: 'a', before: one('guest-failed'), after: one('qemu-died') }])
    expect(changes(comparison)).toEqual(['a other'])
  })

  test('four seeds each are the least for one place; with more places more is asked for', () => {
    const four = (name: string) => place(name, 'recovered 4', 'io-error 4')
    expect(compare([place('a', 'recovered 3', 'io-error 3')]).tooFew).toBe(true)
    const alone = compare([four('a')])
    expect([changes(alone), alone.tooFew]).toEqual([['a worse!'], false])
    expect(alone.differences[0]?.p).toBeCloseTo(2 / 70, 9)
    expect(changes(compare([four('a'), four('b')]))).toEqual(['a worse', 'b worse'])
    // Places at which nothing can be found ask for nothing.
    const quiet = Array.from({ length: 100 }, (_, i) => place(`q${i}`, 'recovered 4', 'recovered 4'))
    expect(changes(compare([...quiet, four('a')]))).toEqual(['a worse!'])
  })

  test('what became worse comes first, and what may be chance last', () => {
    const comparison = compare([
      place('same', 'recovered 10', 'recovered 10'),
      place('better', 'io-error 10', 'recovered 10'),
      place('gone', 'recovered 10', ''),
      place('luck', 'recovered 10', 'recovered 9, io-error 1'),
      place('graver', 'guest-hung 10', 'guest-panic 10'),
      place('worse', 'recovered 10', 'recovered 1, guest-oops 9'),
    ])
    expect(changes(comparison)).toEqual([
      'worse worse!',
      'graver graver!',
      'better better!',
      'luck worse',
      'gone not run',
    ])
    expect(comparison.flaky.map(({ name, side }) => [name, side.runs])).toEqual([
      ['luck', 20],
      ['worse', 10],
    ])
  })

  test('in words', () => {
    const text = comparisonText(
      compare([
        place('a', 'recovered 10', 'recovered 2, io-error 8'),
        place('b', 'recovered 9, io-error 1', 'recovered 10'),
        place('c', 'recovered 10', 'recovered 10'),
      ]),
      ['a note'],
    )
    expect(text.split('\n')).toEqual([
      // 8 of 10 and 2 of 10 by Wilson: 49 to 94 %, 6 to 51 %; 2 · C(12, 2) of C(20, 10) are 0.00071.
      'a: worse, p = 0.00071: recovered 10 → io-error 8, recovered 2; as expected 10 of 10 (72–100 %) → 2 of 10 (6–51 %)',
      'b: better, perhaps by chance: recovered 9, io-error 1 → recovered 10; as expected 9 of 10 (60–98 %) → 10 of 10 (72–100 %)',
      'flaky: a: io-error 8 of 10 (49–94 %), recovered 2 of 10 (6–51 %)',
      'flaky: b: recovered 19 of 20 (76–99 %), io-error 1 of 20 (1–24 %)',
      'a note',
      '1 the same, 2 different, of these 1 worse and 0 better by more than chance, 2 flaky',
    ])
    expect(comparisonText(compare([place('a', 'recovered 1', 'io-error 1')]), []).split('\n')).toEqual([
      'a: worse, perhaps by chance: recovered → io-error',
      'with so few sessions nothing can be told from chance: a place needs four each time',
      '0 the same, 1 different, of these 0 worse and 0 better by more than chance',
    ])
  })
})

const entry = (name: string, expected: CatalogueEntry['expect'] = 'recovered'): CatalogueEntry => ({
  ...{ name, summary: 's', expect: expected, why: 'w', rules: [] },
})
const result = (verdict: Verdict): SessionResult => ({
  ...{ verdict, asExpected: verdict === 'recovered', findings: [], evidence: {} as SessionResult['evidence'] },
  ...{ timeline: [], console: [], trace: [], before: { accesses: 0, digest: '' }, ms: 1, folder: '/x' },
})
const rows = (of: CatalogueEntry, verdicts: readonly Verdict[]): Row[] =>
  planOf([of], ['6.12'], ['nested'], [...verdicts.keys()]).map((job, i) => ({ job, result: result(verdicts[i]) }))
const times = (verdict: Verdict, n: number): Verdict[] => Array.from({ length: n }, () => verdict)

describe('campaigns', () => {
  test('the seeds of an entry are one place, and so are the sessions that ran a second time', () => {
    const before = [...rows(entry('a'), times('recovered', 5)), ...rows(entry(`a${AGAIN}`), times('recovered', 5))]
    const [comparison, notes] = compareCampaigns(before, rows(entry('a'), times('io-error', 10)))
    expect(comparison.differences.map(({ name, change, told, before }) => [name, change, told, before.runs])).toEqual([
      ['a 6.12 nested', 'worse', true, 10],
    ])
    expect(notes).toEqual([])
  })

  test('both times are judged by what is expected now, and it is said', () => {
    const verdicts = [...times('recovered', 5), ...times('io-error', 5)]
    const wider = entry('a', ['recovered', 'io-error'])
    const [comparison, notes] = compareCampaigns(rows(entry('a'), verdicts), rows(wider, verdicts))
    expect(comparison.same).toBe(1)
    expect(comparison.flaky).toHaveLength(1)
    expect(notes).toEqual(['a 6.12 nested: judged by what is expected now, recovered or io-error; it was recovered'])
  })

  test('a file of rules expects nothing: what counts is gravity', () => {
    const own = entry('own', [])
    const [comparison] = compareCampaigns(rows(own, times('recovered', 10)), rows(own, times('guest-oops', 10)))
    expect(changes(comparison)).toEqual(['own 6.12 nested graver!'])
    expect(isWorse(comparison)).toBe(true)
  })

  test('other machines are told', () => {
    const before = rows(entry('a'), ['recovered'])
    const after = before.map(({ job, result }) => ({ job: { ...job, machine: { append: 'x y' } }, result }))
    expect(compareCampaigns(before, after)[1]).toEqual(["other machines: the usual → '--append=x y'"])
  })
})

describe('the commands', () => {
  let folder: string
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), `smmu-cosim-${process.pid}-compare-`))
  })
  afterEach(() => rmSync(folder, { recursive: true, force: true }))

  const run = (...words: string[]) => {
    const { status, stdout, stderr } = spawnSync(process.execPath, [MAIN, ...words], { encoding: 'utf8' })
    return { status, stdout, stderr }
  }

  test('faults compare: several campaigns are taken together', () => {
    const path = join(folder, 'campaigns.db')
    const database = new Database(path)
    for (const verdict of ['recovered', 'recovered', 'io-error', 'io-error'] as const) {
      const plan = planOf([entry('a')], ['6.12'], ['nested'], [1, 2, 3])
      const campaign = database.begin('test', plan)
      for (const job of plan) database.add(campaign, job, result(verdict))
      database.finish(campaign)
    }
    database.close()
    const one = run('faults', 'compare', '1', '3', '--database', path)
    expect([one.status, one.stderr]).toEqual([0, ''])
    expect(one.stdout).toContain('a 6.12 nested: worse, perhaps by chance: recovered 3 → io-error 3')
    expect(one.stdout).toContain('nothing can be told from chance')
    const both = run('faults', 'compare', '1,2', '3-4', '--database', path)
    expect(both.status).toBe(1)
    expect(both.stdout).toContain('a 6.12 nested: worse, p = 0.0022: recovered 6 → io-error 6')
    expect(run('faults', 'compare', '3-4', '1-2', '--database', path).status).toBe(0)
    // A campaign that is named twice has not run twice.
    expect(run('faults', 'compare', '1,1', '3,3-3', '--database', path).stdout).toBe(one.stdout)
    const json = JSON.parse(run('faults', 'compare', '1,2', '3-4', '--json', '--database', path).stdout)
    expect(json).toMatchObject({ schema: 'smmu-cosim/compare/1', before: [1, 2], after: [3, 4], notes: [] })
    expect(json.differences).toMatchObject([{ change: 'worse', told: true, after: { good: { count: 0 } } }])
    expect(run('faults', 'compare', '1', '5', '--database', path).stderr).toContain('no campaign 5')
  })

  test('matrix compare', () => {
    const path = join(folder, 'matrices.db')
    const axes = {
      kernels: ['6.12'],
      devices: [[], ['igb']],
      steps: ['nested'],
      modes: ['hardware'],
      granules: [4096],
    } as const
    const plan = cellsOf(axes, { policy: 'pkvm', memory: '1G', smp: 1, timeout: 300 })
    const database = new MatrixDatabase(path)
    for (let i = 0; i < 10; i++) {
      const matrix = database.begin('test', plan)
      for (const cell of plan) {
        const verdict = i >= 5 && cell.devices.length > 0 ? 'guest-hung' : 'ok'
        const more = { message: '', release: null, checks: [], warnings: [], traps: null, console: [] }
        const found: CellResult = { verdict, asExpected: verdict === 'ok', ms: 1, ...more }
        database.add(matrix, cell, found)
      }
      database.finish(matrix)
    }
    database.close()
    const { status, stdout } = run('matrix', 'compare', '1-5', '6-10', '--database', path)
    expect(stdout.split('\n')[0]).toMatch(/^6\.12 igb nested hardware 4096: worse, p = 0\.0079: ok 5 → guest-hung 5; /)
    expect(stdout).toContain('1 the same, 1 different, of these 1 worse and 0 better by more than chance')
    expect(status).toBe(1)
    expect(run('matrix', 'compare', '1', '11', '--database', path).stderr).toContain('no matrix 11')
    const one = run('matrix', 'compare', '1', '10', '--database', path)
    expect([one.status, one.stdout]).toEqual([0, expect.stringContaining('worse, perhaps by chance: ok → guest-hung')])
  })
})
