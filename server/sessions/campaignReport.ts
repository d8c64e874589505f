// SPDX-License-Identifier: Apache-2.0
/** Campaigns as text, JUnit XML and HTML. Differences from what is expected come first everywhere. */
import { isDeepStrictEqual } from 'node:util'
import { counted, grouped, tenths } from '../trace/words.ts'
import type { JobMachine } from './agentMachine.ts'
import { byPlace, type Comparison, compare } from './compare.ts'
import type { Campaign, Row } from './database.ts'
import { jobName } from './database.ts'
import type { Job } from './session.ts'
import { expectedOf, GRAVITY, isExpected } from './verdict.ts'

const expectedText = (job: Job): string => expectedOf(job.entry).join(' or ') || 'nothing'

/** Ends the name of an entry that runs a second time. */
export const AGAIN = '-again'

export const quoted = (word: string): string =>
  /^[\w./:@%+=-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`

/** The options that ask for a machine, as words of a command line. */
export const machineWords = ({ modules, initrd, append, qemuArgs = [], devices = [] }: JobMachine): string[] => [
  ...devices.flatMap(name => ['--device', name]),
  ...(modules === undefined ? [] : ['--modules', modules]),
  ...(initrd === undefined ? [] : ['--initrd', initrd]),
  ...(append === undefined ? [] : [`--append=${append}`]),
  ...qemuArgs.map(word => `--qemu-arg=${word}`),
]

/** The command that runs a session again; of a file, all that is in it. */
export function repeatCommand({ entry: { name, source }, kernel, until, seed, machine = {} }: Job): string {
  const what = source ?? (name.endsWith(AGAIN) ? name.slice(0, -AGAIN.length) : name)
  const of = ['--seed', String(seed), '--kernel', kernel, '--until', until, ...machineWords(machine)]
  const words = ['faults', 'run', what, ...of]
  return `npm run smmu-cosim -- ${words.map(quoted).join(' ')}`
}

/** Unexpected ones first, else as planned. */
export function inOrder(rows: readonly Row[]): Row[] {
  return [...rows].sort((a, b) => Number(a.result.asExpected) - Number(b.result.asExpected))
}

/** A table for the terminal. */
export function tableText(rows: readonly Row[]): string {
  const cells = inOrder(rows).map(({ job, result }) => [
    result.asExpected ? 'as expected' : 'UNEXPECTED',
    jobName(job),
    result.verdict,
    result.asExpected ? '' : `expected ${expectedText(job)}`,
    `${tenths(result.ms / 1000)} s`,
    result.findings[0]?.text.slice(0, 100) ?? '',
  ])
  const widths = [0, 1, 2, 3, 4].map(i => Math.max(0, ...cells.map(row => row[i]?.length ?? 0)))
  const lines = cells.map(row =>
    row
      .map((cell, i) => cell.padEnd(widths[i] ?? 0))
      .join('  ')
      .trimEnd(),
  )
  const bad = rows.filter(({ result }) => !result.asExpected).length
  const summary = `${counted(rows.length, 'session')}, ${bad === 0 ? 'all as expected' : `${bad} not as expected`}`
  return [...lines, summary].join('\n')
}

// Control characters are no XML, whatever stands around them.
// biome-ignore lint/suspicious/noControlCharactersInRegex: that is what it is about
const NO_XML = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\ufffe\uffff]/g

/** Text as it may stand in an element or an attribute of XML and HTML. */
export function escapeXml(text: string): string {
  const names: Readonly<Record<string, string>> = {
    '&': '&amp;',
    '<': '&lt;',
    '>': '&gt;',
    '"': '&quot;',
    "'": '&#39;',
  }
  return text
    .toWellFormed()
    .replace(NO_XML, '\ufffd')
    .replace(/[&<>"']/g, c => names[c] ?? c)
}

/** JUnit XML: a session is a test case, one that is not as expected a failure; an error of the harness an error. */
export function junitXml(campaign: Campaign, rows: readonly Row[]): string {
  const failures = rows.filter(({ result }) => !result.asExpected && result.verdict !== 'harness-error').length
  const errors = rows.filter(({ result }) => !result.asExpected && result.verdict === 'harness-error').length
  const seconds = (ms: number) => (ms / 1000).toFixed(3)
  const time = seconds(rows.reduce((sum, { result }) => sum + result.ms, 0))
  const cases = inOrder(rows).map(({ job, result }) => {
    const { entry, kernel, until, seed } = job
    const head = `    <testcase classname="${escapeXml(`faults.${kernel}.${until}`)}" name="${escapeXml(`${entry.name} seed ${seed}`)}" time="${seconds(result.ms)}"`
    const text = [...result.findings.map(({ verdict, text }) => `${verdict}: ${text}`), repeatCommand(job)].join('\n')
    if (result.asExpected) return `${head}>\n      <system-out>${escapeXml(text)}</system-out>\n    </testcase>`
    const kind = result.verdict === 'harness-error' ? 'error' : 'failure'
    const message = `${result.verdict}, expected ${expectedText(job)}`
    return `${head}>\n      <${kind} message="${escapeXml(message)}">${escapeXml(text)}</${kind}>\n    </testcase>`
  })
  const suite = `name="smmu-cosim faults ${campaign.id}" tests="${rows.length}" failures="${failures}" errors="${errors}" time="${time}" timestamp="${campaign.started}"`
  return `<?xml version="1.0" encoding="UTF-8"?>\n<testsuites>\n  <testsuite ${suite}>\n${cases.join('\n')}\n  </testsuite>\n</testsuites>\n`
}

export const STYLE = `body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:76rem;padding:0 1rem;color:#1b1f24;background:#fff}
pre{background:#f4f5f7;padding:.7rem;overflow:auto;font-size:12.5px;line-height:1.4}summary{cursor:pointer;padding:.35rem 0}
code{font-size:13px}.bad{color:#b3261e;font-weight:600}.ok{color:#1a6b34}dt{font-weight:600;margin-top:.8rem}dd{margin:0}
table{border-collapse:collapse}td{padding:.1rem .8rem .1rem 0;vertical-align:top}td:first-child{text-align:right;font-variant-numeric:tabular-nums}
@media(prefers-color-scheme:dark){body{color:#e3e6ea;background:#15181c}pre{background:#20242a}.bad{color:#ff8a80}.ok{color:#7ad79a}}`

/** One page that needs nothing else. */
export function htmlPage(campaign: Campaign, rows: readonly Row[]): string {
  const bad = rows.filter(({ result }) => !result.asExpected).length
  const sections = inOrder(rows).map(({ job, result }) => {
    const { entry } = job
    const state = result.asExpected ? 'ok' : 'bad'
    const list = (items: readonly string[]) => `<pre>${escapeXml(items.join('\n')) || 'nothing'}</pre>`
    const timeline = result.timeline
      .map(({ ms, text }) => `<tr><td>${(ms / 1000).toFixed(2)} s</td><td>${escapeXml(text)}</td></tr>`)
      .join('')
    return `<details${result.asExpected ? '' : ' open'}><summary><span class="${state}">${escapeXml(result.verdict)}</span> ${escapeXml(jobName(job))}${result.asExpected ? '' : `, expected ${escapeXml(expectedText(job))}`}</summary>
<p>${escapeXml(entry.summary)}</p><dl>
<dt>Expected</dt><dd>${escapeXml(expectedText(job))}: ${escapeXml(entry.why)}</dd>
<dt>Evidence</dt><dd>${list(result.findings.map(({ verdict, text }) => `${verdict}: ${text}`))}</dd>
<dt>Time line</dt><dd><table>${timeline}</table></dd>
<dt>Console, its end</dt><dd>${list(result.console)}</dd>
<dt>Trace, around the first fault</dt><dd>${list(result.trace)}</dd>
<dt>Again</dt><dd><code>${escapeXml(repeatCommand(job))}</code></dd></dl></details>`
  })
  const title = `Fault campaign ${campaign.id}`
  const state = campaign.finished === null ? 'not finished' : `finished ${campaign.finished}`
  return `<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1"><title>${title}</title><style>${STYLE}</style></head><body>
<h1>${title}</h1><p>${escapeXml(campaign.what)}<br>Started ${escapeXml(campaign.started)}, ${escapeXml(state)}. ${grouped(rows.length)} of ${counted(campaign.plan.length, 'session')}, <span class="${bad ? 'bad' : 'ok'}">${bad} not as expected</span>.</p>
${sections.join('\n')}</body></html>\n`
}

/** Jobs with other seeds, and those that ran a second time, are of one place. */
const placeOf = ({ entry: { name }, kernel, until }: Job): string =>
  `${name.endsWith(AGAIN) ? name.slice(0, -AGAIN.length) : name} ${kernel} ${until}`

/**
 * Campaigns of two times, place by place. Both are judged by the later expectation of an entry.
 * @returns the comparison, and what else has to be known to read it, a line each
 */
export function compareCampaigns(before: readonly Row[], after: readonly Row[]): readonly [Comparison, string[]] {
  const notes: string[] = []
  const places = [...byPlace(before, after, ({ job }) => placeOf(job))].map(([name, { before, after }]) => {
    const [was, is] = [before, after].map(rows => rows.at(-1)?.job)
    const judge = is ?? was
    const expected = judge === undefined ? [] : expectedOf(judge.entry)
    if (was !== undefined && is !== undefined && !isDeepStrictEqual(expectedOf(was.entry), expected)) {
      notes.push(`${name}: judged by what is expected now, ${expectedText(is)}; it was ${expectedText(was)}`)
    }
    const samples = (rows: readonly Row[]) =>
      rows.map(({ result: { verdict } }) => ({
        ...{ verdict, good: isExpected(verdict, expected), gravity: GRAVITY.indexOf(verdict) },
      }))
    return { name, before: samples(before), after: samples(after) }
  })
  const others = otherMachines(before, after, ({ machine = {} }) => machineWords(machine))
  return [compare(places), [...notes, ...others]]
}

/** A line when the jobs of two times were asked to run on other machines. */
export function otherMachines<Of>(
  before: readonly { readonly job: Of }[],
  after: readonly { readonly job: Of }[],
  words: (job: Of) => readonly string[],
): string[] {
  const [was, is] = [before, after].map(rows =>
    [...new Set(rows.map(({ job }) => words(job).map(quoted).join(' ') || 'the usual'))].sort().join(', '),
  )
  return was === is || was === '' || is === '' ? [] : [`other machines: ${was} → ${is}`]
}
