// SPDX-License-Identifier: Apache-2.0
/** `smmu-cosim attack`: options, exit codes, what it prints, and a corpus from one attack to the next. */
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { cosim } from '../../boot/cli.ts'

const LIST = fileURLToPath(new URL('../../attack/known.json', import.meta.url))
const CASES = fileURLToPath(new URL('../../attack/cases/', import.meta.url))
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
  const first = await attack('--policy', policy, '--ops', '3000', '--corpus', corpus)
  expect(first.code).toBe(1)
  expect(first.stdout).toMatch(/^attack on .*open\.ts, hardware none, seed 1, 1 job\n/)
  expect(first.stdout).toMatch(/^\d+\.\d s: guard\n {4}0: donate 0x/m)
  expect(first.stdout).toMatch(/^[\d,]+ operations in [\d,]+ programs, .* operations\/s, [\d,]+ features$/m)
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
  const { code, stdout } = await attack('--policy', policy, '--ops', '3000', '--known', known)
  expect(stdout).toMatch(/^known: guard: seen [1-9]\d* times$/m)
  expect(stdout).toMatch(/^nothing new was found$/m)
  expect(code).toBe(0)
})

test('tells as JSON', async () => {
  const { code, stdout } = await attack(
    '--policy',
    policy,
    '--ops',
    '3000',
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
  expect(result.operations).toBeGreaterThanOrEqual(3000)
  expect(code).toBe(1)
})

describe('what it does not take', () => {
  test.each([
    [['--hardware', 'msi,cheese'], /no "cheese", but msi, ats/],
    [['--seed', '-1'], /expected a whole number from 0 to 4294967295/],
    [['--ops', '0'], /a whole number from 1/],
    [['--until', 'moon'], /Allowed choices are mmio/],
    [['--policy', 'cheese'], /no policy "cheese"/],
    [['--quirk', 'cheese'], /policy pkvm has no quirk "cheese": there are cmd-sync-msi, /],
    [['--quirk', 'queue-unshared'], /has no quirk "queue-unshared": did you mean queues-unshared\? there are /],
    [['--quirk', 'eats', '--policy', 'passthrough'], /policy passthrough has no quirk "eats": it has none/],
    [['--known', '/nowhere.json'], /'\/nowhere\.json' is invalid\. no such file/],
    [['--known', tmpdir()], /this is a folder, expected a file/],
    [['--replay', '/nowhere.json'], /'\/nowhere\.json' is invalid\. no such file/],
    [['--jobs', '0'], /a whole number from 1 to 256/],
    [['--replay', LIST, '--known', LIST], /cannot be used with option '--known/],
    [['--mutants', '1', '--seconds', '1', '--until', 'mmio'], /cannot be used with option/],
    [['--mutants-of', 'pool'], /--mutants-of needs --mutants/],
    [['--mutants', '1', '--mutants-of', 'cheese'], /no file has "cheese" in its path, of server\/hypervisor\/pkvm\//],
  ])('%s', async (args, message) => {
    const { code, stderr } = await cosim(
      ['attack', '--ops', '1', ...args].filter((_, i) => args[0] !== '--replay' || (i !== 1 && i !== 2)),
    )
    expect(stderr).toMatch(message)
    expect(code).not.toBe(0)
  })
})

/** A policy whose factory does `reset`. */
function broken(reset: string): string {
  // Too little of a policy for TypeScript.
  const file = join(folder, 'broken.mjs')
  const import_ = `import { pkvm } from '${URL_OF('../../../server/hypervisor/pkvm/policy.ts')}'`
  const facilities = '{ facilities: new Set(), warnings: [], faults: [] }'
  writeFileSync(
    file,
    `${import_}\nexport default () => ({ name: 'x', reset() { ${reset} }, access() {}, inspect: ${facilities} })\n`,
  )
  return file
}

describe('where nothing was judged', () => {
  test.each([[['--policy', 'passthrough']], [['--until', 'mmio']]])(
    '%s: it does not say that nothing was found',
    async args => {
      const { code, stdout } = await attack(...args, '--ops', '500')
      expect(stdout).toMatch(/\n(\d+) of \1 programs: nothing was judged/)
      expect(stdout).not.toContain('nothing new was found')
      expect(code).toBe(1)
    },
  )

  test('a case neither', async () => {
    const [name] = readdirSync(CASES)
    const case_ = JSON.parse(readFileSync(join(CASES, name), 'utf8')) as { setup: object }
    const file = join(folder, 'case.json')
    writeFileSync(file, JSON.stringify({ ...case_, setup: { ...case_.setup, until: 'mmio' } }))
    const { code, stdout } = await cosim(['attack', '--replay', file])
    expect(stdout).toMatch(/\nnothing was judged: .*\n$/)
    expect(code).toBe(1)
  })
})

test('a thread that ends before it is done is an error', async () => {
  const { code, stdout, stderr } = await attack('--policy', broken('process.exit(0)'), '--ops', '100', '--jobs', '2')
  expect(stderr).toContain('a thread of the attack ended with 0 before it was done')
  expect(stdout).not.toContain('nothing new')
  expect(code).toBe(1)
})

test('what comes of an earlier use of the machine is told, and fails', async () => {
  const file = join(folder, 'worn.ts')
  writeFileSync(
    file,
    `${OPEN.split('\nexport')[0]}
export default (machine, context) => {
  const policy = pkvm(machine, context)
  const reset = policy.reset.bind(policy)
  let resets = 0
  policy.reset = () => {
    if (++resets > 3) throw new Error('worn out')
    reset()
  }
  return policy
}
`,
  )
  const { code, stdout } = await attack('--policy', file, '--ops', '6000')
  expect(stdout).toMatch(/^\d+ findings? did not come again on another machine/m)
  expect(stdout).not.toContain('nothing new was found')
  expect(code).toBe(1)
})

test('a case of one policy on another says so', async () => {
  const [name] = readdirSync(CASES)
  const same = join(folder, 'same.ts')
  writeFileSync(same, `export { default } from '${URL_OF('../../../server/hypervisor/pkvm/policy.ts')}'\n`)
  const { code, stdout } = await cosim(['attack', '--policy', same, '--replay', join(CASES, name)])
  expect(stdout).toMatch(/^a case of policy pkvm, on .*same\.ts\n0: /)
  expect(code).toBe(0)
})

test('programs of an operation that there is not, or that are damaged, are refused', async () => {
  const operations = [{ name: 'cheese', seed: 1 }]
  const file = join(folder, 'programs.json')
  writeFileSync(file, JSON.stringify([{ mode: 'driver', seed: 1, interleaving: 0, operations }]))
  const { code, stderr } = await attack('--ops', '1', '--corpus', folder)
  expect(stderr).toContain(`${file}: there is no operation "cheese"`)
  expect(code).toBe(1)
  writeFileSync(file, '[')
  expect((await attack('--ops', '1', '--corpus', folder)).stderr).toContain(`${file}: `)
})

test('programs are kept once, however many threads had them', async () => {
  const corpus = join(folder, 'corpus')
  const programs = () => JSON.parse(readFileSync(join(corpus, 'programs.json'), 'utf8')) as unknown[]
  for (const seed of [1, 2])
    await cosim(['attack', '--seed', `${seed}`, '--ops', '300', '--jobs', '2', '--corpus', corpus])
  expect(new Set(programs().map(program => JSON.stringify(program))).size).toBe(programs().length)
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
