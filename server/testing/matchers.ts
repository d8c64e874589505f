// SPDX-License-Identifier: Apache-2.0
/** What a test expects of a machine. Matchers wait until it is so; with `not` they look once. */
import { setTimeout as sleep } from 'node:timers/promises'
import { hex } from '../smmu/bits.ts'
import type { StreamReport } from '../trap/sections.ts'
import { Console } from './console.ts'
import type { Owner } from './hyp.ts'
import {
  type HypWarningSeen,
  Log,
  matches,
  type Pattern,
  type SmmuCommand,
  type SmmuEvent,
  type SmmuTrap,
} from './log.ts'
import { Machine } from './machine.ts'

/** How long a matcher waits, ms. */
const TIMEOUT_MS = 5_000
const LOOK_MS = 20
const SHOWN = 10

/** Of a matcher. */
export interface Wait {
  /** How long it waits, ms; 5,000 by default. */
  readonly timeout?: number
}

/** Where a translation is expected to lead, or what is to stop it. */
export type Expected =
  | { readonly pa: number }
  | { readonly fault: string; readonly s2?: boolean }
  | { readonly aborted: true }

/** Which transaction: of a device by its name, or of a StreamID. */
export type Through = { readonly device: string } | { readonly sid: number; readonly smmu?: number }

interface Result {
  readonly pass: boolean
  readonly message: () => string
}

interface State {
  readonly isNot: boolean
}

/** Looks until it is so, or time is up; once where it must not be so. */
async function until({ isNot }: State, { timeout = TIMEOUT_MS }: Wait, look: () => Promise<Result>): Promise<Result> {
  const end = performance.now() + timeout
  for (;;) {
    const result = await look()
    if (result.pass || isNot || performance.now() >= end) return result
    await sleep(LOOK_MS)
  }
}

const shown = (pattern: object): string =>
  `{ ${Object.entries(pattern)
    .map(
      ([name, value]) =>
        `${name}: ${typeof value === 'number' && value > 9 ? hex(value) : value instanceof RegExp ? String(value) : typeof value === 'bigint' ? hex(value) : JSON.stringify(value)}`,
    )
    .join(', ')} }`

function contains<T extends { readonly text: string }>(what: string) {
  return function (this: State, received: unknown, pattern: Pattern<T>, wait: Wait = {}): Promise<Result> {
    if (!(received instanceof Log) || received.what !== what) throw new TypeError(`expected the ${what}s of a machine`)
    const log = received as Log<T>
    return until(this, wait, async () => {
      const found = log.all.find(item => matches(item, pattern))
      const last = log.all.slice(-SHOWN).map(({ text }) => `  ${text}`)
      const there = last.length === 0 ? `there was no ${what}` : `the last of ${log.count}:\n${last.join('\n')}`
      return {
        pass: found !== undefined,
        message: () =>
          found === undefined
            ? `expected ${/^[aeiou]/.test(what) ? 'an' : 'a'} ${what} ${shown(pattern)}; ${there}`
            : `expected no ${what} ${shown(pattern)}, but there was:\n  ${found.text}`,
      }
    })
  }
}

function machineOf(received: unknown): Machine {
  if (!(received instanceof Machine)) throw new TypeError('expected a machine')
  return received
}

const owned = ({ state, vm }: Owner): string => (state === 'vm' ? `VM ${vm}` : state)

