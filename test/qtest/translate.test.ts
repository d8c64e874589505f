// SPDX-License-Identifier: Apache-2.0
/** Translate modes `server` and `lockstep` on the real QEMU: what a device may do is the same, and nothing stale is used. */
import { randomBytes } from 'node:crypto'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { CMDQ_OP_TLBI_NH_ASID, CMDQ_OP_TLBI_NH_VA, cfgiAll } from '../../server/smmu/commands.ts'
import {
  EVT_ID_BAD_STE_CONFIG,
  EVT_ID_BAD_STREAMID_CONFIG,
  EVT_ID_PERMISSION_FAULT,
  EVT_ID_TRANSLATION_FAULT,
} from '../../server/smmu/events.ts'
import type { TranslateReport } from '../../server/translate/translator.ts'
import { HostDriver, STE } from './driver.ts'
import { EDU_ARGS, EDU_SID, Edu } from './edu.ts'
import { QtestMachine, RAM } from './machine.ts'

const SOURCE = RAM + 0x200_0000
const TARGET = RAM + 0x300_0000
const OTHER = RAM + 0x400_0000
const LENGTH = 64
const VM = 1
/** Input addresses of stage 1. */
const FROM = 0x1_0000
const TO = 0x2_0000

let machine: QtestMachine
let driver: HostDriver
let edu: Edu

async function report(): Promise<TranslateReport> {
  const { translate } = (await machine.server.call('sections')) as { translate: TranslateReport }
  return translate
}

/** DMA from one bus address to another. @returns the pages of `look` that changed, and the kinds of events. */
async function copy(from: number, to: number, look: readonly number[] = [TARGET, OTHER]) {
  driver.writeMemory(SOURCE, randomBytes(LENGTH))
  const before = look.map(page => driver.readMemory(page, LENGTH))
  await edu.dmaRead(from, LENGTH)
  await edu.dmaWrite(to, LENGTH)
  const touched = look.filter((page, i) => !driver.readMemory(page, LENGTH).equals(before[i] ?? Buffer.alloc(0)))
  const secret = driver.readMemory(SOURCE, LENGTH)
  const arrived = look.filter(page => driver.readMemory(page, LENGTH).equals(secret))
  const events = [...new Set((await driver.events()).map(({ id, s2 }) => `${id}${s2 ? ' S2' : ''}`))]
  return { touched, arrived, events }
}

async function stage1(): Promise<void> {
  driver.writeCd()
  driver.map(FROM, SOURCE)
  driver.map(TO, TARGET)
  await driver.attach(EDU_SID, STE.stage1)
}

const moved = (page: number) => ({ touched: [page], arrived: [page], events: [] })
const nothing = (...events: (number | string)[]) => ({ touched: [], arrived: [], events: events.map(String) })

