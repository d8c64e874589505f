// SPDX-License-Identifier: Apache-2.0
/** Machines that are not the usual one: more devices, several SMMUs, firmware, devices that come later. */
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { MachineManager } from '../../server/api/machineManager.ts'
import { PLUGGABLE_NAMES } from '../../server/machine/comingDevices.ts'
import { DEVICE_NAMES } from '../../server/machine/devices.ts'
import type { Report } from '../../server/run/runReport.ts'
import type { WarningSummary } from '../../server/trap/reporter.ts'
import type { StreamReport } from '../../server/trap/sections.ts'
import { present } from '../versions.ts'
import { cosim } from './cli.ts'

function expectOk(report: Report | undefined, said: string): asserts report is Report {
  expect([report?.outcome, report?.message], said).toEqual(['ok', undefined])
  expect(report?.workload.filter(({ ok }) => !ok)).toEqual([])
  expect(report?.isolated).toBe(true)
}

const streams = ({ streams }: Report) => streams as readonly StreamReport[]

test('every device that the workload knows, wherever it sits', async () => {
  const devices = DEVICE_NAMES.flatMap(name => ['--device', name])
  const { report, said } = await cosim(['boot', '--quiet', '--smp', '2', ...devices])
  expectOk(report, said)
  const done = report.workload.map(({ device, operation }) => `${device} ${operation}`)
  for (const disk of ['usb-storage', 'virtio-scsi', 'ahci', 'virtio-blk-mq'])
    expect(done).toEqual(expect.arrayContaining([`${disk} read`, `${disk} write`]))
  for (const card of ['igb', 'igb.vf0', 'igb.vf1', 'e1000']) expect(done).toContain(`${card} fetch`)

  const named = (name: string) => streams(report).filter(({ device }) => device === name)
  for (const name of ['xhci', 'virtio-scsi', 'ahci', 'virtio-blk-mq', 'igb', 'igb.vf0', 'igb.vf1'])
    expect(named(name).length, `${name}: ${JSON.stringify(streams(report))}`).toBe(1)
  // Behind ports and bridges the guest numbered the buses.
  for (const name of ['virtio-blk-mq', 'igb', 'igb.vf0']) expect(named(name)[0]?.sid, name).toBeGreaterThan(0xff)
  // The card's accesses have the bridge's StreamID.
  expect(named('e1000').map(({ sid }) => sid & 0xff)).toContain(0)
})

test('two SMMUs, four devices, all at a time', async () => {
  const { report, said } = await cosim(['boot', '--quiet', '--smmus', '2', '--smp', '2', '--oracle', '--load', '10'])
  expectOk(report, said)
  const behind = (smmu: number) => streams(report).flatMap(s => (s.smmu === smmu ? [s.device] : []))
  expect(behind(0)).toEqual(expect.arrayContaining(['virtio-blk', 'virtio-net']))
  expect(behind(1)).toEqual(expect.arrayContaining(['nvme', 'e1000e']))
  const load = report.workload.filter(({ passes }) => passes !== undefined)
  expect(load.map(({ device, operation }) => `${device} ${operation}`)).toEqual([
    ...['nvme read', 'virtio-blk read', 'virtio-blk write', 'virtio-net fetch', 'e1000e fetch'],
  ])
  for (const { device, bytes } of load) expect(bytes, device).toBeGreaterThan(0)
  expect(report.oracle?.violations).toEqual([])
  const { total, bySmmu } = report.traps ?? { total: 0, bySmmu: [] }
  expect(bySmmu.map(({ smmu }) => smmu)).toEqual([0, 1])
  for (const { smmu, commands } of bySmmu) {
    expect(commands.kept, `SMMU ${smmu}`).toBeGreaterThan(100)
    expect(said).toMatch(new RegExp(`^    SMMU ${smmu}: [\\d,]+ accesses`, 'm'))
  }
  expect(bySmmu.reduce((n, { reads, writes }) => n + reads + writes, 0)).toBe(total)
})

/** ms: QEMU is built first. */
const BUILD_MS = 1_800_000

test(
  'QEMU 10.2, whose SMMUs are all devices when there are several',
  async context => {
    await present('10.2', context)
    const { report, said } = await cosim(['boot', '--quiet', '--qemu', '10.2', '--smmus', '2', '--oracle'])
    expectOk(report, said)
    expect(report.qemu).toMatch(/^10\.2\./)
    expect(new Set(streams(report).map(({ smmu }) => smmu))).toEqual(new Set([0, 1]))
    expect(report.oracle?.violations).toEqual([])
  },
  BUILD_MS,
)
test(
  'QEMU 10.2, whose ACPI tables have all SMMUs, each miss walked by the server as well',
  async context => {
    await present('10.2', context)
    const words = ['boot', '--quiet', '--qemu', '10.2', '--smmus', '2', '--firmware', '--translate', 'lockstep']
    const { report, said } = await cosim(words)
    expectOk(report, said)
    expect(report.acpi).toMatchObject({ smmus: [{}, {}], problems: [] })
    expect(new Set(streams(report).map(({ smmu }) => smmu))).toEqual(new Set([0, 1]))
    expect(report.translate).toMatchObject({ mismatches: 0 })
  },
  BUILD_MS,
)

