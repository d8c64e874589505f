// SPDX-License-Identifier: Apache-2.0
/** One session: a machine, rules, the workload, and what was seen of it. */

import { mkdirSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { FaultController } from '../control/faultController.ts'
import { inTime } from '../control/inTime.ts'
import type { Session, SessionEnd } from '../control/session.ts'
import type { FaultStatus } from '../faults/injector.ts'
import type { CatalogueEntry, Verdict } from '../faults/rule.ts'
import { type GuestEvent, GuestEvents, MAX_GUEST_EVENTS } from '../machine/guestEvents.ts'
import type { SeriesStep } from '../policy/policy.ts'
import { NO_WARNINGS } from '../policy/warnings.ts'
import { AttackTable, reached } from '../run/attackTable.ts'
import { whyUnjudged } from '../run/isolation.ts'
import { qemuFailure } from '../run/outcome.ts'
import { eventName } from '../smmu/events.ts'
import type { WarningSummary } from '../trap/reporter.ts'
import { AgentMachine, type JobMachine, type Prepared } from './agentMachine.ts'
import { addFinding, type ConsoleFinding } from './console.ts'
import { deadlineMs, startDeadline } from './deadline.ts'
import { limitMemory } from './memoryLimit.ts'
import { ProcessorWait } from './processorWait.ts'
import type { Snapshot } from './snapshot.ts'
import { Timeline, type TimelineEntry } from './timeline.ts'
import { type Evidence, expectedOf, type Finding, type Fired, firedOf, isExpected, judge } from './verdict.ts'
import { violationsOf } from './violations.ts'

/** Time after a panic or the end of the workload in which consequences may still show. */
const SETTLE_MS = 300
/** Devices go on for a while after the guest has panicked. */
const PANIC_MS = 2_000
/** Each question about a machine that stands still, where nobody else uses the processors, ms. */
const AUDIT_MS = 10_000
const MAX_LINES = 50
const CONSOLE_TAIL = 60
/** Of a problem, or an entry of the time line, letters. */
const MAX_TEXT = 2000
/** Entries of a time line that may come again and again; those that come a few times at most are always there. */
const MAX_NOTES = 500

/** One session to run. The same job on the same snapshot does the same until its first fault. */
export interface Job {
  readonly entry: CatalogueEntry
  readonly seed: number
  readonly kernel: string
  readonly until: SeriesStep
  readonly machine?: JobMachine
}

/** Result of a job. */
export interface SessionResult {
  readonly verdict: Verdict
  /** The verdict is one of those that the entry expects; when it expects none, any but `harness-error`. */
  readonly asExpected: boolean
  readonly findings: readonly Finding[]
  readonly evidence: Evidence
  readonly timeline: readonly TimelineEntry[]
  /** Excerpts, in lines. */
  readonly console: readonly string[]
  readonly trace: readonly string[]
  /** What the guest did until the first fault: number of accesses, and their digest. */
  readonly before: { readonly accesses: number; readonly digest: string }
  /** Of the session, start and end of the machine included, ms. */
  readonly ms: number
  readonly folder: string
}

/** Entries whose faults act during boot, or on a device that no snapshot has, boot from the beginning. */
export function bootsFresh({ session, rules }: CatalogueEntry): boolean {
  return (
    session?.boot === 'fresh' ||
    session?.el2 !== undefined ||
    rules.some(({ where, what }) => [where, what].some(part => 'sid' in part && part.sid === 'nvme'))
  )
}

/** Shorter prefixes of the series have no stage 2, and so no isolation to violate. */
const isolates = ({ until }: Job): boolean => until === 'nested'

/**
 * Runs one session.
 * @param over called when the guest has done its work, or will not do it any more: from then on the machine is only looked at
 * @throws Error only when `signal` aborts; all else is a verdict.
 */
export async function runSession(
  job: Job,
  prepared: Prepared,
  snapshot: Snapshot | undefined,
  folder: string,
  signal: AbortSignal,
  over: () => void = () => {},
): Promise<SessionResult> {
  mkdirSync(folder, { recursive: true })
  const watch = new Watch()
  let evidence: Evidence
  try {
    evidence = await observe(job, prepared, snapshot, folder, signal, watch, over)
  } catch (error) {
    signal.throwIfAborted()
    const problem = (error as Error).message.slice(0, MAX_TEXT)
    evidence = { ...watch.evidence('ended', job, snapshot), problem, ...(!watch.started && { unstarted: true }) }
  }
  const { verdict, findings } = judge(evidence)
  return {
    verdict,
    asExpected: isExpected(verdict, expectedOf(job.entry)),
    findings,
    evidence,
    timeline: watch.entries,
    console: watch.lines,
    trace: watch.timeline?.excerpt() ?? [],
    before: { accesses: watch.timeline?.accesses ?? 0, digest: watch.timeline?.digest() ?? '' },
    ms: watch.ms(),
    folder,
  }
}

/** Collects the evidence. */
export class Watch {
  readonly #start = performance.now()
  readonly entries: TimelineEntry[] = []
  readonly lines: string[] = []
  readonly console: ConsoleFinding[] = []
  readonly firings: Fired[] = []
  #some = 0
  fired = 0
  resets = 0
  interruptions = 0
  timeline: Timeline | undefined
  machine: AgentMachine | undefined
  sections: Readonly<Record<string, unknown>> = {}
  /** Why the oracle did not look at the machine as it stood; undefined: it did, or was not asked. */
  unanswered: string | undefined
  readonly attackTable = new AttackTable()
  readonly guestEvents = new GuestEvents()
  readonly waits: string[] = []
  status: FaultStatus | undefined

  /** The server has seen the machine. */
  get started(): boolean {
    return this.machine?.session.hello !== undefined
  }

  ms(): number {
    return Math.round(performance.now() - this.#start)
  }

  note(text: string): void {
    this.entries.push({ ms: this.ms(), text: text.slice(0, MAX_TEXT) })
  }

  /** Of what a guest may cause without end. */
  noteSome(text: string): void {
    if (this.#some++ < MAX_NOTES) this.note(text)
  }

  line(line: string): void {
    this.lines.push(line.slice(0, 300))
    if (this.lines.length > CONSOLE_TAIL) this.lines.shift()
    const finding = addFinding(this.console, line, MAX_LINES)
    if (finding !== undefined) this.noteSome(`console: ${finding.line}`)
  }

  /** Where a process of a slow guest is in its kernel. */
  wait({ name = '', calls }: GuestEvent): void {
    const text = `${name.trim()} in ${typeof calls === 'string' ? calls : 'unknown functions'}`.slice(0, 300)
    if (this.waits.length < MAX_LINES) this.waits.push(text)
    this.noteSome(`guest: ${text}`)
  }

  /** What devices reached, or a protected VM's host, and where EL2's tables and the SMMU's do not agree. */
  #isolation(): string[] {
    const report = this.attackTable.report(this.guestEvents.all, true)
    return [...violationsOf(this.sections), ...reached(report), ...(this.timeline?.isolation ?? [])]
  }

  /** Why nobody can tell whether devices were kept out. */
  unjudged({ entry }: Job): string | undefined {
    return this.unanswered ?? whyUnjudged(this.sections, entry.session?.el2 !== undefined)
  }

  evidence(end: Evidence['end'], job: Job, snapshot: Snapshot | undefined): Evidence {
    const { machine, sections } = this
    const counters = machine?.session.counters
    const warnings = (sections.warnings ?? []) as readonly WarningSummary[]
    const faults = (sections.guardFaults ?? { total: 0 }) as { readonly total: number }
    const events: Record<string, number> = {}
    for (const { id, count } of counters?.events() ?? []) events[eventName(id)] = count
    return {
      end,
      guestEnded: false,
      console: this.console,
      waits: this.waits,
      checks: end === 'ended' ? [] : (machine?.checks() ?? []),
      warnings: warnings.filter(({ expected }) => !expected),
      events,
      gerrors: counters?.get('gerrors') ?? 0,
      guardFaults: faults.total,
      resets: this.resets,
      interruptions: this.interruptions,
      isolation: isolates(job) ? this.#isolation() : [],
      armed: job.entry.rules.length > 0,
      fired: Math.max(this.fired, this.status?.rules.reduce((sum, { fired }) => sum + fired, 0) ?? 0),
      firings: this.firings,
      traps: counters?.traps().total ?? 0,
      workloadMs: machine?.workloadMs ?? 0,
      waitedMs: machine?.waitedMs ?? 0,
      ...(snapshot && { usualMs: snapshot.usualMs }),
    }
  }
}

async function observe(
  job: Job,
  prepared: Prepared,
  snapshot: Snapshot | undefined,
  folder: string,
  signal: AbortSignal,
  watch: Watch,
  done: () => void,
): Promise<Evidence> {
  const { entry, seed } = job
  const options = entry.session ?? {}
  const machine = await AgentMachine.start(
    prepared,
    `session-${seed}`,
    folder,
    {
      faults: { rules: entry.rules, seed },
      ...(options.translate && { translate: options.translate }),
      ...(options.reconnect && { reconnect: options.reconnect }),
      ...(options.storm && { storm: options.storm }),
    },
    snapshot,
  )
  watch.machine = machine
  const { session } = machine
  const over = Promise.withResolvers<Evidence['end']>()
  const waiting = waitOf(session)
  const endDeadline = startDeadline(
    deadlineMs(entry, snapshot === undefined),
    () => waiting.ms(),
    () => over.resolve('deadline'),
  )
  const abort = () => over.reject(signal.reason)
  signal.addEventListener('abort', abort, { once: true })
  let ended: SessionEnd | undefined
  let stopped = false
  session.once('panic', () => {
    stopped = true
  })
  let tooLarge: string | undefined
  const unlimit = limitMemory(session.qemu.child.pid ?? 0, text => {
    tooLarge = text
    over.resolve('deadline')
  })
  try {
    signal.throwIfAborted()
    const controller = FaultController.of(session)
    controller.watch(entry.rules)
    const device = (smmu: number, sid: number) =>
      session.hello?.devices.find(d => d.smmu === smmu && d.sid === sid)?.name ?? `stream ${sid}`
    const timeline = new Timeline(device, () => session.thread?.policy?.warnings ?? NO_WARNINGS)
    watch.timeline = timeline
    session.pump?.add(timeline)
    session.pump?.add(watch.attackTable)
    session.thread?.on('fired', firing => {
      watch.fired++
      if (watch.firings.length < MAX_LINES) watch.firings.push(firedOf(firing))
      watch.noteSome(`fault: rule ${firing.rule}, ${firing.n}: ${firing.what}`)
    })
    session.on('reset', cause => {
      // The first reset of a booting machine is that of its start.
      if (snapshot !== undefined || machine.readies > 0) watch.resets++
      watch.noteSome(`reset, cause ${cause}`)
    })
    session.on('interrupted', message => {
      watch.interruptions++
      watch.noteSome(`the server is away: ${message}`)
    })
    session.console.on('line', line => {
      watch.line(line)
      if (watch.console.at(-1)?.verdict === 'guest-panic') setTimeout(() => over.resolve('deadline'), PANIC_MS)
      const event = machine.take(line)
      if (event === undefined) return
      if (!watch.guestEvents.add(event) && watch.guestEvents.dropped === 1)
        watch.note(`guest: more than ${MAX_GUEST_EVENTS} events; attacks in those that follow are not looked at`)
      if (machine.droppedEvents === 1)
        watch.note(`guest: more than ${MAX_GUEST_EVENTS} events of one workload; it is judged by the first`)
      if (event.event === 'waits') watch.wait(event)
      else if (event.event !== 'iommu')
        watch.noteSome(`guest: ${event.event} ${event.name ?? ''} ${event.ok ? 'ok' : `failed: ${event.error}`}`)
      if (event.event === 'ready') machine.tell()
      if (event.event === 'worked') over.resolve('worked')
    })
    session.ended.then(
      end => {
        ended = end
        over.resolve('ended')
      },
      error => over.reject(error),
    )
    if (session.hello !== undefined) timeline.machine(session.hello)
    else session.once('connected', hello => timeline.machine(hello))
    if (snapshot !== undefined) machine.tell()
    const end = await over.promise
    endDeadline()
    done()
    watch.note(end === 'worked' ? 'workload done' : end === 'deadline' ? 'ended from outside' : 'the machine ended')
    if (end !== 'ended') {
      await sleep(SETTLE_MS)
      await inspect(machine, watch)
      // What was found ends the machine, and its report tells it, whether or not the last question was answered.
      if (stopped) await session.ended
    }
    // It stopped itself, or is gone: what it told then is what there is.
    if (ended !== undefined && (ended.panic !== undefined || watch.sections.oracle === undefined)) {
      watch.sections = ended.sections
      watch.unanswered = undefined
    }
    session.pump?.drain()
    const panicked = watch.console.some(({ verdict }) => verdict === 'guest-panic')
    const evidence = watch.evidence(panicked && end === 'deadline' ? 'ended' : end, job, snapshot)
    const checks = evidence.end === 'ended' ? [] : evidence.checks
    const why = tooLarge ?? problem(ended, controller.problems)
    const unjudged = isolates(job) ? watch.unjudged(job) : undefined
    return {
      ...evidence,
      checks,
      ...(unjudged !== undefined && { unjudged }),
      guestEnded: panicked || (ended !== undefined && ended.panic === undefined && why === undefined),
      ...(why && { problem: why, ...(!watch.started && { unstarted: true }) }),
    }
  } finally {
    endDeadline()
    unlimit()
    signal.removeEventListener('abort', abort)
    await machine.close()
  }
}

/** Why the machine failed; undefined when the guest ended it. */
function problem(end: SessionEnd | undefined, problems: readonly string[]): string | undefined {
  if (end === undefined) return problems[0]
  // The server stood still on purpose, and QEMU, which waits for it, is ended.
  if (end.panic !== undefined) return undefined
  if (end.serverError !== undefined) {
    const said = end.qemuErrors && `; QEMU: ${end.qemuErrors.slice(0, 500)}`
    return `the server failed: ${end.serverError.slice(0, 500)}${said}`
  }
  return qemuFailure({ ...end, qemuErrors: end.qemuErrors.slice(0, 500) }) ?? problems[0]
}

const waitOf = ({ qemu: { child } }: Session): ProcessorWait =>
  new ProcessorWait([process.pid, ...(child.pid === undefined ? [] : [child.pid])])

/** Looks at the machine as it stands: firings, isolation, and sections of the report. What is not answered keeps nothing else from being asked. */
async function inspect({ session }: AgentMachine, watch: Watch): Promise<void> {
  const { thread } = session
  if (thread === undefined) return
  const ask = async (whom: string, question: (late: AbortSignal) => Promise<void>): Promise<string | undefined> => {
    const late = new AbortController()
    const waiting = waitOf(session)
    const end = startDeadline(
      AUDIT_MS,
      () => waiting.ms(),
      () => late.abort(new Error('no answer in time')),
    )
    try {
      await inTime(question(late.signal), late.signal)
      return undefined
    } catch (error) {
      const why = `${whom}: ${(error as Error).message}`
      watch.note(`not all could be looked at: ${why}`)
      return why
    } finally {
      end()
    }
  }
  await ask('the rules', async () => {
    watch.status = await thread.call('faults')
  })
  await ask('QEMU', async late => {
    await (await session.qmp(late)).execute('stop')
  })
  await ask('the policy', async () => {
    watch.sections = await thread.call('sections')
  })
  watch.unanswered = await ask('the oracle', async () => {
    const oracle = await thread.call('oracle')
    if (oracle !== null) watch.sections = { ...watch.sections, oracle }
  })
}
