// SPDX-License-Identifier: Apache-2.0
/**
 * Entry of the trap thread, started by WorkerHandle (control/workerHandle.ts). It tells of each module that is loaded, also
 * of code that then fails to load: what the control thread watches is what this thread is made of, and no list of folders.
 */
import { registerHooks } from 'node:module'
import { fileURLToPath } from 'node:url'
import { parentPort } from 'node:worker_threads'
import type { ThreadMessage } from './messages.ts'

const MODULES = '/node_modules/'

function tell(url: string): void {
  if (!url.startsWith('file:') || url.includes(MODULES)) return
  parentPort?.postMessage({ event: 'module', args: [fileURLToPath(url)] } satisfies ThreadMessage)
}

/** Where a module is looked for that is not there: it may be about to be saved. */
function missing(specifier: string, parent: string | undefined): string {
  return /^(\.|\/|file:)/.test(specifier) && URL.canParse(specifier, parent) ? new URL(specifier, parent).href : ''
}

tell(import.meta.url)
registerHooks({
  resolve(specifier, context, next) {
    try {
      return next(specifier, context)
    } catch (error) {
      tell(missing(specifier, context.parentURL))
      throw error
    }
  },
  load(url, context, next) {
    tell(url)
    return next(url, context)
  },
})

await import('./serve.ts')
