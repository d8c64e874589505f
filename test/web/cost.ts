// SPDX-License-Identifier: Apache-2.0
/**
 * What an open dashboard with a live trap stream costs the guest: paired runs with and without, in turn, on a machine that
 * does nothing else. Prints the runs and the ratios of the medians.
 *
 *     node test/web/cost.ts [--pairs 5] [--qemu FILE] [--reads 4000]
 */
import { spawn } from 'node:child_process'
import { readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { type Browser, chromium } from 'playwright-core'
import { privateFolder } from '../../server/machine/scratch.ts'
import type { Report } from '../../server/run/runReport.ts'
import { CHROMIUM, CHROMIUM_ARGUMENTS } from './browser.ts'

const { values } = parseArgs({
  options: {
    pairs: { type: 'string', default: '5' },
    reads: { type: 'string', default: '4000' },
    qemu: { type: 'string' },
  },
})
const main = fileURLToPath(new URL('../../server/cli/main.ts', import.meta.url))
const folder = privateFolder(tmpdir(), 'cost-')

interface Run {
  readonly p50: number
  readonly p99: number
  readonly workload: number
}

async function run(open: boolean): Promise<Run> {
  const report = join(folder, 'report.json')
  const args = [main, 'boot', '--quiet', '--bench', values.reads, '--report', report, '--timeout', '300']
  if (values.qemu !== undefined) args.push('--qemu', values.qemu)
  if (open) args.push('--dashboard', '0')
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'ignore', 'pipe'] })
  let browser: Browser | undefined
  const watch = async (url: string) => {
    browser = await chromium.launch({ executablePath: CHROMIUM, args: CHROMIUM_ARGUMENTS })
    const page = await browser.newPage({ viewport: { width: 1280, height: 800 } })
    await page.goto(new URL('/#/traps', url).href)
  }
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    const url = /dashboard at (\S+)/.exec(text)?.[1]
    if (url !== undefined) void watch(url).catch(console.error)
  })
  await new Promise(resolve => child.on('close', resolve))
  await browser?.close()
  const { traps, bench = [] } = JSON.parse(readFileSync(report, 'utf8')) as Report
  const workload = bench.reduce((sum, { ms }) => sum + ms, 0)
  return { p50: traps?.latencyUs.p50 ?? 0, p99: traps?.latencyUs.p99 ?? 0, workload }
}

const median = (numbers: number[]): number => numbers.sort((a, b) => a - b)[Math.floor(numbers.length / 2)] ?? 0
const runs: Record<'closed' | 'open', Run[]> = { closed: [], open: [] }
try {
  for (let pair = 0; pair < Number(values.pairs); pair++) {
    for (const which of pair % 2 === 0 ? (['closed', 'open'] as const) : (['open', 'closed'] as const)) {
      const result = await run(which === 'open')
      runs[which].push(result)
      console.log(which.padEnd(7), JSON.stringify(result))
    }
  }
} finally {
  rmSync(folder, { recursive: true, force: true })
}
for (const key of ['p50', 'p99', 'workload'] as const) {
  const ratio = median(runs.open.map(r => r[key])) / median(runs.closed.map(r => r[key]))
  console.log(`${key.padEnd(9)} open ÷ closed = ${ratio.toFixed(3)}`)
}
