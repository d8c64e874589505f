// SPDX-License-Identifier: Apache-2.0
/**
 * What `--el2 pkvm` has to stand and what it costs. Not part of `npm run bench`: it takes a quarter of an hour, and says most on
 * a machine that has nothing else to do.
 *
 *     node test/bench/el2.ts [--only kills|vms|cost] [--kills 50] [--vms 200] [--pairs 3]
 *
 * kills: the server is killed at any moment while protected VMs are created and destroyed under attack by DMA. vms: so many of
 * them in one boot. cost: boot and 4-KiB reads, the same kernel and EL2 without the server beside them, in turn. The first two
 * end with EL2's tables and the SMMU's compared page by page. Exit code 1: something was reached, or the two do not agree.
 */
import { rmSync } from 'node:fs'
import { loadavg, tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { privateFolder } from '../../server/machine/scratch.ts'
import type { Report } from '../../server/run/runReport.ts'
import type { El2Report } from '../../server/trap/el2Oracle.ts'
import { cosim } from '../boot/cli.ts'
import { Servers } from '../restart/servers.ts'
import { bootSeconds, readMicroseconds } from './boots.ts'
import { inPairs, ratios, summarize } from './stats.ts'

const RAM_FOLDER = '/dev/shm'
const TIMEOUT_S = 1_800
/** Timed reads of each disk. */
const READS = 2_000

const { values } = parseArgs({
  options: {
    only: { type: 'string', multiple: true },
    kills: { type: 'string', default: '50' },
    vms: { type: 'string', default: '200' },
    pairs: { type: 'string', default: '3' },
  },
})
const wanted = (part: string) => values.only === undefined || values.only.includes(part)
const whole = (name: 'kills' | 'vms' | 'pairs'): number => {
  const value = Number(values[name])
  if (!Number.isInteger(value) || value < 1 || value > 10_000) throw new Error(`--${name}: a whole number from 1 on`)
  return value
}

/** What was wrong, in words. */
const wrong: string[] = []

async function boot(args: readonly string[], onOutput?: (text: string) => void): Promise<Report> {
  const all = ['boot', '--el2', 'pkvm', '--timeout', String(TIMEOUT_S), ...args]
  const { report, stderr } = await cosim(all, {
    deadlineMs: (TIMEOUT_S + 60) * 1000,
    ...(onOutput && { onOutput }),
  })
  if (report === undefined) throw new Error(`a boot left no report: ${stderr.trim().split('\n').at(-1)}`)
  if (report.outcome !== 'ok') throw new Error(`a boot failed: ${report.message}`)
  return report
}

/** Prints what the attacker came to, and what EL2's tables and the SMMU's say at the end. */
function judge(part: string, { attacks }: Report, el2: El2Report | undefined): void {
  const { vms, attempts, secretsRead, secretsChanged, silent } = attacks?.storm ?? {}
  console.log(
    `${part}: ${vms} VMs, ${attempts} DMA attempts: ${secretsRead} read, ${secretsChanged} changed, ${silent} silent`,
  )
  if (secretsRead !== 0 || secretsChanged !== 0 || silent !== 0)
    wrong.push(`${part}: a VM was reached, or did not answer`)
  const agreement = el2?.agreement ?? undefined
  if (el2 === undefined || agreement === undefined || agreement.wrong > 0) {
    wrong.push(
      `${part}: ${agreement === undefined ? 'nobody could compare' : `no agreement on ${agreement.wrong} pages`}`,
    )
    return
  }
  const { changes, serverUs } = el2
  console.log(`${part}: SMMU and EL2 agree, ${agreement.pages} pages, ${agreement.kept} of them kept from the host`)
  console.log(`${part}: ${changes} changes told to the last server, p50 ${serverUs.p50} µs, p99 ${serverUs.p99} µs`)
}

/** Until a storm of VMs is over, the server is killed again and again. */
async function kills(count: number): Promise<void> {
  const folder = privateFolder(tmpdir(), 'bench-')
  const socket = join(folder, 'trap')
  const servers = new Servers({ socket, ramFolder: RAM_FOLDER })
  try {
    await servers.start()
    const attacked = Promise.withResolvers<void>()
    let over = false
    const storm = String(Math.ceil(1.5 * count))
    const run = boot(['--server', socket, '--reconnect', '120', '--storm', storm], text => {
      // The table is through, and the storm begins.
      if (text.includes('"target":"given back"')) attacked.resolve()
    }).finally(() => {
      over = true
    })
    await Promise.race([attacked.promise, run])
    while (!over && servers.kills < count) {
      await sleep(Math.random() * 400)
      if (over) break
      await servers.replace()
      await Promise.race([servers.connected(), run])
    }
    const report = await run
    console.log(`kills: ${servers.kills} of ${count} while VMs came and went`)
    if (servers.kills < count) wrong.push(`kills: the storm was over after ${servers.kills}`)
    wrong.push(...servers.complaints.map(text => `kills: ${text}`))
    judge('kills', report, servers.el2)
  } finally {
    await servers.stop()
    rmSync(folder, { recursive: true })
  }
}

async function storm(vms: number): Promise<void> {
  const report = await boot(['--storm', String(vms), '--quiet', '--oracle'])
  judge('vms', report, report.el2)
  console.log(`vms: ${report.el2?.checks} comparisons before the end, ${(report.wallMs / 1000).toFixed(1)} s in all`)
}

async function cost(pairs: number): Promise<void> {
  const usual = ['--quiet', '--no-record', '--bench', String(READS)]
  const { a, b } = await inPairs(
    pairs,
    new AbortController().signal,
    () => boot(usual),
    () => boot([...usual, '--baseline']),
  )
  for (const [what, target, of] of [
    ['boot to userspace, s', '≤ 1.05', bootSeconds],
    ['4-KiB read, virtio-blk, µs', '≤ 1.10', readMicroseconds('virtio-blk')],
    ['4-KiB read, nvme, µs', '≤ 1.10', readMicroseconds('nvme')],
  ] as const) {
    const [x, y] = [a.map(of), b.map(of)]
    const shown = [summarize(x), summarize(y), summarize(ratios(x, y))].map(
      ({ median, min, max }) => `${median.toFixed(2)} [${min.toFixed(2)}–${max.toFixed(2)}]`,
    )
    console.log(`cost: ${what}: ${shown[0]} with the server, ${shown[1]} without, ratio ${shown[2]} (${target})`)
  }
}

console.log(`load before: ${loadavg()[0]?.toFixed(2)}`)
if (wanted('kills')) await kills(whole('kills'))
if (wanted('vms')) await storm(whole('vms'))
if (wanted('cost')) await cost(whole('pairs'))
for (const text of wrong) console.log(`WRONG  ${text}`)
process.exitCode = wrong.length > 0 ? 1 : 0
