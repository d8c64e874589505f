// SPDX-License-Identifier: Apache-2.0
/**
 * An attack in a process of its own, at the lowest priority: it takes from nobody what it computes with, and ends with the process that
 * started it. That says first what to attack; anything that it says later means: stop.
 */
import { constants, setPriority } from 'node:os'
import { type AttackOptions, attack, type Progress } from './attack.ts'

/** Lines of a case in words, and letters of a line, that are handed on. */
const MAX_LINES = 400
const MAX_LETTERS = 400

/** A weakness, in words. */
export interface FoundInWords {
  readonly kind: string
  readonly message: string
  /** Since the start of the attack. */
  readonly seconds: number
  /** Its steps, each with the line that decided it, and the walk that reached the page. */
  readonly lines: readonly string[]
}

export type ProcessMessage =
  | { readonly type: 'found'; readonly found: FoundInWords }
  | { readonly type: 'progress'; readonly progress: Progress }
  | { readonly type: 'done' }
  | { readonly type: 'failed'; readonly message: string }

const short = (text: string): string => (text.length > MAX_LETTERS ? `${text.slice(0, MAX_LETTERS)}…` : text)

// Of this thread, and of those that it starts.
setPriority(constants.priority.PRIORITY_LOW)
const stop = new AbortController()
const say = (message: ProcessMessage) => process.send?.(message)
process.once('disconnect', () => process.exit(1))
process.once('message', (options: AttackOptions) => {
  process.once('message', () => stop.abort())
  attack(
    options,
    ({ found: { kind, message, explanation = [] }, seconds = 0 }) =>
      say({
        type: 'found',
        found: { kind, message: short(message), seconds, lines: explanation.slice(0, MAX_LINES).map(short) },
      }),
    progress => say({ type: 'progress', progress }),
    stop.signal,
  )
    .then(
      () => say({ type: 'done' }),
      (error: Error) => say({ type: 'failed', message: short(error.message) }),
    )
    .finally(() => process.disconnect?.())
})
