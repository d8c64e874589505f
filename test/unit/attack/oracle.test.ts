// SPDX-License-Identifier: Apache-2.0
/** What the oracle finds, each with the page map that says so. */
import { beforeEach, describe, expect, test } from 'vitest'
import { AttackMemory } from '../../../server/attack/memory.ts'
import { Oracle, SECRET } from '../../../server/attack/oracle.ts'
import { PageGuard } from '../../../server/oracle/pageGuard.ts'
import { PageMap } from '../../../server/oracle/pageMap.ts'
import { CARVEOUT, HIGH_RAM, PLAIN, RAM } from './support.ts'

const FRAME = 0x0905_0000
const VM = 2

let memory: AttackMemory
let guard: PageGuard
let oracle: Oracle
beforeEach(() => {
  memory = new AttackMemory(PLAIN.ram)
  guard = new PageGuard(PLAIN.ram)
  oracle = new Oracle(new PageMap(PLAIN.ram, PLAIN.carveout, [{ base: FRAME, size: 0x2_0000 }]), memory, guard)
  oracle.begin()
  oracle.claims = true
  guard.add(CARVEOUT, PLAIN.carveout.size)
})

/** A page becomes a VM's, and the guard's. */
function donate(page: number): void {
  guard.add(page, 4096)
  oracle.donated(page, 4096, VM)
}

describe('what may not be reached', () => {
  test.each([
    ['memory of the host', RAM, false],
    ['memory of the host above 4 GiB', HIGH_RAM, false],
    ['memory of the hypervisor, its first byte', CARVEOUT, true],
    ['memory of the hypervisor, its last byte', CARVEOUT + PLAIN.carveout.size - 1, true],
    ['the page before', CARVEOUT - 1, false],
    ['an SMMU', FRAME + 0x1_0000, true],
    ['an address where nothing is', 2 ** 40, false],
  ])('%s', (_, address, forbidden) => expect(oracle.forbidden(address, 0)).toBe(forbidden))

  test('a page of a VM, until it is the host’s again', () => {
    donate(RAM)
    expect(memory.contains(RAM, SECRET)).toBe(true)
    expect(oracle.forbidden(RAM + 4095, 0)).toBe(true)
    expect(oracle.donations).toEqual([RAM])
    oracle.returning(RAM, 4096)
    expect(oracle.forbidden(RAM, 0)).toBe(true)
    memory.fillPage(RAM, 0)
    // Empty, and about to be returned: no harm.
    expect(oracle.forbidden(RAM, 0)).toBe(false)
    guard.remove(RAM, 4096)
    oracle.reclaimed(RAM, 4096, VM, true)
    expect(oracle.forbidden(RAM, 0)).toBe(false)
    expect(oracle.donations).toEqual([])
    expect(oracle.finding).toBeUndefined()
  })

  test('a page whose reclaim failed stays the VM’s', () => {
    donate(RAM)
    oracle.returning(RAM, 4096)
    memory.fillPage(RAM, 0)
    oracle.reclaimed(RAM, 4096, VM, false)
    expect(oracle.forbidden(RAM, 0)).toBe(true)
  })

  test('nothing, where nothing is claimed', () => {
    oracle.claims = false
    expect(oracle.forbidden(CARVEOUT, 0)).toBe(false)
    oracle.smmuWrites(0, 'event', CARVEOUT, 32)
    donate(RAM)
    oracle.hypervisorWrites(RAM, 8)
    oracle.hypervisorReads(RAM, 8)
    guard.remove(CARVEOUT, PLAIN.carveout.size)
    oracle.auditGuard()
    expect(oracle.finding).toBeUndefined()
  })
})

