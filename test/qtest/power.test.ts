// SPDX-License-Identifier: Apache-2.0
/**
 * An SMMU that is switched off and on, on the real QEMU, whose model loses what a real one would (server/trap/modelPower.ts), with DMA of `edu`
 * before, meanwhile and after (server/hypervisor/README.md, section 19).
 */
import { randomBytes } from 'node:crypto'
import { afterEach, expect, test } from 'vitest'
import type { PowerState } from '../../server/smmu/hardware.ts'
import { ARM_SMMU_CMDQ_BASE, ARM_SMMU_STRTAB_BASE } from '../../server/smmu/registers.ts'
import { HostDriver, STE } from './driver.ts'
import { EDU_ARGS, EDU_SID, Edu } from './edu.ts'
import { QtestMachine, RAM } from './machine.ts'

const MEMORY_MIB = 256
const CARVEOUT_MIB = 64
const PAGE = 4096
const SOURCE = RAM + 0x200_0000
const TARGET = RAM + 0x300_0000
const OTHER = TARGET + PAGE
const LENGTH = 64
const VM = 1
const CYCLES = 50

let machine: QtestMachine
let driver: HostDriver
let edu: Edu

async function start(options: Readonly<Record<string, unknown>>): Promise<void> {
  machine = new QtestMachine()
  await machine.serve('pkvm', { until: 'nested', ...options }, machine.ramFile, 'hardware', true)
  await machine.start({ properties: [`carveout=${CARVEOUT_MIB}M`], args: EDU_ARGS, memoryMiB: MEMORY_MIB })
  driver = await HostDriver.probe(machine)
  edu = await Edu.enable(machine.qtest)
  await driver.attach(EDU_SID, STE.bypass)
}
afterEach(async () => {
  driver?.dispose()
  await machine?.dispose()
})

/** Whether a DMA to a page gets there; what the device brings is new each time. */
async function reaches(page: number): Promise<boolean> {
  const secret = randomBytes(LENGTH)
  driver.writeMemory(SOURCE, secret)
  await edu.dmaRead(SOURCE, LENGTH)
  await edu.dmaWrite(page, LENGTH)
  return driver.readMemory(page, LENGTH).equals(secret)
}

const power = (state: PowerState) => machine.server.call('power', 0, state)

async function problems(): Promise<unknown> {
  const { warnings, oracle } = (await machine.server.call('sections')) as {
    warnings: { code: string; expected: boolean }[]
    oracle?: { violations: readonly unknown[] }
  }
  return [...warnings.map(({ code }) => code), ...(oracle?.violations ?? [])]
}

test.each(['off', 'retained'] as const)('keep, %s: the host notices nothing, cycle after cycle', async state => {
  await start({ power: 'keep' })
  expect(await reaches(TARGET)).toBe(true)
  for (let cycle = 0; cycle < CYCLES; cycle++) {
    expect(await power(state)).toBe(0)
    if (cycle % 10 === 0) expect(await reaches(TARGET)).toBe(false)
    if (cycle % 2 === 0) expect(await machine.server.call('donate', OTHER, PAGE, VM)).toBe(0)
    expect(await power('on')).toBe(0)
    expect([cycle, await reaches(TARGET), await reaches(OTHER)]).toEqual([cycle, true, cycle % 2 !== 0])
    if (cycle % 2 === 0) expect(await machine.server.call('reclaim', OTHER, PAGE, VM)).toBe(0)
  }
  expect(await machine.server.call('powerState', 0)).toBe('on')
  expect(await problems()).toEqual([])
})

test('reshadow: the host finds an SMMU that was reset, and brings it up again', async () => {
  await start({ power: 'reshadow' })
  expect(await reaches(TARGET)).toBe(true)
  expect(await power('off')).toBe(0)
  expect(await reaches(TARGET)).toBe(false)
  expect(await power('on')).toBe(0)
  // Not before the host has enabled it: GBPA aborts.
  expect(await reaches(TARGET)).toBe(false)
  driver.dispose()
  driver = await HostDriver.probe(machine)
  await driver.attach(EDU_SID, STE.bypass)
  expect(await reaches(TARGET)).toBe(true)
  expect(await problems()).toEqual(['HYP_QUEUE_DISABLED_AT_SHUTDOWN'])
})

test('the host that switches it by itself leaves it without its tables', async () => {
  await start({ power: 'keep', quirks: ['power-unowned'] })
  const registers = () => machine.server.call('registers', 0, 'hardware', [ARM_SMMU_STRTAB_BASE, ARM_SMMU_CMDQ_BASE])
  const before = await registers()
  expect(await power('off')).toBe(0)
  expect(await power('on')).toBe(0)
  expect(await registers()).not.toEqual(before)
  expect(await reaches(TARGET)).toBe(false)
})

test('without --power nothing is switched', async () => {
  await start({})
  await expect(power('off')).rejects.toThrow('--power')
})
