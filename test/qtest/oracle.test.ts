// SPDX-License-Identifier: Apache-2.0
/**
 * The oracle of isolation on the real QEMU: known defects of the posted series (server/hypervisor/README.md, section 13) are found where
 * a host makes use of them, and the same host finds nothing without. `edu` is the DMA master.
 */
import { once } from 'node:events'
import { afterEach, describe, expect, test } from 'vitest'
import { ARM_SMMU_CR0, ARM_SMMU_EVTQ_BASE } from '../../server/smmu/registers.ts'
import type { OracleReport } from '../../server/trap/oracleReport.ts'
import { HostDriver, STE } from './driver.ts'
import { EDU_ARGS, EDU_SID, Edu } from './edu.ts'
import { QtestMachine, RAM, SMMU } from './machine.ts'

const MEMORY_MIB = 256
const CARVEOUT_MIB = 64
const TARGET = RAM + 0x300_0000
/** Where HostDriver has its event queue, and its L1 table. */
const EVTQ = RAM + 0x11_0000
const L1 = RAM + 0x12_0000
/** Two pages, the event queue of 256 entries from the second one on, which is not aligned to it. */
const UNALIGNED = RAM + 0x20_0000
const L2 = RAM + 0x40_0000
const PAGE = 4096
const VM = 1
/** Behind the L2 table that HostDriver has. */
const FAR_SID = 0x120

let machine: QtestMachine
let driver: HostDriver | undefined
let edu: Edu

async function start(quirks: readonly string[], policy = 'pkvm'): Promise<void> {
  machine = new QtestMachine()
  await machine.serve(policy, { until: 'nested', quirks }, undefined, 'hardware', true)
  await machine.start({ properties: [`carveout=${CARVEOUT_MIB}M`], args: EDU_ARGS, memoryMiB: MEMORY_MIB })
  driver = await HostDriver.probe(machine)
  edu = await Edu.enable(machine.qtest)
}
afterEach(async () => {
  driver?.dispose()
  driver = undefined
  await machine.dispose()
})

const host = () => {
  if (driver === undefined) throw new Error('there is no machine')
  return driver
}
const donate = (page: number) => machine.server.call('donate', page, PAGE, VM)

/** What a hostile host does, and what is found of it with the defect. */
const HOSTS = {
  'idmap-never-initialised': {
    async act() {
      await host().attach(EDU_SID, STE.bypass)
      await donate(TARGET)
    },
    found: [`0x43000000 belongs to VM ${VM}`],
    walk: ['STRTAB_BASE', 'L1STD', 'STE', 'S2', 'S2'],
  },
  'queues-unshared': {
    act: () => donate(EVTQ),
    found: ['SMMU 0 writes its event queue at 0x40110000, 4096 bytes: page 0x40110000 belongs to VM 1'],
    walk: [],
  },
  'queue-base-unaligned': {
    async act() {
      await host().write32(ARM_SMMU_CR0, 0x9)
      await machine.qtest.write(SMMU + ARM_SMMU_EVTQ_BASE, 8, BigInt(UNALIGNED + PAGE) | 8n)
      await host().write32(ARM_SMMU_CR0, 0xd)
      await donate(UNALIGNED)
    },
    found: ['SMMU 0 writes its event queue at 0x40200000, 12288 bytes: page 0x40200000 belongs to VM 1'],
    walk: [],
  },
  'no-tlbi-while-off': {
    async act() {
      await host().attach(EDU_SID, STE.bypass)
      await edu.dmaWrite(TARGET, 64)
      await host().write32(ARM_SMMU_CR0, 0xc)
      await donate(TARGET)
      await host().write32(ARM_SMMU_CR0, 0xd)
      await edu.dmaWrite(TARGET, 64)
    },
    found: ['page 0x43000000 of VM 1 was written by somebody else: 16 words from offset 0x0'],
    walk: [],
  },
  'l2-share-unchecked': {
    async act() {
      await donate(L2)
      host().writeWords(L1 + 8, [BigInt(L2) | 9n])
      await host().attach(FAR_SID, STE.bypass)
    },
    found: ['the hypervisor reads 64 bytes at 0x40400800, 0x40400800 belongs to VM 1'],
    walk: [],
  },
} as const

const violations = async () => ((await machine.server.call('oracle')) as OracleReport).violations

describe.each(Object.entries(HOSTS))('%s', (quirk, { act, found, walk }) => {
  test('is found, and stops the machine', async () => {
    await start([quirk])
    const panic = once(machine.server, 'panic')
    await act()
    const told = await violations()
    expect(told.map(({ message }) => message)).toEqual([expect.stringContaining(found[0])])
    expect(told[0].walk.map(line => line.split(' ')[0]).slice(0, walk.length)).toEqual(walk)
    const [text, sections] = (await panic) as [string, { readonly oops: readonly string[] }]
    expect(text).toContain(found[0])
    expect(sections.oops[0]).toBe('------------[ isolation violation ]------------')
    for (const line of told[0].walk) expect(sections.oops).toContain(`  ${line}`)
  })

  test('without it the same host is stopped, and nothing is found', async () => {
    await start([])
    await act()
    expect(await violations()).toEqual([])
  })
})

test('pages come and go, the machine is reset, and all of it is looked at: nothing', async () => {
  await start([])
  const { server } = machine
  for (const [n, ste] of [STE.bypass, STE.abort, STE.bypass, STE.invalid].entries()) {
    await host().attach(EDU_SID, ste)
    await donate(TARGET + n * PAGE)
    await edu.dmaWrite(TARGET + n * PAGE, 64)
  }
  expect(await violations()).toEqual([])
  expect(await server.call('reclaim', TARGET, PAGE, VM)).toBe(0)
  expect(((await server.call('oracle')) as OracleReport).vmPages).toBe(3)
  await machine.reset()
  const after = (await server.call('oracle')) as OracleReport
  expect(after).toMatchObject({ vmPages: 0, hypervisorPages: (CARVEOUT_MIB << 20) / PAGE, violations: [], more: 0 })
  expect(after.samples).toBeGreaterThan(0)
})

test('the policy partition: its carve-out is watched as well', async () => {
  await start([], 'partition')
  await host().attach(EDU_SID, STE.bypass)
  await edu.dmaWrite(TARGET, 64)
  expect(await machine.server.call('oracle')).toMatchObject({ violations: [], wholes: 1 })
})

test('of a policy that does not isolate nothing is said', async () => {
  await start([], 'passthrough')
  await host().attach(EDU_SID, STE.bypass)
  expect(await machine.server.call('oracle')).toMatchObject({
    unjudged: 'the policy does not isolate',
    violations: [],
    wholes: 0,
  })
})
