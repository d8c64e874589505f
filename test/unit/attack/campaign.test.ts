// SPDX-License-Identifier: Apache-2.0
/** An attack as a whole: the same again with the same seed, small cases, what is known, what is kept. */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { Campaign, type CampaignOptions } from '../../../server/attack/campaign.ts'
import { replay } from '../../../server/attack/cases.ts'
import { Corpus } from '../../../server/attack/corpus.ts'
import { OPERATIONS } from '../../../server/attack/operations.ts'
import { MODES, type Program, repertoire, Stage } from '../../../server/attack/program.ts'
import { Random } from '../../../server/attack/random.ts'
import { HARDWARE, hotPages, idRegistersOf, randomSetup } from '../../../server/attack/setup.ts'
import { POWER_MODES, type PolicyFactory } from '../../../server/policy/policy.ts'
import { IDR3_BBML } from '../../../server/smmu/registers.ts'
import { attackUntil, KNOWN, OPEN, withHole } from './support.ts'

const OPTIONS: CampaignOptions = { policy: 'pkvm', until: 'nested', hardware: HARDWARE, seed: 3, known: [] }

function run(options: Partial<CampaignOptions> = {}, steps = 15_000, factory: PolicyFactory = OPEN) {
  const campaign = new Campaign(factory, { ...OPTIONS, ...options })
  const cases = []
  while (campaign.stats.steps < steps) {
    const found = campaign.next()
    if (found !== undefined) cases.push(found)
  }
  return { cases, stats: campaign.stats, corpus: campaign.corpus }
}

test('the same seed is the same attack, to the last word', () => {
  const options: Partial<CampaignOptions> = { hardware: ['lag', 'slow', 'torn', 'stall'] }
  const [a, b] = [run(options), run(options)]
  expect(a.cases.length).toBeGreaterThan(0)
  expect(b).toEqual(a)
  expect(run({ ...options, seed: 4 }).stats).not.toEqual(a.stats)
})

test('a policy that fails at once does not keep an attack from its end', () => {
  const { cases, stats } = run(
    { hardware: [] },
    1000,
    withHole({ machine: () => ({ guard: { add: () => true, remove: () => true } }) }),
  )
  expect(cases[0]).toMatchObject({ kind: 'guard', steps: [] })
  expect(stats.steps).toBe(1000)
})

describe('what is found is made small', () => {
  const found = attackUntil(OPEN, /^guard$/)
  if (found === undefined) throw new Error('nothing was found')

  test('to one donation on a plain machine', () => {
    expect(found.steps).toMatchObject([{ do: 'donate', size: found.setup.granule }])
    expect(found.setup).toMatchObject({ smmus: 1, hardware: [], firmware: 'none', posts: false, caching: 'none' })
  })

  test('and explained', () => {
    expect(found.explanation?.at(0)).toMatch(
      /^0: donate 0x[0-9a-f]+, \d+ bytes, VM \d \(decided at server\/hypervisor\/pkvm\/.*\.ts:\d+\)$/,
    )
    expect(found.explanation?.at(-1)).toBe(`found: ${found.message}`)
  })

  test('and passed over, once it is known', () => {
    const finding = replay(found, OPEN, new Set(['guard']))
    expect(finding).toBeUndefined()
  })
})

test('what comes of an earlier use of the machine is counted, though there is no case of it', () => {
  // Something outlives its third reset.
  const aging: PolicyFactory = (machine, context) => {
    const base = withHole({})(machine, context)
    let resets = 0
    const reset = () => {
      if (++resets > 3) throw new Error('worn out')
      base.reset()
    }
    return { ...base, reset }
  }
  const { cases, stats } = run({ hardware: [] }, 40_000, aging)
  expect(cases).toEqual([])
  expect(stats.lost).toBeGreaterThan(0)
})

test('programs are judged where the policy claims to isolate', () => {
  const { stats } = run({ hardware: [], until: 'mmio' }, 2_000, withHole({}))
  expect(stats.cases).toBeGreaterThan(0)
  expect(stats.judged).toBe(0)
  const { stats: claimed } = run({ hardware: [] }, 2_000, withHole({}))
  expect(claimed.judged).toBe(claimed.cases)
})

test('operations are counted when they are run', () => {
  const stage = new Stage(randomSetup(new Random(1), 'nested', []), 'hostile', withHole({}))
  const first = repertoire('hostile', 'none').first(new Random(1))
  const needy = OPERATIONS.find(({ needs }) => needs !== undefined)
  if (needy === undefined) throw new Error('no operation needs hardware')
  const program: Program = {
    mode: 'hostile',
    seed: 1,
    interleaving: 0,
    operations: [first, { ...first, name: needy.name }],
  }
  expect(stage.run(program, false)).toBeUndefined()
  expect(stage.operations).toBe(1)
})

test('of one kind there are a few cases, then it is passed over', () => {
  const { cases, stats } = run({ hardware: [] }, 40_000)
  expect(cases.filter(({ kind }) => kind === 'guard').length).toBeLessThanOrEqual(4)
  expect(stats.kinds.get('guard')).toBeGreaterThan(4)
})

test('what is known does not hide what is not', () => {
  const { cases, stats } = run({ hardware: ['ats'], known: [{ kind: 'guard', why: 'planted' }] }, 60_000)
  expect(stats.kinds.get('guard')).toBeGreaterThan(0)
  expect(cases.map(({ kind }) => kind)).not.toContain('guard')
})

