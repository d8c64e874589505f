// SPDX-License-Identifier: Apache-2.0
import { closeSync, constants, fstatSync, openSync, readFileSync } from 'node:fs'

/**
 * The content of a file that somebody named, or that lies in a folder of theirs: a pipe would be waited for, a device has no end.
 * @param limit bytes
 * @throws Error naming the file when it is not there, no regular file, or longer
 */
export function readRegular(path: string, limit: number): Buffer {
  // O_NONBLOCK: opening a pipe does not wait for who writes to it.
  const fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK)
  try {
    const file = fstatSync(fd)
    if (!file.isFile()) throw new Error(`${path}: not a regular file`)
    if (file.size > limit) throw new Error(`${path}: ${file.size} bytes; at most ${limit} are read`)
    return readFileSync(fd)
  } finally {
    closeSync(fd)
  }
}
