// SPDX-License-Identifier: Apache-2.0
/** Thread that reads one file's kernel functions, because that takes as long as thousands of traps. */
import { constants, setPriority } from 'node:os'
import { parentPort, workerData } from 'node:worker_threads'
import { loadFunctions } from './symbols.ts'

process.permission?.drop('ffi')
// Of this thread alone: names can wait, traps cannot.
setPriority(constants.priority.PRIORITY_LOW)

const table = loadFunctions((workerData as { readonly path: string }).path)
parentPort?.postMessage(table, [table.addresses.buffer, table.ends.buffer] as ArrayBuffer[])
