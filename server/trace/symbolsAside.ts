// SPDX-License-Identifier: Apache-2.0
/** Symbols read on another thread, because that takes as long as thousands of traps. */
import { Worker } from 'node:worker_threads'
import type { FunctionTable } from './symbols.ts'
import type { SymbolsJob } from './symbolsWorker.ts'

function aside<T>(job: SymbolsJob): Promise<T> {
  return new Promise((resolve, reject) => {
    const worker = new Worker(new URL('./symbolsWorker.ts', import.meta.url), { workerData: job })
    worker.once('message', resolve)
    worker.once('error', reject)
    worker.unref()
  })
}

/** As loadFunctions. */
export const loadAside = (path: string): Promise<FunctionTable> => aside({ path })

/**
 * Writes a file for gdb's symbol-file.
 * @param path of the symbols
 * @param offset of the running kernel, bytes
 * @throws Error when there are none, or the file cannot be written
 */
export const writeSymbolFileAside = (path: string, to: string, offset: bigint): Promise<void> =>
  aside({ path, write: { to, offset } })
