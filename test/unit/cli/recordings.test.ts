// SPDX-License-Identifier: Apache-2.0
/** Recordings by name, wherever the command line takes one. */
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, expect, test, vi } from 'vitest'
import { runNamed, runsFolder } from '../../../server/machine/runs.ts'
import { bootRecording } from '../trace/synthetic.ts'
import { cosimHere } from './here.ts'
import { parsed } from './parsed.ts'

const parent = mkdtempSync(join(tmpdir(), 'smmu-cosim-recordings-'))
const [OLD, NEW] = ['2026-01-01T00-00-00-000Z-aaaaaa', '2026-01-02T00-00-00-000Z-bbbbbb']

beforeAll(async () => {
  vi.stubEnv('XDG_STATE_HOME', parent)
  for (const name of [OLD, NEW]) {
    mkdirSync(join(runsFolder(), name), { recursive: true })
    await bootRecording(join(runsFolder(), name, 'trace'))
  }
  writeFileSync(join(runsFolder(), OLD, 'report.json'), '{"outcome":"guest-hung"}')
  writeFileSync(join(runsFolder(), NEW, 'report.json'), '{"outcome":"\\u001b[31m"}')
})
afterAll(() => {
  vi.unstubAllEnvs()
  rmSync(parent, { recursive: true })
})
afterEach(() => {
  process.exitCode = undefined
})

const recording = (name: string): string => join(runsFolder(), name, 'trace')

test.each([
  'trace show',
  'trace stats',
  'trace export --json',
  'trace flame',
  'trace cut --to 1 -o /dev/null',
  'replay',
])('%s', async command => {
  const words = command.split(' ')
  for (const [given, name] of [
    ['latest', NEW],
    [OLD, OLD],
    ['2026-01-01', OLD],
    [join(runsFolder(), OLD), OLD],
    [recording(OLD), OLD],
  ]) {
    const { code, args, said } = await parsed([...words, given])
    expect([code, args?.[0]], said).toEqual([0, recording(name)])
  }
  const { code, said } = await parsed([...words, '2026-01'])
  expect([code, said]).toEqual([2, expect.stringContaining(`${OLD} and ${NEW} begin so`)])
})

test('trace diff and walk', async () => {
  expect((await parsed(['trace', 'diff', OLD, 'latest'])).args).toEqual([recording(OLD), recording(NEW)])
  const { options } = await parsed(['walk', '--sid', '8', '--iova', '0', '--recording', 'latest'])
  expect(options?.recording).toBe(recording(NEW))
})

test('list', async () => {
  const { code, out } = await cosimHere('trace', 'list')
  expect(code).toBe(0)
  expect(out.split('\n')).toEqual([
    expect.stringMatching(new RegExp(`^${OLD}  pkvm  \\S+ +guest-hung +1 MiB$`)),
    // What stands in a report is no word of ours.
    expect.stringMatching(new RegExp(`^${NEW}  pkvm  \\S+ +1 MiB$`)),
    '',
  ])
  const { recordings } = JSON.parse((await cosimHere('trace', 'list', '--json')).out)
  expect(recordings).toMatchObject([
    { name: OLD, outcome: 'guest-hung', live: false, pinned: false },
    { name: NEW, outcome: null, live: false, pinned: false },
  ])
})

test('pin and unpin', async () => {
  expect((await cosimHere('trace', 'pin', 'latest', OLD)).out).toBe(`${NEW}: kept\n${OLD}: kept\n`)
  expect([OLD, NEW].map(name => runNamed(name).pinned)).toEqual([true, true])
  expect((await cosimHere('trace', 'list')).out).toMatch(/MiB {2}pinned\n/)
  expect((await cosimHere('trace', 'unpin', 'latest')).out).toBe(`${NEW}: removed when room is needed\n`)
  expect([OLD, NEW].map(name => runNamed(name).pinned)).toEqual([true, false])
  expect(readdirSync(runsFolder()).sort()).toEqual([OLD, NEW])
})

test.each([['export', '--html', '-o'], ['open']])(
  'trace %s that is interrupted leaves nothing behind',
  async (...words) => {
    const temporary = mkdtempSync(join(parent, 'tmp-'))
    const out = join(temporary, 'run.html')
    vi.stubEnv('TMPDIR', temporary)
    const before = process.listenerCount('SIGHUP')
    const ended = cosimHere('trace', ...words, ...(words.includes('-o') ? [out] : []), OLD)
    await vi.waitFor(() => expect(process.listenerCount('SIGHUP')).toBe(before + 1))
    process.emit('SIGHUP')
    const { code, out: printed, err } = await ended
    vi.stubEnv('TMPDIR', undefined)
    expect([code, printed]).toEqual([130, ''])
    expect(err).toMatch(/^smmu-cosim: interrupted$/m)
    expect(existsSync(out)).toBe(false)
    expect(readdirSync(temporary)).toEqual([])
    expect(process.listenerCount('SIGHUP')).toBe(before)
  },
)

test('a limit that is none is refused before a machine is started', async () => {
  vi.stubEnv('SMMU_COSIM_RUNS_LIMIT', 'much')
  const { code, err } = await cosimHere('boot')
  vi.stubEnv('SMMU_COSIM_RUNS_LIMIT', '')
  expect([code, err]).toEqual([2, expect.stringContaining('SMMU_COSIM_RUNS_LIMIT: "much" is not a size')])
})
