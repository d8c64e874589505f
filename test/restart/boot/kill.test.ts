// SPDX-License-Identifier: Apache-2.0
/** A server that is killed while Linux boots and works: the guest notices nothing but time. */
import { rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { privateFolder } from '../../../server/machine/scratch.ts'
import type { Report } from '../../../server/run/runReport.ts'
import { cosim, type Run } from '../../boot/cli.ts'
import { Servers, type ServersOptions } from '../servers.ts'

const RAM_FOLDER = '/dev/shm'
/** Seconds on a machine that has nothing else to do. */
const PATIENCE_MS = 900_000

let folder: string
let servers: Servers | undefined
beforeEach(() => {
  folder = privateFolder(tmpdir(), 'restart-')
})
afterEach(async () => {
  await servers?.stop()
  rmSync(folder, { recursive: true })
})

/** A machine without a server of its own. */
function boot(socket: string, args: readonly string[] = []): Promise<Run> {
  const { SMMU_COSIM_QEMU: qemu } = process.env
  const machine = ['--server', socket, '--reconnect', '60', '--timeout', '800', ...(qemu ? ['--qemu', qemu] : [])]
  return cosim(['boot', ...machine, ...args], { deadlineMs: 850_000 })
}

function expectOk(report: Report | undefined, said: string): void {
  expect(report?.message, said).toBeUndefined()
  expect(report?.outcome, said).toBe('ok')
  expect(report?.workload.filter(({ ok }) => !ok)).toEqual([])
  expect(report?.workload).toHaveLength(5)
}

async function start(options: Partial<ServersOptions> = {}): Promise<{ servers: Servers; socket: string }> {
  const socket = join(folder, 'trap')
  servers = new Servers({ socket, ramFolder: RAM_FOLDER, ...options })
  await servers.start()
  return { servers, socket }
}

/** Kills after `count` waits; stops when the machine has ended. */
async function killing(servers: Servers, ended: Promise<unknown>, count: number, waitMs: () => number): Promise<void> {
  let over = false
  void ended.then(() => {
    over = true
  })
  while (!over && servers.kills < count) {
    await Promise.race([servers.answered(), ended])
    await sleep(waitMs())
    if (!over) await servers.replace()
  }
}

test(
  '100 kills at any moment of one boot',
  async () => {
    const { servers, socket } = await start()
    const run = boot(socket)
    await killing(servers, run, 100, () => Math.random() ** 2 * 80)
    const { report, said } = await run
    expect(servers.complaints).toEqual([])
    expectOk(report, said)
    expect(servers.kills).toBe(100)
  },
  PATIENCE_MS,
)

test.each([
  ['passthrough', { policy: 'passthrough' }],
  ['partition', { policy: 'partition' }],
  ['pkvm until mmio', { policyOptions: { until: 'mmio' } }],
  ['pkvm until cmdq', { policyOptions: { until: 'cmdq' } }],
  ['pkvm until strtab', { policyOptions: { until: 'strtab' } }],
  ['pkvm until queues', { policyOptions: { until: 'queues' } }],
])(
  'a few kills: %s',
  async (_name, options: Partial<ServersOptions>) => {
    const { servers, socket } = await start(options)
    const run = boot(socket)
    await killing(servers, run, 8, () => 50 + Math.random() * 400)
    const { report, said } = await run
    expect(servers.complaints).toEqual([])
    expectOk(report, said)
    expect(servers.kills).toBeGreaterThan(3)
  },
  PATIENCE_MS,
)

test.each(['server', 'lockstep'] as const)(
  'a few kills with --translate %s: no device reads or writes a wrong byte, and the two agree',
  async mode => {
    const { servers, socket } = await start({ translate: mode })
    const run = boot(socket)
    await killing(servers, run, 12, () => 50 + Math.random() * 400)
    const { report, said } = await run
    expect(servers.complaints).toEqual([])
    expectOk(report, said)
    expect(servers.kills).toBeGreaterThan(3)
    const translate = servers.translations
    expect(translate).toMatchObject({ mode, mismatches: 0, findings: [] })
    expect(translate?.misses).toBeGreaterThan(100)
  },
  PATIENCE_MS,
)

test(
  '20 kills while protected VMs come and go under attack by DMA',
  async () => {
    const { servers, socket } = await start()
    const run = boot(socket, ['--el2', 'pkvm', '--storm', '12', '--quiet'])
    await killing(servers, run, 20, () => 500 + Math.random() * 1500)
    const { report, said } = await run
    expect(servers.complaints).toEqual([])
    expectOk(report, said)
    expect(servers.kills).toBeGreaterThan(10)
    expect(servers.el2?.agreement).toMatchObject({ pages: 2 ** 18, wrong: 0, disagreements: [] })
    expect(report?.attacks?.storm).toMatchObject({ vms: 12, secretsRead: 0, secretsChanged: 0, silent: 0 })
  },
  PATIENCE_MS,
)
