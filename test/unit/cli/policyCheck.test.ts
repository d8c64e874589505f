// SPDX-License-Identifier: Apache-2.0
/** A policy of one's own with a mistake in it is not booted, and its place is said. */
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { compilerKey } from '../../../server/control/compiler.ts'
import { pkvm } from '../../../server/hypervisor/pkvm/policy.ts'
import { privateFolder } from '../../../server/machine/scratch.ts'
import { policyFile } from '../../../server/policy/load.ts'
import { policyTypeErrors } from '../../../server/run/policyTypes.ts'
import { ARM_SMMU_IDR5 } from '../../../server/smmu/registers.ts'
import { plan } from '../../../server/testing/options.ts'
import { cosim } from '../../boot/cli.ts'
import { code, ROOT } from '../docs/markdown.ts'
import { Bench } from '../hypervisor/pkvm/support.ts'

const folder = privateFolder(tmpdir(), 'policy-')
afterAll(() => rmSync(folder, { recursive: true }))
const never = new AbortController().signal

/** The README's example, where this project is. */
const EXAMPLE = (code(readFileSync(join(ROOT, 'README.md'), 'utf8'), 'ts')[0] ?? '').replaceAll("'./", `'${ROOT}`)

let files = 0
function policy(text: string, ending = 'ts'): string {
  const file = join(folder, `p${++files}.${ending}`)
  writeFileSync(file, text)
  return file
}

describe('types', () => {
  test.each<[string, string, (string | RegExp)[]]>([
    ['the example', EXAMPLE, []],
    ['a field that there is not', EXAMPLE.replace('name:', 'nam:'), [/:7:5: error TS\d+: .*'nam' does not exist/]],
    [
      'a register that there is not',
      EXAMPLE.replaceAll('ARM_SMMU_IDR5', 'ARM_SMMU_IDR9'),
      [/:3:10: error TS\d+: .*ARM_SMMU_IDR9/],
    ],
    [
      'a number where a function is expected',
      EXAMPLE.replace(/rule => \(\{[\s\S]*?\}\),\n/, '5,\n'),
      [/: error TS2418: .*RegisterRule/],
    ],
    ['a syntax error', EXAMPLE.replace('registers: {', 'registers {'), [/:8:15: error TS1005: ',' expected/]],
    ['no types in it', 'export default () => ({ name: "mine", reset() {}, access() {} })', []],
    [
      'too little of a policy',
      'export default () => ({ name: "mine", reset() {} })',
      [/: its default export: [\s\S]*'access' is missing/],
    ],
    [
      'a module by its URL, and what is wrong with it',
      EXAMPLE.replaceAll(`'${ROOT}`, `'file://${ROOT}`).replace('name:', 'nam:'),
      [/:7:5: error TS\d+: .*'nam' does not exist/],
    ],
    ['a module by its URL', EXAMPLE.replaceAll(`'${ROOT}`, `'file://${ROOT}`), []],
    ['a parameter without a type, which is no mistake', `${EXAMPLE}\nexport const same = x => x\n`, []],
    [
      'parts of the project that a policy may use',
      `import '${ROOT}server/trace/counters.ts'\n${EXAMPLE}`, // what is an any[] at first is of another type without noImplicitAny
      [],
    ],
    ['unused, which is no mistake', `${EXAMPLE}\nconst spare = 1\n`, []],
  ])('%s', async (_, text, expected) => {
    expect(text).not.toBe('')
    const file = policy(text)
    const errors = await policyTypeErrors(file, never)
    if (expected.length === 0) expect(errors).toEqual([])
    for (const message of expected) expect(errors[0]).toMatch(message)
    for (const error of errors) expect(error.startsWith(`${file}:`)).toBe(true)
  })

  test('what was checked is known by its content: at once, until it or what it imports changes', async () => {
    const other = policy('export const name = "a"\n')
    const file = policy(
      EXAMPLE.replace("name: 'narrow'", 'name').replace('\nconst', `\nimport { name } from '${other}'\nconst`),
    )
    expect(await policyTypeErrors(file, never)).toEqual([])
    const start = performance.now()
    expect(await policyTypeErrors(file, never)).toEqual([])
    expect(performance.now() - start).toBeLessThan(1_000)
    writeFileSync(other, 'export const name = 5\n')
    expect((await policyTypeErrors(file, never))[0]).toMatch(/Type 'number' is not assignable/)
  })
})

test('a file beside a policy inside the clone is part of it', async () => {
  const inside = privateFolder(join(ROOT, 'test'), 'policy-')
  try {
    const helper = join(inside, 'helper.ts')
    const file = join(inside, 'policy.ts')
    writeFileSync(helper, 'export const name = "a"\n')
    writeFileSync(
      file,
      EXAMPLE.replace("name: 'narrow'", 'name').replace('\nconst', "\nimport { name } from './helper.ts'\nconst"),
    )
    expect(await policyTypeErrors(file, never)).toEqual([])
    writeFileSync(helper, 'export const name = 5\n')
    expect((await policyTypeErrors(file, never))[0]).toMatch(/Type 'number' is not assignable/)
  } finally {
    rmSync(inside, { recursive: true })
  }
})

