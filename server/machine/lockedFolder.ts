// SPDX-License-Identifier: Apache-2.0
/**
 * Folders that belong to a process for as long as it runs. Each holds a lock file that the process keeps locked (flock(2)):
 * the kernel lets go of the lock however the process ends, and the lock means the same in every PID namespace, whatever the
 * clock says. Whoever can take the lock knows that nobody needs the folder any more.
 */
import { spawnSync } from 'node:child_process'
import {
  closeSync,
  constants,
  fstatSync,
  lstatSync,
  mkdtempSync,
  openSync,
  readdirSync,
  rmdirSync,
  rmSync,
  statSync,
} from 'node:fs'
import { join } from 'node:path'

const LOCK = '.lock'

/** Somebody who looks whether a folder is needed holds its lock for so long at most, s. */
const SWEEP_S = 10

/** Takes the lock of an open file, for as long as it is open. @returns false when somebody else has it. @throws Error */
function lock(fd: number, waitS = 0): boolean {
  const how = waitS === 0 ? ['--nonblock'] : ['--wait', String(waitS)]
  const { status, stderr, error } = spawnSync('flock', ['--exclusive', ...how, '3'], {
    stdio: ['ignore', 'ignore', 'pipe', fd],
    encoding: 'utf8',
  })
  if (error !== undefined) throw new Error(`cannot run flock: ${error.message}`)
  if (status === 0) return true
  if (status === 1) return false
  throw new Error(`flock: ${stderr.trim() || `exit code ${status}`}`)
}

/** A folder of this process. */
export class LockedFolder {
  readonly path: string
  #lock: number | undefined

  private constructor(path: string, fd: number) {
    this.path = path
    this.#lock = fd
  }

  /** A new folder in `parent`, its name `prefix` and something nobody can predict. @throws Error */
  static make(parent: string, prefix: string): LockedFolder {
    for (;;) {
      const path = mkdtempSync(join(parent, prefix))
      const file = join(path, LOCK)
      let fd: number
      try {
        fd = openSync(file, 'wx', 0o600)
      } catch (error) {
        // Somebody found a folder that nobody holds: one moment earlier it would have been right.
        if ((error as NodeJS.ErrnoException).code === 'ENOENT') continue
        throw error
      }
      try {
        if (!lock(fd, SWEEP_S)) throw new Error(`${file}: somebody else holds the lock`)
        if (isStill(file, fd)) return new LockedFolder(path, fd)
        closeSync(fd)
      } catch (error) {
        closeSync(fd)
        rmSync(path, { recursive: true, force: true })
        throw error
      }
    }
  }

  /** Removes the folder and all in it. */
  remove(): void {
    rmSync(this.path, { recursive: true, force: true })
    this.release()
  }

  /** Leaves the folder behind: from now on it may be removed by others. */
  release(): void {
    if (this.#lock !== undefined) closeSync(this.#lock)
    this.#lock = undefined
  }
}

/** A name still stands for an open file. */
function isStill(path: string, fd: number): boolean {
  try {
    const [named, opened] = [statSync(path), fstatSync(fd)]
    return named.ino === opened.ino && named.dev === opened.dev
  } catch {
    return false
  }
}

/**
 * Removes a folder of this user that nobody holds.
 * @param bare one without a lock file is removed too, however much is in it; else only when it is empty
 */
export function removeUnlocked(path: string, bare = false): void {
  try {
    // What is another user's is not ours to remove, even where we may: its owner could change it under our hands.
    const { uid } = lstatSync(path)
    if (uid !== process.getuid?.() || !lstatSync(path).isDirectory()) return
    let fd: number
    try {
      fd = openSync(join(path, LOCK), constants.O_RDWR | constants.O_NOFOLLOW)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') return
      if (bare) rmSync(path, { recursive: true, force: true })
      else rmdirSync(path)
      return
    }
    try {
      if (lock(fd)) rmSync(path, { recursive: true, force: true })
    } finally {
      closeSync(fd)
    }
  } catch {} // it is gone, or not empty: the next one looks again
}

/** Whether somebody holds a folder. One that cannot be looked at counts as held. */
export function isLocked(path: string): boolean {
  try {
    const fd = openSync(join(path, LOCK), constants.O_RDWR | constants.O_NOFOLLOW)
    try {
      return !lock(fd)
    } finally {
      closeSync(fd)
    }
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== 'ENOENT'
  }
}

/** Removes what processes that were killed without a chance to clean up left in `parent`. */
export function sweep(parent: string, prefix: string): void {
  for (const name of readdirSync(parent)) if (name.startsWith(prefix)) removeUnlocked(join(parent, name))
}
