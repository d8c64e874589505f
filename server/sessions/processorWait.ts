// SPDX-License-Identifier: Apache-2.0
/** How long threads were ready to run and no processor was free: what a busy host, and not a fault, does to a workload. */
import { readdirSync, readFileSync } from 'node:fs'

/**
 * Since their start, of all threads of these processes that still run, ms; 0 where the kernel does not count it. Threads that wait at the same time count
 * each, so it may be more than the time that went by.
 */
export function processorWaitMs(pids: readonly number[]): number {
  let ns = 0
  for (const pid of pids) {
    for (const thread of threads(pid)) ns += waitOf(`/proc/${pid}/task/${thread}/schedstat`)
  }
  return ns / 1e6
}

function threads(pid: number): string[] {
  try {
    return readdirSync(`/proc/${pid}/task`)
  } catch {
    return []
  }
}

/** @returns ns; 0 for a thread that has ended. The file has three numbers: time on a processor, time of waiting for one, and time slices. */
function waitOf(file: string): number {
  try {
    return Number(readFileSync(file, 'latin1').split(' ')[1] ?? 0)
  } catch {
    return 0
  }
}
