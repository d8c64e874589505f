// SPDX-License-Identifier: Apache-2.0
/** What is told of a test that failed. */
import { spawnSync } from 'node:child_process'
import { expect, test } from 'vitest'
import { failureLines, folderOf, repeatCommand } from '../../../server/testing/failure.ts'

const which = { file: '/work/pages.test.ts', name: "a page's (1.5) owner" }

test('one command repeats it: a shell and a regular expression see the name as it is', () => {
  const command = repeatCommand('/work', which, 7)
  expect(command).toMatch(/^smmu-cosim test pages\.test\.ts -t .* --seed 7$/)
  const { stdout } = spawnSync('sh', ['-c', `printf '%s\\n' ${command.replace(/^smmu-cosim test /, '')}`], {
    encoding: 'utf8',
  })
  const [file, option, pattern = '', seed, value] = stdout.split('\n')
  expect([file, option, seed, value]).toEqual(['pages.test.ts', '-t', '--seed', '7'])
  expect(new RegExp(pattern).test(which.name)).toBe(true)
  expect(new RegExp(pattern).test("a page's (1x5) owner")).toBe(false)
  expect(new RegExp(pattern).test(`${which.name} and more`)).toBe(false)
})

test('a file elsewhere has its whole path', () => {
  expect(repeatCommand('/other', which, 1)).toContain(' /work/pages.test.ts ')
})

test('each test has a folder of its own, whatever its name is', () => {
  const names = ['../../etc', 'a/b', 'a b', 'x'.repeat(300), '']
  const folders = names.map(name => folderOf('/work', { ...which, name }, 0))
  expect(new Set(folders).size).toBe(names.length)
  for (const folder of folders) expect(folder).toMatch(/^\/work\/smmu-cosim-results\/[\w.-]{7,70}$/)
  expect(folderOf('/work', which, 1)).toMatch(/-2$/)
})

test('what is printed', () => {
  const machine = { recording: '/r/trace', console: '/r/console.log', traps: ['#1 W CR0'], seed: 3, ended: 'qemu-died' }
  expect(failureLines({ repeat: 'smmu-cosim test x', machines: [machine] })).toEqual([
    'machine, seed 3; it ended: qemu-died',
    '  the last traps, and steps of the test:',
    '    #1 W CR0',
    '  recording /r/trace   (smmu-cosim trace show)',
    '  console   /r/console.log',
    'again: smmu-cosim test x',
  ])
})