describe('a module that is no program: file, line and column', () => {
  const WRONG = 'export default () => ({\n  name: "x",\n  reset() {}\n  access() {}\n})\n'
  /** What is said of a policy that cannot be loaded: by a process of its own, as vitest has another loader than Node. */
  const said = async (file: string) => {
    const recording = join(ROOT, 'test/unit/trace/recordings/6.12-nested.gz')
    return (await cosim(['replay', recording, '--policy', file, '--no-type-check'])).stderr
  }

  test.each(['js', 'mjs', 'ts'])('.%s', async ending => {
    const file = policy(WRONG, ending)
    expect(await said(file)).toContain(`policy ${file}:4:3: `)
  })

  test('one that it imports', async () => {
    const wrong = policy(WRONG, 'js')
    const file = policy(`import { x } from '${wrong}'\nexport default x\n`, 'js')
    expect(await said(file)).toContain(`policy ${wrong}:4:3: `)
  })

  test('a name that a module does not export', async () => {
    const other = policy('export const y = 1\n', 'js')
    const file = policy(`import { x } from '${other}'\nexport default x\n`, 'js')
    expect(await said(file)).toContain(`policy ${file}:1:10: `)
  })

  test('what throws is as it was', async () => {
    const file = policy('throw new Error("no")\n', 'js')
    expect(await said(file)).toContain(`policy file ${file}: no\n`)
  })
})

test('a scenario refuses it, too', async () => {
  const file = policy(EXAMPLE.replace('name:', 'nam:'))
  await expect(plan({ policy: file }, never)).rejects.toThrow(/types do not fit .*\n.*\.ts:7:5: error TS/)
})

test('boot refuses it before there is a machine', async () => {
  const file = policy(EXAMPLE.replace('name:', 'nam:'))
  const { code, stderr } = await cosim(['boot', '--policy', file])
  expect(stderr).toMatch(
    /^smmu-cosim: --policy .*: types do not fit \(--no-type-check runs it all the same\)\n.*\.ts:7:5: error TS/,
  )
  expect(code).toBe(2)
})

describe('whatever takes a policy file', () => {
  const recording = join(ROOT, 'test/unit/trace/recordings/6.12-nested.gz')
  const [kept = ''] = readdirSync(join(ROOT, 'test/attack/cases'))
  test.each([
    ['attack', ['--ops', '100']],
    ['attack', ['--replay', join(ROOT, 'test/attack/cases', kept)]],
    ['replay', [recording]],
    ['walk', ['--sid', '8', '--iova', '0', '--recording', recording]],
  ])('%s %j refuses one with a typing mistake', async (command, more) => {
    const file = policy(EXAMPLE.replace('name:', 'nam:'))
    const refused = await cosim([command, ...more, '--policy', file])
    expect(refused.stderr).toMatch(/: types do not fit \(--no-type-check runs it all the same\)\n.*\.ts:7:5: error TS/)
    expect(refused.code).toBe(2)
    const run = await cosim([command, ...more, '--policy', file, '--no-type-check'])
    expect(run.stderr + run.stdout).toContain('no "nam"; did you mean name?')
  })
})

test('what is known of a file is asked for by the compiler and its options too', () => {
  const root = privateFolder(folder, 'root-')
  const files = ['tsconfig.json', 'node_modules/typescript/package.json', 'node_modules/@types/node/package.json']
  for (const file of files) {
    mkdirSync(dirname(join(root, file)), { recursive: true })
    writeFileSync(join(root, file), '{}')
  }
  const keys = new Set([compilerKey(root).join()])
  for (const file of files) {
    writeFileSync(join(root, file), '{"version":"2"}')
    keys.add(compilerKey(root).join())
  }
  expect(keys.size).toBe(4)
})

test('what TypeScript does not look for is refused when the policy is made', () => {
  const { machine, report } = new Bench()
  const make = (overrides: object) => pkvm(machine, { options: {}, report }, overrides)
  const rule = (name: string) => ({ registers: { [ARM_SMMU_IDR5]: (rule: object) => ({ ...rule, [name]() {} }) } })
  expect(() => make(rule('read'))).not.toThrow()
  expect(() => make(rule('raed'))).toThrow('the rule of IDR5: no "raed"; did you mean read?')
  expect(() => make({ nam: 'x' })).toThrow('no "nam"; did you mean name?')
  expect(() => make({ registers: { IDR5: (rule: object) => rule } })).toThrow('no register can be at offset IDR5')
  expect(() => make({ commands: { CFGI_STE: (rule: object) => rule } })).toThrow('there is no opcode CFGI_STE')
})

test('a policy file is one', () => expect(() => policyFile('x')).toThrow('no policy "x"'))
