// SPDX-License-Identifier: Apache-2.0
/** Where the server's own time for a CMDQ_PROD write goes, and what a trap leaves on the heap: whole boots with probePolicy.ts. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Percentiles } from '../../server/trace/histogram.ts'
import { bootOnce } from './boots.ts'
import type { Budget, Context, Part } from './figure.ts'
import { median, repeat } from './stats.ts'

/** What of a decision is timed. */
export const PARTS = ['reads of guest memory', 'writes of guest memory', 'hardware', 'rest'] as const

/** What the policy writes. */
export interface Probed {
  /** In the order of PARTS. */
  readonly ns?: readonly Percentiles[]
  readonly bytesPerTrap?: number
  /** In the kernel's monotonic clock, ns. */
  readonly dated?: {
    /** The trap thread, as the kernel numbers it. */
    readonly thread: number
    readonly seen: readonly (readonly [seq: number, ns: number])[]
    readonly collections: readonly (readonly [ns: number, duration: number])[]
  }
}

const POLICY = fileURLToPath(new URL('./probePolicy.ts', import.meta.url))

async function probed(context: Context, what: 'time' | 'heap'): Promise<Probed> {
  const folder = mkdtempSync(join(tmpdir(), 'cosim-bench-'))
  try {
    const file = join(folder, 'probe.json')
    await bootOnce({ ...context, env: { COSIM_BENCH_PROBE: file, COSIM_BENCH_WHAT: what } }, '--policy', POLICY)
    return JSON.parse(readFileSync(file, 'utf8')) as Probed
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

export async function benchParts(context: Context): Promise<Part> {
  const { scale, signal, say } = context
  const runs = await repeat(scale.pairs, signal, async n => {
    say(`parts: run ${n + 1} of ${scale.pairs}`)
    const { ns } = await probed(context, 'time')
    const { bytesPerTrap } = await probed(context, 'heap')
    if (ns === undefined || bytesPerTrap === undefined) throw new Error('a boot had too few traps to tell')
    return { ns, bytesPerTrap }
  })
  const budget = (q: 'p50' | 'p99'): Budget => ({
    bench: 'parts',
    what: `the decision of a CMDQ_PROD write while Linux boots and reads, by part, ${q} of each`,
    unit: 'µs',
    rows: PARTS.map((part, i) => ({ part, value: median(runs.map(({ ns }) => ns[i][q])) / 1000 })),
  })
  return {
    figures: [
      {
        bench: 'parts',
        what: 'heap left by a trap while Linux boots and reads',
        unit: 'bytes',
        a: { label: 'pkvm, nested', values: runs.map(({ bytesPerTrap }) => bytesPerTrap) },
      },
    ],
    budgets: [budget('p50'), budget('p99')],
  }
}