/** Of a run with two kernels: each did its whole workload, isolated, by a hypervisor that was surprised by nothing. */
function expectBoth(report: Report | undefined, said: string): asserts report is Report {
  expectOk(report, said)
  const of = (second: boolean) =>
    report.workload
      .filter(({ successor = false }) => successor === second)
      .map(({ device, operation }) => `${device} ${operation}`)
  expect(of(false)).toEqual([...of(true), 'kexec read'])
  expect(of(true)).toHaveLength(5)
  const { kernel, successor, warnings, oracle, streams } = report
  expect(successor).toMatchObject({ kernel, bootMs: expect.any(Number) })
  expect((warnings as readonly WarningSummary[]).filter(({ expected }) => !expected)).toEqual([])
  expect(oracle?.violations).toEqual([])
  expect((streams as readonly StreamReport[]).map(({ device }) => device)).toEqual(
    expect.arrayContaining(['virtio-blk', 'nvme', 'virtio-net', 'e1000e']),
  )
}

test('a kernel starts its successor by kexec, and that is isolated as it was', async () => {
  const { report, said } = await cosim(['boot', '--quiet', '--smp', '2', '--oracle', '--kexec'])
  expectBoth(report, said)
  // Each has its own place.
  const flame = await cosim(['trace', 'flame', report.recording?.path ?? '', '--symbols'])
  const stacks = flame.stdout.split('\n').filter(line => line !== '')
  expect(stacks.length).toBeGreaterThan(10)
  expect(stacks.filter(line => line.includes('(unknown)'))).toEqual([])
})

test('a crash kernel finds two SMMUs that are on, and devices in the middle of their DMA', async () => {
  const { report, said } = await cosim(['boot', '--quiet', '--smmus', '2', '--oracle', '--kexec', 'kdump'])
  expectBoth(report, said)
  // The memory of the machine, but for its own.
  expect(report.successor?.vmcore).toBeGreaterThan(512 << 20)
})

test('UEFI with ACPI: the carve-out is left alone, and the IORT is the machine’s', async () => {
  const { report, said } = await cosim(['boot', '--quiet', '--firmware'])
  expectOk(report, said)
  expect(report.acpi).toMatchObject({ smmus: [{ base: 0x0905_0000 }], problems: [] })
  expect(report.guardFaults).toMatchObject({ total: 0 })
})

test('each device that comes while the machine runs has a stream with its name, and goes', async () => {
  const manager = new MachineManager({})
  const until = async (what: string, done: () => boolean | Promise<boolean>) => {
    const end = Date.now() + 60_000
    while (!(await done())) {
      if (Date.now() > end) throw new Error(`in vain: ${what}; ${JSON.stringify(manager.status())}`)
      await sleep(200)
    }
  }
  const stream = async (name: string) =>
    (await manager.inspection.streams(0)).streams.find(({ device }) => device?.name === name)
  // Linux says that it is busy while it settles what came.
  const removed = (name: string) =>
    manager.unplug(name).then(
      () => true,
      (error: Error) => {
        if (!error.message.includes('guest is busy')) throw error
        return false
      },
    )
  const remove = (name: string) => until(`${name} can go`, () => removed(name))
  try {
    await manager.start({ run: 'shell', slots: 1 })
    await until('userspace', () => manager.status().phase === 'userspace')
    const { name } = await manager.plug('nvme')
    expect(name).toBe('slot0.nvme')
    await expect(manager.plug('e1000e')).rejects.toThrow('no slot is free')
    await until('a stream', async () => (await stream(name))?.host === 's1')
    await expect(manager.unplug('slot0.nvm')).rejects.toThrow('there are slot0.nvme')
    await remove(name)
    expect(manager.hotplug?.plugged).toEqual([])
    for (const device of PLUGGABLE_NAMES.filter(each => each !== 'nvme')) {
      const { name } = await manager.plug(device)
      await until(`a stream of ${name}`, async () => (await stream(name))?.host === 's1')
      await remove(name)
    }
    expect(manager.hotplug?.plugged).toEqual([])
  } finally {
    await manager.close()
  }
})
