// SPDX-License-Identifier: Apache-2.0
/**
 * Command lines of the README that start guests, as they stand: each gets to the point where QEMU is started, with what the line asks for in
 * its command line. QEMU itself is a stand-in, which ends at once; with real guests the lines are run by the tests that
 * test/unit/docs/readmeCommands.ts names.
 */
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest'
import { ensureKernel } from '../../scripts/setup/index.ts'
import { EXIT } from '../../server/cli/exit.ts'
import { privateFolder } from '../../server/machine/scratch.ts'
import { code as blocks, ROOT } from '../unit/docs/markdown.ts'
import { README_COMMANDS } from '../unit/docs/readmeCommands.ts'
import { cosim, leftovers } from './cli.ts'
import { kernelTree } from './kernelTree.ts'

const folder = privateFolder(tmpdir(), 'readme-')
/** Where the lines are typed. */
const cwd = join(folder, 'cwd')
/** Words of the stand-in's command lines, a line each. */
const started = join(folder, 'started')
const linux = join(folder, 'linux')
const environment = { ...process.env, SMMU_COSIM_QEMU: join(folder, 'qemu'), XDG_STATE_HOME: join(folder, 'state') }
/** Words that the reader's shell, or the reader, puts something else for. */
let given: Readonly<Record<string, string>>

const example = (document: string): string => blocks(readFileSync(join(ROOT, document), 'utf8'), 'ts')[0] ?? ''

beforeAll(async () => {
  mkdirSync(cwd)
  const note = `for word; do printf '%s\\n' "$word"; done >>'${started}'`
  writeFileSync(environment.SMMU_COSIM_QEMU, `#!/bin/sh\n${note}\nexit 3\n`, { mode: 0o700 })
  writeFileSync(join(cwd, 'narrow.ts'), example('README.md').replaceAll("'./", `'${ROOT}`))
  writeFileSync(join(cwd, 'my.test.ts'), example('server/testing/README.md'))
  const kernel = await ensureKernel({ kernel: '6.12' })
  await kernelTree(linux, kernel)
  given = { '~/linux': linux, FILE: kernel.image }
})
afterEach(() => rmSync(started, { force: true }))
afterAll(() => rmSync(folder, { recursive: true }))

const guests = Object.entries(README_COMMANDS).flatMap(([line, run]) =>
  'by' in run && run.qemu !== undefined ? [{ line, more: [], ...run, qemu: run.qemu }] : [],
)

/** The line in words: what stands behind --exec is one. */
const wordsOf = (line: string): string[] => {
  const [before = '', command] = line.split(/(?<=--exec) /)
  return [...before.split(' ').map(word => given[word] ?? word), ...(command === undefined ? [] : [command])]
}

test.each(guests)('$line: QEMU is started', async ({ line, more, code = EXIT.failed, qemu }) => {
  const ended = await cosim([...wordsOf(line), ...more], { cwd, env: environment })
  const words = existsSync(started) ? readFileSync(started, 'utf8').trimEnd().split('\n') : []
  expect(words, ended.said).toContain('-machine')
  for (const word of qemu) {
    expect(
      words.some(found => (typeof word === 'string' ? found === word : word.test(found))),
      `${word} in ${words.join(' ')}`,
    ).toBe(true)
  }
  // It ended by itself, and that is said: nothing else was wrong.
  expect(ended.said).toMatch(/QEMU ended with exit code 3|qemu-died/)
  expect(ended.code, ended.said).toBe(code)
  expect(leftovers(ended.pid)).toEqual([])
})

test('setup', async () => {
  const ended = await cosim(['setup'])
  expect(ended.code, ended.said).toBe(EXIT.ok)
})
