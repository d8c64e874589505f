// SPDX-License-Identifier: Apache-2.0
/** Page ownership, operation × state; donation at run time (server/hypervisor/README.md, section 8). */
import fc from 'fast-check'
import { beforeEach, describe, expect, test } from 'vitest'
import { Hypervisor } from '../../../../server/hypervisor/pkvm/hypervisor.ts'
import {
  MAX_PINS,
  MAX_VMS,
  PAGE_HYP,
  PAGE_NOT_RAM,
  PAGE_OWNED,
  PAGE_SHARED,
  PAGE_VM,
  PageOwnership,
} from '../../../../server/hypervisor/pkvm/ownership.ts'
import { PAGE_DONATE, PAGE_RECLAIM } from '../../../../server/policy/report.ts'
import { EBUSY, EFAULT, EINVAL, EIO, ENODEV, ENOMEM, EPERM, ERANGE, OK } from '../../../../server/policy/result.ts'
import * as r from '../../../../server/smmu/registers.ts'
import { SYNC } from '../../smmu/fields.ts'
import {
  Bench,
  CARVEOUT_BASE,
  CARVEOUT_SIZE,
  HOST_CMDQ,
  Host,
  idmapEntry,
  MiB,
  RAM_BASE,
  RAM_SIZE,
  STE,
  successor,
} from './support.ts'

const P = 4096
const A = 0x1000_0000

let pages: PageOwnership
beforeEach(() => {
  pages = new PageOwnership([{ base: A, size: 16 * P }])
})

test.each([0, 15])('page %i is what a hypervisor beside us says', page => {
  const base = A + page * P
  expect(pages.assign(base, P, 7)).toBe(OK)
  expect([pages.stateAt(base), pages.vmAt(base)]).toEqual([PAGE_VM, 7])
  expect(pages.assign(base, P, 0)).toBe(OK)
  expect(pages.stateAt(base)).toBe(PAGE_HYP)
  expect(pages.assign(base, P, -1)).toBe(OK)
  expect(pages.stateAt(base)).toBe(PAGE_OWNED)
})

describe('slots of VMs', () => {
  beforeEach(() => {
    pages = new PageOwnership([{ base: A, size: (MAX_VMS + 1) * P }])
  })
  /** As many other VMs as there may be own a page each, the last page belongs to nobody. */
  const all = () => Array.from({ length: MAX_VMS }, (_, i) => pages.donate(A + i * P, P, 1000 + i))
  const allOk = new Array<number>(MAX_VMS).fill(OK)

  test('are free after a reset', () => {
    expect(all()).toEqual(allOk)
    pages.reset()
    expect(pages.donate(A, P, 1)).toBe(OK)
    expect(pages.reclaim(A, P, 1)).toBe(OK)
    expect(all()).toEqual(allOk)
  })

  test('are taken and given back by what a hypervisor beside us says as well', () => {
    for (let i = 0; i < MAX_VMS; i++) expect(pages.assign(A + i * P, P, i + 1)).toBe(OK)
    expect(pages.vmAt(A)).toBe(1)
    // One too many is the hypervisor's.
    expect(pages.assign(A + MAX_VMS * P, P, 1000)).toBe(ENOMEM)
    expect(pages.stateAt(A + MAX_VMS * P)).toBe(PAGE_HYP)
    expect(pages.assign(A + MAX_VMS * P, P, 1)).toBe(OK)
    // The first VM has two pages: it keeps its slot with the second.
    expect(pages.assign(A, P, -1)).toBe(OK)
    expect(pages.assign(A, P, 1000)).toBe(ENOMEM)
    expect(pages.vmAt(A + MAX_VMS * P)).toBe(1)
    for (let i = 0; i <= MAX_VMS; i++) expect(pages.assign(A + i * P, P, -1)).toBe(OK)
    expect(all()).toEqual(allOk)
  })

  test('of pages that go from one VM to another', () => {
    expect(pages.assign(A, 2 * P, 1)).toBe(OK)
    expect(pages.assign(A, 2 * P, 2)).toBe(OK)
    expect([pages.vmAt(A), pages.vmAt(A + P)]).toEqual([2, 2])
    expect(pages.reclaim(A, 2 * P, 2)).toBe(OK)
    expect(all()).toEqual(allOk)
  })
})

