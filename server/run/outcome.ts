// SPDX-License-Identifier: Apache-2.0
/** How a machine ended. */
import type { SessionEnd } from '../control/session.ts'
import type { GuestEvent } from '../machine/guestEvents.ts'
import type { WorkloadEntry } from '../machine/workload.ts'
import type { Facility } from '../policy/inspect.ts'
import type { RecorderSummary } from '../trace/recorder.ts'
import { counted } from '../trace/words.ts'
import type { Ending } from './ending.ts'
import type { AcpiReport } from './iort.ts'
import { isolationViolation } from './isolation.ts'

/** Message when QEMU ended with an error. */
export function qemuFailure({ qemu: { code, signal }, qemuErrors }: SessionEnd): string | undefined {
  return code === 0 ? undefined : `QEMU ended with ${signal ?? `exit code ${code}`}: ${qemuErrors || 'no message'}`
}

/**
 * The first cause of a failure of the machine; undefined: the guest ended it.
 * @param stopped why it was stopped from here, if it was: errors that follow from that are not reported
 */
export function machineFailure<O extends string = never>(
  end: SessionEnd,
  stopped?: Ending<O>,
): Ending<O | 'isolation-violation' | 'hyp-panic' | 'server-died' | 'qemu-died'> | undefined {
  const violation = isolationViolation(end.sections)
  if (violation !== undefined) return violation
  if (end.panic !== undefined) return { outcome: 'hyp-panic', message: end.panic }
  // A dead server explains why a guest hangs; a stop on request needs no explanation.
  const hung = stopped?.outcome === 'guest-hung'
  if (stopped !== undefined && !hung) return stopped
  if (end.serverError !== undefined) return { outcome: 'server-died', message: end.serverError }
  if (stopped !== undefined) return stopped
  const message = end.qemu.asked ? undefined : qemuFailure(end)
  return message === undefined ? undefined : { outcome: 'qemu-died', message }
}

/**
 * A workload that no policy saw says nothing of that policy.
 * @param facilities of the policy
 * @param streams section of the report: those that it has configured
 */
export function streamlessFailure(
  facilities: readonly Facility[] | undefined,
  streams: unknown,
): Ending<'guest-failed'> | undefined {
  if (!facilities?.includes('strtab') || !Array.isArray(streams) || streams.length > 0) return undefined
  return { outcome: 'guest-failed', message: 'no device of the workload went through the SMMU' }
}

/** What the kernel panicked about, in a line of its console; undefined: any other line. */
export const panicOf = (line: string): string | undefined =>
  /\bKernel panic - not syncing: (.*)/.exec(line)?.[1]?.slice(0, 300)

/**
 * A guest that panicked, whatever came of it: only what ended the machine from outside explains more.
 * @param reason the kernel's words; undefined: it did not panic
 */
export function withPanic<O extends string>(
  failure: Ending<O> | undefined,
  reason: string | undefined,
): Ending<O | 'guest-failed'> | undefined {
  const explained = failure !== undefined && failure.outcome !== 'guest-hung'
  return reason === undefined || explained ? failure : { outcome: 'guest-failed', message: `kernel panic: ${reason}` }
}

/** What came of a command in the guest. @param code undefined: the machine ended first */
export function execFailure(
  events: readonly GuestEvent[],
  code: number | undefined,
): Ending<'guest-failed'> | undefined {
  const failed = (message: string) => ({ outcome: 'guest-failed', message }) as const
  if (code === 0) return undefined
  if (code !== undefined) return failed(`the command ended with exit code ${code}`)
  const step = events.find(({ ok }) => !ok)
  if (step) return failed(`guest step "${step.event}": ${step.error ?? 'failed'}`)
  return failed('the guest ended before the command did')
}

/** A guest that goes by another machine than QEMU described; undefined: none. */
export const acpiFailure = (acpi: AcpiReport | undefined): Ending<'guest-failed'> | undefined =>
  acpi?.problems[0] === undefined ? undefined : { outcome: 'guest-failed', message: `ACPI: ${acpi.problems[0]}` }

/** The first failure of the workload; undefined: none. */
export function workloadFailure(
  events: readonly GuestEvent[],
  entries: readonly WorkloadEntry[],
): Ending<'guest-failed'> | undefined {
  const failed = (message: string) => ({ outcome: 'guest-failed', message }) as const
  const bad = entries.find(({ ok }) => !ok)
  if (bad) return failed(`${bad.device} ${bad.operation}: ${bad.error ?? 'failed'}`)
  const step = events.find(({ ok }) => !ok)
  if (step) return failed(`guest step "${step.event}": ${step.error ?? 'failed'}`)
  if (events.some(({ event }) => event === 'done')) return undefined
  return failed('the guest ended without saying that it was done')
}

/** What a run that asks for its whole recording fails for. @param recording absent: there is none */
export function notRecorded(recording: RecorderSummary | undefined): Ending<'not-recorded'> | undefined {
  const missing = recording === undefined ? undefined : recording.lost + recording.refused
  if (missing === 0) return undefined
  const why = recording?.error === undefined ? '' : `: ${recording.error}`
  const message =
    missing === undefined ? 'nothing was recorded' : `${counted(missing, 'record is', 'records are')} missing${why}`
  return { outcome: 'not-recorded', message }
}
