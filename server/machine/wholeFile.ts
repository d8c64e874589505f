// SPDX-License-Identifier: Apache-2.0
import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { accessSync, closeSync, constants, lstatSync, openSync, readlinkSync, rmSync } from 'node:fs'
import { lstat, rename, rm, writeFile } from 'node:fs/promises'
import { dirname, resolve } from 'node:path'
import { promisify } from 'node:util'

/** A new file, each write of which is on the disk when it returns: Node's permission model has no fsync(2). */
const NEW_AND_SYNCED = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_SYNC

/** Another file in the same folder, which takes the place of the one that is written. */
const besides = (path: string): string => `${path}.${randomBytes(6).toString('hex')}`

/**
 * Tries what writing a file as a whole takes, so that who is going to write one in an hour knows now whether it can be; leaves nothing.
 * @throws Error of the file system
 */
export function tryWhole(path: string): void {
  const there = lstatSync(path, { throwIfNoEntry: false })
  if (there?.isSymbolicLink()) {
    try {
      return accessSync(path, constants.W_OK)
    } catch (error) {
      ifMissing(error as NodeJS.ErrnoException)
      return tryWhole(resolve(dirname(path), readlinkSync(path)))
    }
  }
  if (there?.isFile() === false) return accessSync(path, constants.W_OK)
  const made = besides(path)
  closeSync(openSync(made, 'wx'))
  rmSync(made)
}

/**
 * Writes a file as a whole: a reader sees the old content or the new, and the old stays when there is no room for the new.
 * What is no file (a pipe, a terminal) is written to as it is.
 * @throws Error naming the file
 */
export async function writeWhole(path: string, content: string | Uint8Array): Promise<void> {
  const made = besides(path)
  try {
    const there = await lstat(path).catch(ifMissing)
    if (there?.isFile() === false) return await writeFile(path, content)
    await writeFile(made, content, { flag: NEW_AND_SYNCED })
    await rename(made, path)
    await syncFolder(dirname(path))
  } catch (error) {
    await rm(made, { force: true })
    throw new Error(`${path} was not written: ${(error as Error).message}`)
  }
}

function ifMissing(error: NodeJS.ErrnoException): undefined {
  if (error.code !== 'ENOENT') throw error
}

/** New names in a folder are on the disk. */
async function syncFolder(path: string): Promise<void> {
  await promisify(execFile)('sync', ['--', path])
}
