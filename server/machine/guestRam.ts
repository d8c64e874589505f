// SPDX-License-Identifier: Apache-2.0
/** The file of guest RAM: how it is made, filled with what was saved, and used again. */
import { execFile } from 'node:child_process'
import { closeSync, ftruncateSync, openSync, readSync, rmSync, writeSync } from 'node:fs'
import { promisify } from 'node:util'
import { checkRoom, ofThisProcess, reserve, reserveMemory } from './scratch.ts'
import { dataRuns, type Mapping, map, memoryFile, type Run, sealSize, unmap } from './sharedMemory.ts'

/** Bytes that are copied at a time. */
const PIECE = 1 << 20

export class GuestRam {
  readonly fd: number
  /** Bytes. */
  readonly size: number
  /** Where this process has it; undefined: it is read and written by system calls. */
  readonly mapping: Mapping | undefined
  /** Its name, for a QEMU that another process starts; undefined: it has none. */
  readonly path: string | undefined

  private constructor(fd: number, size: number, mapping: Mapping | undefined, path: string | undefined) {
    this.fd = fd
    this.size = size
    this.mapping = mapping
    this.path = path
  }

  /**
   * Without a name, sealed and mapped.
   * @param saved a file that it begins as; default: zeros
   * @throws Error
   */
  static async inMemory(size: number, saved?: string): Promise<GuestRam> {
    const fd = memoryFile('guest RAM')
    try {
      if (saved !== undefined) await copySparse(saved, ofThisProcess(fd))
      // What is too much is said before its mapping fails.
      checkRoom(fd, size)
      ftruncateSync(fd, size)
      sealSize(fd)
      return new GuestRam(fd, size, map(fd, size), undefined)
    } catch (error) {
      closeSync(fd)
      throw error
    }
  }

  /** A new file, in a folder that is kept in memory. @throws Error */
  static async atPath(path: string, size: number, saved?: string): Promise<GuestRam> {
    const fd = openSync(path, 'wx+', 0o600)
    try {
      if (saved !== undefined) await copySparse(saved, path)
      return new GuestRam(fd, size, undefined, path)
    } catch (error) {
      closeSync(fd)
      throw error
    }
  }

  /** Takes the room for all of it. @throws Error when there is not so much */
  async reserve(): Promise<void> {
    if (this.path === undefined) await reserveMemory(this.fd, this.size)
    else await reserve(this.path, this.size)
  }

  /** Nobody else finds it by its name any more. */
  hide(): void {
    if (this.path !== undefined) rmSync(this.path, { force: true })
  }

  /** As it was made: what was saved, and zeros. What it has of memory it keeps. @throws Error where there is no shared memory */
  refill(saved?: string): void {
    const buffer = Buffer.alloc(PIECE)
    const fill = saved === undefined ? [] : this.#copy(saved, buffer)
    buffer.fill(0)
    for (const { start, end } of without(dataRuns(this.fd), fill)) {
      for (let at = start; at < end; at += PIECE) this.#write(buffer, Math.min(PIECE, end - at), at)
    }
  }

  /** @returns where the file has data, which is here now */
  #copy(saved: string, buffer: Buffer): readonly Run[] {
    const from = openSync(saved, 'r')
    try {
      const runs = dataRuns(from)
      for (const { start, end } of runs) {
        if (end > this.size) throw new Error(`${saved}: it has more than the ${this.size} bytes of the machine's RAM`)
        for (let at = start; at < end; ) {
          const count = readSync(from, buffer, 0, Math.min(PIECE, end - at), at)
          if (count === 0) throw new Error(`${saved}: it ends too early`)
          this.#write(buffer, count, at)
          at += count
        }
      }
      return runs
    } finally {
      closeSync(from)
    }
  }

  #write(bytes: Buffer, count: number, at: number): void {
    for (let done = 0; done < count; ) done += writeSync(this.fd, bytes, done, count - done, at + done)
  }

  /** Nobody may look at it any more. */
  close(): void {
    if (this.mapping !== undefined) unmap(this.mapping)
    closeSync(this.fd)
  }
}

/**
 * RAM of machines that have ended, for the next ones: to take a GiB from the kernel and to give it back costs more than half a second
 * of processor time.
 */
export class RamPool {
  readonly #free: GuestRam[] = []
  #closed = false

  /** RAM of that size as it was made with `saved`; undefined: there is none. */
  take(size: number, saved: string | undefined): GuestRam | undefined {
    const index = this.#free.findIndex(ram => ram.size === size)
    if (index < 0) return undefined
    const [ram] = this.#free.splice(index, 1)
    try {
      ram.refill(saved)
      return ram
    } catch (error) {
      ram.close()
      throw error
    }
  }

  /** @param ram no process has it any more but this one, which does not look at it */
  give(ram: GuestRam): void {
    if (this.#closed || ram.mapping === undefined) ram.close()
    else this.#free.push(ram)
  }

  close(): void {
    this.#closed = true
    for (const ram of this.#free.splice(0)) ram.close()
  }
}

/** What was never touched stays a hole. */
export async function copySparse(from: string, to: string): Promise<void> {
  await promisify(execFile)('cp', ['--sparse=always', '--', from, to])
}

/** The parts of `runs` that are not in `others`; both are ascending and do not overlap. */
export function without(runs: readonly Run[], others: readonly Run[]): Run[] {
  const left: Run[] = []
  let other = 0
  for (const { start, end } of runs) {
    let at = start
    while (other < others.length && others[other].end <= at) other++
    for (let i = other; i < others.length && others[i].start < end; i++) {
      if (others[i].start > at) left.push({ start: at, end: others[i].start })
      at = Math.max(at, others[i].end)
    }
    if (at < end) left.push({ start: at, end })
  }
  return left
}
