// SPDX-License-Identifier: Apache-2.0
import { execFile } from 'node:child_process'
import { accessSync, constants, fstatSync, readFileSync, statfsSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname } from 'node:path'
import { promisify } from 'node:util'
import { LockedFolder, sweep } from './lockedFolder.ts'

/** Of folders that are swept: whatever has a name that begins so was made here. The process is for people to see. */
const PREFIX = 'smmu-cosim.'
const OWN = `${PREFIX}${process.pid}-`

/** A new folder in `parent` that nobody else can read; if this process ends without removing it, others do. */
export function ownFolder(parent: string, label = ''): LockedFolder {
  sweep(parent, PREFIX)
  return LockedFolder.make(parent, `${OWN}${label}`)
}

/** The same, held until the process ends. */
export const privateFolder = (parent: string, label = ''): string => ownFolder(parent, label).path

/** Private folders of one running machine, gone when it ends: `sockets` (also disks) and `ram` (memory-backed). */
export class Scratch {
  readonly sockets: string
  readonly ram: string
  readonly #folders: readonly LockedFolder[]
  readonly #onExit = () => this.remove()

  /**
   * @param ramParent memory-backed folder for guest RAM
   * @throws Error when it cannot be written to
   */
  constructor(ramParent = '/dev/shm') {
    for (const parent of [tmpdir(), ramParent]) {
      try {
        accessSync(parent, constants.W_OK)
      } catch {
        throw new Error(`${parent}: no such folder, or not writable`)
      }
    }
    const [sockets, ram] = [ownFolder(tmpdir()), ownFolder(ramParent)]
    this.sockets = sockets.path
    this.ram = ram.path
    this.#folders = [sockets, ram]
    process.on('exit', this.#onExit)
  }

  remove(): void {
    process.off('exit', this.#onExit)
    for (const folder of this.#folders) folder.remove()
  }
}

/** Of statfs: files are kept in memory. */
const TMPFS_MAGIC = 0x0102_1994

/**
 * Makes a file that large, and takes the room for it (posix_fallocate(3)): what a guest writes to its RAM later cannot fail
 * for lack of room.
 * @throws Error when there is not so much
 */
export async function reserve(path: string, bytes: number): Promise<void> {
  const folder = dirname(path)
  const { bavail, bsize, type } = statfsSync(folder)
  const needed = Math.max(0, bytes - taken(statSync(path)))
  const hint = `${RAM_HINT} or another --ram-dir`
  const free = bavail * bsize
  if (free < needed) throw new Error(`${dirname(folder)} has ${mib(free)} free, guest RAM needs ${mib(bytes)}: ${hint}`)
  // A file system in memory may be larger than memory: the kernel would end processes to make room.
  if (type === TMPFS_MAGIC) checkMemory(needed, bytes, hint)
  await allocate(path, bytes, dirname(folder), hint)
}

/** The same for a file in memory that has no name, and nothing in it that counts. @throws Error when there is not so much */
export async function reserveMemory(fd: number, bytes: number): Promise<void> {
  checkRoom(fd, bytes)
  await allocate(ofThisProcess(fd), bytes, 'memory', RAM_HINT)
}

/** Whether that is possible, as far as can be said without doing it. @throws Error when there is not so much */
export function checkRoom(fd: number, bytes: number): void {
  checkMemory(Math.max(0, bytes - taken(fstatSync(fd))), bytes, RAM_HINT)
}

/** A name by which other programs open what is open here. */
export const ofThisProcess = (fd: number): string => `/proc/${process.pid}/fd/${fd}`

/** Bytes that a file has of its file system: holes have none. */
const taken = ({ blocks }: { readonly blocks: number }): number => blocks * 512

const RAM_HINT = 'choose a smaller --memory'
const mib = (value: number) => `${Math.floor(value / 2 ** 20)} MiB`

function checkMemory(needed: number, bytes: number, hint: string): void {
  const available = availableMemory()
  if (available >= needed) return
  throw new Error(`this machine has ${mib(available)} of memory available, guest RAM needs ${mib(bytes)}: ${hint}`)
}

async function allocate(path: string, bytes: number, where: string, hint: string): Promise<void> {
  try {
    await promisify(execFile)('fallocate', ['--posix', '--length', String(bytes), path])
  } catch (error) {
    const { stderr = '', message } = error as Error & { readonly stderr?: string }
    const why = stderr.trim() || message
    throw new Error(`there is no room for guest RAM in ${where}: ${why}; it needs ${mib(bytes)}: ${hint}`)
  }
}

/** Bytes of memory that can be had without ending anything. */
function availableMemory(): number {
  const info = readFileSync('/proc/meminfo', 'utf8')
  const kib = (name: string) => Number(new RegExp(`^${name}: +(\\d+) kB$`, 'm').exec(info)?.[1] ?? 0)
  return (kib('MemAvailable') + kib('SwapFree')) * 1024
}

/** Bytes of a size in QEMU's notation (`512M`, `2G`; a bare number is MiB). @throws Error naming what was expected. */
export function parseSize(text: string): number {
  const match = /^(\d+)([KMGT]?)(?:i?B)?$/i.exec(text)
  const unit = { K: 2 ** 10, M: 2 ** 20, G: 2 ** 30, T: 2 ** 40 }[match?.[2]?.toUpperCase() || 'M']
  const bytes = Number(match?.[1]) * (unit ?? Number.NaN)
  if (!Number.isSafeInteger(bytes) || bytes === 0) throw new Error(`"${text}" is not a size such as 512M or 2G`)
  return bytes
}
