// SPDX-License-Identifier: Apache-2.0
/** Matrices as text, JUnit XML and HTML. What is not as it should be comes first, but in the tables, which have the order of the plan. */
import { counted, tenths } from '../trace/words.ts'
import { escapeXml, otherMachines, quoted, STYLE } from './campaignReport.ts'
import { byPlace, type Comparison, compare } from './compare.ts'
import {
  type Against,
  bootWords,
  type Cell,
  cellName,
  devicesText,
  type Matrix,
  type MatrixRow,
  placeOf,
} from './matrix.ts'

const seconds = (ms: number): string => tenths(ms / 1000)

/** The command that boots a cell again, on its own. */
export const repeatCell = (cell: Cell): string => `npm run boot -- ${bootWords(cell).slice(1).map(quoted).join(' ')}`

/** Unexpected ones first, else as planned. */
const inOrder = (rows: readonly MatrixRow[]): MatrixRow[] =>
  [...rows].sort((a, b) => Number(a.result.asExpected) - Number(b.result.asExpected))

/** Cells that differ in kernel and devices alone: a table. */
interface Table {
  readonly title: string
  readonly kernels: readonly string[]
  readonly devices: readonly string[]
  /** Undefined: it was not run, or is none of the matrix. */
  readonly row: (kernel: string, devices: string) => MatrixRow | undefined
}

function tablesOf(plan: readonly Cell[], rows: readonly MatrixRow[]): Table[] {
  const done = new Map(rows.map(row => [cellName(row.job), row]))
  const groups = new Map<string, Cell[]>()
  for (const cell of plan) {
    const title = `until ${cell.until}, translate ${cell.translate}, granule ${cell.granule}`
    groups.set(title, [...(groups.get(title) ?? []), cell])
  }
  return [...groups].map(([title, cells]) => {
    const byPlace = new Map(cells.map(cell => [`${cell.kernel}\n${devicesText(cell)}`, cell]))
    return {
      title,
      kernels: [...new Set(cells.map(({ kernel }) => kernel))],
      devices: [...new Set(cells.map(devicesText))],
      row(kernel, devices) {
        const cell = byPlace.get(`${kernel}\n${devices}`)
        return cell && done.get(cellName(cell))
      },
    }
  })
}

/** What a cell is in a table. */
function cellText(row: MatrixRow | undefined): string {
  if (row === undefined) return 'not run'
  const { verdict, ms, warnings } = row.result
  const warned = warnings.length === 0 ? '' : `, ${warnings.length} warning${warnings.length === 1 ? '' : 's'}`
  return `${verdict} ${seconds(ms)} s${warned}`
}

export function summaryText(plan: readonly Cell[], rows: readonly MatrixRow[]): string {
  const ok = rows.filter(({ result }) => result.asExpected).length
  const left = plan.length - rows.length
  return `${counted(plan.length, 'cell')}: ${ok} ok, ${rows.length - ok} not${left === 0 ? '' : `, ${left} not run`}`
}

/** Which QEMUs the cells ran on. */
const qemusOf = (rows: readonly MatrixRow[]): string[] => [...new Set(rows.flatMap(({ result }) => result.qemu ?? []))]

/** For the terminal. */
export function matrixText(plan: readonly Cell[], rows: readonly MatrixRow[]): string {
  const lines: string[] = []
  for (const { title, kernels, devices, row } of tablesOf(plan, rows)) {
    const cells = [
      ['', ...devices],
      ...kernels.map(kernel => [kernel, ...devices.map(names => cellText(row(kernel, names)))]),
    ]
    const widths = devices.concat('').map((_, i) => Math.max(...cells.map(line => line[i]?.length ?? 0)))
    lines.push(
      title,
      ...cells.map(line =>
        line
          .map((cell, i) => cell.padEnd(widths[i] ?? 0))
          .join('  ')
          .trimEnd(),
      ),
      '',
    )
  }
  for (const { job, result } of inOrder(rows)) {
    if (result.asExpected) break
    lines.push(`${cellName(job)}: ${result.verdict}: ${result.message}`, `  ${repeatCell(job)}`)
  }
  return [...lines, ...qemusOf(rows), summaryText(plan, rows)].join('\n')
}

const words = ({ kernel, place, before, after, compared }: Against): string =>
  `${kernel} ${place}: ${before ?? 'not run'} → ${after ?? 'not run'}, ${compared}`

/** A kernel held against another one: what is the same is counted. */
export function againstText(found: readonly Against[], reference: string): string {
  const count = (compared: Against['compared']) => found.filter(one => one.compared === compared).length
  const lines = found.filter(({ compared }) => compared !== 'same').map(words)
  const numbers = (['same', 'worse', 'better', 'other', 'not run'] as const)
    .map(compared => [count(compared), compared] as const)
    .filter(([n, compared]) => n > 0 || compared === 'worse')
    .map(([n, compared]) => `${n} ${compared}`)
  return [...lines, `against ${reference}: ${numbers.join(', ')}`].join('\n')
}

/**
 * Matrices of two times, cell by cell. A matrix has one boot of each cell: several of them together tell a cell that fails now and then from
 * one that has changed.
 * @returns the comparison, and what else has to be known to read it, a line each
 */
