// SPDX-License-Identifier: Apache-2.0
/** What the recording of every run costs: boots as they are, and boots with `--no-record`. */
import type { Report } from '../../server/run/runReport.ts'
import { bootOnce, bootSeconds } from './boots.ts'
import type { Context, Figure, Part } from './figure.ts'
import { inPairs } from './stats.ts'

/** Of all timed reads, µs each. */
function reads({ bench = [] }: Report): number {
  const count = bench.reduce((sum, entry) => sum + entry.reads, 0)
  if (count === 0) throw new Error('the report has no timed reads')
  return (bench.reduce((sum, { ms }) => sum + ms, 0) / count) * 1000
}

function p99({ traps }: Report): number {
  if (traps === null) throw new Error('the report has no traps')
  return traps.latencyUs.p99
}

export async function benchRecording(context: Context): Promise<Part> {
  const { scale, signal, say } = context
  if (scale.warmUp) {
    say('recording: warm-up')
    await bootOnce(context)
  }
  const { a, b } = await inPairs(
    scale.pairs,
    signal,
    pair => {
      say(`recording: pair ${pair + 1} of ${scale.pairs}`)
      return bootOnce(context)
    },
    () => bootOnce(context, '--no-record'),
  )
  const figure = (what: string, unit: string, of: (report: Report) => number): Figure => ({
    bench: 'recording',
    what,
    unit,
    a: { label: 'recorded', values: a.map(of) },
    b: { label: 'not recorded', values: b.map(of) },
  })
  return {
    figures: [
      figure('boot to userspace, recorded', 's', bootSeconds),
      figure('4-KiB read, recorded', 'µs', reads),
      figure('trap, recorded, p99', 'µs', p99),
    ],
  }
}