test('what is not RAM is nobody’s to assign', () => {
  expect(pages.assign(A - P, P, 1)).toBe(EFAULT)
  expect(pages.assign(A, 0, 1)).toBe(EINVAL)
})

test('a run of a checkpoint in no known state is refused', () => {
  expect(pages.restore({ base: A, size: P, state: 'not RAM', vm: 0, pins: 0 })).toBe(EINVAL)
})

test('every change counts, and nothing else', () => {
  const before = pages.generation
  expect(before).toBe(0)
  pages.share(A + P, P)
  pages.share(A + P, P)
  pages.stateAt(A)
  expect(pages.generation).toBe(1)
})

test('a run of a checkpoint with more pins than a page can have is refused', () => {
  const run = { base: A, size: P, state: 'shared', vm: 0 } as const
  expect(pages.restore({ ...run, pins: MAX_PINS + 1 })).toBe(EINVAL)
  expect(pages.restore({ ...run, pins: MAX_PINS })).toBe(OK)
  expect(pages.pinsAt(A)).toBe(MAX_PINS)
})

describe('operation × state', () => {
  const VM = 7
  const prepare: Record<string, (page: number) => void> = {
    owned: () => {},
    shared: page => expect(pages.share(page, P)).toBe(OK),
    pinned: page => {
      expect(pages.share(page, P)).toBe(OK)
      expect(pages.pin(page, P)).toBe(OK)
    },
    hyp: page => expect(pages.donateToHyp(page, P)).toBe(OK),
    vm: page => expect(pages.donate(page, P, VM)).toBe(OK),
    'other vm': page => expect(pages.donate(page, P, VM + 1)).toBe(OK),
  }
  const operations: Record<string, (base: number, size: number) => number> = {
    share: (base, size) => pages.share(base, size),
    unshare: (base, size) => pages.unshare(base, size),
    pin: (base, size) => pages.pin(base, size),
    unpin: (base, size) => pages.unpin(base, size),
    donateToHyp: (base, size) => pages.donateToHyp(base, size),
    reclaimFromHyp: (base, size) => pages.reclaimFromHyp(base, size),
    donate: (base, size) => pages.donate(base, size, VM),
    reclaim: (base, size) => pages.reclaim(base, size, VM),
    checkVm: (base, size) => pages.checkVm(base, size, VM),
  }
  // operation: owned, shared, pinned, hyp, vm, other vm
  const table: Record<string, number[]> = {
    share: [OK, EPERM, EPERM, EPERM, EPERM, EPERM],
    unshare: [EPERM, OK, EBUSY, EPERM, EPERM, EPERM],
    pin: [EPERM, OK, OK, EPERM, EPERM, EPERM],
    unpin: [EPERM, EPERM, OK, EPERM, EPERM, EPERM],
    donateToHyp: [OK, EPERM, EPERM, EPERM, EPERM, EPERM],
    reclaimFromHyp: [EPERM, EPERM, EPERM, OK, EPERM, EPERM],
    donate: [OK, EPERM, EPERM, EPERM, EPERM, EPERM],
    reclaim: [EPERM, EPERM, EPERM, EPERM, OK, EPERM],
    checkVm: [EPERM, EPERM, EPERM, EPERM, OK, EPERM],
  }
  const rows = Object.entries(table).flatMap(([operation, results]) =>
    Object.keys(prepare).map((state, i) => ({ operation, state, result: results[i] })),
  )
  test.each(rows)('$operation of a page that is $state', ({ operation, state, result }) => {
    prepare[state](A + 3 * P)
    expect(operations[operation](A + 3 * P, P)).toBe(result)
  })

  test.each(rows.filter(({ result, operation }) => result !== OK && table[operation].includes(OK)))(
    '$operation of three pages, the last of which is $state: nothing changes',
    ({ operation, state }) => {
      const allowed = Object.keys(prepare)[table[operation].indexOf(OK)]
      for (const page of [A, A + P]) prepare[allowed](page)
      prepare[state](A + 2 * P)
      const before = [...pages.ranges()]
      expect(operations[operation](A, 3 * P)).not.toBe(OK)
      expect([...pages.ranges()]).toEqual(before)
    },
  )
})

