// SPDX-License-Identifier: Apache-2.0
/** Every command line that the README shows is run: here, or by another test, which is named and has its words. What starts a guest: test/boot/readme.test.ts. */
import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gunzipSync } from 'node:zlib'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { privateFolder } from '../../../server/machine/scratch.ts'
import { cosim } from '../../boot/cli.ts'
import { lines, wordsOf } from './commandLines.ts'
import { ROOT } from './markdown.ts'
import { README_COMMANDS } from './readmeCommands.ts'

/** A process, and each of its threads, may need 20 s to start where ten others want its processor. */
const PATIENCE_MS = 900_000

const shown = [
  ...new Set(lines(readFileSync(join(ROOT, 'README.md'), 'utf8')).flatMap(line => wordsOf(line)?.join(' ') ?? [])),
]

test('each is in the list, and the list has no other', () => {
  expect(Object.keys(README_COMMANDS).sort()).toEqual([...shown].sort())
})

const entries = Object.entries(README_COMMANDS)

test('few are run by none', () => {
  expect(entries.flatMap(([line, run]) => ('not' in run ? [line] : []))).toEqual(['fuzz --only qemu'])
})

test.each(entries.flatMap(([line, run]) => ('by' in run ? [[line, run] as const] : [])))(
  '%s: the test that is named says so',
  (_, { by, words }) => {
    const text = readFileSync(join(ROOT, by), 'utf8')
    expect(words.filter(word => !text.includes(`'${word}'`))).toEqual([])
  },
)

describe('as they stand', () => {
  const folder = privateFolder(tmpdir(), 'readme-')
  const run = join(folder, 'smmu-cosim', 'runs', '2026-01-02T03-04-05-6')
  const recording = join(run, 'trace')
  const policy = join(folder, 'policies', 'policy.ts')
  afterAll(() => {
    vi.unstubAllEnvs()
    rmSync(folder, { recursive: true })
  })

  beforeAll(() => {
    // Where the last recording is.
    vi.stubEnv('XDG_STATE_HOME', folder)
    mkdirSync(run, { recursive: true })
    // Of a boot of Linux 6.12, up to the first disks.
    writeFileSync(recording, gunzipSync(readFileSync(join(ROOT, 'test/unit/trace/recordings/6.12-nested.gz'))))
    mkdirSync(join(folder, 'policies'))
    const git = (...args: string[]) =>
      execFileSync('git', ['-c', 'user.name=x', '-c', 'user.email=x@x.example', ...args], {
        cwd: join(folder, 'policies'),
      })
    git('init', '--quiet')
    const source = (rule: string) =>
      `import { pkvm } from '${ROOT}server/hypervisor/pkvm/policy.ts'\n` +
      `export default (machine: never, context: never) => pkvm(machine, context, { registers: { 0x14: (rule: object) => (${rule}) } })\n`
    for (const [rule, tag] of [
      ['rule', 'v1'],
      ['{ ...rule, read(_: never, trap: { lo: number }) { trap.lo = 7 } }', 'v2'],
    ]) {
      writeFileSync(policy, source(rule ?? ''))
      git('add', 'policy.ts')
      git('commit', '--quiet', '--message', `policy ${tag}`)
      git('tag', tag ?? '')
    }
  })

  const files: Readonly<Record<string, string>> = {
    FILE: recording,
    'policy.ts': policy,
    'run.html': join(folder, 'run.html'),
    FOUND: join(folder, 'found'),
  }
  test.each(entries.flatMap(([line, run]) => ('here' in run ? [[line, run] as const] : [])))(
    '%s',
    async (line, { more = [], code = 0, instead = line }) => {
      const words = [...instead.split(' ').map(word => files[word] ?? word), ...more]
      const ended = await cosim(words, { deadlineMs: PATIENCE_MS })
      expect(ended.code, ended.said).toBe(code)
      // What writes a file has nothing to say.
      const written = line.includes(' -o ') && existsSync(files['run.html'])
      expect(ended.said.trim() !== '' || written, ended.said).toBe(true)
    },
    PATIENCE_MS,
  )
})
