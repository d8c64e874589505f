// SPDX-License-Identifier: Apache-2.0
/** Isolation on the real QEMU, with `edu` as the DMA master (server/hypervisor/README.md, sections 7, 8 and 9). */
import { randomBytes } from 'node:crypto'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import {
  EVT_ID_BAD_STE_CONFIG,
  EVT_ID_BAD_STREAMID_CONFIG,
  EVT_ID_PERMISSION_FAULT,
  EVT_ID_TRANSLATION_FAULT,
  type EventRecord,
} from '../../server/smmu/events.ts'
import { ARM_SMMU_GBPA, ARM_SMMU_IDR0, IDR0_S2P } from '../../server/smmu/registers.ts'
import { CONFIG, ste } from '../unit/smmu/fields.ts'
import { HostDriver, STE } from './driver.ts'
import { EDU_ARGS, EDU_SID, Edu } from './edu.ts'
import { QtestMachine, RAM, SMMU } from './machine.ts'

const MEMORY_MIB = 256
const CARVEOUT_MIB = 64
const CARVEOUT = RAM + ((MEMORY_MIB - CARVEOUT_MIB) << 20)
const SOURCE = RAM + 0x200_0000
const TARGET = RAM + 0x300_0000
const LENGTH = 256
const VM = 1

let machine: QtestMachine
let driver: HostDriver
let edu: Edu
beforeEach(async () => {
  machine = new QtestMachine()
  await machine.serve('pkvm', { until: 'nested' })
  await machine.start({ properties: [`carveout=${CARVEOUT_MIB}M`], args: EDU_ARGS, memoryMiB: MEMORY_MIB })
  driver = await HostDriver.probe(machine)
  edu = await Edu.enable(machine.qtest)
})
afterEach(async () => {
  driver?.dispose()
  await machine.dispose()
})

/** Copies LENGTH fresh random bytes by DMA. @returns whether they arrived, and the events. */
async function copy(from: { iova: number; pa: number }, to: { iova: number; pa: number }) {
  const secret = randomBytes(LENGTH)
  driver.writeMemory(from.pa, secret)
  const before = driver.readMemory(to.pa, LENGTH)
  await edu.dmaRead(from.iova, LENGTH)
  await edu.dmaWrite(to.iova, LENGTH)
  const after = driver.readMemory(to.pa, LENGTH)
  return { arrived: after.equals(secret), touched: !after.equals(before), events: await driver.events() }
}

const same = (address: number) => ({ iova: address, pa: address })

const brief = ({ id, streamId, s2, rnw, ipa }: EventRecord) => ({ id, streamId, s2, rnw, ipa })

async function warnings(): Promise<string[]> {
  const { warnings } = (await machine.server.call('sections')) as { warnings: { code: string }[] }
  return warnings.map(w => w.code)
}

test('the host sees an SMMU without stage 2 whose bypass is abort', async () => {
  expect(Number(await driver.read32(ARM_SMMU_IDR0)) & IDR0_S2P).toBe(0)
  expect(await driver.read32(ARM_SMMU_GBPA)).toBe(0x10_0000n)
  expect(await warnings()).toEqual([])
})

