// SPDX-License-Identifier: Apache-2.0
import { accessSync, constants, mkdirSync, mkdtempSync, readdirSync, rmSync, statfsSync } from 'node:fs'
import { homedir, tmpdir } from 'node:os'
import { join } from 'node:path'

const PREFIX = 'smmu-cosim-'
const KEPT_RUNS = 50

/** Where the files of finished runs are kept: console logs, recordings, reports. */
export function runsFolder(): string {
  const state = process.env.XDG_STATE_HOME || join(homedir(), '.local', 'state')
  return join(state, 'smmu-cosim', 'runs')
}

/** A new folder for what one run leaves behind; the oldest folders beyond the newest 50 are removed. */
export function newRunFolder(): string {
  const runs = runsFolder()
  mkdirSync(runs, { recursive: true })
  const stamp = new Date().toISOString().replace(/[:.]/g, '-')
  const folder = mkdtempSync(join(runs, `${stamp}-`))
  const all = readdirSync(runs).sort()
  for (const old of all.slice(0, Math.max(0, all.length - KEPT_RUNS)))
    rmSync(join(runs, old), { recursive: true, force: true })
  return folder
}

const isAlive = (pid: number): boolean => {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}

/** Removes what processes that were killed without a chance to clean up left in `parent`. */
function sweep(parent: string): void {
  for (const name of readdirSync(parent)) {
    const pid = Number(new RegExp(`^${PREFIX}(\\d+)-`).exec(name)?.[1])
    if (pid && !isAlive(pid)) {
      try {
        rmSync(join(parent, name), { recursive: true, force: true })
      } catch {} // another user's
    }
  }
}

/** A new folder in `parent` whose name has this process in it; removed by others once that has been killed. */
export function privateFolder(parent: string, label = ''): string {
  sweep(parent)
  return mkdtempSync(join(parent, `${PREFIX}${process.pid}-${label}`))
}

/** Private folders of one running machine, gone when it ends: `sockets` (also disks) and `ram` (memory-backed). */
export class Scratch {
  readonly sockets: string
  readonly ram: string
  readonly #onExit = () => this.remove()

  /**
   * @param ramBytes guest RAM that has to fit.
   * @param ramParent memory-backed folder for it.
   * @throws Error when `ramParent` cannot hold the RAM.
   */
  constructor(ramBytes: number, ramParent = '/dev/shm') {
    for (const parent of [tmpdir(), ramParent]) {
      try {
        accessSync(parent, constants.W_OK)
      } catch {
        throw new Error(`${parent}: no such folder, or not writable`)
      }
      sweep(parent)
    }
    const { bavail, bsize } = statfsSync(ramParent)
    if (bavail * bsize < ramBytes) {
      const mib = (bytes: number) => `${Math.floor(bytes / 2 ** 20)} MiB`
      throw new Error(
        `${ramParent} has ${mib(bavail * bsize)} free, guest RAM needs ${mib(ramBytes)}: choose a smaller --memory or another --ram-dir`,
      )
    }
    const name = `${PREFIX}${process.pid}-`
    this.sockets = mkdtempSync(join(tmpdir(), name))
    this.ram = mkdtempSync(join(ramParent, name))
    process.on('exit', this.#onExit)
  }

  remove(): void {
    process.off('exit', this.#onExit)
    for (const folder of [this.sockets, this.ram]) rmSync(folder, { recursive: true, force: true })
  }
}

/** Bytes of a size in QEMU's notation (`512M`, `2G`; a bare number is MiB). @throws Error naming what was expected. */
export function parseSize(text: string): number {
  const match = /^(\d+)([KMGT]?)(?:i?B)?$/i.exec(text)
  const unit = { K: 2 ** 10, M: 2 ** 20, G: 2 ** 30, T: 2 ** 40 }[match?.[2]?.toUpperCase() || 'M']
  const bytes = Number(match?.[1]) * (unit ?? Number.NaN)
  if (!Number.isSafeInteger(bytes) || bytes === 0) throw new Error(`"${text}" is not a size such as 512M or 2G`)
  return bytes
}
