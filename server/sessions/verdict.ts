// SPDX-License-Identifier: Apache-2.0
/** Verdict from evidence. The judge knows neither the injected fault nor the expected verdict. */

import type { CatalogueEntry, Firing, Verdict } from '../faults/rule.ts'
import type { WorkloadEntry } from '../machine/workload.ts'
import { counted } from '../trace/words.ts'
import type { ConsoleFinding } from './console.ts'

/** What was seen of one session. */
export interface Evidence {
  /** How far the guest came: it did its workload; it was not done at the deadline; the machine ended before. */
  readonly end: 'worked' | 'deadline' | 'ended'
  /** Why the machine ended, or could not be run. */
  readonly problem?: string
  /** The server never saw the machine: that is so of every job where it was tried. */
  readonly unstarted?: true
  /** The machine ended because of what the guest did: it panicked, or powered off. */
  readonly guestEnded: boolean
  readonly console: readonly ConsoleFinding[]
  /** Which processes were in which kernel functions when the workload took long. */
  readonly waits: readonly string[]
  /** I/O results compared with the expected data. */
  readonly checks: readonly WorkloadEntry[]
  /** Hyp warnings that an unmodified driver does not cause. */
  readonly warnings: readonly { readonly code: string; readonly count: number; readonly firstValues: string }[]
  /** Events that the hardware recorded, by name, and its global errors. */
  readonly events: Readonly<Record<string, number>>
  readonly gerrors: number
  readonly guardFaults: number
  /** Number of resets of the guest, and of losses of the server. */
  readonly resets: number
  readonly interruptions: number
  /** Memory that devices could reach, or did write, and must not. */
  readonly isolation: readonly string[]
  /** Why nobody can tell whether there is more of it; absent: it was looked at, or there is none to look at. */
  readonly unjudged?: string
  /** Rules were armed; what they did. */
  readonly armed: boolean
  readonly fired: number
  readonly firings: readonly Fired[]
  readonly traps: number
  /** Of the workload, ms; `waitedMs` of it: others used the processors; `usualMs`: without faults and such waits, on this machine. */
  readonly workloadMs: number
  readonly waitedMs: number
  readonly usualMs?: number
}

/** What is kept of a firing. */
export type Fired = Omit<Firing, 'action'>

/** Without what the control thread was to do about it, which is done. */
export const firedOf = ({ rule, n, trap, time, what }: Firing): Fired => ({ rule, n, trap, time, what })

/** One thing that the evidence says. */
export interface Finding {
  readonly verdict: Verdict
  readonly text: string
}

/** Gravest first: of several, the first one is the verdict. */
export const GRAVITY: readonly Verdict[] = [
  'isolation-violation',
  'harness-error',
  'hyp-warning',
  'guest-panic',
  'guest-oops',
  'guest-hung',
  'driver-timeout',
  'io-error',
  'degraded',
  'recovered',
  'unaffected',
]

/** A workload is degraded when it takes this many times as long, and this much longer in ms. */
const SLOWER = 3
const SLOWER_MS = 3_000

/** Findings in order of gravity; the first one is the verdict. */
export function judge(evidence: Evidence): { readonly verdict: Verdict; readonly findings: readonly Finding[] } {
  const findings = [...find(evidence)].sort((a, b) => GRAVITY.indexOf(a.verdict) - GRAVITY.indexOf(b.verdict))
  return { verdict: findings[0]?.verdict ?? 'unaffected', findings }
}

/** Verdicts that an entry expects. */
export const expectedOf = ({ expect }: CatalogueEntry): readonly Verdict[] =>
  typeof expect === 'string' ? [expect] : expect

/** Without an expectation every verdict is right except `harness-error`. */
export const isExpected = (verdict: Verdict, expected: readonly Verdict[]): boolean =>
  expected.length === 0 ? verdict !== 'harness-error' : expected.includes(verdict)

function* find(evidence: Evidence): Generator<Finding> {
  for (const text of evidence.isolation) yield { verdict: 'isolation-violation', text }
  if (evidence.problem !== undefined && !evidence.guestEnded) yield { verdict: 'harness-error', text: evidence.problem }
  // What was found is found, however much was looked at.
  if (evidence.unjudged !== undefined && evidence.isolation.length === 0) {
    yield { verdict: 'harness-error', text: `isolation was not judged: ${evidence.unjudged}` }
  }
  if (evidence.armed && evidence.fired === 0) {
    yield { verdict: 'harness-error', text: 'no rule fired: the session says nothing about the fault' }
  }
  for (const { code, count, firstValues } of evidence.warnings) {
    yield { verdict: 'hyp-warning', text: `${code}, ${counted(count, 'time')}: ${firstValues}` }
  }
  for (const { verdict, line } of evidence.console) yield { verdict, text: line }
  if (evidence.end === 'deadline') {
    const waits = evidence.waits.length > 0 ? `; before that ${evidence.waits.join(', ')}` : ''
    yield { verdict: 'guest-hung', text: `the workload was not done at the deadline${waits}` }
  }
  if (evidence.guestEnded) yield { verdict: 'guest-panic', text: 'the guest ended before its workload was done' }
  for (const { ok, device, operation, error } of evidence.checks) {
    if (!ok) yield { verdict: 'io-error', text: `${device} ${operation}: ${error ?? 'failed'}` }
  }
  const { workloadMs, waitedMs, usualMs } = evidence
  if (
    evidence.end === 'worked' &&
    usualMs !== undefined &&
    workloadMs - waitedMs > Math.max(SLOWER * usualMs, usualMs + SLOWER_MS)
  ) {
    const waited = waitedMs > 0 ? `, without ${waitedMs} ms of waiting for a processor` : ''
    yield {
      verdict: 'degraded',
      text: `the workload took ${workloadMs - waitedMs} ms instead of ${usualMs} ms${waited}`,
    }
  }
  for (const [name, count] of Object.entries(evidence.events)) {
    if (count > 0) yield { verdict: 'recovered', text: `${counted(count, 'event')} ${name}` }
  }
  if (evidence.gerrors > 0) yield { verdict: 'recovered', text: `${counted(evidence.gerrors, 'change')} of GERROR` }
  if (evidence.guardFaults > 0)
    yield {
      verdict: 'recovered',
      text: `${counted(evidence.guardFaults, 'access', 'accesses')} of guarded memory by vCPUs`,
    }
  if (evidence.resets > 0) yield { verdict: 'recovered', text: `${counted(evidence.resets, 'reset')} of the machine` }
  if (evidence.interruptions > 0)
    yield { verdict: 'recovered', text: `the server was away ${counted(evidence.interruptions, 'time')}` }
}