describe('arguments', () => {
  const rows: [string, number, number, number][] = [
    ['no pages', A, 0, EINVAL],
    ['less than nothing', A, -P, EINVAL],
    ['NaN', Number.NaN, P, EINVAL],
    ['a size that is NaN', A, Number.NaN, EINVAL],
    ['a negative base', -P, P, EINVAL],
    ['an unaligned base', A + 1, P, EINVAL],
    ['an unaligned size', A, P + 1, EINVAL],
    ['below RAM', A - P, P, EFAULT],
    ['reaching into RAM from below', A - P, 2 * P, EFAULT],
    ['above RAM', A + 16 * P, P, EFAULT],
    ['reaching out of RAM', A + 15 * P, 2 * P, EFAULT],
    ['all that there is', A, 2 ** 52, EFAULT],
    ['the end of the address space', 2 ** 53 - P, P, EFAULT],
    ['infinitely much', A, Number.POSITIVE_INFINITY, EINVAL],
  ]
  test.each(rows)('%s', (_, base, size, error) => {
    expect(pages.share(base, size)).toBe(error)
    expect(pages.pin(base, size)).toBe(error)
    expect(pages.donateToHyp(base, size)).toBe(error)
    expect(pages.donate(base, size, 1)).toBe(error)
    expect(pages.reclaim(base, size, 1)).toBe(error)
    expect(pages.checkVm(base, size, 1)).toBe(error)
  })

  test.each([0, -1, 1.5, Number.NaN, Number.POSITIVE_INFINITY])('VM id %s', vm => {
    expect(pages.donate(A, P, vm)).toBe(EINVAL)
  })

  test('the whole RAM', () => {
    expect(pages.share(A, 16 * P)).toBe(OK)
    expect(pages.unshare(A, 16 * P)).toBe(OK)
  })
})

test('states and owners of a page, by any address in it', () => {
  pages.share(A + P, P)
  pages.pin(A + P, P)
  pages.pin(A + P, P)
  pages.donateToHyp(A + 2 * P, P)
  pages.donate(A + 3 * P, P, 70_000)
  const row = (address: number) => [
    pages.stateAt(address),
    pages.vmAt(address),
    pages.pinsAt(address),
    pages.hostReaches(address),
  ]
  expect(row(A + 4095)).toEqual([PAGE_OWNED, 0, 0, true])
  expect(row(A + P + 1)).toEqual([PAGE_SHARED, 0, 2, true])
  expect(row(A + 2 * P)).toEqual([PAGE_HYP, 0, 0, false])
  expect(row(A + 4 * P - 1)).toEqual([PAGE_VM, 70_000, 0, false])
  expect(row(A - 1)).toEqual([PAGE_NOT_RAM, 0, 0, false])
  expect(row(A + 16 * P)).toEqual([PAGE_NOT_RAM, 0, 0, false])
  expect([...pages.ranges()]).toEqual([
    { base: A, size: P, state: 'owned', vm: 0, pins: 0 },
    { base: A + P, size: P, state: 'shared', vm: 0, pins: 2 },
    { base: A + 2 * P, size: P, state: 'hyp', vm: 0, pins: 0 },
    { base: A + 3 * P, size: P, state: 'vm', vm: 70_000, pins: 0 },
    { base: A + 4 * P, size: 12 * P, state: 'owned', vm: 0, pins: 0 },
  ])
  expect([...pages.ranges(A + 2 * P, A + 3 * P)]).toMatchObject([{ base: A + 2 * P, size: P }])
})

test.each([0, 5, 15])('the host reaches a range when it owns each page of it: page %i', page => {
  const at = A + page * P
  const all = () => [pages.hostReachesAll(at, P), pages.hostReachesAll(A, 16 * P)]
  expect(all()).toEqual([true, true])
  pages.share(at, P)
  expect(all()).toEqual([true, true])
  pages.unshare(at, P)
  pages.donateToHyp(at, P)
  expect(all()).toEqual([false, false])
  pages.reclaimFromHyp(at, P)
  pages.donate(at, P, 3)
  expect(all()).toEqual([false, false])
  expect(pages.hostReachesAll(A, page * P + (page === 0 ? P : 0))).toBe(page !== 0)
  expect(pages.hostReachesAll(A, 17 * P)).toBe(false)
})

