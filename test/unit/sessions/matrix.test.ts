// SPDX-License-Identifier: Apache-2.0
/** Matrices: what they are made of, what is kept of them, and how they are told. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import {
  against,
  bootWords,
  type Cell,
  type CellResult,
  type CellVerdict,
  cellName,
  cellsOf,
  compareVerdicts,
  MatrixDatabase,
  type MatrixMachine,
  type MatrixRow,
} from '../../../server/sessions/matrix.ts'
import { againstText, matrixJunit, matrixPage, matrixText, repeatCell } from '../../../server/sessions/matrixReport.ts'
import { campaignSum } from '../../../server/sessions/store.ts'
import { parsed } from '../cli/parsed.ts'

const MACHINE: MatrixMachine = { policy: 'pkvm', memory: '1G', smp: 1, timeout: 300 }
const AXES = {
  kernels: ['6.12', '/my kernels/linux'],
  devices: [[], ['ahci', 'igb']],
  steps: ['nested'],
  modes: ['hardware'],
  granules: [4096],
} as const
const PLAN = cellsOf(AXES, MACHINE)

const result = (verdict: CellVerdict, more: Partial<CellResult> = {}): CellResult => ({
  ...{ verdict, asExpected: verdict === 'ok', ms: 12_345, message: verdict === 'ok' ? '' : 'why <not>' },
  ...{ release: '6.12.1', checks: [{ name: 'ahci read', error: '' }], warnings: [], traps: 5, console: [] },
  ...more,
})

/** Verdicts in the order of the plan; undefined: not run. */
const rowsOf = (plan: readonly Cell[], verdicts: readonly (CellVerdict | undefined)[]): MatrixRow[] =>
  plan.flatMap((job, i) => {
    const verdict = verdicts[i]
    return verdict === undefined ? [] : [{ job, result: result(verdict) }]
  })

describe('the plan', () => {
  test('is all combinations, kernel by kernel', () => {
    expect(PLAN.map(cellName)).toEqual([
      '6.12 usual nested hardware 4096',
      '6.12 ahci+igb nested hardware 4096',
      '/my kernels/linux usual nested hardware 4096',
      '/my kernels/linux ahci+igb nested hardware 4096',
    ])
  })

  test('has no second granule where there is no second stage', () => {
    const cells = cellsOf(
      { ...AXES, kernels: ['6.1'], devices: [[]], steps: ['cmdq', 'nested'], granules: [4096, 65536] },
      MACHINE,
    )
    expect(cells.map(({ until, granule }) => [until, granule])).toEqual([
      ['cmdq', 4096],
      ['nested', 4096],
      ['nested', 65536],
    ])
  })

  test('a cell is a boot that boot takes, as a person would type it', async () => {
    const cell = { ...PLAN[3], machine: { ...MACHINE, append: 'debug x=1', qemuArgs: ['-d', 'unimp'] } }
    const { code, said, options } = await parsed(bootWords({ ...cell, kernel: '6.1' }))
    expect(code, said).toBe(0)
    expect(options).toMatchObject({
      kernel: '6.1',
      device: ['igb', 'ahci'],
      append: 'debug x=1',
      qemuArg: ['-d', 'unimp'],
    })
    expect(repeatCell(cell)).toBe(
      "npm run boot -- --kernel '/my kernels/linux' --device ahci --device igb --policy pkvm --until nested --translate hardware --granule 4096 --memory 1G --smp 1 --timeout 300 '--append=debug x=1' --qemu-arg=-d --qemu-arg=unimp",
    )
  })
})

test('modules are those of kernels of one’s own; Debian’s, beside them, have theirs', () => {
  const machine = { ...MACHINE, modules: '/modules' }
  expect(bootWords({ ...PLAN[3], machine })).toEqual(expect.arrayContaining(['--modules', '/modules']))
  expect(bootWords({ ...PLAN[0], machine })).not.toContain('--modules')
})

describe('what is kept', () => {
  let folder: string
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), `smmu-cosim-${process.pid}-matrix-`))
  })
  afterEach(() => rmSync(folder, { recursive: true }))

  test('goes on where it was', () => {
    const path = join(folder, 'db')
    const first = new MatrixDatabase(path)
    const matrix = first.begin('test', PLAN)
    first.add(matrix, PLAN[1], result('ok'))
    first.close()
    const again = new MatrixDatabase(path)
    const same = again.campaign(again.unfinished() ?? 0)
    expect(again.remaining(same).map(cellName)).toEqual([0, 2, 3].map(i => cellName(PLAN[i])))
    expect(again.rows(same)).toEqual([{ job: PLAN[1], result: result('ok') }])
    expect(() => again.campaign(7)).toThrow('"smmu-cosim matrix list" lists them')
    again.close()
  })

  test.each([
    ['a step that is none', { ...PLAN[0], until: 'exec' }],
    ['a granule that is none', { ...PLAN[0], granule: 4095 }],
    ['words that are none', { ...PLAN[0], machine: { ...MACHINE, qemuArgs: [1] } }],
  ])('a plan is checked before any of it is booted: %s', (_what, cell) => {
    const path = join(folder, 'db')
    const database = new MatrixDatabase(path)
    database.begin('test', [])
    database.close()
    const db = new DatabaseSync(path)
    const { sum: _, ...row } = db.prepare('SELECT * FROM campaigns').get() ?? {}
    const plan = JSON.stringify([cell])
    // Whoever makes such a file knows how its sums are made.
    const sum = campaignSum({ ...(row as unknown as Parameters<typeof campaignSum>[0]), plan })
    db.prepare('UPDATE campaigns SET plan = ?, sum = ?').run(plan, sum)
    db.close()
    expect(() => new MatrixDatabase(path).campaign(1)).toThrow('the plan of matrix 1 is damaged')
  })
})