export const matchers = {
  toContainEvent: contains<SmmuEvent>('event'),
  toContainTrap: contains<SmmuTrap>('trap'),
  toContainCommand: contains<SmmuCommand>('command'),
  toContainWarning: contains<HypWarningSeen>('hyp warning'),

  async toContainLine(this: State, received: unknown, pattern: RegExp, wait: Wait = {}): Promise<Result> {
    if (!(received instanceof Console)) throw new TypeError('expected the console of a machine')
    return until(this, wait, async () => {
      const found = received.lines.find(line => line.search(pattern) >= 0)
      const last = received.lines.slice(-SHOWN).map(line => `  ${line}`)
      return {
        pass: found !== undefined,
        message: () =>
          found === undefined
            ? `expected ${pattern} on the console; its last lines:\n${last.join('\n')}`
            : `expected no ${pattern} on the console, but there was:\n  ${found}`,
      }
    })
  },

  async toBeIsolated(this: State, received: unknown): Promise<Result> {
    const problems = await machineOf(received).isolationProblems()
    return {
      pass: problems.length === 0,
      message: () =>
        problems.length === 0
          ? 'expected devices not to be isolated, but they are'
          : `expected devices to be isolated:\n${problems.map(problem => `  ${problem}`).join('\n')}`,
    }
  },

  async toHaveOwner(
    this: State,
    received: unknown,
    page: number,
    owner: Owner['state'] | { readonly vm: number },
    wait: Wait = {},
  ): Promise<Result> {
    const machine = machineOf(received)
    const wanted: Owner = typeof owner === 'string' ? { state: owner, vm: 0 } : { state: 'vm', vm: owner.vm }
    return until(this, wait, async () => {
      const is = await machine.hyp.owner(page)
      return {
        pass: is.state === wanted.state && is.vm === wanted.vm,
        message: () =>
          `expected page ${hex(page)} ${this.isNot ? 'not ' : ''}to be owned by ${owned(wanted)}; it is ${owned(is)}`,
      }
    })
  },

  async toHaveStream(
    this: State,
    received: unknown,
    device: string | number,
    pattern: Pattern<StreamReport>,
    wait: Wait = {},
  ): Promise<Result> {
    const machine = machineOf(received)
    return until(this, wait, async () => {
      const streams = await machine.hyp.streams()
      const stream = streams.find(({ sid, device: name }) => sid === device || name === device)
      const is = stream === undefined ? 'the host has not configured it' : shown(stream)
      return {
        pass: stream !== undefined && matches(stream, pattern),
        message: () => `expected stream ${device} ${this.isNot ? 'not ' : ''}to be ${shown(pattern)}; ${is}`,
      }
    })
  },

  async toTranslate(
    this: State,
    received: unknown,
    transaction: Through & { readonly iova: number | bigint; readonly write?: boolean; readonly ssid?: number },
    expected: Expected,
    wait: Wait = {},
  ): Promise<Result> {
    const machine = machineOf(received)
    const sid = 'sid' in transaction ? transaction.sid : machine.device(transaction.device).sid
    if (sid === undefined) throw new Error(`the StreamID of ${shown(transaction)} is not known`)
    const { iova, write, ssid } = transaction
    return until(this, wait, async () => {
      const is = await machine.translate({
        sid,
        iova,
        ...('smmu' in transaction && transaction.smmu !== undefined && { smmu: transaction.smmu }),
        ...(write !== undefined && { write }),
        ...(ssid !== undefined && { ssid }),
      })
      const pass =
        'pa' in expected
          ? is.pa === expected.pa
          : 'fault' in expected
            ? is.fault === expected.fault && (expected.s2 === undefined || is.s2 === expected.s2)
            : is.pa === undefined && is.fault === undefined
      return {
        pass,
        message: () =>
          [
            `expected ${hex(BigInt(iova))} of StreamID ${hex(sid)} ${this.isNot ? 'not ' : ''}to translate to ${shown(expected)}; it comes to ${is.text}`,
            ...is.steps.map(step => `  ${step}`),
          ].join('\n'),
      }
    })
  },
}

/** What `expect` has besides vitest's own. Each is awaited. */
export interface MachineMatchers {
  /** Of `m.events`: an event with these fields comes. */
  toContainEvent(pattern: Pattern<SmmuEvent>, wait?: Wait): Promise<void>
  /** Of `m.traps`: a vCPU makes such an access. */
  toContainTrap(pattern: Pattern<SmmuTrap>, wait?: Wait): Promise<void>
  /** Of `m.commands`: such a command is decided, or issued by the hypervisor. */
  toContainCommand(pattern: Pattern<SmmuCommand>, wait?: Wait): Promise<void>
  /** Of `m.warnings`: such a hyp warning comes. */
  toContainWarning(pattern: Pattern<HypWarningSeen>, wait?: Wait): Promise<void>
  /** Of `m.console`: such a line comes. */
  toContainLine(pattern: RegExp, wait?: Wait): Promise<void>
  /** Of a machine: no device reaches what is not the host's, the policy promises it, and all devices are behind the SMMU. */
  toBeIsolated(): Promise<void>
  /** Of a machine: whose a page is. */
  toHaveOwner(page: number, owner: Owner['state'] | { readonly vm: number }, wait?: Wait): Promise<void>
  /** Of a machine: how a stream is configured, by the host and in the shadow table. @param device its name, or a StreamID */
  toHaveStream(device: string | number, pattern: Pattern<StreamReport>, wait?: Wait): Promise<void>
  /** Of a machine: what the tables make of a transaction. */
  toTranslate(
    transaction: Through & { readonly iova: number | bigint; readonly write?: boolean; readonly ssid?: number },
    expected: Expected,
    wait?: Wait,
  ): Promise<void>
}
