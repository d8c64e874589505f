// SPDX-License-Identifier: Apache-2.0
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { type Case, decodeCase, encodeCase } from '../../../server/attack/cases.ts'
import { Random } from '../../../server/attack/random.ts'
import { HARDWARE, randomSetup } from '../../../server/attack/setup.ts'
import type { Dma, Interleaved, Meanwhile, Page, Step, Store } from '../../../server/attack/steps.ts'
import { describeStep } from '../../../server/attack/steps.ts'
import { PLAIN, RAM, store } from './support.ts'

const word = fc.integer({ min: 0, max: 2 ** 32 - 1 })
const address = fc.integer({ min: 0, max: 2 ** 52 - 1 })
const smmu = fc.integer({ min: 0, max: 2 })

const storing: fc.Arbitrary<Store> = fc.record({
  do: fc.constant('store' as const),
  address: fc.integer({ min: 0, max: 2 ** 50 - 1 }).map(n => 4 * n),
  words: fc.array(word, { maxLength: 20 }),
})
const accessing: fc.Arbitrary<Dma> = fc.record(
  {
    do: fc.constant('dma' as const),
    smmu,
    sid: word,
    ssid: fc.integer({ min: 0, max: 2 ** 20 - 1 }),
    address,
    write: fc.boolean(),
    how: fc.constantFrom('untranslated' as const, 'atc' as const, 'translated' as const),
  },
  { requiredKeys: ['do', 'smmu', 'sid', 'address', 'write', 'how'] },
)
const requesting: fc.Arbitrary<Page> = fc.record({
  do: fc.constant('page-request' as const),
  smmu,
  sid: word,
  address,
  last: fc.boolean(),
})
const meanwhile: fc.Arbitrary<Meanwhile> = fc.oneof(storing, accessing, requesting)
const access = fc.integer({ min: 1, max: 2 ** 20 })
const interleaved: fc.Arbitrary<Interleaved> = fc.record(
  {
    during: fc.array(fc.record({ access, steps: fc.array(meanwhile, { maxLength: 3 }) }), { maxLength: 3 }),
    each: fc.array(meanwhile, { maxLength: 3 }),
    dies: access,
  },
  { requiredKeys: [] },
)
const step: fc.Arbitrary<Step> = fc.oneof(
  meanwhile,
  fc
    .tuple(
      fc.record({
        do: fc.constantFrom('read' as const, 'write' as const),
        smmu,
        offset: word,
        size: fc.constantFrom(1, 2, 4, 8),
        lo: word,
        hi: word,
      }),
      interleaved,
      fc.constantFrom({}, { wrong: true as const }),
    )
    .map(([a, b, c]) => ({ ...a, ...b, ...c })),
  fc
    .tuple(
      fc.record({
        do: fc.constantFrom('donate' as const, 'reclaim' as const),
        base: address,
        size: word,
        vm: fc.integer({ min: 0, max: 0xfffe }),
      }),
      interleaved,
    )
    .map(([a, b]) => ({ ...a, ...b })),
  fc
    .tuple(fc.constantFrom('reset' as const, 'take-over' as const, 'settle' as const), interleaved)
    .map(([what, b]) => ({ do: what, ...b })),
)

const arbitraryCase: fc.Arbitrary<Case> = fc
  .record({
    kind: fc.string({ maxLength: 50 }),
    message: fc.string({ maxLength: 50 }),
    policy: fc.string({ maxLength: 50 }),
    mode: fc.constantFrom('hostile' as const, 'driver' as const),
    seed: word,
    setup: word.map(seed => randomSetup(new Random(seed), 'nested', HARDWARE)),
    steps: fc.array(step, { maxLength: 10 }),
  })
  .chain(case_ => fc.constantFrom({}, { explanation: ['0: one', 'two "quoted"'] }).map(more => ({ ...case_, ...more })))

test('a case comes back from its file as it was', () => {
  fc.assert(
    fc.property(arbitraryCase, case_ => {
      expect(decodeCase(encodeCase(case_), 'file')).toEqual(case_)
    }),
  )
})

const CASE: Case = {
  ...{ kind: 'guard', message: 'open', policy: 'pkvm', mode: 'hostile', seed: 7, setup: PLAIN },
  steps: [store(RAM, 0xffff_ffff, 1)],
}

