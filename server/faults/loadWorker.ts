// SPDX-License-Identifier: Apache-2.0
/** Reads texts of rules on a thread of its own, which may be ended at any time (loadAside.ts). */
import { parentPort } from 'node:worker_threads'
import { FaultFileError, parseFile } from './load.ts'
import type { LoadRequest, LoadResult } from './loadAside.ts'

process.permission?.drop('ffi')

const answer = ({ text, file, context }: LoadRequest): LoadResult => {
  try {
    return { loaded: parseFile(text, file, context) }
  } catch (error) {
    if (error instanceof FaultFileError) return { complaints: error.complaints }
    throw error
  }
}

parentPort?.on('message', (request: LoadRequest) => parentPort?.postMessage(answer(request)))