test('a page that is shared and not pinned is the host’s to reach', () => {
  pages.share(A, P)
  expect([pages.stateAt(A), pages.pinsAt(A), pages.hostReaches(A)]).toEqual([PAGE_SHARED, 0, true])
})

test('pins are counted, up to a limit', () => {
  pages.share(A, P)
  for (let i = 0; i < MAX_PINS; i++) expect(pages.pin(A, P)).toBe(OK)
  expect(pages.pin(A, P)).toBe(ERANGE)
  for (let i = 0; i < MAX_PINS; i++) {
    expect(pages.unshare(A, P)).toBe(EBUSY)
    expect(pages.unpin(A, P)).toBe(OK)
  }
  expect(pages.unshare(A, P)).toBe(OK)
})

test('VMs: as many as there are slots, and slots are free again when a VM owns nothing', () => {
  pages = new PageOwnership([{ base: 0, size: (MAX_VMS + 1) * P }])
  for (let i = 0; i < MAX_VMS; i++) expect(pages.donate(i * P, P, 1000 + i)).toBe(OK)
  expect(pages.donate(MAX_VMS * P, P, 5)).toBe(ENOMEM)
  expect(pages.donate(MAX_VMS * P, P, 1003)).toBe(OK)
  expect(pages.reclaim(0, P, 1000)).toBe(OK)
  expect(pages.donate(0, P, 5)).toBe(OK)
  expect(pages.vmAt(0)).toBe(5)
})

test('what the host reaches is one range, whatever it shares of it', () => {
  const pages = new PageOwnership([{ base: A, size: 16 * P }])
  expect(pages.share(A + 2 * P, P)).toBe(OK)
  expect(pages.donate(A + 5 * P, P, 1)).toBe(OK)
  expect(pages.share(A + 6 * P, P)).toBe(OK)
  expect([...pages.hostRanges(A + P, A + 12 * P)]).toEqual([
    { base: A + P, size: 4 * P },
    { base: A + 6 * P, size: 6 * P },
  ])
  expect([...pages.hostRanges(A + 5 * P, A + 6 * P)]).toEqual([])
})

test('several RAM ranges: adjacent ones are one, a gap is not RAM', () => {
  pages = new PageOwnership([
    { base: A, size: 2 * P },
    { base: A + 2 * P, size: 2 * P },
    { base: A + 8 * P, size: P + 100 },
  ])
  expect(pages.pages).toBe(5)
  expect(pages.share(A + P, 2 * P)).toBe(OK)
  expect(pages.share(A + 3 * P, 6 * P)).toBe(EFAULT)
  expect(pages.share(A + 9 * P, P)).toBe(EFAULT)
  expect([...pages.ranges()].map(({ base, size }) => [base, size])).toEqual([
    [A, P],
    [A + P, 2 * P],
    [A + 3 * P, P],
    [A + 8 * P, P],
  ])
  expect(
    () =>
      new PageOwnership([
        { base: A, size: 2 * P },
        { base: A + P, size: P },
      ]),
  ).toThrow(RangeError)
})

test('1 TiB of RAM takes 256 MiB, and a page is found in constant time', () => {
  const before = process.memoryUsage().arrayBuffers
  const large = new PageOwnership([{ base: 2 ** 32, size: 2 ** 40 }])
  expect(process.memoryUsage().arrayBuffers - before).toBeLessThanOrEqual(300 * MiB)
  expect(large.pages).toBe(2 ** 28)
  expect(large.donate(2 ** 40, 2 ** 30, 3)).toBe(OK)
  expect(large.vmAt(2 ** 40 + 2 ** 29)).toBe(3)
  const start = performance.now()
  for (let i = 0; i < 100_000; i++) large.stateAt(2 ** 32 + ((i * 2654435761) % 2 ** 40))
  expect(performance.now() - start).toBeLessThan(1000)
})

