// SPDX-License-Identifier: Apache-2.0
/** What a Linux notices of the server: boots with the policy pkvm, and of the same QEMU without a server. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Report } from '../../server/run/runReport.ts'
import type { Context, Figure, Name, Part } from './figure.ts'
import { linuxBudget, recordedTraps, type TimedTrap } from './linuxTraps.ts'
import { inPairs } from './stats.ts'

export const MAIN = fileURLToPath(new URL('../../server/cli/main.ts', import.meta.url))
const TIMEOUT_S = 600

/**
 * Boots once, in a process of its own, with timed reads at the end.
 * @throws Error when the run was not a good one.
 */
export async function bootOnce({ scale, signal, env }: Context, ...args: string[]): Promise<Report> {
  signal.throwIfAborted()
  const folder = mkdtempSync(join(tmpdir(), 'cosim-bench-'))
  try {
    const file = join(folder, 'report.json')
    const all = ['boot', '--quiet', '--timeout', TIMEOUT_S, '--bench', scale.reads, '--report', file, ...args]
    const child = spawn(process.execPath, [MAIN, ...all.map(String)], {
      stdio: ['ignore', 'ignore', 'pipe'],
      env: { ...process.env, ...env },
    })
    let errors = ''
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      errors = (errors + text).slice(-4096)
    })
    const stop = () => child.kill('SIGTERM')
    signal.addEventListener('abort', stop)
    const timer = setTimeout(() => child.kill('SIGKILL'), (TIMEOUT_S + 60) * 1000)
    await once(child, 'close').finally(() => {
      clearTimeout(timer)
      signal.removeEventListener('abort', stop)
    })
    signal.throwIfAborted()
    if (!existsSync(file)) throw new Error(`a boot left no report: ${errors.trim().split('\n').at(-1)}`)
    const report = JSON.parse(readFileSync(file, 'utf8')) as Report
    if (report.outcome !== 'ok') throw new Error(`a boot failed: ${report.message}`)
    return report
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

const NESTED = 'pkvm, nested'
const BASELINE = 'without the server'

/** Until userspace, s. */
export const bootSeconds = ({ bootMs }: Report): number => {
  if (bootMs === null) throw new Error('userspace was never reached')
  return bootMs / 1000
}

/** µs a read. */
export const readMicroseconds =
  (device: string) =>
  ({ bench = [] }: Report): number => {
    const entry = bench.find(e => e.device === device)
    if (entry === undefined) throw new Error(`no timed reads of ${device}`)
    return (entry.ms / entry.reads) * 1000
  }

const times =
  (kind: 'latencyUs' | 'serverUs', q: 'p50' | 'p99') =>
  ({ traps }: Report): number => {
    if (traps === null) throw new Error('the report has no traps')
    return traps[kind][q]
  }

/** `boot`, `reads` and `server` are looked at in the same runs. */
export async function benchBoots(context: Context, names: ReadonlySet<Name>): Promise<Part> {
  const { scale, signal, say } = context
  const run = (...args: string[]) => bootOnce(context, ...args)
  if (scale.warmUp) {
    say('boot: warm-up')
    await run()
    await run('--baseline')
  }
  const timed: TimedTrap[] = []
  const { a, b } = await inPairs(
    scale.pairs,
    signal,
    async pair => {
      say(`boot: pair ${pair + 1} of ${scale.pairs}`)
      const report = await run()
      if (report.recording !== undefined) for (const trap of recordedTraps(report.recording.path)) timed.push(trap)
      return report
    },
    () => run('--baseline'),
  )
  const compare = (bench: Name, what: string, unit: string, target: string, of: (r: Report) => number): Figure => ({
    bench,
    what,
    unit,
    a: { label: NESTED, values: a.map(of) },
    b: { label: BASELINE, values: b.map(of) },
    target,
  })
  const alone = (what: string, of: (r: Report) => number, target?: string): Figure => ({
    bench: 'server',
    what,
    unit: 'µs',
    a: { label: NESTED, values: a.map(of) },
    ...(target !== undefined && { target }),
  })
  const figures = [
    compare('boot', 'boot to userspace', 's', '≤ 1.02 ×', bootSeconds),
    compare('reads', '4-KiB read, virtio-blk', 'µs', '≤ 1.05 ×', readMicroseconds('virtio-blk')),
    compare('reads', '4-KiB read, nvme', 'µs', '≤ 1.05 ×', readMicroseconds('nvme')),
    alone('any trap while Linux boots and reads, p50', times('latencyUs', 'p50'), '≤ 5 µs'),
    alone('any trap while Linux boots and reads, p99', times('latencyUs', 'p99')),
    alone('server’s own time per trap, p50', times('serverUs', 'p50'), '≤ 1.5 µs'),
    alone('server’s own time per trap, p99', times('serverUs', 'p99'), '≤ 20 µs'),
  ]
  return {
    figures: figures.filter(({ bench }) => names.has(bench)),
    ...(names.has('server') && timed.length > 0 && { budgets: [linuxBudget(timed)] }),
  }
}