test('what is known of other machines is found', () => {
  const known = [{ kind: 'guard', why: 'planted', hardware: ['msi' as const] }]
  const { cases } = run({ hardware: [], known })
  expect(cases.map(({ kind }) => kind)).toContain('guard')
})

const seed = fc.integer({ min: 0, max: 2 ** 32 - 1 })

test('programs that come of others are programs', () => {
  fc.assert(
    fc.property(seed, fc.constantFrom(...MODES), fc.integer({ min: 1, max: 30 }), (seed, mode, count) => {
      const random = new Random(seed)
      const known = repertoire(mode, 'none')
      const corpus = new Corpus()
      let program: Program = {
        mode,
        seed,
        interleaving: mode === 'driver' ? 0 : 5,
        operations: [known.first(random)],
      }
      for (let i = 0; i < count; i++) {
        corpus.add(program)
        program = corpus.mutate(random, corpus.pick(random, mode) ?? program)
        expect(program.mode).toBe(mode)
        expect(program.operations.length).toBeGreaterThan(0)
        expect(program.operations.length).toBeLessThanOrEqual(200)
        expect(program.operations.every(({ name }) => known.get(name) !== undefined)).toBe(true)
        if (mode === 'driver') expect(program.interleaving).toBe(0)
      }
      expect(corpus.pick(random, mode === 'driver' ? 'hostile' : 'driver')).toBeUndefined()
    }),
  )
})

test.each([0, 1, 2] as const)('RAM in blocks, BBM level %i: nothing is found', bbm => {
  const { cases, stats } = run({ blocks: { bbm }, hardware: HARDWARE }, 60_000, withHole({}))
  expect(cases).toEqual([])
  expect(stats.judged).toBeGreaterThan(20)
})

test.each(POWER_MODES)('SMMUs that are switched off and on, %s: nothing is found', mode => {
  const { cases, stats } = run({ power: { mode }, hardware: HARDWARE }, 60_000, withHole({}))
  expect(cases).toEqual([])
  expect(stats.judged).toBeGreaterThan(20)
})

test('drivers whose SMMU is switched off and on see what they would without a hypervisor', () => {
  const drivers = repertoire('driver', 'power')
  for (const mode of POWER_MODES) {
    const tried = new Set<string>()
    for (let seed = 0; seed < 40; seed++) {
      const random = new Random(seed)
      const setup = { ...randomSetup(random, 'nested', [], undefined, { mode }), firmware: 'none' as const }
      const operations = Array.from({ length: 30 }, () => drivers.random(random))
      const stage = new Stage(setup, 'driver', withHole({}), new Set(KNOWN.map(({ kind }) => kind)))
      expect(stage.run({ mode: 'driver', seed, interleaving: 0, operations }, true)).toBeUndefined()
      for (const step of stage.world.steps) if (step.do === 'power') tried.add(step.state)
    }
    expect([...tried].sort()).toEqual(['off', 'on', 'retained'])
  }
})

test('a machine for blocks has some, whichever they are', () => {
  const levels = new Set<number>()
  for (let at = 0; at < 50; at++) {
    const setup = randomSetup(new Random(at), 'nested', [], { bbm: undefined })
    levels.add(setup.bbml ?? -1)
    const block = setup.granule === 4096 ? 2 ** 21 : 2 ** 25
    const { carveout } = setup
    const whole = setup.ram.filter(({ base, size }) => {
      const first = Math.ceil(base / block) * block
      return first + block <= base + size && !(carveout.base < first + block && first < carveout.base + carveout.size)
    })
    expect(whole.length).toBeGreaterThan(0)
    expect(idRegistersOf(setup).idr3 & IDR3_BBML).toBe((setup.bbml ?? 0) << 11)
  }
  expect([...levels].sort()).toEqual([0, 1, 2])
  expect(randomSetup(new Random(1), 'nested', [])).not.toHaveProperty('blocks')
})

test('a corpus has an end: new programs take the places of old ones', () => {
  const corpus = new Corpus()
  const program = (seed: number): Program => ({
    mode: seed % 3 === 0 ? 'driver' : 'hostile',
    seed,
    interleaving: 0,
    operations: [],
  })
  for (let seed = 0; seed < 5000; seed++) corpus.add(program(seed))
  expect(corpus.size).toBe(4096)
  const seeds = new Set(corpus.programs.map(({ seed }) => seed))
  expect(seeds.size).toBe(4096)
  expect(Math.min(...seeds)).toBe(5000 - 4096)
})

test('hot pages are RAM, some eighty, around everything that has an end', () => {
  fc.assert(
    fc.property(seed, seed => {
      const setup = randomSetup(new Random(seed), 'nested', HARDWARE)
      const pages = hotPages(setup)
      expect(pages.length).toBeGreaterThan(60)
      expect(pages.length).toBeLessThan(100)
      expect(pages.every(page => setup.ram.some(({ base, size }) => page >= base && page < base + size))).toBe(true)
      const { base, size } = setup.carveout
      expect(pages).toContain(base)
      expect(pages).toContain(base + size - 4096)
      expect(pages).toEqual([...new Set(pages)].sort((a, b) => a - b))
    }),
  )
})
