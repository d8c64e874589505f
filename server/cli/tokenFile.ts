// SPDX-License-Identifier: Apache-2.0
import { closeSync, fstatSync, openSync, readSync } from 'node:fs'
import { checkToken } from '../api/security.ts'

const MAX_BYTES = 1024

/**
 * A secret from a file: what stands in the environment or on a command line is seen by more than who may know it.
 * @param option names the file
 * @throws Error when it cannot be read, others can read it, or it is not one line
 */
export function readSecret(option: string, file: string): string {
  const name = `${option} ${file}`
  const buffer = Buffer.alloc(MAX_BYTES + 1)
  let length: number
  try {
    const fd = openSync(file, 'r')
    try {
      const stat = fstatSync(fd)
      if (!stat.isFile()) throw new Error('not a regular file')
      if ((stat.mode & 0o077) !== 0) throw new Error('others can read or write it (chmod 600)')
      length = readSync(fd, buffer, 0, buffer.length, 0)
    } finally {
      closeSync(fd)
    }
  } catch (error) {
    throw new Error(`${name}: ${(error as Error).message}`)
  }
  // QEMU leaves out the end of the line, too.
  const secret = buffer.toString('latin1', 0, length).replace(/[\r\n]+$/, '')
  if (length > MAX_BYTES || !/^[\x21-\x7e]*$/.test(secret)) throw new Error(`${name}: expected one line without spaces`)
  return secret
}

/**
 * The token that QEMU and a server on the network have to know. QEMU reads the same file.
 * @throws as `readSecret`, and Error when it is too short to be a secret
 */
export function readToken(file: string): Buffer {
  const token = readSecret('--token-file', file)
  checkToken(`--token-file ${file}`, token)
  return Buffer.from(token, 'latin1')
}