describe.each(['server', 'lockstep'] as const)('%s', mode => {
  beforeEach(async () => {
    machine = new QtestMachine()
    await machine.serve('pkvm', { until: 'nested' }, undefined, mode)
    await machine.start({ properties: ['carveout=64M'], args: EDU_ARGS, memoryMiB: 256 })
    driver = await HostDriver.probe(machine)
    edu = await Edu.enable(machine.qtest)
  })
  afterEach(async () => {
    try {
      const { mode: used, misses, findings, mismatches } = await report()
      expect(used).toBe(mode)
      expect(misses).toBeGreaterThan(0)
      expect(findings).toEqual([])
      expect(mismatches).toBe(0)
    } finally {
      driver?.dispose()
      await machine.dispose()
    }
  })

  test('no entry, V = 0, abort, bypass', async () => {
    // QEMU records it whatever CR2.RECINVSID says.
    expect(await copy(SOURCE, TARGET)).toEqual(mode === 'server' ? nothing() : nothing(EVT_ID_BAD_STREAMID_CONFIG))
    await driver.attach(EDU_SID, STE.bypass)
    expect(await copy(SOURCE, TARGET)).toEqual(moved(TARGET))
    await driver.attach(EDU_SID, STE.invalid)
    expect(await copy(SOURCE, TARGET)).toEqual(nothing(EVT_ID_BAD_STE_CONFIG))
    await driver.attach(EDU_SID, STE.abort)
    expect(await copy(SOURCE, TARGET)).toEqual(nothing())
  })

  test('stage 1: what it maps, and its faults', async () => {
    await stage1()
    expect(await copy(FROM, TO)).toEqual(moved(TARGET))
    driver.map(0x3_0000, OTHER, false)
    expect(await copy(FROM, 0x3_0000)).toEqual(nothing(EVT_ID_PERMISSION_FAULT))
    expect(await copy(FROM, 0x5_0000)).toEqual(nothing(EVT_ID_TRANSLATION_FAULT))
  })

  test('faults that no walk and no IOTLB entry leads to are told as well', async () => {
    await stage1()
    const { faults } = await report()
    // Beyond the 39 bits of the CD: QEMU does not look into its IOTLB.
    expect(await copy(FROM, 2 ** 41)).toEqual(nothing(EVT_ID_TRANSLATION_FAULT))
    const beyond = (await report()).faults
    expect(beyond).toBeGreaterThan(faults)
    // What may be read is in the IOTLB, which then refuses the write.
    driver.map(0x3_0000, OTHER, false)
    await edu.dmaRead(0x3_0000, LENGTH)
    expect(await copy(FROM, 0x3_0000)).toEqual(nothing(EVT_ID_PERMISSION_FAULT))
    expect((await report()).faults).toBeGreaterThan(beyond)
  })

  const command = (opcode: number, asid: number, address = 0) => Uint32Array.of(opcode, asid << 16, address, 0)
  test.each([
    ['TLBI_NH_VA', () => driver.command(command(CMDQ_OP_TLBI_NH_VA, 1, TO))],
    ['TLBI_NH_ASID', () => driver.command(command(CMDQ_OP_TLBI_NH_ASID, 1))],
  ])('a page that is mapped elsewhere: %s makes it known', async (_name, invalidate) => {
    await stage1()
    expect(await copy(FROM, TO)).toEqual(moved(TARGET))
    const { misses } = await report()
    expect(await copy(FROM, TO)).toEqual(moved(TARGET))
    expect((await report()).misses, 'the second time from the IOTLB').toBe(misses)
    driver.map(TO, OTHER)
    await invalidate()
    expect(await copy(FROM, TO)).toEqual(moved(OTHER))
    expect((await report()).misses).toBeGreaterThan(misses)
  })

  test('CFGI_STE: what was translated by the entry is not used any more', async () => {
    await stage1()
    expect(await copy(FROM, TO)).toEqual(moved(TARGET))
    await driver.attach(EDU_SID, STE.abort)
    expect(await copy(FROM, TO)).toEqual(nothing())
  })

  test.runIf(mode === 'server')('CFGI_ALL: all is asked again', async () => {
    await stage1()
    expect(await copy(FROM, TO)).toEqual(moved(TARGET))
    const { misses } = await report()
    const all = new Uint32Array(4)
    cfgiAll(all)
    await driver.command(all)
    expect(await copy(FROM, TO)).toEqual(moved(TARGET))
    expect((await report()).misses).toBeGreaterThan(misses)
  })

  test('a donated page is out of reach from the next DMA on, and comes back with reclaim', async () => {
    await stage1()
    expect(await copy(FROM, TO)).toEqual(moved(TARGET))
    expect(await machine.server.call('donate', TARGET, 4096, VM)).toBe(0)
    expect(await copy(FROM, TO)).toEqual(nothing(`${EVT_ID_TRANSLATION_FAULT} S2`))
    expect(await machine.server.call('reclaim', TARGET, 4096, VM)).toBe(0)
    expect(await copy(FROM, TO)).toEqual(moved(TARGET))
  })

  test('a machine reset keeps the mode', async () => {
    await stage1()
    await machine.reset()
    driver.dispose()
    driver = await HostDriver.probe(machine)
    edu = await Edu.enable(machine.qtest)
    await driver.attach(EDU_SID, STE.bypass)
    const { misses } = await report()
    expect(await copy(SOURCE, TARGET)).toEqual(moved(TARGET))
    expect((await report()).misses).toBeGreaterThan(misses)
  })
})