export function compareMatrices(
  before: readonly MatrixRow[],
  after: readonly MatrixRow[],
): readonly [Comparison, string[]] {
  const places = [...byPlace(before, after, ({ job }) => cellName(job))].map(([name, { before, after }]) => {
    const samples = (rows: readonly MatrixRow[]) =>
      rows.map(({ result: { verdict, asExpected } }) => ({ verdict, good: asExpected, gravity: Number(asExpected) }))
    return { name, before: samples(before), after: samples(after) }
  })
  const words = ({ machine }: Cell) => Object.entries(machine).map(([name, value]) => `${name}=${value}`)
  return [compare(places), otherMachines(before, after, words)]
}

/** JUnit XML: a cell is a test case, one that is not ok a failure; a boot without a report an error. */
export function matrixJunit(matrix: Matrix, rows: readonly MatrixRow[]): string {
  const bad = rows.filter(({ result }) => !result.asExpected)
  const errors = bad.filter(({ result }) => result.verdict === 'harness-error').length
  const time = (ms: number) => (ms / 1000).toFixed(3)
  const cases = inOrder(rows).map(({ job, result }) => {
    const head = `    <testcase classname="${escapeXml(`matrix.${job.kernel}`)}" name="${escapeXml(placeOf(job))}" time="${time(result.ms)}"`
    const again = repeatCell(job)
    if (result.asExpected) return `${head}>\n      <system-out>${escapeXml(again)}</system-out>\n    </testcase>`
    const kind = result.verdict === 'harness-error' ? 'error' : 'failure'
    const text = escapeXml([result.message, ...result.console, again].join('\n'))
    return `${head}>\n      <${kind} message="${escapeXml(result.verdict)}">${text}</${kind}>\n    </testcase>`
  })
  const total = time(rows.reduce((sum, { result }) => sum + result.ms, 0))
  const suite = `name="smmu-cosim matrix ${matrix.id}" tests="${rows.length}" failures="${bad.length - errors}" errors="${errors}" time="${total}" timestamp="${matrix.started}"`
  return `<?xml version="1.0" encoding="UTF-8"?>\n<testsuites>\n  <testsuite ${suite}>\n${cases.join('\n')}\n  </testsuite>\n</testsuites>\n`
}

/** One page that needs nothing else: the tables, and what there is to say of each cell. */
export function matrixPage(matrix: Matrix, rows: readonly MatrixRow[], found: readonly Against[] = []): string {
  const places = new Map(rows.map((row, i) => [cellName(row.job), i]))
  const tables = tablesOf(matrix.plan, rows).map(({ title, kernels, devices, row }) => {
    const lines = kernels.map(kernel => {
      const cells = devices.map(names => {
        const cell = row(kernel, names)
        if (cell === undefined) return '<td>not run</td>'
        const state = cell.result.asExpected ? 'ok' : 'bad'
        return `<td><a class="${state}" href="#c${places.get(cellName(cell.job))}">${escapeXml(cellText(cell))}</a></td>`
      })
      return `<tr><th scope="row">${escapeXml(kernel)}</th>${cells.join('')}</tr>`
    })
    const head = devices.map(names => `<th scope="col">${escapeXml(names)}</th>`).join('')
    return `<h2>${escapeXml(title)}</h2>\n<table class="matrix"><tr><th></th>${head}</tr>\n${lines.join('\n')}</table>`
  })
  const details = inOrder(rows).map(({ job, result }) => {
    const state = result.asExpected ? 'ok' : 'bad'
    const checks = result.checks.map(
      ({ name, error }) => `${error === '' ? 'ok     ' : 'FAILED '} ${name}${error === '' ? '' : `: ${error}`}`,
    )
    const list = (items: readonly string[]) => `<pre>${escapeXml(items.join('\n')) || 'nothing'}</pre>`
    return `<details id="c${places.get(cellName(job))}"${result.asExpected ? '' : ' open'}><summary><span class="${state}">${escapeXml(result.verdict)}</span> ${escapeXml(cellName(job))}</summary>
<p>Linux ${escapeXml(result.release ?? 'of which nothing is known')}${result.qemu === undefined ? '' : `, ${escapeXml(result.qemu)}`}, ${seconds(result.ms)} s, ${result.traps === null || result.traps === undefined ? 'no traps' : counted(result.traps, 'trap')}. ${escapeXml(result.message)}</p><dl>
<dt>Workload</dt><dd>${list(checks)}</dd>
<dt>Unexpected hyp warnings</dt><dd>${list(result.warnings)}</dd>
${result.asExpected ? '' : `<dt>Console, its end</dt><dd>${list(result.console)}</dd>`}
<dt>Again</dt><dd><code>${escapeXml(repeatCell(job))}</code></dd></dl></details>`
  })
  const compared =
    found.length === 0 ? '' : `<h2>Against another kernel</h2><pre>${escapeXml(found.map(words).join('\n'))}</pre>\n`
  const title = `Matrix ${matrix.id}`
  const state = matrix.finished === null ? 'not finished' : `finished ${matrix.finished}`
  return `<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1"><title>${title}</title><style>${STYLE}
.matrix td,.matrix th{text-align:left;padding:.25rem .9rem .25rem 0}.matrix th{font-weight:600}</style></head><body>
<h1>${title}</h1><p>${escapeXml(matrix.what)}<br>Started ${escapeXml(matrix.started)}, ${escapeXml(state)}.<br>${qemusOf(
    rows,
  )
    .map(qemu => `${escapeXml(qemu)}<br>`)
    .join('')}${escapeXml(summaryText(matrix.plan, rows))}.</p>
${tables.join('\n')}
${compared}<h2>Cells</h2>
${details.join('\n')}</body></html>\n`
}
