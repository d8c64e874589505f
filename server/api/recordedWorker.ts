// SPDX-License-Identifier: Apache-2.0
/** Thread that reads recordings for the trap log: a block takes as long as thousands of traps. */
import { constants, setPriority } from 'node:os'
import { parentPort } from 'node:worker_threads'
import { type Found, RecordedRows, type Wanted, type Window } from './recordedRows.ts'

process.permission?.drop('ffi')
// Of this thread alone: rows can wait, traps cannot.
setPriority(constants.priority.PRIORITY_LOW)

const rows = new RecordedRows()
parentPort?.on('message', ({ window, wanted }: { readonly window: Window; readonly wanted: Wanted }) => {
  let answer: Found | { readonly error: string }
  try {
    answer = rows.find(window, wanted)
  } catch (error) {
    answer = { error: (error as Error).message }
  }
  parentPort?.postMessage(answer)
})
