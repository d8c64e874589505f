// SPDX-License-Identifier: Apache-2.0
/**
 * Texts of rules from elsewhere are read on a thread of their own, one after the other, each within a deadline: whatever is in
 * them, the control thread goes on.
 */
import { once } from 'node:events'
import { readFileSync, statSync } from 'node:fs'
import { Worker } from 'node:worker_threads'
import type { CheckContext } from './check.ts'
import { type Complaint, type FaultFile, FaultFileError, MAX_FILE_BYTES } from './load.ts'

export interface LoadRequest {
  readonly text: string
  readonly file: string
  readonly context: CheckContext
}

export type LoadResult = { readonly loaded: FaultFile } | { readonly complaints: readonly Complaint[] }

/** Of one text, the start of the thread included, ms. */
const DEADLINE_MS = 5_000
const MAX_WAITING = 16
/**
 * Far more than a text of MAX_FILE_BYTES comes to: V8 that reaches the limit ends the thread, or, when the thread is quick,
 * the process.
 */
const LIMITS = { maxOldGenerationSizeMb: 2048, stackSizeMb: 4 }

let worker: Worker | undefined
let last: Promise<unknown> = Promise.resolve()
let waiting = 0

export interface LoadLimits {
  /** Default: DEADLINE_MS. */
  readonly deadlineMs?: number
  /** Nobody waits for it any more. */
  readonly signal?: AbortSignal | undefined
}

/**
 * @param file name for complaints
 * @throws FaultFileError, or what `signal` was aborted with
 */
export async function parseAside(
  text: string,
  file: string,
  context: CheckContext = {},
  limits: LoadLimits = {},
): Promise<FaultFile> {
  if (waiting >= MAX_WAITING) throw complaint(file, `${MAX_WAITING} texts wait to be read: try again`)
  waiting++
  const result = last.then(() => ask({ text, file, context }, limits))
  last = result.catch(() => {})
  try {
    const answer = await result
    if ('complaints' in answer) throw new FaultFileError(answer.complaints)
    return answer.loaded
  } finally {
    waiting--
  }
}

/** @throws FaultFileError, what `signal` was aborted with, or the file system's error in words */
export async function loadAside(path: string, context: CheckContext = {}, signal?: AbortSignal): Promise<FaultFile> {
  const found = statSync(path)
  if (!found.isFile()) throw complaint(path, 'not a regular file')
  const { size } = found
  if (size > MAX_FILE_BYTES) throw complaint(path, `${size} bytes, at most ${MAX_FILE_BYTES}`)
  return parseAside(readFileSync(path, 'utf8'), path, context, { signal })
}

async function ask(request: LoadRequest, { deadlineMs = DEADLINE_MS, signal }: LoadLimits): Promise<LoadResult> {
  signal?.throwIfAborted()
  worker ??= start()
  const mine = worker
  mine.ref()
  const late = AbortSignal.timeout(deadlineMs)
  const over = signal === undefined ? late : AbortSignal.any([late, signal])
  mine.postMessage(request)
  try {
    const [answer] = (await once(mine, 'message', { signal: over })) as [LoadResult]
    return answer
  } catch (error) {
    void mine.terminate()
    if (worker === mine) worker = undefined
    signal?.throwIfAborted()
    const why = late.aborted ? `not read in ${deadlineMs / 1000} s` : (error as Error).message
    throw complaint(request.file, `the text is too much: ${why}`)
  } finally {
    // Between requests it keeps no process alive.
    mine.unref()
  }
}

function start(): Worker {
  const started = new Worker(new URL('./loadWorker.ts', import.meta.url), { resourceLimits: LIMITS })
  started.on('error', () => {
    if (worker === started) worker = undefined
  })
  return started
}

const complaint = (file: string, message: string): FaultFileError =>
  new FaultFileError([{ file, line: 1, column: 1, message }])