describe('what a stream entry of the host lets a device do (server/hypervisor/README.md, section 7)', () => {
  test('never configured, so there is no shadow L2 table: nothing moves', async () => {
    const { touched, events } = await copy(same(SOURCE), same(TARGET))
    expect(touched).toBe(false)
    expect(new Set(events.map(e => e.id))).toEqual(new Set([EVT_ID_BAD_STREAMID_CONFIG]))
  })

  test('V = 0 after it was valid', async () => {
    await driver.attach(EDU_SID, STE.bypass)
    expect((await copy(same(SOURCE), same(TARGET))).arrived).toBe(true)
    await driver.attach(EDU_SID, STE.invalid)
    const { touched, events } = await copy(same(SOURCE), same(TARGET))
    expect(touched).toBe(false)
    expect(new Set(events.map(e => e.id))).toEqual(new Set([EVT_ID_BAD_STE_CONFIG]))
  })

  test('abort: nothing moves, and no event', async () => {
    await driver.attach(EDU_SID, STE.abort)
    expect(await copy(same(SOURCE), same(TARGET))).toEqual({ arrived: false, touched: false, events: [] })
  })

  test('bypass: the host’s RAM, through stage 2', async () => {
    await driver.attach(EDU_SID, STE.bypass)
    expect(await copy(same(SOURCE), same(TARGET))).toMatchObject({ arrived: true, events: [] })
  })

  test('stage 1: what it maps, with its permissions', async () => {
    driver.writeCd()
    const from = { iova: 0x1_0000, pa: SOURCE }
    const to = { iova: 0x2_0000, pa: TARGET }
    driver.map(from.iova, from.pa, false)
    driver.map(to.iova, to.pa)
    await driver.attach(EDU_SID, STE.stage1)
    expect(await copy(from, to)).toMatchObject({ arrived: true, events: [] })
    expect((await copy(to, from)).events).toMatchObject([{ id: EVT_ID_PERMISSION_FAULT, s2: false, rnw: false }])
    const unmapped = await copy({ iova: 0x5_0000, pa: SOURCE }, to)
    expect(unmapped.events).toMatchObject([{ id: EVT_ID_TRANSLATION_FAULT, s2: false, rnw: true }])
    expect(await warnings()).toEqual([])
  })

  test('an entry with a second stage is refused', async () => {
    await driver.attach(EDU_SID, ste({ config: CONFIG.nested, shCfg: 1 }).slice(0, 2))
    expect(await warnings()).toEqual(['HYP_CFGI_STE'])
    expect((await copy(same(SOURCE), same(TARGET))).touched).toBe(false)
  })

  test('a StreamID without an L2 table', async () => {
    driver.writeWords(RAM + 0x12_0000, [0n])
    await driver.attach(EDU_SID, STE.bypass)
    expect(await warnings()).toEqual(['HYP_CFGI_STE'])
    const { touched, events } = await copy(same(SOURCE), same(TARGET))
    expect(touched).toBe(false)
    expect(new Set(events.map(e => e.id))).toEqual(new Set([EVT_ID_BAD_STREAMID_CONFIG]))
  })
})

const views = [
  ['bypass', async () => driver.attach(EDU_SID, STE.bypass), (pa: number) => pa],
  [
    'stage 1',
    async (pages: readonly number[]) => {
      driver.writeCd()
      for (const pa of pages) driver.map(pa - RAM, pa)
      await driver.attach(EDU_SID, STE.stage1)
    },
    (pa: number) => pa - RAM,
  ],
] as const

describe.each(views)('what devices reach with %s (server/hypervisor/README.md, sections 8, 9)', (_name, open, iova) => {
  const at = (pa: number) => ({ iova: iova(pa), pa })
  const fault = (pa: number, rnw: boolean) => ({
    id: EVT_ID_TRANSLATION_FAULT,
    streamId: EDU_SID,
    s2: true,
    rnw,
    ipa: pa,
  })

  test.each([
    ['first', CARVEOUT],
    ['last', RAM + (MEMORY_MIB << 20) - 4096],
  ])('hypervisor memory, %s page: neither read nor written', async (_which, page) => {
    await open([SOURCE, TARGET, page])
    const before = driver.readMemory(page, LENGTH)
    await edu.dmaRead(iova(SOURCE), LENGTH)
    await edu.dmaWrite(iova(page), LENGTH)
    expect(driver.readMemory(page, LENGTH)).toEqual(before)
    expect((await driver.events()).map(brief)).toEqual([fault(page, false)])
    await edu.dmaRead(iova(page), LENGTH)
    expect((await driver.events()).map(brief)).toEqual([fault(page, true)])
  })

  test('a page donated to a VM: not from the next DMA on; after reclaim it is zero and works', async () => {
    await open([SOURCE, TARGET])
    expect((await copy(at(SOURCE), at(TARGET))).arrived).toBe(true)
    expect(await machine.server.call('donate', TARGET, 4096, VM)).toBe(0)
    const written = await copy(at(SOURCE), at(TARGET))
    expect(written.touched).toBe(false)
    expect(written.events.map(brief)).toEqual([fault(TARGET, false)])
    await edu.dmaRead(iova(TARGET), LENGTH)
    expect((await driver.events()).map(brief)).toEqual([fault(TARGET, true)])

    expect(await machine.server.call('reclaim', TARGET, 4096, VM)).toBe(0)
    expect(driver.readMemory(TARGET, 4096).every(byte => byte === 0)).toBe(true)
    expect(await copy(at(SOURCE), at(TARGET))).toMatchObject({ arrived: true, events: [] })
    expect(await warnings()).toEqual([])
  })

  test('neighbours of a donated range stay reachable', async () => {
    const size = 16 * 4096
    const pages = [TARGET - 4096, TARGET, TARGET + size - 4096, TARGET + size]
    await open([SOURCE, ...pages])
    for (const page of pages) expect((await copy(at(SOURCE), at(page))).arrived).toBe(true)
    expect(await machine.server.call('donate', TARGET, size, VM)).toBe(0)
    const reached = []
    for (const page of pages) reached.push((await copy(at(SOURCE), at(page))).arrived)
    expect(reached).toEqual([true, false, false, true])
  })

  test('pages shared with the hypervisor stay the host’s', async () => {
    const queue = RAM + 0x11_0000
    await open([SOURCE, queue])
    await edu.dmaRead(iova(queue), LENGTH)
    expect(await driver.events()).toEqual([])
  })
})

