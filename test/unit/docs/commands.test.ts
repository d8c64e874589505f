// SPDX-License-Identifier: Apache-2.0
/**
 * Every command line that a document shows is one that the real command line takes, and every command has its line. Those of the README
 * are run as well: readme.test.ts.
 */
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { runsFolder } from '../../../server/machine/runs.ts'
import { privateFolder } from '../../../server/machine/scratch.ts'
import { commands, parsed } from '../cli/parsed.ts'
import { lines, wordsOf } from './commandLines.ts'
import { files, ROOT } from './markdown.ts'

const folder = privateFolder(tmpdir(), 'commands-')
beforeAll(() => {
  vi.stubEnv('XDG_STATE_HOME', join(folder, 'state'))
  // What `latest` stands for.
  const run = join(runsFolder(), '2026-01-01T00-00-00-000Z-aaaaaa')
  mkdirSync(run, { recursive: true })
  writeFileSync(join(run, 'trace'), '')
})
afterAll(() => {
  vi.unstubAllEnvs()
  rmSync(folder, { recursive: true })
})

/** Files that stand for the reader's own are there. */
function present(word: string): string {
  if (word === 'DIR') {
    mkdirSync(folder, { recursive: true })
    return folder
  }
  const own = word === 'FILE' || (/^[\w./-]+\.(ts|ya?ml|json)$/.test(word) && !existsSync(join(ROOT, word)))
  if (!own) return word
  const path = join(folder, basename(word))
  mkdirSync(folder, { recursive: true })
  writeFileSync(path, '')
  return path
}

const shown = files('.md').flatMap(file =>
  lines(readFileSync(join(ROOT, file), 'utf8')).flatMap(line => {
    const words = wordsOf(line)
    return words === undefined ? [] : [{ file, line: line.replace(/\s+#.*$/, '').trim(), words }]
  }),
)

describe('a command line that is shown', () => {
  test.each(shown)('$file: $line', async ({ words }) => {
    const { command, code, said } = await parsed(words.map(present))
    expect(code, said).toBe(0)
    if (!words.includes('--help')) expect(command).toBeDefined()
  })

  test('they are found', () => {
    expect(shown.length).toBeGreaterThan(60)
    expect(wordsOf("npm run boot -- --append 'a b'   # why")).toEqual(['boot', '--append', 'a b'])
    expect(wordsOf('npm run boot --smp 2')?.[0]).toBe('npm takes')
    expect(wordsOf('node_modules/.bin/node --inspect-brk server/cli/main.ts replay FILE')).toEqual(['replay', 'FILE'])
    expect(wordsOf('docker compose up')).toBeUndefined()
  })
})

test('what is no command is told', async () => {
  expect((await parsed(['boot', '--no-such-option'])).code).toBe(2)
  expect((await parsed(['no-such-command'])).code).toBe(2)
})

const top = [...new Set(commands().map(command => (command.parent?.parent ? command.parent.name() : command.name())))]
test.each(top)('the README shows the command %s', name => {
  const readme = shown.filter(({ file }) => file === 'README.md')
  expect(readme.map(({ words: [first] }) => first)).toContain(name)
})
