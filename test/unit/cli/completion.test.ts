// SPDX-License-Identifier: Apache-2.0
/** What the shells themselves make of the scripts. */
import { spawnSync } from 'node:child_process'
import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { completion } from '../../../server/cli/completion.ts'
import { commandLine } from '../../../server/cli/program.ts'
import { privateFolder } from '../../../server/machine/scratch.ts'
import { POLICY_NAMES } from '../../../server/policy/load.ts'
import { commands } from './parsed.ts'

const folder = privateFolder(tmpdir(), 'completion-')
const program = commandLine(() => {
  throw new Error('it only completes')
})

beforeAll(() => {
  for (const shell of ['bash', 'zsh', 'fish'] as const) writeFileSync(join(folder, shell), completion(program, shell))
  mkdirSync(join(folder, 'here'))
  for (const name of ['image', 'it is.ts']) writeFileSync(join(folder, 'here', name), '')
})
afterAll(() => rmSync(folder, { recursive: true }))

const there = (shell: string) => spawnSync(shell, ['--version']).error === undefined

function run(shell: string, args: readonly string[]): string[] {
  const { stdout, stderr, status } = spawnSync(shell, args, { encoding: 'utf8', cwd: join(folder, 'here') })
  if (status !== 0 && status !== 1) throw new Error(stderr)
  expect(stderr).toBe('')
  return stdout.split('\n').filter(line => line !== '')
}

const quoted = (text: string) => `'${text.replaceAll("'", `'\\''`)}'`

/** What each shell offers for the last word of a line. */
const SHELLS: Readonly<Record<string, (words: readonly string[]) => string[]>> = {
  bash: words =>
    run('bash', [
      '--norc',
      '-c',
      `source ${quoted(join(folder, 'bash'))}; COMP_WORDS=(${words.map(quoted).join(' ')}); COMP_CWORD=${words.length - 1}; _smmu_cosim; printf '%s\\n' "\${COMPREPLY[@]}"`,
    ]),
  // As bashcompinit calls the function, which it does in the emulation of sh.
  zsh: words =>
    run('zsh', [
      '-f',
      '-c',
      `autoload -U +X bashcompinit && bashcompinit; source ${quoted(join(folder, 'zsh'))}; emulate -L sh; setopt kshglob noshglob braceexpand; COMP_WORDS=(${words.map(quoted).join(' ')}); COMP_CWORD=${words.length - 1}; _smmu_cosim; printf '%s\\n' "\${COMPREPLY[@]}"`,
    ]),
  fish: words =>
    run('fish', [
      '--no-config',
      '-c',
      `source ${quoted(join(folder, 'fish'))}; complete -C ${quoted(words.join(' '))}`,
    ]).map(line => line.replace(/\t.*/, '')),
}

describe.each(Object.keys(SHELLS))('%s', shell => {
  const complete = (...words: string[]) => SHELLS[shell]?.(['smmu-cosim', ...words]) ?? []

  test.skipIf(!there(shell)).each<[string, string[], string[]]>([
    ['commands', [''], ['boot', 'trace', 'completion']],
    ['the beginning of one', ['bo'], ['boot']],
    ['commands of a command', ['trace', ''], ['show', 'cut']],
    ['options', ['boot', '--pol'], ['--policy']],
    ['options of a command of a command', ['faults', 'run', '--tw'], ['--twice']],
    ['choices', ['boot', '--until', ''], ['mmio', 'nested']],
    ['names', ['boot', '--policy', ''], [...POLICY_NAMES, 'it is.ts']],
    ['names of faults', ['boot', '--smp', '2', '--faults', 'sync-h'], ['sync-hangs']],
    ['files', ['boot', '--initrd', 'im'], ['image']],
    ['recordings', ['replay', 'im'], ['image']],
    ['behind an option with a value', ['boot', '--smp', '2', '--int'], ['--interactive']],
  ])('%s', (_, words, expected) => {
    const offered = complete(...words).map(word => word.replace(/\\(.)/g, '$1'))
    expect(offered).toEqual(expect.arrayContaining(expected))
    const last = words.at(-1) ?? ''
    // zsh itself leaves out what does not begin so.
    if (shell !== 'zsh') expect(offered.filter(word => !word.startsWith(last))).toEqual([])
  })

  test.skipIf(!there(shell))('nothing where anything goes', () => {
    expect(complete('boot', '--append', '')).toEqual([])
  })
})

test('every command and every option is in it', () => {
  const bash = completion(program, 'bash').split(/[\s']+/)
  const fish = completion(program, 'fish')
  for (const command of commands()) {
    for (const { long } of command.options) {
      expect(bash, command.name()).toContain(long)
      expect(fish, `${command.name()} ${long}`).toContain(`-l ${long?.slice(2)} `)
    }
  }
})
