// SPDX-License-Identifier: Apache-2.0
/** What stays in the folder of runs, and what names there stand for. */
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { LockedFolder } from '../../../server/machine/lockedFolder.ts'
import {
  isLive,
  newRunFolder,
  pinRun,
  RUNS_LIMIT,
  runBytes,
  runNamed,
  runs,
  runsFolder,
  runsLimit,
} from '../../../server/machine/runs.ts'

const MiB = 2 ** 20

let parent: string
beforeEach(() => {
  parent = mkdtempSync(join(tmpdir(), 'smmu-cosim-runs-'))
  vi.stubEnv('XDG_STATE_HOME', parent)
  mkdirSync(runsFolder(), { recursive: true })
})
afterEach(() => {
  vi.unstubAllEnvs()
  rmSync(parent, { recursive: true })
})

const stamp = (i: number): string => `2020-01-01T00-00-${String(i).padStart(2, '0')}-000Z-`

/** A run that has ended, with a recording of so many MiB. */
function ended(i: number, mib: number): string {
  const folder = LockedFolder.make(runsFolder(), stamp(i))
  writeFileSync(join(folder.path, 'trace'), Buffer.alloc(mib * MiB))
  folder.release()
  return basename(folder.path)
}

const left = (): string[] => readdirSync(runsFolder()).sort()

describe('the limit', () => {
  test('is by size: the oldest go, as many as it takes', () => {
    vi.stubEnv(RUNS_LIMIT, '7M')
    const names = [0, 1, 2, 3].map(i => ended(i, 2))
    const said: string[] = []
    const own = newRunFolder(line => said.push(line))
    expect(left()).toEqual([...names.slice(1), basename(own.path)])
    expect(said).toEqual([
      expect.stringMatching(/^removed the oldest run, 3 MiB: all may take 7 MiB \(SMMU_COSIM_RUNS_LIMIT\)/),
    ])
    own.release()
  })

  test('many small runs are no reason to remove one', () => {
    const names = Array.from({ length: 60 }, (_, i) => ended(i, 0))
    const own = newRunFolder()
    expect(left()).toEqual([...names, basename(own.path)])
    own.release()
  })

  test('a run that goes on stays, whatever its name says of the time; so do pinned ones and the newest', () => {
    vi.stubEnv(RUNS_LIMIT, '1M')
    // Made when the clock stood wrong: for the order of names it is the oldest.
    const live = LockedFolder.make(runsFolder(), '1999-01-01T00-00-00-000Z-')
    writeFileSync(join(live.path, 'trace'), Buffer.alloc(2 * MiB))
    const [pinned, old, newest] = [0, 1, 2].map(i => ended(i, 2))
    pinRun(runNamed(pinned), true)
    newRunFolder().release()
    expect(existsSync(join(runsFolder(), old))).toBe(false)
    const names = left()
    expect(names).toContain(basename(live.path))
    expect(names).toContain(pinned)
    expect(names).toContain(newest)
    live.release()
    pinRun(runNamed(pinned), false)
    newRunFolder().release()
    expect(left()).not.toContain(basename(live.path))
    expect(left()).not.toContain(pinned)
  })

  test('what is not a run of ours is neither counted nor removed; runs from before there were locks are', () => {
    vi.stubEnv(RUNS_LIMIT, '1M')
    mkdirSync(join(runsFolder(), 'notes'))
    writeFileSync(join(runsFolder(), 'notes', 'x'), Buffer.alloc(4 * MiB))
    const before = join(runsFolder(), '2001-01-01T00-00-00-000Z-before')
    mkdirSync(before)
    writeFileSync(join(before, 'console.log'), Buffer.alloc(2 * MiB))
    const newest = ended(1, 0)
    newRunFolder().release()
    expect(existsSync(before)).toBe(false)
    expect(left()).toContain('notes')
    expect(left()).toContain(newest)
  })

  test.each([
    [undefined, 10 * 2 ** 30],
    ['512M', 512 * MiB],
    ['none', Number.POSITIVE_INFINITY],
  ])('%s', (text, bytes) => expect(runsLimit(text)).toBe(bytes))

  test('what is no size is refused before a folder is made', () => {
    vi.stubEnv(RUNS_LIMIT, 'much')
    expect(() => newRunFolder()).toThrow(/^SMMU_COSIM_RUNS_LIMIT: "much" is not a size such as 512M or 2G, nor "none"$/)
    expect(left()).toEqual([])
  })
})

describe('names', () => {
  test('latest is the newest recording; the beginning of a name is enough', () => {
    const [first, second] = [ended(1, 0), ended(2, 0)]
    // A run that was not recorded.
    newRunFolder().release()
    expect(runNamed('latest').name).toBe(second)
    expect(runNamed(first).name).toBe(first)
    expect(runNamed(stamp(1)).recording).toBe(join(runsFolder(), first, 'trace'))
    expect(() => runNamed('2020-01-01')).toThrow(`${first} and ${second} begin so`)
    expect(() => runNamed('2019-')).toThrow(/^no such recording in /)
  })

  test('a whole name is that run, although another begins with it', () => {
    const first = ended(1, 0)
    mkdirSync(join(runsFolder(), `${first}-copy`))
    writeFileSync(join(runsFolder(), `${first}-copy`, 'trace'), '')
    expect(runNamed(first).name).toBe(first)
    expect(() => runNamed(first.slice(0, -1))).toThrow('begin so')
  })

  test('nothing is there', () => {
    expect(() => runNamed('latest')).toThrow(`there is no recording in ${runsFolder()}`)
    expect(runs(join(parent, 'none'))).toEqual([])
  })

  test('links are no runs, and no recordings', () => {
    const real = ended(1, 0)
    symlinkSync(join(runsFolder(), real), join(runsFolder(), `${stamp(3)}link`))
    const own = LockedFolder.make(runsFolder(), stamp(4))
    symlinkSync('/dev/zero', join(own.path, 'trace'))
    expect(runs().map(({ name, recording }) => [name, recording !== undefined])).toEqual([
      [real, true],
      [basename(own.path), false],
    ])
    expect(runNamed('latest').name).toBe(real)
    own.release()
  })

  test('a run that goes on is told from one that has ended', () => {
    const own = newRunFolder()
    writeFileSync(join(own.path, 'trace'), Buffer.alloc(MiB))
    const run = runNamed('latest')
    expect(isLive(run)).toBe(true)
    expect(runBytes(run)).toBeGreaterThanOrEqual(MiB)
    own.release()
    expect(isLive(run)).toBe(false)
  })
})
