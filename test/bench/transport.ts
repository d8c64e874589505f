// SPDX-License-Identifier: Apache-2.0
/** The same with memory that is shared with QEMU, and with a socket: traps back to back, and whole boots, in turn. */
import { ensureQemu } from '../../scripts/setup/index.ts'
import type { Report } from '../../server/run/runReport.ts'
import type { Transport } from '../../server/trap/messages.ts'
import { INSTANT, runBareGuest } from './bareGuest.ts'
import { bootOnce, bootSeconds, readMicroseconds } from './boots.ts'
import type { Context, Figure, Part } from './figure.ts'
import { inPairs } from './stats.ts'

/** Everything of one pair that one transport came to. */
interface Run {
  readonly instant: number
  readonly instantP99: number
  readonly hardware: number
  readonly report: Report
}

const trap =
  (kind: 'latencyUs' | 'serverUs', q: 'p50' | 'p99') =>
  ({ report: { traps } }: Run): number => {
    if (traps === null) throw new Error('the report has no traps')
    return traps[kind][q]
  }

export async function benchTransport(context: Context): Promise<Part> {
  const { scale, signal, say } = context
  const qemu = await ensureQemu({ signal })
  const run = async (transport: Transport): Promise<Run> => {
    const bare = (policy: string) => runBareGuest(qemu, scale.traps, policy, signal, [], transport)
    const { trip } = await bare(INSTANT)
    return {
      instant: trip.p50 / 1000,
      instantP99: trip.p99 / 1000,
      hardware: (await bare('passthrough')).trip.p50 / 1000,
      report: await bootOnce(context, '--transport', transport),
    }
  }
  const { a, b } = await inPairs(
    scale.pairs,
    signal,
    pair => {
      say(`transport: pair ${pair + 1} of ${scale.pairs}`)
      return run('ring')
    },
    () => run('socket'),
  )
  const compare = (what: string, unit: string, of: (run: Run) => number): Figure => ({
    ...{ bench: 'transport', what, unit },
    a: { label: 'ring, mapped RAM', values: a.map(of) },
    b: { label: 'socket, pread', values: b.map(of) },
  })
  return {
    figures: [
      compare('trap back to back, p50', 'µs', run => run.instant),
      compare('trap back to back, p99', 'µs', run => run.instantP99),
      compare('trap with a hardware access, p50', 'µs', run => run.hardware),
      compare('any trap of Linux, p50', 'µs', trap('latencyUs', 'p50')),
      compare('any trap of Linux, p99', 'µs', trap('latencyUs', 'p99')),
      compare('server’s own time, p50', 'µs', trap('serverUs', 'p50')),
      compare('server’s own time, p99', 'µs', trap('serverUs', 'p99')),
      compare('boot to userspace', 's', run => bootSeconds(run.report)),
      compare('4-KiB read, virtio-blk', 'µs', run => readMicroseconds('virtio-blk')(run.report)),
      compare('4-KiB read, nvme', 'µs', run => readMicroseconds('nvme')(run.report)),
    ],
  }
}
