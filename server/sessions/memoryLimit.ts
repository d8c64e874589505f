// SPDX-License-Identifier: Apache-2.0
/** Memory limits of the machines of sessions, so that several fit, and one that grows does not end the others. */
import { readFileSync } from 'node:fs'
import { totalmem } from 'node:os'
import { parseSize } from '../machine/scratch.ts'
import { counted, tenths } from '../trace/words.ts'

/** Of one machine besides its RAM, bytes: QEMU, the trap thread, the recording's ring. */
const OVERHEAD = 400 << 20
const LOOK_MS = 500
/** RAM of a session's machine, bytes. */
export const SESSION_RAM = parseSize('1G')
const gib = (bytes: number): string => `${tenths(bytes / 2 ** 30)} GiB`

/** How many machines fit into memory, at least 1. */
export const fittingMachines = (available = availableBytes(), ram = SESSION_RAM): number =>
  Math.max(1, Math.floor(available / (ram + OVERHEAD)))

/**
 * What a machine may have of the memory of this one, of which so many run at a time: the answer stays the same, whatever else runs.
 * @param ram bytes
 * @returns why it is too much; undefined: it is not
 */
export function memoryProblem(ram: number, jobs: number, total = totalmem()): string | undefined {
  if (ram + OVERHEAD <= total / jobs) return undefined
  const each = jobs === 1 ? '' : `, ${gib(total / jobs)} for each of ${jobs} at a time`
  return `a machine with ${gib(ram)} of RAM takes ${gib(ram + OVERHEAD)}; there are ${gib(total)}${each}`
}

/** Checks that the machines fit into memory. @throws Error that says how many would. */
export function checkMemory(jobs: number, available = availableBytes(), ram = SESSION_RAM): void {
  const fit = fittingMachines(available, ram)
  if (jobs > fit) {
    throw new Error(
      `--jobs ${jobs}: there is memory for ${counted(fit, 'machine')} of ${Math.round((ram + OVERHEAD) / 2 ** 20)} MiB each`,
    )
  }
}

/**
 * Looks at what QEMU has allocated for itself, without the guest's RAM, which is a file.
 * @param over called once with what is wrong
 * @returns ends the watch
 */
export function limitMemory(pid: number, over: (problem: string) => void, limit = OVERHEAD): () => void {
  const timer = setInterval(() => {
    const used = privateBytes(pid)
    if (used <= limit) return
    clearInterval(timer)
    over(
      `QEMU allocated ${Math.round(used / 2 ** 20)} MiB besides the guest's RAM; a session has ${Math.round(limit / 2 ** 20)} MiB`,
    )
  }, LOOK_MS)
  timer.unref()
  return () => clearInterval(timer)
}

function availableBytes(): number {
  return field('/proc/meminfo', 'MemAvailable') ?? Number.POSITIVE_INFINITY
}

/** 0 for a process that has ended. */
function privateBytes(pid: number): number {
  try {
    return field(`/proc/${pid}/status`, 'RssAnon') ?? 0
  } catch {
    return 0
  }
}

/** Value of a line in kB of a file in /proc, bytes. */
function field(file: string, name: string): number | undefined {
  const kib = new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(readFileSync(file, 'utf8'))?.[1]
  return kib === undefined ? undefined : Number(kib) * 1024
}
