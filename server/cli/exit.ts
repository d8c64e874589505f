// SPDX-License-Identifier: Apache-2.0

import { inWords } from '../policy/denied.ts'
import { say } from './terminal.ts'

/** Exit codes of the command line. `usage`: what was asked for cannot be, and nothing was done. */
export const EXIT = { ok: 0, failed: 1, usage: 2, interrupted: 130 } as const

/** An option that there is not, of a wrong value, that does not fit another one, or that names what is not there. */
export class UsageError extends Error {}

/** For checks of options that others use as well. @throws UsageError for whatever `check` throws */
export function usage<T>(check: () => T): T {
  try {
    return check()
  } catch (error) {
    throw new UsageError(error instanceof Error ? inWords(error) : String(error))
  }
}

/** A signal that aborts at the first SIGINT, SIGTERM or SIGHUP; `dispose` gives the signals back. */
export function abortOnSignal(): { signal: AbortSignal; dispose: () => void } {
  const controller = new AbortController()
  const names = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const
  const abort = (name: NodeJS.Signals) => controller.abort(new Error(`interrupted by ${name}`))
  for (const name of names) process.on(name, abort)
  return {
    signal: controller.signal,
    dispose: () => {
      for (const name of names) process.off(name, abort)
    },
  }
}

/** Prints one message and sets the exit code. */
export function fail(error: unknown, signal?: AbortSignal): void {
  const interrupted = signal?.aborted === true
  const message = error instanceof Error ? inWords(error) : String(error)
  say(interrupted ? 'interrupted' : message)
  process.exitCode = interrupted ? EXIT.interrupted : error instanceof UsageError ? EXIT.usage : EXIT.failed
}

/** Runs what a command does; a signal aborts it, and an error is told. */
export async function act(work: (signal: AbortSignal) => Promise<void>): Promise<void> {
  const { signal, dispose } = abortOnSignal()
  try {
    await work(signal)
  } catch (error) {
    fail(error, signal)
  } finally {
    dispose()
  }
}