describe('kernels held against each other', () => {
  test.each([
    ['ok', 'ok', 'same'],
    ['ok', 'guest-hung', 'worse'],
    ['guest-failed', 'ok', 'better'],
    ['guest-failed', 'guest-hung', 'other'],
    ['guest-hung', 'guest-hung', 'same'],
    ['ok', undefined, 'not run'],
    [undefined, 'ok', 'not run'],
  ] as const)('%s and then %s: %s', (before, after, compared) => {
    expect(compareVerdicts(before, after)).toBe(compared)
  })

  test('place by place, what is worse first', () => {
    const found = against(PLAN, rowsOf(PLAN, ['ok', 'ok', 'ok', 'guest-hung']), '6.12')
    expect(found.map(({ place, compared }) => [place, compared])).toEqual([
      ['ahci+igb nested hardware 4096', 'worse'],
      ['usual nested hardware 4096', 'same'],
    ])
    expect(againstText(found, '6.12')).toBe(
      '/my kernels/linux ahci+igb nested hardware 4096: ok → guest-hung, worse\nagainst 6.12: 1 same, 1 worse',
    )
  })
})

describe('reports', () => {
  const rows = rowsOf(PLAN, ['ok', undefined, 'guest-failed', 'harness-error'])
  const matrix = { id: 3, started: '2026-01-01T00:00:00.000Z', finished: null, what: 'a <matrix>', plan: PLAN }

  test('a table, and what is not ok with its command', () => {
    expect(
      matrixText(PLAN, rows)
        .split('\n')
        .map(line => line.trimEnd()),
    ).toEqual([
      'until nested, translate hardware, granule 4096',
      '                   usual                ahci+igb',
      '6.12               ok 12.3 s            not run',
      '/my kernels/linux  guest-failed 12.3 s  harness-error 12.3 s',
      '',
      '/my kernels/linux usual nested hardware 4096: guest-failed: why <not>',
      `  ${repeatCell(PLAN[2])}`,
      '/my kernels/linux ahci+igb nested hardware 4096: harness-error: why <not>',
      `  ${repeatCell(PLAN[3])}`,
      '4 cells: 1 ok, 2 not, 1 not run',
    ])
  })

  test('JUnit: failures and errors apart, nothing of a guest is markup', () => {
    const hostile = rows.map(row => ({ ...row, result: { ...row.result, console: ['</failure>\u0007'] } }))
    const xml = matrixJunit(matrix, hostile)
    expect(xml).toContain('tests="3" failures="1" errors="1"')
    expect(xml.match(/<testcase /g)).toHaveLength(3)
    expect(xml.match(/<\/failure>/g)).toHaveLength(1)
    expect(xml).toContain('&lt;/failure&gt;\ufffd')
  })

  test('HTML: a cell leads to what there is of it', () => {
    const page = matrixPage(matrix, rows, against(PLAN, rows, '6.12'))
    const links = [...page.matchAll(/href="#(c\d+)"/g)].map(([, id]) => id)
    expect(links).toHaveLength(3)
    for (const id of links) expect(page).toContain(`<details id="${id}"`)
    expect(page).toContain('<td>not run</td>')
    expect(page).toContain('a &lt;matrix&gt;')
    expect(page).toContain('ok → guest-failed, worse')
    expect(page).not.toContain('<not>')
  })

  test('which QEMUs ran, each once; of an older matrix it is not known', () => {
    const qemus = ['QEMU 10.0.13', 'QEMU 10.0.13, the binary /<b>', 'QEMU 10.0.13']
    const told = rowsOf(PLAN, ['ok', 'ok', 'ok', 'ok']).map((row, i) => {
      const qemu = qemus[i]
      return { ...row, result: { ...row.result, ...(qemu !== undefined && { qemu }) } }
    })
    expect(matrixText(PLAN, told).split('\n').slice(-3)).toEqual([qemus[0], qemus[1], '4 cells: 4 ok, 0 not'])
    const page = matrixPage(matrix, told)
    expect(page).toContain('<br>QEMU 10.0.13<br>QEMU 10.0.13, the binary /&lt;b&gt;<br>4 cells')
    expect(page.match(/Linux 6\.12\.1, QEMU 10\.0\.13/g)).toHaveLength(3)
  })
})

test.each([
  ['--kernel 6.12 --until exec', /"exec" is none of mmio/],
  ['--granule 4095', /"4095" is none of 4096/],
  ['--translate x', /"x" is none of/],
  ['--device usual,x', /"x" is none of usual/],
  ['--jobs 0', /expected a whole number from 1/],
  ['report x', /expected a whole number/],
])('matrix %s is refused', async (words, message) => {
  const { code, said } = await parsed(['matrix', ...words.split(' ')])
  expect([code, said]).toEqual([2, expect.stringMatching(message)])
})

test('matrix without a word more is a run', async () => {
  const { command, options } = await parsed([
    'matrix',
    '--kernel',
    '6.1,6.12',
    '--device',
    'usual,igb+ahci',
    '--against',
    '6.12',
  ])
  expect(command).toBe('matrix run')
  expect(options).toMatchObject({ kernel: ['6.1', '6.12'], device: [[], ['igb', 'ahci']], against: '6.12' })
})
