// SPDX-License-Identifier: Apache-2.0
/**
 * RAM in blocks on the real QEMU, whose IOTLB keeps a block as one entry: split, merged and split again under DMA of `edu`, translated by
 * the model and by the server (server/hypervisor/README.md, section 9.4).
 */
import { randomBytes } from 'node:crypto'
import { afterEach, describe, expect, test } from 'vitest'
import { Random } from '../../server/attack/random.ts'
import type { TranslateMode } from '../../server/translate/translator.ts'
import { HostDriver, STE } from './driver.ts'
import { EDU_ARGS, EDU_SID, Edu } from './edu.ts'
import { QtestMachine, RAM } from './machine.ts'

const MEMORY_MIB = 256
const CARVEOUT_MIB = 64
const PAGE = 4096
const BLOCK_BYTES = 2 ** 21
const SOURCE = RAM + 0x200_0000
const BLOCK = RAM + 0x300_0000
const LENGTH = 64
const VM = 1
const STEPS = 60

let machine: QtestMachine
let driver: HostDriver
let edu: Edu

async function start(options: Readonly<Record<string, unknown>>, translate: TranslateMode): Promise<void> {
  machine = new QtestMachine()
  await machine.serve('pkvm', { until: 'nested', blocks: true, ...options }, machine.ramFile, translate, true)
  await machine.start({ properties: [`carveout=${CARVEOUT_MIB}M`], args: EDU_ARGS, memoryMiB: MEMORY_MIB })
  driver = await HostDriver.probe(machine)
  edu = await Edu.enable(machine.qtest)
}
afterEach(async () => {
  driver?.dispose()
  await machine?.dispose()
})

/** Whether a DMA to a page gets there. */
async function reaches(iova: number, page: number): Promise<boolean> {
  const secret = randomBytes(LENGTH)
  driver.writeMemory(SOURCE, secret)
  await edu.dmaRead(SOURCE, LENGTH)
  await edu.dmaWrite(iova, LENGTH)
  return driver.readMemory(page, LENGTH).equals(secret)
}

async function problems(): Promise<unknown> {
  const { warnings, oracle } = (await machine.server.call('sections')) as {
    warnings: { code: string }[]
    oracle?: { violations: readonly unknown[] }
  }
  return [...warnings.map(({ code }) => code), ...(oracle?.violations ?? [])]
}

const rows = (['hardware', 'server'] as const).flatMap(translate =>
  [{}, { bbm: 0 }, { bbm: 1 }, { bbm: 2 }].map(options => ({ translate, options })),
)

describe.each(rows)('translated by $translate, $options', ({ translate, options }) => {
  test('a page in the middle of a block that devices have used', async () => {
    await start(options, translate)
    await driver.attach(EDU_SID, STE.bypass)
    const page = BLOCK + 5 * PAGE
    const pages = [BLOCK, page - PAGE, page, page + PAGE, BLOCK + BLOCK_BYTES - PAGE, BLOCK + BLOCK_BYTES]
    const reached = async () => {
      const all: boolean[] = []
      for (const each of pages) all.push(await reaches(each, each))
      return all
    }
    const all = pages.map(() => true)
    expect(await reached()).toEqual(all)
    for (let turn = 0; turn < 3; turn++) {
      expect(await machine.server.call('donate', page, PAGE, VM)).toBe(0)
      expect(await reached()).toEqual(pages.map(each => each !== page))
      expect(await machine.server.call('reclaim', page, PAGE, VM)).toBe(0)
      expect(await reached()).toEqual(all)
    }
    expect(await problems()).toEqual([])
  })

  test('pages of two blocks come and go, by chance', async () => {
    await start(options, translate)
    const random = new Random(1)
    const offsets = [0, 1, 2, 510, 511, 512, 513, 1022, 1023]
    driver.writeCd()
    driver.map(SOURCE, SOURCE)
    for (const offset of offsets) driver.map(BLOCK - RAM + offset * PAGE, BLOCK + offset * PAGE)
    await driver.attach(EDU_SID, STE.stage1)
    const given = new Set<number>()
    for (let step = 0; step < STEPS; step++) {
      const offset = random.pick(offsets)
      const page = BLOCK + offset * PAGE
      const back = given.has(offset)
      expect(await machine.server.call(back ? 'reclaim' : 'donate', page, PAGE, VM)).toBe(0)
      if (back) given.delete(offset)
      else given.add(offset)
      for (const look of [offset, random.pick(offsets)]) {
        const target = BLOCK + look * PAGE
        expect([step, look, await reaches(target - RAM, target)]).toEqual([step, look, !given.has(look)])
      }
    }
    expect(await problems()).toEqual([])
  })
})
