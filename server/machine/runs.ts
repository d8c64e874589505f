// SPDX-License-Identifier: Apache-2.0
/** The folder of runs: what each run leaves behind, how long it stays, and which recording a name stands for. */
import { existsSync, lstatSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { isLocked, LockedFolder, removeUnlocked } from './lockedFolder.ts'
import { parseSize } from './scratch.ts'

/** Environment variable with the size of the folder: as `512M` or `2G`, or `none`. */
export const RUNS_LIMIT = 'SMMU_COSIM_RUNS_LIMIT'
const DEFAULT_LIMIT = '10G'

/** The name of the newest recording. */
export const LATEST = 'latest'
/** Of a run's folder: its recording. */
export const RECORDING = 'trace'
/** A file that says that the run is kept. */
const PINNED = '.pinned'
/** Names of runs begin with the time at which they began. What else lies in the folder is not ours to remove. */
const NAME = /^\d{4}-\d\d-\d\dT[\w.-]+$/

/** Where the files of finished runs are kept: console logs, recordings, reports. */
export function runsFolder(): string {
  const state = process.env.XDG_STATE_HOME || join(homedir(), '.local', 'state')
  return join(state, 'smmu-cosim', 'runs')
}

/** Bytes that the folder of runs may have when a run begins. @throws Error for what is no size */
export function runsLimit(text = process.env[RUNS_LIMIT] || DEFAULT_LIMIT): number {
  if (text === 'none') return Number.POSITIVE_INFINITY
  try {
    return parseSize(text)
  } catch (error) {
    throw new Error(`${RUNS_LIMIT}: ${(error as Error).message}, nor "none"`)
  }
}

/** A run that left something behind. */
export interface Run {
  readonly name: string
  readonly path: string
  /** Its recording; undefined: it was not recorded, or to another place. */
  readonly recording?: string
  readonly pinned: boolean
}

/** The runs that there are, the oldest first. A link is none: what it leads to was not left here. */
export function runs(folder = runsFolder()): Run[] {
  if (!existsSync(folder)) return []
  return readdirSync(folder)
    .filter(name => NAME.test(name))
    .sort()
    .flatMap((name): Run[] => {
      const path = join(folder, name)
      if (lstatSync(path, { throwIfNoEntry: false })?.isDirectory() !== true) return []
      const recording = join(path, RECORDING)
      const recorded = lstatSync(recording, { throwIfNoEntry: false })?.isFile() === true
      return [{ name, path, ...(recorded && { recording }), pinned: existsSync(join(path, PINNED)) }]
    })
}

/** Whether a run has not ended. */
export const isLive = ({ path }: Pick<Run, 'path'>): boolean => isLocked(path)

/** Bytes of the file system that a run takes. */
export const runBytes = ({ path }: Run): number => bytesOf(path)

function bytesOf(path: string): number {
  // A run that ends or is removed meanwhile takes nothing.
  const found = lstatSync(path, { throwIfNoEntry: false })
  if (found === undefined) return 0
  const own = found.blocks * 512
  if (!found.isDirectory()) return own
  try {
    return readdirSync(path).reduce((sum, name) => sum + bytesOf(join(path, name)), own)
  } catch {
    return own
  }
}

/**
 * A new folder for what one run leaves behind, to be released when the run ends. The oldest runs are removed when all of them
 * take more than the limit, but for those that have not ended, those that are pinned, and the newest of the others.
 * @param say told what was removed
 * @throws Error when the limit is no size, or the folder cannot be made
 */
export function newRunFolder(say?: (line: string) => void): LockedFolder {
  const limit = runsLimit()
  const folder = runsFolder()
  mkdirSync(folder, { recursive: true })
  const before = runs(folder)
  const stamp = new Date().toISOString().replace(/[:.]/g, '-')
  const own = LockedFolder.make(folder, `${stamp}-`)
  makeRoom(before, limit, say)
  return own
}

/** @param all the oldest first */
function makeRoom(all: readonly Run[], limit: number, say?: (line: string) => void): void {
  if (limit === Number.POSITIVE_INFINITY) return
  const sizes = all.map(runBytes)
  let total = sizes.reduce((sum, bytes) => sum + bytes, 0)
  let removed = 0
  let freed = 0
  const last = all.findLast(({ pinned }) => !pinned)
  for (const [i, run] of all.entries()) {
    if (total <= limit) break
    if (run.pinned || run === last) continue
    removeUnlocked(run.path, true)
    if (existsSync(run.path)) continue
    total -= sizes[i]
    freed += sizes[i]
    removed++
  }
  if (removed === 0) return
  const mib = (bytes: number) => `${Math.ceil(bytes / 2 ** 20)} MiB`
  say?.(
    `removed the oldest ${removed === 1 ? 'run' : `${removed} runs`}, ${mib(freed)}: all may take ${mib(limit)} (${RUNS_LIMIT}); "trace pin" keeps one`,
  )
}

/**
 * The run that a name stands for: `latest`, a name, or the beginning of one that no other begins with.
 * @throws Error naming what there is
 */
export function runNamed(name: string, folder = runsFolder()): Run & { readonly recording: string } {
  const recorded = runs(folder).filter(
    (run): run is Run & { readonly recording: string } => run.recording !== undefined,
  )
  const exact = recorded.filter(run => run.name === name)
  const [run, other] =
    name === LATEST ? recorded.slice(-1) : exact.length > 0 ? exact : recorded.filter(run => run.name.startsWith(name))
  if (run === undefined) {
    throw new Error(recorded.length === 0 ? `there is no recording in ${folder}` : `no such recording in ${folder}`)
  }
  if (other !== undefined) throw new Error(`${run.name} and ${other.name} begin so`)
  return run
}

/** A run that is pinned is not removed to make room. @throws Error when it cannot be written to */
export function pinRun({ path }: Run, pinned: boolean): void {
  if (pinned) writeFileSync(join(path, PINNED), '')
  else rmSync(join(path, PINNED), { force: true })
}
