// SPDX-License-Identifier: Apache-2.0
import { randomBytes } from 'node:crypto'
import { closeSync, fsyncSync, lstatSync, openSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'

/**
 * Writes a file as a whole: a reader sees the old content or the new, and the old stays when there is no room for the new.
 * What is no file (a pipe, a terminal) is written to as it is.
 * @throws Error naming the file
 */
export function writeWhole(path: string, content: string | Uint8Array): void {
  const made = `${path}.${randomBytes(6).toString('hex')}`
  try {
    if (lstatSync(path, { throwIfNoEntry: false })?.isFile() === false) return writeFileSync(path, content)
    const fd = openSync(made, 'wx')
    try {
      writeFileSync(fd, content)
      fsyncSync(fd)
    } finally {
      closeSync(fd)
    }
    renameSync(made, path)
    syncFolder(dirname(path))
  } catch (error) {
    rmSync(made, { force: true })
    throw new Error(`${path} was not written: ${(error as Error).message}`)
  }
}

/** New names in a folder are on the disk. */
export function syncFolder(path: string): void {
  const fd = openSync(path, 'r')
  try {
    fsyncSync(fd)
  } finally {
    closeSync(fd)
  }
}
