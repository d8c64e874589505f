// SPDX-License-Identifier: Apache-2.0
/**
 * An SMMU that is switched off and on while Linux does I/O, which notices nothing (server/hypervisor/README.md, section 19). Not part of
 * `npm run bench`.
 *
 *     node test/bench/powerCycles.ts --cycles 1000 [--retained]
 *
 * Before the power goes devices have to be still, as runtime power management sees to: here the machine stands still for each cycle, which
 * lets QEMU's disks and network cards finish. Ends as `boot` does, with the workload's own check of all data, and fails if the workload was done
 * before all cycles were. Prints what they took.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { Command } from 'commander'
import { bootAction } from '../../server/cli/boot.ts'
import { type BootOptions, bootOptions } from '../../server/cli/bootOptions.ts'
import type { Session } from '../../server/control/session.ts'
import { parseGuestEvent } from '../../server/machine/guestEvents.ts'
import { median } from './stats.ts'

/** Between two cycles the machine runs so long, ms. */
const RUNS_MS = 5
/** Timed reads of each disk in that time: the guest is to be busy until the end. */
const READS_A_CYCLE = 10

const { values } = parseArgs({
  options: { cycles: { type: 'string', default: '1000' }, retained: { type: 'boolean', default: false } },
})
const cycles = Number(values.cycles)
if (!Number.isInteger(cycles) || cycles < 1) throw new Error('--cycles: expected a whole number from 1')
const off = values.retained ? 'retained' : 'off'

/** How long each cycle took the server, ms. */
const times: number[] = []

async function cycle(session: Session): Promise<void> {
  const { thread } = session
  if (thread === undefined) throw new Error('the machine has no server')
  const ended = AbortSignal.timeout(600_000)
  const qmp = await session.qmp(ended)
  for (let done = 0; done < cycles; done++) {
    await qmp.execute('stop')
    const begin = performance.now()
    const results = [await thread.call('power', 0, off), await thread.call('power', 0, 'on')]
    times.push(performance.now() - begin)
    await qmp.execute('cont')
    if (results.some(result => result !== 0)) throw new Error(`cycle ${done}: ${results.join(', ')}`)
    await sleep(RUNS_MS)
  }
}

const given = ['--quiet', '--power', 'keep', '--oracle', '--no-record', '--timeout', '0']
const parsed = bootOptions(new Command(), 0).parse(given, { from: 'user' }).opts<BootOptions>()
const options: BootOptions = { ...parsed, bench: cycles * READS_A_CYCLE }
let failure: Error | undefined
await bootAction(options, session => {
  let started = false
  session.console.on('line', line => {
    // The first device works: there are streams, and more are on their way.
    if (started || parseGuestEvent(line)?.event !== 'userspace') return
    started = true
    cycle(session).catch((error: Error) => {
      failure ??= error
      void session.stop()
    })
  })
})
if (times.length < cycles) {
  console.error(`${times.length} of ${cycles} cycles: ${failure?.message ?? 'the workload was done before'}`)
  process.exitCode = 1
}
if (times.length > 0) {
  const sorted = [...times].sort((a, b) => a - b)
  const p99 = sorted[Math.floor(sorted.length * 0.99)]
  console.log(
    `${times.length} cycles (${off}): median ${median(times).toFixed(2)} ms off and on, p99 ${p99.toFixed(2)} ms`,
  )
}
