// SPDX-License-Identifier: Apache-2.0
/** Every command line that a document shows is one that the real command line takes, and every command has its line. */
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { runsFolder } from '../../../server/machine/runs.ts'
import { privateFolder } from '../../../server/machine/scratch.ts'
import { commands, parsed } from '../cli/parsed.ts'
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

/** npm's scripts, and what they stand for. */
const SCRIPTS: Readonly<Record<string, readonly string[]>> = {
  boot: ['boot'],
  'smmu-cosim': [],
  bench: ['bench'],
  fuzz: ['fuzz'],
}

/** A line of a shell in words: quotes are taken off, comments left out. */
const shell = (line: string): string[] =>
  [...line.replace(/\s#.*$/, '').matchAll(/(?:[^\s'"]|'[^']*'|"[^"]*")+/g)].map(([word]) => word.replace(/['"]/g, ''))

/** The words behind `smmu-cosim` of a line that runs it; undefined: it runs something else. */
function wordsOf(line: string): string[] | undefined {
  const [first, ...rest] = shell(line)
  if (first === 'smmu-cosim') return rest
  const main = [first, ...rest].indexOf('server/cli/main.ts')
  if (main >= 0) return rest.slice(main)
  const [run, script = '', dashes, ...words] = rest
  if (first !== 'npm' || run !== 'run' || !Object.hasOwn(SCRIPTS, script)) return undefined
  if (dashes !== undefined && dashes !== '--') return ['npm takes', dashes, 'for itself']
  return [...(SCRIPTS[script] ?? []), ...words]
}

/** Code of a document: fenced, indented, and in a line of prose where that is a whole command. */
function lines(text: string): string[] {
  const fenced = [...text.matchAll(/^```\S*\n(.*?)^```/gms)].flatMap(([, body = '']) => body.split('\n'))
  const indented = [...text.matchAll(/^ {4}(\S.*)$/gm)].map(([, line = '']) => line)
  const inline = [...text.matchAll(/`(npm run [^`]+)`/g)].map(([, line = '']) => line)
  return [...fenced, ...indented, ...inline].filter(line => !line.includes('…'))
}

/** Files that stand for the reader's own are there. */
function present(word: string): string {
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
