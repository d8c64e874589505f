// SPDX-License-Identifier: Apache-2.0
/** The guest's IORT against QEMU's description, with a table as QEMU's virt machine has it. */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { GuestEvent } from '../../../server/machine/guestEvents.ts'
import {
  acpiReport,
  type Described,
  type Iort,
  iortProblems,
  parseIort,
  reportedTables,
} from '../../../server/run/iort.ts'

const BASE = 0x0905_0000
const SPI = 74
const MACHINE: Described = {
  smmus: [{ base: BASE, irqEvtq: SPI, irqPriq: SPI + 1, irqCmdSync: SPI + 2, irqGerror: SPI + 3 }],
  devices: [
    { smmu: 0, sid: 0x8, name: 'virtio-blk' },
    { smmu: 0, sid: 0x100, name: 'igb' },
  ],
}

interface Change {
  readonly base?: number
  readonly gerror?: number
  /** Requester IDs that are mapped: the first, and how many less one, as the specification has it. */
  readonly first?: number
  readonly count?: number
  readonly output?: number
  /** The node that they lead to. */
  readonly to?: number
}

const ITS_AT = 48
const SMMU_AT = ITS_AT + 24
const RC_AT = SMMU_AT + 68

/** ITS group, SMMUv3, root complex. */
function table({
  base = BASE,
  gerror = SPI + 3 + 32,
  first = 0,
  count = 0xffff,
  output = 0,
  to = SMMU_AT,
}: Change = {}): Buffer {
  const bytes = Buffer.alloc(RC_AT + 36 + 20)
  bytes.write('IORT', 0, 'latin1')
  bytes.writeUInt32LE(bytes.length, 4)
  bytes.writeUInt32LE(3, 36)
  bytes.writeUInt32LE(ITS_AT, 40)
  const node = (at: number, type: number, length: number, mappings = 0) => {
    bytes[at] = type
    bytes.writeUInt16LE(length, at + 1)
    bytes.writeUInt32LE(mappings, at + 8)
    bytes.writeUInt32LE(length - mappings * 20, at + 12)
  }
  node(ITS_AT, 0, 24)
  node(SMMU_AT, 4, 68)
  bytes.writeBigUInt64LE(BigInt(base), SMMU_AT + 16)
  for (const [i, gsiv] of [SPI + 32, SPI + 33, gerror, SPI + 34].entries())
    bytes.writeUInt32LE(gsiv, SMMU_AT + 44 + 4 * i)
  node(RC_AT, 2, 56, 1)
  for (const [i, word] of [first, count, output, to].entries()) bytes.writeUInt32LE(word, RC_AT + 36 + 4 * i)
  return checked(bytes)
}

function checked(bytes: Buffer): Buffer {
  bytes[9] = 0
  bytes[9] = -bytes.reduce((sum, byte) => sum + byte, 0) & 0xff
  return bytes
}

test('SMMUs with their interrupts, and what of a root complex they are in front of', () => {
  expect(parseIort(table())).toEqual({
    smmus: [{ base: BASE, event: SPI + 32, pri: SPI + 33, sync: SPI + 34, gerror: SPI + 35 }],
    mappings: [{ segment: 0, first: 0, last: 0xffff, output: 0, smmu: 0 }],
  })
  expect(iortProblems(parseIort(table()), MACHINE)).toEqual([])
})

test.each<[string, Change, readonly string[]]>([
  [
    'another frame',
    { base: BASE + 0x2_0000 },
    ['SMMU 0 at 0x9050000 is not in the IORT', expect.any(String), expect.any(String)],
  ],
  ['another interrupt', { gerror: 3 }, ['SMMU 0: the GERROR interrupt is 3 in the IORT and 109 in the machine']],
  ['a device that is not mapped', { count: 0xff }, ['igb (StreamID 0x100) is behind no SMMU in the IORT']],
  [
    'one that goes past the SMMU',
    { to: ITS_AT },
    [expect.stringContaining('virtio-blk (StreamID 0x8) is behind no SMMU'), expect.any(String)],
  ],
  [
    'other StreamIDs',
    { first: 0x100, output: 0x200 },
    [
      'virtio-blk (StreamID 0x8) is behind no SMMU in the IORT',
      'igb (StreamID 0x100) has StreamID 0x200 of the SMMU at 0x9050000 in the IORT',
    ],
  ],
])('%s is told', (_, change, problems) => expect(iortProblems(parseIort(table(change)), MACHINE)).toEqual(problems))