test('against a model: a Map of pages', () => {
  type Model = { state: string; vm: number; pins: number }[]
  const operation = fc.record({
    what: fc.constantFrom('share', 'unshare', 'pin', 'unpin', 'donateToHyp', 'reclaimFromHyp', 'donate', 'reclaim'),
    page: fc.nat(15),
    count: fc.integer({ min: 1, max: 5 }),
    vm: fc.integer({ min: 1, max: 3 }),
  })
  fc.assert(
    fc.property(fc.array(operation, { maxLength: 60 }), sequence => {
      pages = new PageOwnership([{ base: A, size: 16 * P }])
      const model: Model = Array.from({ length: 16 }, () => ({ state: 'owned', vm: 0, pins: 0 }))
      for (const { what, page, count, vm } of sequence) {
        const base = A + page * P
        const size = count * P
        const run = model.slice(page, page + count)
        let ok = page + count <= 16
        const all = (state: string) => run.every(entry => entry.state === state)
        const set = (state: string, owner = 0) => {
          for (const entry of run) Object.assign(entry, { state, vm: owner, pins: 0 })
        }
        let result: number
        switch (what) {
          case 'share':
            ok &&= all('owned')
            result = pages.share(base, size)
            if (ok) set('shared')
            break
          case 'unshare':
            ok &&= all('shared') && run.every(entry => entry.pins === 0)
            result = pages.unshare(base, size)
            if (ok) set('owned')
            break
          case 'pin':
          case 'unpin':
            ok &&= all('shared') && (what === 'pin' || run.every(entry => entry.pins > 0))
            result = what === 'pin' ? pages.pin(base, size) : pages.unpin(base, size)
            if (ok) for (const entry of run) entry.pins += what === 'pin' ? 1 : -1
            break
          case 'donateToHyp':
            ok &&= all('owned')
            result = pages.donateToHyp(base, size)
            if (ok) set('hyp')
            break
          case 'reclaimFromHyp':
            ok &&= all('hyp')
            result = pages.reclaimFromHyp(base, size)
            if (ok) set('owned')
            break
          case 'donate':
            ok &&= all('owned')
            result = pages.donate(base, size, vm)
            if (ok) set('vm', vm)
            break
          default:
            ok &&= all('vm') && run.every(entry => entry.vm === vm)
            result = pages.reclaim(base, size, vm)
            if (ok) set('owned')
        }
        expect(result === OK).toBe(ok)
      }
      const flat = [...pages.ranges()].flatMap(({ size, state, vm, pins }) => Array(size / P).fill({ state, vm, pins }))
      expect(flat).toEqual(model)
      const copy = new PageOwnership([{ base: A, size: 16 * P }])
      for (const range of pages.ranges()) expect(copy.restore(range)).toBe(OK)
      expect([...copy.ranges()]).toEqual([...pages.ranges()])
    }),
  )
})

