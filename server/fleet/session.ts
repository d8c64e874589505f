// SPDX-License-Identifier: Apache-2.0
/** Fault sessions as jobs of a fleet. */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Type } from 'typebox'
import { Compile } from 'typebox/compile'
import { VERDICTS } from '../faults/rule.ts'
import { type JobMachine, needsAttack } from '../sessions/agentMachine.ts'
import { sessionFolder } from '../sessions/campaign.ts'
import { jobName } from '../sessions/database.ts'
import type { Job, SessionResult } from '../sessions/session.ts'
import { type Evidence, expectedOf, isExpected } from '../sessions/verdict.ts'
import { machineIdentities } from './identity.ts'
import type { SessionWork } from './job.ts'
import { filesFor, type GuestFiles } from './own.ts'
import type { Sent } from './sender.ts'

/** What goes over the queue: no path but the kernel's, which is a name there. */
export function sessionWork({ entry, kernel, until, seed, machine = {} }: Job): SessionWork {
  const { source: _, rules, ...about } = entry
  const { append, devices, qemuArgs } = machine
  const { expect } = entry
  return {
    do: 'session',
    entry: { ...about, expect: typeof expect === 'string' ? expect : [...expect], rules },
    ...{ kernel, until, seed },
    ...(append !== undefined && { append }),
    ...(devices !== undefined && { devices: [...devices] }),
    ...(qemuArgs !== undefined && { qemuArgs: [...qemuArgs] }),
  }
}

/** The same on a worker. @param files its own */
export function sessionJob(
  { entry, until, seed, append, devices, qemuArgs }: SessionWork,
  { kernel, ...files }: GuestFiles,
): Job {
  const machine: JobMachine = {
    ...files,
    ...(append !== undefined && { append }),
    ...(devices !== undefined && { devices }),
    ...(qemuArgs !== undefined && { qemuArgs }),
  }
  return { entry, kernel, until, seed, ...(Object.keys(machine).length > 0 && { machine }) }
}

const strict = { additionalProperties: false } as const
const text = Type.String({ maxLength: 4096 })
const number = Type.Number()
const list = <T extends ReturnType<typeof Type.Object>>(items: T) => Type.Array(items, { maxItems: 1000 })
const lines = Type.Array(text, { maxItems: 1000 })
const verdict = Type.Enum([...VERDICTS])

const Result = Compile(
  Type.Object({
    verdict,
    findings: list(Type.Object({ verdict, text: Type.String({ maxLength: 20_000 }) }, strict)),
    evidence: Type.Object({
      end: Type.Enum(['worked', 'deadline', 'ended']),
      problem: Type.Optional(text),
      unjudged: Type.Optional(text),
      guestEnded: Type.Boolean(),
      console: list(Type.Object({ verdict, line: text }, strict)),
      waits: lines,
      checks: list(
        Type.Object({
          ...{ device: text, operation: Type.Enum(['read', 'write', 'fetch']), bytes: number, sha256: text },
          ...{ expected: text, ok: Type.Boolean(), ms: Type.Optional(number) },
          ...{ error: Type.Optional(text), note: Type.Optional(text) },
        }),
      ),
      warnings: list(Type.Object({ code: text, count: number, firstValues: text })),
      events: Type.Record(Type.String(), number),
      gerrors: number,
      guardFaults: number,
      resets: number,
      interruptions: number,
      isolation: Type.Array(Type.String({ maxLength: 20_000 }), { maxItems: 1000 }),
      armed: Type.Boolean(),
      fired: number,
      firings: list(Type.Object({ rule: text, n: number, trap: number, time: number, what: text }, strict)),
      traps: number,
      workloadMs: number,
      waitedMs: number,
      usualMs: Type.Optional(number),
    }),
    timeline: list(Type.Object({ ms: number, text }, strict)),
    console: lines,
    trace: lines,
    before: Type.Object({ accesses: number, digest: text }, strict),
    ms: Type.Number({ minimum: 0 }),
  }),
)

/** A result that came over the queue. Whether it was expected is said here. @throws Error when it is none */
export function sessionResult(value: unknown, job: Job, folder: string): SessionResult {
  if (!Result.Check(value)) {
    const [first] = Result.Errors(value)
    throw new Error(`no result of a session: ${first?.instancePath || '/'} ${first?.message ?? ''}`)
  }
  const { verdict, findings, evidence, timeline, console, trace, before, ms } = value
  const asExpected = isExpected(verdict, expectedOf(job.entry))
  return { verdict, asExpected, findings, evidence, timeline, console, trace, before, ms, folder }
}

const NOTHING: Evidence = {
  ...{
    end: 'ended',
    guestEnded: false,
    console: [],
    waits: [],
    checks: [],
    warnings: [],
    events: {},
    gerrors: 0,
    guardFaults: 0,
  },
  ...{
    resets: 0,
    interruptions: 0,
    isolation: [],
    armed: false,
    fired: 0,
    firings: [],
    traps: 0,
    workloadMs: 0,
    waitedMs: 0,
  },
}

/** Of a session that no worker brought to an end. */
export function lostSession(why: string, folder: string): SessionResult {
  return {
    ...{ verdict: 'harness-error', asExpected: false, findings: [{ verdict: 'harness-error', text: why }] },
    evidence: { ...NOTHING, problem: why },
    ...{ timeline: [], console: [], trace: [], before: { accesses: 0, digest: '' }, ms: 0, folder },
  }
}

/**
 * Sessions as they go over the queue.
 * @param folder where the files of sessions go, each in a folder of its own
 * @param qemu of this machine: the identity that workers have to have is that of this machine's code
 * @param publish folder that kernels are put into, for workers
 */
export function sentSessions(folder: string, qemu?: string, publish?: string): Sent<Job, SessionResult> {
  const identityOf = machineIdentities(publish)
  return {
    nameOf: jobName,
    async pack(job, signal) {
      const { modules, initrd, devices = [] } = job.machine ?? {}
      const { kernel, entry } = job
      const files = filesFor(kernel, { ...(modules && { modules }), ...(initrd && { initrd }) })
      const attack = needsAttack(entry.session?.el2)
      const identity = await identityOf({ kernel, devices, attack, ...files, ...(qemu && { qemu }) }, signal)
      return { identity, work: sessionWork(job) }
    },
    unpack(value, job, files) {
      const own = sessionFolder(folder, job)
      const result = sessionResult(value, job, own)
      mkdirSync(own, { recursive: true })
      for (const { name, bytes } of files) writeFileSync(join(own, name), bytes)
      return result
    },
    lost: (why, job) => lostSession(why, sessionFolder(folder, job)),
  }
}
