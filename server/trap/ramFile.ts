// SPDX-License-Identifier: Apache-2.0
import { closeSync, constants, fstatSync, openSync, readlinkSync, realpathSync } from 'node:fs'
import { basename, dirname, join, sep } from 'node:path'
import type { Hello } from '../../protocol/generated/messages.ts'
import { INHERITED_RAM } from '../machine/fileMemory.ts'

/** Why the file that a machine names is not used as its memory. */
export class RamFileRefused extends Error {}

/** A machine's RAM as a file that is open. */
export interface RamFile {
  readonly fd: number
  close(): void
}

/**
 * Finds the file behind all of a machine's RAM, if it is one that this server may use.
 * @param allowed a descriptor: that of a machine which this process started, and which has inherited it, whatever its name.
 * A path: the one file that this server may open, or with a slash at its end the folder of all that it may, for machines that
 * are started elsewhere. Then the name is the peer's: it is opened without following a link, and what was opened is looked at,
 * not what the name stands for now.
 * @returns undefined: RAM has no such file, and is to be reached over the wire
 * @throws RamFileRefused when it is there, and cannot be what it is said to be
 */
export function openRamFile(ram: Hello['ram'], allowed: number | string, access: 'r' | 'r+'): RamFile | undefined {
  const path = ram[0]?.path
  if (!path || ram.some(range => range.path !== path)) return undefined
  if (typeof allowed === 'number') {
    if (path !== INHERITED_RAM) return undefined
    const fault = sizeFault(allowed, ram)
    if (fault !== undefined) throw new RamFileRefused(`guest RAM: ${fault}`)
    // It belongs to whoever started the machine.
    return { fd: allowed, close() {} }
  }
  if (!isAllowed(path, allowed)) return undefined
  const mode = access === 'r' ? constants.O_RDONLY : constants.O_RDWR
  let fd: number
  try {
    // O_NONBLOCK: a FIFO of that name does not hold up the thread.
    fd = openSync(path, mode | constants.O_NOFOLLOW | constants.O_NONBLOCK)
  } catch (error) {
    throw new RamFileRefused(`guest RAM ${path}: ${(error as Error).message}`)
  }
  try {
    const fault = fileFault(fd, path, ram)
    if (fault !== undefined) throw new RamFileRefused(`guest RAM ${path}: ${fault}`)
    return { fd, close: () => closeSync(fd) }
  } catch (error) {
    closeSync(fd)
    throw error
  }
}

function fileFault(fd: number, path: string, ram: Hello['ram']): string | undefined {
  if (!fstatSync(fd).isFile()) return 'not a regular file'
  // Where the kernel found it: a folder on the way may have become a link since it was looked at.
  if (readlinkSync(`/proc/self/fd/${fd}`) !== canonical(path)) return 'there is a link on the way to it'
  return sizeFault(fd, ram)
}

function sizeFault(fd: number, ram: Hello['ram']): string | undefined {
  const { size: bytes } = fstatSync(fd)
  // Offsets have 53 bits; a sum that is beyond them is still beyond any file.
  const needed = Math.max(...ram.map(({ offset, size }) => offset + size))
  if (bytes < needed) return `it has ${bytes} bytes, the machine's RAM needs ${needed}`
  return undefined
}

/** The path without links in its folders; its own name as it is. */
const canonical = (path: string): string => join(realpathSync(dirname(path)), basename(path))

function isAllowed(path: string, allowed: string): boolean {
  if (path === allowed) return true
  if (!allowed.endsWith(sep)) return false
  try {
    return `${dirname(canonical(path))}${sep}`.startsWith(realpathSync(allowed) + sep)
  } catch {
    return false
  }
}