describe('donation at run time', () => {
  const TARGET = RAM_BASE + 8 * MiB
  let bench: Bench
  let host: Host
  function start(...args: ConstructorParameters<typeof Bench>): void {
    bench = new Bench(...args)
    bench.hyp.reset()
    host = new Host(bench).boot()
    host.attach(8, STE.s1)
    bench.hw.takeCommands()
    bench.report.operations = []
  }
  beforeEach(() => start())
  const mapped = (address: number) => idmapEntry(bench, address) !== null

  test('devices and vCPUs lose the page; it comes back zeroed', () => {
    bench.memory.poke(TARGET, new Uint8Array(2 * P).fill(0xaa))
    expect(bench.hyp.donate(TARGET, 2 * P, 3)).toBe(OK)
    expect(mapped(TARGET)).toBe(false)
    expect(mapped(TARGET + P)).toBe(false)
    expect(mapped(TARGET - P)).toBe(true)
    expect(mapped(TARGET + 2 * P)).toBe(true)
    expect(bench.guard.ranges).toContainEqual({ base: TARGET, size: 2 * P })
    expect(bench.hw.takeCommands()).toEqual(['TLBI_S2_IPA', 'SYNC', 'TLBI_NH_ALL', 'SYNC'])
    expect(bench.memory.peek64(TARGET)).toBe(0xaaaa_aaaa_aaaa_aaaan)
    expect(bench.hyp.reclaim(TARGET, 2 * P, 3)).toBe(OK)
    expect(mapped(TARGET)).toBe(true)
    expect(bench.memory.peek64(TARGET)).toBe(0n)
    expect(bench.memory.peek64(TARGET + 2 * P - 8)).toBe(0n)
    expect(bench.guard.ranges).toEqual([{ base: CARVEOUT_BASE, size: CARVEOUT_SIZE }])
    expect(bench.hyp.donated).toEqual([])
    expect(bench.report.operations).toEqual([
      { operation: PAGE_DONATE, base: TARGET, size: 2 * P, owner: 3, result: OK },
      { operation: PAGE_RECLAIM, base: TARGET, size: 2 * P, owner: 3, result: OK },
    ])
    expect(bench.report.take()).toEqual([])
  })

  test('as much as is zeroed at a time, and more, comes back zeroed', () => {
    const size = 3 * MiB
    for (const at of [TARGET - 8, TARGET, TARGET + MiB, TARGET + size - 8]) bench.memory.poke64(at, 0x5an)
    expect(bench.hyp.donate(TARGET, size, 3)).toBe(OK)
    expect(bench.hyp.reclaim(TARGET, size, 3)).toBe(OK)
    for (const at of [TARGET, TARGET + MiB, TARGET + size - 8]) expect(bench.memory.peek64(at)).toBe(0n)
    expect(bench.memory.peek64(TARGET - 8)).toBe(0x5an)
  })

  test('the stale translation is gone before the VM owns the page', () => {
    let unmappedBefore = false
    bench.guard.add = () => {
      unmappedBefore = bench.hw.consumed.length === 4 && !mapped(TARGET)
      return true
    }
    bench.hyp.donate(TARGET, P, 3)
    expect(unmappedBefore).toBe(true)
  })

  test('a page that cannot be kept from the vCPUs stays with the host, reachable as before', () => {
    bench.guard.limit = 2
    expect(bench.hyp.donate(TARGET, P, 3)).toBe(OK)
    expect(bench.hyp.donate(TARGET + 4 * P, P, 3)).toBe(ENOMEM)
    expect(mapped(TARGET + 4 * P)).toBe(true)
    expect(bench.hyp.ownership.stateAt(TARGET + 4 * P)).toBe(PAGE_OWNED)
    expect(bench.hyp.donated).toEqual([{ base: TARGET, size: P }])
    expect(bench.hyp.verify()).toEqual([])
    // Next to the first it is one range.
    expect(bench.hyp.donate(TARGET + P, P, 3)).toBe(OK)
  })

  test('a page that cannot be given back to the vCPUs stays the VM’s', () => {
    expect(bench.hyp.donate(TARGET, P, 3)).toBe(OK)
    bench.guard.remove = () => false
    expect(bench.hyp.reclaim(TARGET, P, 3)).toBe(ENOMEM)
    expect(bench.hyp.donated).toEqual([{ base: TARGET, size: P }])
    expect(mapped(TARGET)).toBe(false)
    expect(bench.hyp.verify()).toEqual([])
  })

  test('a reclaim that a take-over finished is not finished again by the next one', () => {
    let kept = new Uint8Array()
    const born = () => {
      const hyp: Hypervisor = new Hypervisor(bench.machine, {
        options: {},
        report: bench.report,
        clock: () => bench.now++,
        persist: () => {
          kept = hyp.checkpoint().slice()
        },
      })
      hyp.restore(kept)
      hyp.resume()
      return hyp
    }
    expect(bench.hyp.donate(TARGET, P, 3)).toBe(OK)
    kept = bench.hyp.checkpoint().slice()
    const first = born()
    const { remove } = bench.guard
    bench.guard.remove = () => {
      throw new Error('killed')
    }
    expect(() => first.reclaim(TARGET, P, 3)).toThrow('killed')
    bench.guard.remove = remove
    expect(born().donated).toEqual([])
    bench.memory.poke64(TARGET, 0x5an)
    born()
    expect(bench.memory.peek64(TARGET)).toBe(0x5an)
  })

  test('a donation that a take-over cannot finish: the host has its page back, and the vCPUs reach it', () => {
    let kept = new Uint8Array()
    const context = { options: { waitPolls: 50 }, report: bench.report, clock: () => bench.now++ }
    const keeps: Hypervisor = new Hypervisor(bench.machine, {
      ...context,
      persist: () => {
        kept = keeps.checkpoint().slice()
      },
    })
    keeps.restore(bench.hyp.checkpoint().slice())
    keeps.resume()
    expect(keeps.donate(TARGET, P, 3)).toBe(OK)
    bench.hw.stuck = true
    bench.hyp = new Hypervisor(bench.machine, context)
    bench.hyp.restore(kept)
    expect(bench.hyp.resume()).toHaveLength(1)
    expect(bench.report.operations.at(-1)).toMatchObject({ operation: PAGE_DONATE, base: TARGET, result: EIO })
    expect(bench.guard.ranges).toEqual([{ base: CARVEOUT_BASE, size: CARVEOUT_SIZE }])
    expect(bench.hyp.ownership.stateAt(TARGET)).toBe(PAGE_OWNED)
    expect(mapped(TARGET)).toBe(true)
  })

  test('what a trap waited for in vain does not shorten a donation', () => {
    bench.hw.stuck = true
    host.commands(SYNC)
    bench.hw.stuck = false
    bench.hw.slow = 5
    expect(bench.hyp.donate(TARGET, P, 3)).toBe(OK)
  })

  test('a page that cannot be zeroed stays the VM’s', () => {
    expect(bench.hyp.donate(TARGET, P, 3)).toBe(OK)
    const { memory } = bench
    const write = memory.write.bind(memory)
    memory.write = (address, ...rest) => address !== TARGET && write(address, ...rest)
    expect(bench.hyp.reclaim(TARGET, P, 3)).toBe(EFAULT)
    expect(bench.hyp.donated).toEqual([{ base: TARGET, size: P }])
    expect(bench.guard.ranges).toContainEqual({ base: TARGET, size: P })
    expect(mapped(TARGET)).toBe(false)
  })

  test('hypervisor memory that cannot be kept from the vCPUs: no isolation, and no take-over', () => {
    const kept = bench.hyp.checkpoint().slice()
    bench.guard.ranges = []
    bench.guard.limit = 0
    const next = successor(bench)
    next.restore(kept)
    expect(() => next.resume()).toThrow(/cannot be guarded/)
    bench.hyp.reset()
    expect(bench.hyp.isolated).toBe(false)
    expect(bench.report.probes.at(-1)).toMatch(/cannot be kept from the vCPUs/)
  })

  const refused: [string, number, number, number, number][] = [
    ['hypervisor memory', CARVEOUT_BASE, P, 3, EPERM],
    ['a page in use by the command queue', HOST_CMDQ, P, 3, EPERM],
    ['a range that reaches into hypervisor memory', CARVEOUT_BASE - P, 2 * P, 3, EPERM],
    ['MMIO', 0x0900_0000, P, 3, EFAULT],
    ['beyond RAM', RAM_BASE + RAM_SIZE, P, 3, EFAULT],
    ['not aligned', TARGET + 1, P, 3, EINVAL],
    ['nothing', TARGET, 0, 3, EINVAL],
    ['to VM 0', TARGET, P, 0, EINVAL],
  ]
  test.each(refused)('refused: %s', (_, base, size, vm, error) => {
    const log = bench.record()
    expect(bench.hyp.donate(base, size, vm)).toBe(error)
    expect(log).toEqual([])
    expect(bench.report.operations).toMatchObject([{ operation: PAGE_DONATE, result: error }])
    expect(bench.guard.ranges.length).toBe(1)
  })

  test('twice, and taken back by the wrong VM', () => {
    expect(bench.hyp.donate(TARGET, P, 3)).toBe(OK)
    expect(bench.hyp.donate(TARGET, P, 3)).toBe(EPERM)
    expect(bench.hyp.reclaim(TARGET, P, 4)).toBe(EPERM)
    expect(bench.hyp.reclaim(TARGET, 2 * P, 3)).toBe(EPERM)
    expect(bench.hyp.reclaim(TARGET + P, P, 3)).toBe(EPERM)
    expect(mapped(TARGET)).toBe(false)
    expect(bench.hyp.reclaim(TARGET, P, 3)).toBe(OK)
    expect(bench.hyp.reclaim(TARGET, P, 3)).toBe(EPERM)
  })

  test('taken back in parts: what is left stays guarded', () => {
    bench.hyp.donate(TARGET, 4 * P, 3)
    bench.hyp.donate(TARGET + 4 * P, P, 3)
    expect(bench.hyp.reclaim(TARGET + P, P, 3)).toBe(OK)
    expect(bench.hyp.donated).toEqual([
      { base: TARGET, size: P },
      { base: TARGET + 2 * P, size: 3 * P },
    ])
    expect(bench.guard.ranges).toEqual(expect.arrayContaining(bench.hyp.donated))
    expect(bench.hyp.reclaim(TARGET + 3 * P, 2 * P, 3)).toBe(OK)
    expect(bench.hyp.donated).toEqual([
      { base: TARGET, size: P },
      { base: TARGET + 2 * P, size: P },
    ])
    expect(bench.guard.ranges).toEqual(expect.arrayContaining(bench.hyp.donated))
    expect(bench.guard.ranges).toHaveLength(3)
    expect(mapped(TARGET + P)).toBe(true)
    expect(mapped(TARGET + 2 * P)).toBe(false)
  })

  test('an invalidation that fails: a warning, and the page stays with the host', () => {
    bench.hw.stuck = true
    expect(bench.hyp.donate(TARGET, P, 3)).toBe(EIO)
    // Outside of traps.
    expect(bench.report.warnings.map(({ trap }) => trap)).toEqual([0, 0])
    expect(bench.report.take()).toEqual(['HYP_CMDQ_TIMEOUT', 'HYP_UNMAP'])
    expect(bench.hyp.ownership.stateAt(TARGET)).toBe(PAGE_OWNED)
    expect(mapped(TARGET)).toBe(true)
    expect(bench.guard.ranges.length).toBe(1)
  })

  test('an SMMU that runs without a command queue, for SMMUEN = 0 was not acknowledged', () => {
    bench.hw.unacknowledged = r.CR0_SMMUEN
    bench.write(r.ARM_SMMU_CR0, 0)
    bench.report.take()
    expect(bench.hyp.donate(TARGET, P, 3)).toBe(ENODEV)
    expect(bench.report.take()).toEqual(['HYP_UNMAP'])
    expect(mapped(TARGET)).toBe(true)
  })

  test('an SMMU that is off is skipped', () => {
    bench.write(r.ARM_SMMU_CR0, r.CR0_CMDQEN | r.CR0_EVTQEN)
    expect(bench.hyp.donate(TARGET, P, 3)).toBe(OK)
    expect(bench.hw.takeCommands()).toEqual([])
  })

  test.each(['mmio', 'cmdq', 'strtab', 'queues'] as const)('up to %s there is nothing to take pages from', until => {
    start({ options: { until } })
    expect(bench.hyp.donate(TARGET, P, 3)).toBe(ENODEV)
    expect(bench.hyp.reclaim(TARGET, P, 3)).toBe(ENODEV)
  })

  test.each([16384, 65536] as const)('granule %i: ranges are multiples of it', granule => {
    start({ options: { granule } })
    expect(bench.hyp.donate(TARGET, P, 3)).toBe(EINVAL)
    expect(bench.hyp.donate(TARGET + P, granule, 3)).toBe(EINVAL)
    // Before anything is done.
    expect(bench.report.take()).toEqual([])
    expect(bench.hyp.donate(TARGET, granule, 3)).toBe(OK)
    expect(mapped(TARGET + granule - 1)).toBe(false)
    expect(mapped(TARGET + granule)).toBe(true)
    expect(bench.hyp.reclaim(TARGET, P, 3)).toBe(EINVAL)
    expect(bench.hyp.reclaim(TARGET, granule, 3)).toBe(OK)
    expect(mapped(TARGET)).toBe(true)
  })

  test('a host structure cannot lie in a donated page', () => {
    bench.hyp.donate(TARGET, P, 3)
    bench.write(r.ARM_SMMU_CR0, 0)
    bench.report.take()
    bench.write64(r.ARM_SMMU_EVTQ_BASE, TARGET + 6)
    bench.write(r.ARM_SMMU_CR0, r.CR0_EVTQEN)
    expect(bench.report.warnings).toMatchObject([{ code: 'HYP_EVTQ_SHARE', values: [TARGET, 0, 2048, EPERM] }])
  })
})