describe('what is no table is refused, whatever lengths it has', () => {
  const cut = table().subarray(0, 100)
  const length = (at: number, value: number) => {
    const bytes = table()
    bytes.writeUInt16LE(value, at + 1)
    return checked(bytes)
  }
  const many = table()
  many.writeUInt32LE(1000, 36)
  const mappings = table()
  mappings.writeUInt32LE(0x1000_0000, RC_AT + 8)
  const flipped = table()
  flipped[50] = 1
  test.each<[string, Buffer, string]>([
    ['nothing', Buffer.alloc(0), 'no IORT'],
    ['cut short', cut, 'no IORT'],
    ['a wrong byte', flipped, 'its checksum is wrong'],
    ['a node without a length', length(SMMU_AT, 0), 'node 1 has a wrong length, 0'],
    ['a node that is longer than the table', length(RC_AT, 0xffff), 'node 2 has a wrong length, 65535'],
    ['a node that is too short', length(SMMU_AT, 20), 'node 1 is too short for an SMMUv3'],
    ['too many nodes', checked(many), 'it has 1000 nodes'],
    ['too many mappings', checked(mappings), 'node 2 is too short for its 268435456 mappings'],
  ])('%s', (_, bytes, message) => expect(() => parseIort(bytes)).toThrow(message))
})

test('whatever bytes it has, it is read or refused, and says nothing of what it does not hold', () => {
  const changes = fc.array(fc.tuple(fc.nat(table().length - 1), fc.oneof(fc.nat(0xff), fc.constantFrom(0x80, 0xff))), {
    maxLength: 8,
  })
  let read = 0
  fc.assert(
    fc.property(changes, fc.uint8Array({ maxLength: 80 }), (bytes, rest) => {
      const hostile = Buffer.concat([table(), rest])
      // The signature and the length stay: without them nothing is looked at.
      for (const [at, value] of bytes) hostile[at < 8 ? at + 8 : at] = value
      hostile.writeUInt32LE(hostile.length, 4)
      checked(hostile)
      let iort: Iort
      try {
        iort = parseIort(hostile)
      } catch (error) {
        // Not of Buffer, which was asked for what is outside of the table.
        expect(error).not.toBeInstanceOf(RangeError)
        return
      }
      read++
      expect(iort.smmus.length).toBeLessThanOrEqual(hostile.length / 68)
      expect(iort.mappings.length).toBeLessThanOrEqual(hostile.length / 20)
      for (const { smmu, first, last } of iort.mappings) {
        expect(iort.smmus[smmu]).toBeDefined()
        expect(last).toBeGreaterThanOrEqual(first)
      }
      expect(iortProblems(iort, MACHINE).length).toBeLessThanOrEqual(1 + 4 + MACHINE.devices.length)
    }),
    { numRuns: 2000 },
  )
  expect(read).toBeGreaterThan(100)
})

describe('the guest reports it in parts', () => {
  const parts = (bytes: Buffer): GuestEvent[] =>
    Array.from({ length: Math.ceil(bytes.length / 64) }, (_, i) => ({
      ...{ seq: i, event: 'acpi', ok: true, name: 'IORT', bytes: bytes.length, offset: 64 * i },
      hex: bytes.subarray(64 * i, 64 * i + 64).toString('hex'),
    }))

  test('all of them, and compared with the machine', () => {
    expect(reportedTables(parts(table()), 'IORT')).toEqual([table()])
    expect(acpiReport(parts(table()), MACHINE)).toMatchObject({ smmus: [{ base: BASE }], problems: [] })
    expect(acpiReport(parts(table()), undefined)).toBeUndefined()
    expect(acpiReport([], MACHINE)).toBeUndefined()
  })

  test('once by each kernel: what any of them goes by is compared', () => {
    const [same, other] = [parts(table()), parts(table({ base: BASE + 0x2_0000 }))]
    expect(acpiReport([...same, ...same], MACHINE)).toMatchObject({ smmus: [{ base: BASE }], problems: [] })
    for (const events of [
      [...same, ...other],
      [...other, ...same],
    ])
      expect(acpiReport(events, MACHINE)?.problems).toContain('SMMU 0 at 0x9050000 is not in the IORT')
    const problems = ['the guest did not report all of the IORT']
    expect(acpiReport([...same.slice(0, -1), ...same], MACHINE)).toMatchObject({ problems })
    expect(acpiReport([...same, ...same.slice(0, -1)], MACHINE)).toMatchObject({ problems })
  })

  test('one that is missing, too much of it, and a length that is none are failures', () => {
    const all = parts(table())
    const problems = ['the guest did not report all of the IORT']
    expect(acpiReport(all.slice(0, -1), MACHINE)).toMatchObject({ problems })
    expect(acpiReport([...all.slice(0, 1), ...all], MACHINE)).toMatchObject({ problems })
    for (const bytes of [-1, 0, 1e9, Number.NaN, 'x'])
      expect(acpiReport(all.map(part => ({ ...part, bytes })) as GuestEvent[], MACHINE)).toMatchObject({ problems })
  })
})
