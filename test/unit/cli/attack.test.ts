// SPDX-License-Identifier: Apache-2.0
/** `smmu-cosim attack`: options, exit codes, what it prints, and a corpus from one attack to the next. */
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { cosim } from '../../boot/cli.ts'

const LIST = fileURLToPath(new URL('../../attack/known.json', import.meta.url))
const URL_OF = (path: string) => new URL(path, import.meta.url).href
/** Pages of VMs stay open to vCPUs; hypervisor memory does not. */
const OPEN = `
import { pkvm } from '${URL_OF('../../../server/hypervisor/pkvm/policy.ts')}'

export default (machine, context) => {
  const { guard, carveout } = machine
  const own = base => base >= carveout.base && base < carveout.base + carveout.size
  const open = { add: (base, size) => !own(base) || guard.add(base, size), remove: (base, size) => guard.remove(base, size) }
  return pkvm({ ...machine, guard: open }, context)
}
`

let folder: string
let policy: string
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'cosim-attack-'))
  policy = join(folder, 'open.ts')
  writeFileSync(policy, OPEN)
})
afterEach(() => rmSync(folder, { recursive: true }))

const attack = (...args: string[]) => cosim(['attack', '--seed', '1', ...args])

test('finds, keeps, and finds again', async () => {
  const corpus = join(folder, 'corpus')
  const first = await attack('--policy', policy, '--ops', '20000', '--corpus', corpus)
  expect(first.code).toBe(1)
  expect(first.stdout).toMatch(/^attack on .*open\.ts, hardware none, seed 1, 1 jobs\n/)
  expect(first.stdout).toMatch(/^\d+\.\d s: guard\n {4}0: donate 0x/m)
  expect(first.stdout).toMatch(/^\d+ steps of \d+ operations in \d+ programs, .* steps\/s, \d+ features$/m)
  const [name] = readdirSync(corpus).filter(file => file.startsWith('guard-'))
  expect(readdirSync(corpus)).toContain('programs.json')

  // A case of the corpus that still shows is told first.
  const again = await attack('--policy', policy, '--ops', '1', '--corpus', corpus)
  expect(again.stdout).toMatch(/^corpus: guard$/m)
  expect(again.code).toBe(1)

  const replayed = await cosim(['attack', '--policy', policy, '--replay', join(corpus, name)])
  expect(replayed.code).toBe(1)
  expect(replayed.stdout).toMatch(/^0: donate 0x.* \(decided at .*\)\nfound: 0x/m)
  const mended = await cosim(['attack', '--replay', join(corpus, name)])
  expect(mended.code).toBe(0)
  expect(mended.stdout).toMatch(/\nnothing is found\n$/)
})

test('passes when all that is found is known', async () => {
  const known = join(folder, 'known.json')
  // Besides what is known of pkvm.
  const { weaknesses } = JSON.parse(readFileSync(LIST, 'utf8')) as { weaknesses: { case?: string }[] }
  const list = [{ kind: 'guard', why: 'planted' }, ...weaknesses.map(({ case: _, ...weakness }) => weakness)]
  writeFileSync(known, JSON.stringify({ weaknesses: list }))
  const { code, stdout } = await attack('--policy', policy, '--ops', '20000', '--known', known)
  expect(stdout).toMatch(/^known: guard: seen [1-9]\d* times$/m)
  expect(stdout).toMatch(/^nothing new was found$/m)
  expect(code).toBe(0)
})

test('tells as JSON', async () => {
  const { code, stdout } = await attack(
    '--policy',
    policy,
    '--ops',
    '20000',
    '--json',
    '--hardware',
    'ats,pri',
    '--jobs',
    '2',
  )
  const result = JSON.parse(stdout)
  expect(result).toMatchObject({ policy, hardware: ['ats', 'pri'], seed: 1, jobs: 2, mended: [], known: [] })
  expect(result.cases.map(({ kind }: { kind: string }) => kind)).toContain('guard')
  expect(result.kinds.guard).toBeGreaterThan(0)
  expect(result.steps).toBeGreaterThanOrEqual(20_000)
  expect(code).toBe(1)
})

describe('what it does not take', () => {
  test.each([
    [['--hardware', 'msi,cheese'], /no "cheese", but msi, ats/],
    [['--seed', '-1'], /expected 0 to 4294967295/],
    [['--ops', '0'], /a whole number from 1/],
    [['--until', 'moon'], /Allowed choices are mmio/],
    [['--policy', 'cheese'], /no policy "cheese"/],
    [['--quirk', 'cheese'], /policy pkvm has no quirk "cheese": there are cmd-sync-msi, /],
    [['--quirk', 'eats', '--policy', 'passthrough'], /policy passthrough has no quirk "eats": it has none/],
    [['--known', '/nowhere.json'], /ENOENT/],
    [['--replay', '/nowhere.json'], /ENOENT/],
  ])('%s', async (args, message) => {
    const { code, stderr } = await cosim(
      ['attack', '--ops', '1', ...args].filter((_, i) => args[0] !== '--replay' || (i !== 1 && i !== 2)),
    )
    expect(stderr).toMatch(message)
    expect(code).not.toBe(0)
  })
})

test('a file that is no case says where', async () => {
  const file = join(folder, 'case.json')
  writeFileSync(file, '{"steps": []}')
  const { code, stderr } = await cosim(['attack', '--replay', file])
  expect(stderr).toContain(`${file}: `)
  expect(code).toBe(1)
})

test('the list of this repository is one', async () => {
  const { code, stdout } = await attack('--ops', '1', '--known', LIST)
  const { weaknesses } = JSON.parse(readFileSync(LIST, 'utf8')) as { weaknesses: unknown[] }
  expect(stdout.match(/^known: /gm) ?? []).toHaveLength(weaknesses.length)
  expect(code).toBe(0)
})
