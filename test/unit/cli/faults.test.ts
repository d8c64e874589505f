// SPDX-License-Identifier: Apache-2.0
/** What is refused before a machine is started. */
import { spawnSync } from 'node:child_process'
import { existsSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { fileURLToPath } from 'node:url'
import { afterAll, describe, expect, test } from 'vitest'
import type { FaultRule } from '../../../server/faults/rule.ts'
import { privateFolder } from '../../../server/machine/scratch.ts'
import { repeatCommand } from '../../../server/sessions/campaignReport.ts'
import { Database, planOf } from '../../../server/sessions/database.ts'
import type { Job } from '../../../server/sessions/session.ts'
import { campaignSum } from '../../../server/sessions/store.ts'

const MAIN = fileURLToPath(new URL('../../../server/cli/main.ts', import.meta.url))
const folder = privateFolder(tmpdir(), 'faults-')
afterAll(() => rmSync(folder, { recursive: true }))

const own = join(folder, 'own.yaml')
writeFileSync(own, 'rules: [{ name: a, where: { at: table, table: ste }, what: { do: drop } }]')

const RULE = { name: 'a', where: { at: 'command' }, what: { do: 'drop' } } satisfies FaultRule
const JOB = {
  entry: { name: 'a', summary: 's', expect: 'recovered', why: 'w', rules: [RULE] },
  kernel: '6.12',
  until: 'nested',
  seed: 1,
} satisfies Job

test.each([
  ['a file of rules in a prefix that has no such thing', ['run', own, '--until', 'cmdq'], /needs strtab/],
  ['one of several jobs', ['run', 'sync-hangs', own, '--until', 'cmdq'], /own\.yaml .*needs strtab/],
  ['a campaign of which nothing is left', ['campaign', own, '--until', 'cmdq'], /needs strtab/],
])('%s', (_name, args, reason) => {
  const all = [MAIN, 'faults', ...args, '--database', join(folder, 'campaigns.db')]
  const { status, stderr } = spawnSync(process.execPath, all, { encoding: 'utf8' })
  expect([status, stderr]).toEqual([2, expect.stringMatching(reason)])
})

test('a kernel image that a file or a database names is not booted', () => {
  const kernel = join(folder, 'Image')
  writeFileSync(kernel, 'no kernel')
  const named = join(folder, 'named.yaml')
  const entry = { name: 'a', summary: 's', expect: 'recovered', why: 'w', session: { kernel }, rules: [RULE] }
  writeFileSync(named, JSON.stringify({ entries: [entry] }))
  const database = join(folder, 'hostile.db')
  const run = (...args: string[]) =>
    spawnSync(process.execPath, [MAIN, 'faults', ...args, '--database', database], { encoding: 'utf8', cwd: folder })
      .stderr
  expect(run('run', named)).toContain(`it asks for a kernel of its own: --kernel '${kernel}' allows that image`)
  // Where the plan is gone on from does not matter.
  const beside = join(folder, 'beside.yaml')
  writeFileSync(beside, JSON.stringify({ entries: [{ ...entry, session: { kernel: './Image' } }] }))
  expect(run('run', beside)).toContain(`--kernel '${kernel}' allows that image`)
  const resumed = new Database(database)
  resumed.begin('somebody else', [{ ...JOB, kernel }])
  resumed.close()
  expect(run('campaign', '--resume')).toContain(`--kernel '${kernel}' allows that image`)
})

test.each([
  ['no list', '{}'],
  [
    'a rule that is none',
    JSON.stringify([{ ...JOB, entry: { ...JOB.entry, rules: [{ ...RULE, what: { do: 'exec' } }] } }]),
  ],
  ['a seed that is none', JSON.stringify([{ ...JOB, seed: '1; rm -rf' }])],
])('a plan in a database is checked before anything of it is run: %s', (_what, plan) => {
  const path = join(folder, `plan-${plan.length}.db`)
  const database = new Database(path)
  database.begin('test', [])
  database.close()
  const db = new DatabaseSync(path)
  // Whoever makes such a file knows how its sums are made.
  const { sum: _, ...row } = db.prepare('SELECT * FROM campaigns').get() ?? {}
  const hostile = campaignSum({ ...(row as unknown as Parameters<typeof campaignSum>[0]), plan })
  db.prepare('UPDATE campaigns SET plan = ?, sum = ?').run(plan, hostile)
  db.close()
  const args = [MAIN, 'faults', 'campaign', '--resume', '--database', path]
  const { status, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8' })
  expect([status, stderr]).toEqual([1, expect.stringContaining('the plan of campaign 1 is damaged')])
})

test.each(['faults', 'matrix'])('%s salvage of a file that is no database: 1, and no new file', command => {
  const notes = join(folder, 'notes.txt')
  writeFileSync(notes, 'no database')
  const made = join(folder, `${command}-saved.db`)
  const { status, stderr, stdout } = spawnSync(process.execPath, [MAIN, command, 'salvage', notes, made], {
    encoding: 'utf8',
  })
  expect(stdout + stderr).toBe(
    `smmu-cosim: ${notes}: no ${command === 'matrix' ? 'matrix' : 'campaign'} can be read, or this is no database\n`,
  )
  expect([status, existsSync(made)]).toEqual([1, false])
})

describe('what is asked of the machine', () => {
  const initrd = join(folder, 'initrd')
  writeFileSync(initrd, '')

  test.each([
    ['--qemu-arg=-d', { qemuArgs: ['-d'] }],
    ['--append=debug', { append: 'debug' }],
    [`--initrd=${initrd}`, { initrd }],
  ])('%s of a database is done only if the command line says so, too', (option, machine) => {
    const path = join(folder, `machine-${Object.keys(machine)[0]}.db`)
    const database = new Database(path)
    database.begin('somebody else', [{ ...JOB, machine }])
    database.close()
    const run = (...more: string[]) =>
      spawnSync(process.execPath, [MAIN, 'faults', 'campaign', '--resume', '--database', path, ...more], {
        encoding: 'utf8',
      })
    const { status, stderr } = run()
    expect([status, stderr]).toEqual([
      2,
      expect.stringContaining(`it asks for another machine: ${option.replace(`--initrd=`, '--initrd ')} allows that`),
    ])
    expect(run('--qemu-arg=-S').stderr).toContain('it asks for another machine')
  })

  test('of a run is in its plan, and in the command that repeats a session', () => {
    const { machine } = planOf([JOB.entry], ['6.12'], ['nested'], [1], { append: 'a b', qemuArgs: ['-d'] })[0]
    expect(machine).toEqual({ append: 'a b', qemuArgs: ['-d'] })
    expect(repeatCommand({ ...JOB, ...(machine && { machine }) })).toMatch(
      /--until nested '--append=a b' --qemu-arg=-d$/,
    )
    expect(planOf([JOB.entry], ['6.12'], ['nested'], [1])[0]).not.toHaveProperty('machine')
  })

  test('a kernel that cannot boot is refused at once', () => {
    const kernel = join(folder, 'Image.txt')
    writeFileSync(kernel, 'no kernel')
    const all = [MAIN, 'faults', 'run', 'sync-hangs', '--kernel', kernel, '--database', join(folder, 'kernel.db')]
    const { status, stderr } = spawnSync(process.execPath, all, { encoding: 'utf8' })
    expect([status, stderr]).toEqual([2, expect.stringContaining('expected an arm64 Image')])
  })
})
