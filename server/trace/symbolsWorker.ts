// SPDX-License-Identifier: Apache-2.0
/** Thread that reads one file's kernel symbols, because that takes as long as thousands of traps. */
import { renameSync, rmSync, writeFileSync } from 'node:fs'
import { constants, setPriority } from 'node:os'
import { parentPort, threadId, workerData } from 'node:worker_threads'
import { symbolFile } from './elf.ts'
import { loadFunctions, loadSymbols } from './symbols.ts'

/** What it is to do. */
export interface SymbolsJob {
  /** Of a file with symbols. */
  readonly path: string
  /** They go into a file for gdb; absent: the functions go to who asked. */
  readonly write?: { readonly to: string; readonly offset: bigint }
}

process.permission?.drop('ffi')
// Of this thread alone: names can wait, traps cannot.
setPriority(constants.priority.PRIORITY_LOW)

const { path, write } = workerData as SymbolsJob
if (write === undefined) {
  const table = loadFunctions(path)
  parentPort?.postMessage(table, [table.addresses.buffer, table.ends.buffer] as ArrayBuffer[])
} else {
  // Somebody may read an earlier one at this moment.
  const made = `${write.to}.${process.pid}-${threadId}`
  try {
    writeFileSync(made, symbolFile(loadSymbols(path), write.offset))
    renameSync(made, write.to)
  } catch (error) {
    rmSync(made, { force: true })
    throw error
  }
  parentPort?.postMessage(null)
}
