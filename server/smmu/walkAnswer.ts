// SPDX-License-Identifier: Apache-2.0
/** A walk in words: each fetch, and what it came to. */
import { hex } from './bits.ts'
import { describeEvent } from './events.ts'
import type { Outcome } from './transaction.ts'
import type { WalkStep } from './walkSteps.ts'

/** By class: what stage 2 was walked for. */
const PURPOSES = ['context descriptor', 'stage 1 table', 'address']

export interface WalkAnswer {
  readonly outcome: Outcome['kind']
  readonly text: string
  readonly pa: string | null
  /** Bytes that are mapped linearly around it. */
  readonly size: number | null
  readonly permissions: string | null
  readonly bypass: boolean
  /** Whether a fault goes into the event queue. */
  readonly recorded: boolean | null
  readonly steps: readonly {
    readonly what: WalkStep['what']
    readonly address: string
    readonly ipa: string | null
    readonly level: number | null
    readonly purpose: string | null
    readonly words: readonly string[]
    readonly text: string
  }[]
}

const NOTHING = { pa: null, size: null, permissions: null, bypass: false, recorded: null }

export function walkAnswer(outcome: Outcome, steps: readonly WalkStep[]): WalkAnswer {
  return {
    ...describeOutcome(outcome),
    steps: steps.map(step => ({
      what: step.what,
      address: hex(step.address),
      ipa: step.ipa === undefined ? null : hex(step.ipa),
      level: step.level ?? null,
      purpose: step.class === undefined ? null : (PURPOSES[step.class] ?? null),
      words: (step.words ?? []).map(hex),
      text: step.text,
    })),
  }
}

function describeOutcome(outcome: Outcome): Omit<WalkAnswer, 'steps'> {
  switch (outcome.kind) {
    case 'translated': {
      const { pa, shift, read, write, execute, bypass } = outcome
      const permissions = `${read ? 'R' : '-'}${write ? 'W' : '-'}${execute ? 'X' : '-'}`
      const text = bypass ? `bypass to ${hex(pa)}` : `${hex(pa)} ${permissions}`
      return { ...NOTHING, outcome: 'translated', text, pa: hex(pa), size: 2 ** shift, permissions, bypass }
    }
    case 'fault':
      return { ...NOTHING, outcome: 'fault', text: describeEvent(outcome.event), recorded: outcome.record }
    case 'abort':
      return { ...NOTHING, outcome: 'abort', text: 'aborted without an event' }
  }
}

/** The walk up to what a recording does not hold. */
export type UnknownAnswer = Omit<WalkAnswer, 'outcome'> & { readonly outcome: 'unknown' }

/**
 * Of a walk in a recording. @param missing what the recording does not show, and the last step wanted to read
 */
export function shownAnswer(
  outcome: Outcome,
  steps: readonly WalkStep[],
  missing: { readonly address: number; readonly length: number } | undefined,
): WalkAnswer | UnknownAnswer {
  const answer = walkAnswer(outcome, steps)
  if (missing === undefined) return answer
  const shown = answer.steps.map((step, i) =>
    i === steps.length - 1 ? { ...step, text: 'not in the recording' } : step,
  )
  return unknownAnswer(`${missing.length} bytes at ${hex(missing.address)}`, shown)
}

export function unknownAnswer(what: string, steps: WalkAnswer['steps']): UnknownAnswer {
  return { ...NOTHING, outcome: 'unknown', text: `not in the recording: ${what}`, steps }
}

/** Every fetch in a line: what, level, address, IPA, value of a descriptor, meaning; then what it came to. */
export function walkText({ steps, outcome, text }: WalkAnswer | UnknownAnswer): string {
  const lines = steps.map(({ what, level, address, ipa, words, purpose, text }) =>
    [
      what.padEnd(5),
      level === null ? '  ' : `L${level}`,
      address.padEnd(12),
      ipa === null ? '' : `(IPA ${ipa})`,
      words?.length === 1 ? `= ${words[0]}` : '',
      text,
      what === 'S2' && purpose !== null ? `[for the ${purpose}]` : '',
    ]
      .filter(Boolean)
      .join(' '),
  )
  return [...lines, `${outcome}: ${text}`].join('\n')
}