test('device memory is mapped, the SMMU’s own frame is not', async () => {
  await driver.attach(EDU_SID, STE.bypass)
  await edu.dmaRead(SMMU, 8)
  expect((await driver.events()).map(brief)).toEqual([
    { id: EVT_ID_TRANSLATION_FAULT, streamId: EDU_SID, s2: true, rnw: true, ipa: SMMU },
  ])
  await edu.dmaRead(0x0900_0fe0, 8)
  expect(await driver.events()).toEqual([])
})

describe('donation errors (server/hypervisor/README.md, section 8.1)', () => {
  test.each([
    ['not RAM', 0x1000, 4096, -14],
    ['hypervisor memory', CARVEOUT, 4096, -1],
    ['a shared page', RAM + 0x10_0000, 4096, -1],
    ['not a page', TARGET + 1, 4096, -22],
    ['partly shared: all or nothing', RAM + 0xf_f000, 8192, -1],
  ])('%s', async (_name, base, size, error) => {
    expect(await machine.server.call('donate', base, size, VM)).toBe(error)
    await driver.attach(EDU_SID, STE.bypass)
    expect((await copy(same(SOURCE), same(RAM + 0xf_e000))).arrived).toBe(true)
  })
})

describe('the CPU guard (server/hypervisor/README.md, section 3)', () => {
  test.each([
    ['hypervisor memory', CARVEOUT, async () => {}],
    ['a donated page', TARGET, async () => expect(await machine.server.call('donate', TARGET, 4096, VM)).toBe(0)],
  ])('%s: a CPU reads nothing, writes nothing, and is reported', async (_name, page, prepare) => {
    const secret = randomBytes(8)
    driver.writeMemory(page, secret)
    await prepare()
    expect(await machine.qtest.read(page, 8)).not.toBe(secret.readBigUInt64LE())
    await machine.qtest.write(page, 8, 0x1234)
    expect(driver.readMemory(page, 8)).toEqual(secret)
    // QEMU does not wait for the server to hear of it.
    await expect
      .poll(async () => (await machine.server.call('sections')).guardFaults)
      .toMatchObject({
        first: [
          { address: page, size: 8, write: false },
          { address: page, size: 8, write: true },
        ],
      })
  })
})

test('a machine reset brings tables and ownership back to the beginning, and a VM’s pages without what was in them', async () => {
  await driver.attach(EDU_SID, STE.bypass)
  driver.writeMemory(TARGET - 4096, Buffer.alloc(4096, 0x5a))
  driver.writeMemory(TARGET, Buffer.alloc(4096, 0x5a))
  expect(await machine.server.call('donate', TARGET, 4096, VM)).toBe(0)
  expect(driver.readMemory(TARGET, 4096).every(byte => byte === 0x5a)).toBe(true)
  await machine.reset()
  expect(driver.readMemory(TARGET, 4096).every(byte => byte === 0)).toBe(true)
  expect(driver.readMemory(TARGET - 4096, 4096).every(byte => byte === 0x5a)).toBe(true)
  driver.dispose()
  driver = await HostDriver.probe(machine)
  edu = await Edu.enable(machine.qtest)
  const { touched, events } = await copy(same(SOURCE), same(TARGET))
  expect(touched).toBe(false)
  expect(new Set(events.map(e => e.id))).toEqual(new Set([EVT_ID_BAD_STREAMID_CONFIG]))
  await driver.attach(EDU_SID, STE.bypass)
  expect((await copy(same(SOURCE), same(TARGET))).arrived).toBe(true)
  expect(await warnings()).toEqual([])
})
