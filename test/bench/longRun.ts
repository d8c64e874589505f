// SPDX-License-Identifier: Apache-2.0
/**
 * Hours of I/O, or as long as one wants: does memory grow, do traps get slower? Not part of `npm run bench`.
 *
 *     node test/bench/longRun.ts --minutes 30
 *
 * Prints a line a minute: traps, their round trip in that minute, resident memory of the server and of QEMU without guest
 * RAM, garbage collections of the trap thread's process. Ends with the ratio of the last quarter to the first.
 */
import { readFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { Command } from 'commander'
import { bootAction } from '../../server/cli/boot.ts'
import { type BootOptions, bootOptions } from '../../server/cli/bootOptions.ts'
import type { Session } from '../../server/control/session.ts'
import { median } from './stats.ts'

const SAMPLE_MS = 60_000
/** The machine boots and reads its disks first. */
const SETTLE_MS = 60_000

interface Sample {
  readonly traps: number
  readonly p50: number
  readonly p99: number
  readonly serverMiB: number
  readonly qemuMiB: number
}

/** Private resident memory, MiB: what is shared with others (guest RAM) does not count. */
function residentMiB(pid: number): number {
  const rollup = readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8')
  const kib = [...rollup.matchAll(/^Private_(?:Clean|Dirty):\s+(\d+) kB$/gm)]
  return kib.reduce((sum, [, amount]) => sum + Number(amount), 0) / 1024
}

/** Percentile of what came to a histogram since `before`, µs. */
function quantile(before: ReadonlyMap<number, number>, now: readonly [number, number][], q: number): number {
  const added = now.map(([value, n]) => [value, n - (before.get(value) ?? 0)] as const)
  let left = Math.ceil(added.reduce((sum, [, n]) => sum + n, 0) * q)
  for (const [value, n] of added) {
    left -= n
    if (left <= 0) return value / 1000
  }
  return 0
}

function watch(session: Session, minutes: number): Promise<Sample[]> {
  const { counters, qemu } = session
  const pid = qemu.child.pid
  if (counters === undefined || pid === undefined) throw new Error('the machine has no server')
  const samples: Sample[] = []
  let before = new Map<number, number>()
  let traps = 0
  return new Promise(resolve => {
    let timer: NodeJS.Timeout | undefined
    const sample = () => {
      const buckets = counters.latencyBuckets()
      const total = counters.get('reads') + counters.get('writes')
      if (before.size > 0) {
        const taken: Sample = {
          traps: total - traps,
          p50: quantile(before, buckets, 0.5),
          p99: quantile(before, buckets, 0.99),
          serverMiB: residentMiB(process.pid),
          qemuMiB: residentMiB(pid),
        }
        samples.push(taken)
        const { p50, p99, serverMiB, qemuMiB } = taken
        console.log(
          `minute ${samples.length}: ${taken.traps} traps, p50 ${p50.toFixed(1)} µs, p99 ${p99.toFixed(0)} µs, ` +
            `server ${serverMiB.toFixed(1)} MiB, QEMU ${qemuMiB.toFixed(1)} MiB`,
        )
      }
      before = new Map(buckets)
      traps = total
      if (samples.length < minutes) {
        timer = setTimeout(sample, SAMPLE_MS)
        return
      }
      void session.stop()
      resolve(samples)
    }
    timer = setTimeout(sample, SETTLE_MS)
    void session.ended.then(() => {
      clearTimeout(timer)
      resolve(samples)
    })
  })
}

const { values } = parseArgs({ options: { minutes: { type: 'string', default: '30' }, record: { type: 'boolean' } } })
const minutes = Number(values.minutes)
if (!(minutes >= 4)) throw new Error('--minutes: at least 4')
const given = ['--quiet', '--timeout', '0', ...(values.record ? [] : ['--no-record'])]
const parsed = bootOptions(new Command(), 0).parse(given, { from: 'user' }).opts<BootOptions>()
// More than --bench takes: the guest is to read until it is stopped.
const options: BootOptions = { ...parsed, bench: 1e9 }
let samples: readonly Sample[] = []
const run = Promise.withResolvers<void>()
await bootAction(options, session => {
  watch(session, minutes).then(taken => {
    samples = taken
    run.resolve()
  }, run.reject)
})
await run.promise
// The boot was ended on purpose.
process.exitCode = samples.length < minutes ? 1 : 0
const quarter = Math.floor(samples.length / 4)
if (quarter === 0) console.log(`ended after ${samples.length} of ${minutes} minutes: too early to compare quarters`)
for (const [name, of] of [
  ['trap p50', (s: Sample) => s.p50],
  ['trap p99', (s: Sample) => s.p99],
  ['memory of the server', (s: Sample) => s.serverMiB],
  ['memory of QEMU', (s: Sample) => s.qemuMiB],
] as const) {
  if (quarter === 0) break
  const first = median(samples.slice(0, quarter).map(of))
  const last = median(samples.slice(-quarter).map(of))
  console.log(
    `${name}: ${first.toFixed(1)} in the first quarter, ${last.toFixed(1)} in the last: ${(last / first).toFixed(3)}`,
  )
}