test('a file is for people: one step a line, addresses in hexadecimal', () => {
  expect(encodeCase(CASE)).toContain('\n    {"do":"store","address":"0x40000000","words":["0xffffffff",1]}\n')
})

describe('a file that is no case is refused', () => {
  const changed = (change: (case_: Record<string, unknown>) => void) => {
    const case_ = JSON.parse(encodeCase(CASE)) as Record<string, unknown>
    change(case_)
    return JSON.stringify(case_)
  }
  const setup = (change: object) => changed(case_ => Object.assign(case_.setup as object, change))
  const steps = (...steps: unknown[]) => changed(case_ => Object.assign(case_, { steps }))

  test.each([
    ['not JSON', 'case', /Unexpected token/],
    ['nothing', '{}', /required/],
    ['more than a case', changed(case_ => Object.assign(case_, { more: 1 })), /\/more/],
    ['an unknown step', steps({ do: 'explode' }), /\/steps\/0/],
    ['a prototype', '{"__proto__": {}}', /required|additional/],
    ['an address past 52 bits', steps({ do: 'store', address: '0x10000000000004', words: [] }), /\/steps\/0/],
    ['an address between words', steps({ do: 'store', address: '0x40000001', words: [] }), /\/steps\/0/],
    ['a text in place of a number', steps({ do: 'store', address: '0x', words: [] }), /\/steps\/0/],
    ['a fraction', changed(case_ => Object.assign(case_, { seed: 0.5 })), /\/seed/],
    ['a size that no access has', steps({ do: 'read', smmu: 0, offset: 0, size: 3, lo: 0, hi: 0 }), /\/steps\/0/],
    ['more memory than there may be', setup({ ram: [{ base: 0, size: 2 ** 27 }] }), /\/setup\/ram/],
    ['half a page', setup({ carveout: { base: '0x40000800', size: '0x1000' } }), /pages/],
    [
      'memory that overlaps',
      setup({
        ram: [
          { base: '0x40000000', size: '0x2000' },
          { base: '0x40001000', size: '0x800000' },
        ],
      }),
      /ascending/,
    ],
    ['hypervisor memory elsewhere', setup({ carveout: { base: '0x3ffff000', size: '0x2000' } }), /not in RAM/],
    ['hardware that there is not', setup({ hardware: ['cheese'] }), /\/setup\/hardware/],
  ])('%s', (_, text, error) => expect(() => decodeCase(text, 'file.json')).toThrow(error))

  test('with the name of the file', () => {
    expect(() => decodeCase('{}', 'file.json')).toThrow(/^file\.json: /)
  })
})

test('steps read well', () => {
  const base = { do: 'write', smmu: 1, offset: 0x20, size: 4, lo: 0xd, hi: 0 } as const
  const text = (step: Step) => describeStep(step)
  expect(text(base)).toBe('SMMU 1: write CR0 = 0xd')
  expect(text({ ...base, do: 'read' })).toBe('SMMU 1: read CR0')
  expect(text({ ...base, offset: 0x80, size: 8, hi: 1 })).toBe('SMMU 1: write STRTAB_BASE = 0x10000000d')
  expect(text({ ...base, size: 2 })).toBe('SMMU 1: write CR0 (2 bytes) = 0xd')
  const device: Dma = { do: 'dma', smmu: 0, sid: 0x20, ssid: 3, address: RAM, write: false, how: 'atc' }
  expect(text(device)).toBe('SMMU 0: stream 0x20 ssid 0x3 reads 0x40000000 through its ATC')
  expect(text({ ...device, how: 'translated', write: true })).toBe(
    'SMMU 0: stream 0x20 ssid 0x3 writes 0x40000000 marked as Translated',
  )
  expect(text({ ...base, each: [store(0, 1)], during: [{ access: 3, steps: [store(4, 2)] }], dies: 9 })).toBe(
    'SMMU 1: write CR0 = 0xd [after each access of the hypervisor: store 0x0 = 0x1 | after its access 3: store 0x4 = 0x2 | the hypervisor is killed after its access 9]',
  )
  expect(text({ do: 'donate', base: RAM, size: 4096, vm: 2 })).toBe('donate 0x40000000, 4096 bytes, VM 2')
  expect(text({ do: 'take-over' })).toBe('a successor takes over from the hypervisor')
})