describe('what is found', () => {
  const found = (act: () => void) => {
    act()
    return oracle.finding?.kind
  }

  test('writes of an SMMU', () => {
    expect(found(() => oracle.smmuWrites(0, 'event', RAM, 32))).toBeUndefined()
    expect(found(() => oracle.smmuWrites(0, 'event', CARVEOUT - 32, 32))).toBeUndefined()
    // Its end reaches into the page.
    expect(found(() => oracle.smmuWrites(0, 'event', CARVEOUT - 16, 32))).toBe('smmu-write event')
    expect(oracle.finding).toMatchObject({ page: CARVEOUT })
  })

  test('MSIs at an SMMU', () => {
    expect(found(() => oracle.smmuWrites(0, 'msi-gerror', FRAME, 4))).toBe('smmu-write msi-gerror')
  })

  test('a hypervisor that writes what belongs to a VM', () => {
    donate(RAM)
    expect(found(() => oracle.hypervisorWrites(CARVEOUT, 8))).toBeUndefined()
    expect(found(() => oracle.hypervisorWrites(RAM + 8, 8))).toBe('hypervisor-writes-vm')
  })

  test('also where only the end, or a page amid it, belongs to the VM', () => {
    donate(RAM + 8192)
    expect(found(() => oracle.hypervisorWrites(RAM, 8192))).toBeUndefined()
    expect(found(() => oracle.hypervisorReads(RAM + 12_288, 4096))).toBeUndefined()
    expect(found(() => oracle.hypervisorWrites(RAM + 8188, 8))).toBe('hypervisor-writes-vm')
    oracle.finding = undefined
    expect(found(() => oracle.hypervisorReads(RAM + 4, 16_384))).toBe('hypervisor-reads-vm')
    expect(oracle.finding).toMatchObject({ message: expect.stringContaining('0x40002000 belongs to VM 2') })
  })

  test('nor does it write beyond what is on its way back', () => {
    donate(RAM)
    donate(RAM + 4096)
    oracle.returning(RAM, 4096)
    expect(found(() => oracle.hypervisorWrites(RAM, 4096))).toBeUndefined()
    expect(found(() => oracle.hypervisorWrites(RAM, 4104))).toBe('hypervisor-writes-vm')
  })

  test('a hypervisor that reads what belongs to a VM', () => {
    donate(RAM)
    expect(found(() => oracle.hypervisorReads(HIGH_RAM, 8))).toBeUndefined()
    expect(found(() => oracle.hypervisorReads(RAM + 8, 8))).toBe('hypervisor-reads-vm')
  })

  test('a page that goes to a VM twice', () => {
    donate(RAM)
    expect(found(() => oracle.donated(RAM, 4096, VM + 1))).toBe('donates-foreign')
  })

  test('hypervisor memory that goes to a VM', () => {
    expect(found(() => oracle.donated(CARVEOUT, 4096, VM))).toBe('donates-foreign')
  })

  test('a page that is taken from another VM', () => {
    donate(RAM)
    memory.fillPage(RAM, 0)
    guard.remove(RAM, 4096)
    expect(found(() => oracle.reclaimed(RAM, 4096, VM + 1, true))).toBe('reclaims-foreign')
  })

  test('a page that comes back with what was in it', () => {
    donate(RAM)
    guard.remove(RAM, 4096)
    memory.setWord(RAM, 0)
    expect(found(() => oracle.reclaimed(RAM, 4096, VM, true))).toBe('not-zeroed')
  })

  test('a page of a VM that vCPUs can reach', () => {
    expect(found(() => oracle.donated(RAM, 4096, VM))).toBe('guard')
  })

  test('a page of the host that is kept from vCPUs', () => {
    donate(RAM)
    memory.fillPage(RAM, 0)
    expect(found(() => oracle.reclaimed(RAM, 4096, VM, true))).toBe('guard')
  })

  test('the guard as a whole', () => {
    donate(RAM)
    expect(found(() => oracle.auditGuard())).toBeUndefined()
    guard.add(HIGH_RAM, 4096)
    expect(found(() => oracle.auditGuard())).toBe('guard')
    oracle.finding = undefined
    guard.remove(CARVEOUT, PLAIN.carveout.size)
    expect(found(() => oracle.auditGuard())).toBe('guard')
  })

  test('the first one, with the step', () => {
    oracle.step = 5
    oracle.report('a', 'first')
    oracle.step = 6
    oracle.report('b', 'second')
    expect(oracle.finding).toEqual({ kind: 'a', message: 'first', step: 5 })
  })
})

test('a partition reaches its ranges, others nothing of them, and the SMMU writes to the first one', () => {
  const FOREIGN = 7
  oracle.share([
    { name: 'guest', streams: [{ smmu: 0, sid: 1 }], ranges: [{ base: RAM, size: 8192 }] },
    { name: 'vault', streams: [{ smmu: 0, sid: FOREIGN }], ranges: [{ base: RAM + 8192, size: 4096 }] },
  ])
  const reach = (sid: number | undefined, smmu = 0) =>
    [0, 4096, 8192, 12288].map(at => !oracle.forbidden(RAM + at, smmu, sid))
  expect(reach(1)).toEqual([true, true, false, false])
  expect(reach(FOREIGN)).toEqual([false, false, true, false])
  expect(reach(2)).toEqual([false, false, false, false])
  expect(reach(1, 1)).toEqual([false, false, false, false])
  expect(reach(undefined)).toEqual([true, true, false, false])
  expect(oracle.outside(0, 1, RAM, 8192)).toBe(-1)
  expect(oracle.outside(0, 1, RAM + 4096, 8192)).toBe(RAM + 8192)
  expect(oracle.notOf(0, 1, RAM + 8192)).toBe('is not in partition guest')
  expect(oracle.notOf(0, 2, RAM)).toBe('is not in partition nobody')
  expect(oracle.notOf(0, 1, CARVEOUT)).toBe('belongs to the hypervisor')
  oracle.share(undefined)
  expect(reach(2)).toEqual([true, true, true, true])
})

test('a case begins with nothing of the one before', () => {
  donate(RAM)
  oracle.returning(RAM, 4096)
  oracle.known = new Set(['throws'])
  oracle.report('guard', '')
  oracle.report('throws', '')
  oracle.begin()
  expect(oracle).toMatchObject({ claims: false, finding: undefined, spoiled: false, donations: [] })
  oracle.claims = true
  expect(oracle.forbidden(RAM, 0)).toBe(false)
  expect(oracle.forbidden(CARVEOUT, 0)).toBe(true)
  oracle.report('guard', 'again')
  expect(oracle.finding).toMatchObject({ message: 'again' })
})

describe('what is known', () => {
  test('is counted, and what is not is found', () => {
    oracle.known = new Set(['dma untranslated'])
    oracle.report('dma untranslated', '')
    oracle.report('dma untranslated', '')
    expect(oracle.seen).toEqual(new Map([['dma untranslated', 2]]))
    expect(oracle.spoiled).toBe(false)
    oracle.report('guard', '')
    expect(oracle.finding?.kind).toBe('guard')
  })

  test('ends a case when the machine is not what it was', () => {
    oracle.known = new Set(['smmu-write event'])
    oracle.report('smmu-write event', '')
    expect(oracle.spoiled).toBe(true)
    // Of what comes of it nothing is said.
    oracle.report('guard', '')
    expect(oracle.finding).toBeUndefined()
  })
})
