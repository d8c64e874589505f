// SPDX-License-Identifier: Apache-2.0
/** The end of a process that runs jobs for a worker, one at a time: what it is told, and what it tells. */

import type { Work } from './job.ts'
import type { GuestFiles, OwnOptions } from './own.ts'

/** One job. */
export interface Order {
  readonly work: Work
  /** The worker's own. */
  readonly files: GuestFiles
  readonly own: OwnOptions
  /** Where its files go; what is left there is sent to whoever asked for the job. */
  readonly folder: string
}

export type ToProcess = { readonly type: 'run'; readonly order: Order } | { readonly type: 'stop' }
export type FromProcess =
  | { readonly type: 'say'; readonly line: string }
  | { readonly type: 'done'; readonly result: unknown }
  | { readonly type: 'failed'; readonly message: string }

/** What is told of an error, letters. */
const MAX_MESSAGE = 2000
/** A job whose worker is gone has so long to end its machines, ms. */
const ALONE_MS = 30_000

/**
 * Runs one job.
 * @returns its result, as JSON can tell it
 * @throws Error when it could not be run here: nothing is known of the job
 */
export type RunJob = (order: Order, say: (line: string) => void, signal: AbortSignal) => Promise<unknown>

/** Serves the worker that forked this process, until it is gone. */
export function serveJobs(run: RunJob): void {
  const tell = (message: FromProcess) => process.send?.(message)
  let running: AbortController | undefined
  process.once('disconnect', () => {
    if (running === undefined) process.exit(0)
    running.abort(new Error('the worker is gone'))
    setTimeout(() => process.exit(1), ALONE_MS)
  })
  process.on('message', (message: ToProcess) => {
    if (message.type === 'stop') {
      running?.abort(new Error('the worker ends it'))
      return
    }
    const own = new AbortController()
    running = own
    run(message.order, line => tell({ type: 'say', line }), own.signal)
      .then(
        result => tell({ type: 'done', result }),
        (error: Error) => tell({ type: 'failed', message: error.message.slice(0, MAX_MESSAGE) }),
      )
      .finally(() => {
        running = undefined
        if (!process.connected) process.exit(1)
      })
  })
}
