// SPDX-License-Identifier: Apache-2.0
/**
 * QEMU's model against the walker and SoftSmmu. `SMMU_COSIM_SEED` chooses the random part. Differences that are not QEMU's known
 * ones (server/translate/differences.ts) are printed with the configuration's name, which has the seed in it, and shrunken.
 */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { DIFFERENCES, explain } from '../../server/translate/differences.ts'
import { type Configuration, configs, flips, grid, randomConfiguration } from './cases.ts'
import { Differential, Unexplained } from './differential.ts'

const SEED = Number(process.env.SMMU_COSIM_SEED ?? 1)
const RANDOM_CONFIGURATIONS = 350
/** What the directed configurations must show: one that is gone is to be taken off the list. */
const DIRECTED = [
  'IPA has bits [11:0]',
  'stage 2 fault on a stage 1 descriptor: S2 = 0, IPA of the table',
  'stage 2 fault on the TTB or the CD: RnW = 1',
  'AP[1], PAN, WXN and XN are ignored: privileged data',
  'an address beyond OAS passes a bypass STE',
  'an input beyond IAS without stage 1 is not recorded',
  'concatenated stage 2 start tables',
  'blocks at levels that have none',
  'a table beyond IPS or S2PS is followed; a leaf is checked after AF and permissions',
  'APTable is looked at before lower levels',
  'APTable does not limit what is cached',
]

let differential: Differential
beforeAll(async () => {
  differential = await Differential.start()
})
afterAll(() => differential?.dispose())

async function all(configurations: Iterable<Configuration>): Promise<void> {
  for (const configuration of configurations) await differential.run(configuration)
}

function* random(): Generator<Configuration> {
  for (let i = 0; i < RANDOM_CONFIGURATIONS; i++) yield randomConfiguration(SEED * 1000 + i)
}

test('every STE.Config, valid and not', () => all(configs()))

test('each bit of STE and CD flipped', () => all(flips()))

test('every fault at every level, of both stages, with all granules', () => all(grid()), 120_000)

test('differences that directed cases show still exist', () => {
  const names = new Set(DIFFERENCES.map(({ name }) => name))
  expect(DIRECTED.filter(name => !names.has(name))).toEqual([])
  expect(DIRECTED.filter(name => !differential.counts.has(name))).toEqual([])
})

test(`random configurations of seed ${SEED}`, async () => {
  console.log(`differential: SMMU_COSIM_SEED=${SEED}`)
  await all(random())
  const counts = DIFFERENCES.map(({ name, section }) => [differential.counts.get(name) ?? 0, `${name} (${section})`])
  console.log(`differential: ${differential.cases} cases, ${differential.same} the same, of the others:`)
  for (const [count, text] of counts) console.log(`${String(count).padStart(6)}  ${text}`)
  expect(differential.cases).toBeGreaterThanOrEqual(10_000)
}, 120_000)

test('a difference that nobody knows is reported with a shrunken case', async () => {
  const stranger = 'blocks at levels that have none'
  const strict = await Differential.start(c => {
    const names = explain(c)
    return names?.includes(stranger) ? undefined : names
  })
  try {
    const run = async () => {
      for (const configuration of grid()) await strict.run(configuration)
    }
    const error = await run().then(
      () => undefined,
      error => error as Error,
    )
    expect(error).toBeInstanceOf(Unexplained)
    const [whole = '', shrunken = ''] = error?.message.split('shrunken:') ?? []
    expect(whole).toMatch(/^s1, 4 KiB.*level 0 to \d: a block, access \d+\n/)
    expect(shrunken).toMatch(/walker:.*\n.*QEMU:.*\n(.*\n)*.*invalid/)
    expect(shrunken.match(/^ {2}0x\w+: 0x\w+$/gm)?.length).toBeLessThan(12)
  } finally {
    await strict.dispose()
  }
})
