// SPDX-License-Identifier: Apache-2.0
/** What the server sends, by the server's own types. */
export type { CounterItem } from '../../api/app.ts'
export type { ConsoleItem, EventItem, FiringItem, MachineStatus, StatusItem, WarningItem } from '../../api/machine.ts'
export type { Span } from '../../api/tally.ts'
export type { TrapRow } from '../../api/traps.ts'
export type { WalkAnswer } from '../../api/walkAnswer.ts'

import type { CounterItem } from '../../api/app.ts'
import type { Span } from '../../api/tally.ts'
import type { FaultRule } from '../../faults/rule.ts'

export type Counters = CounterItem['counters']

export interface Info {
  readonly version: string
  readonly policies: readonly string[]
  readonly stages: readonly string[]
  readonly kernels: readonly string[]
  readonly registers: readonly { name: string; offset: number; bits: number; meaning: string }[]
  readonly commands: readonly string[]
  readonly events: readonly string[]
  readonly warnings: readonly { code: string; section: string; meaning: string }[]
}

export interface FieldView {
  readonly name: string
  readonly value: string
  readonly meaning?: string
}

export interface Entry {
  readonly address?: string
  readonly valid: boolean
  readonly config?: string
  readonly text: string
  readonly words: readonly string[]
  readonly fields: readonly FieldView[]
}

export interface Root {
  readonly stage: 1 | 2
  readonly name: string
  readonly address: string
  readonly level: number
  readonly granuleShift: number
  readonly inputBits: number
  readonly input: string
}

export interface StreamDetail {
  readonly sid: number
  readonly device: { name: string; model: string } | null
  readonly shadowed: boolean
  readonly host: Entry | null
  readonly shadow: Entry | null
  readonly differs: readonly string[]
  readonly legal: boolean | null
  readonly cd: Entry | null
  readonly roots: readonly Root[]
}

export interface StreamList {
  readonly shadowed: boolean
  readonly table?: { base: string; twoLevel: boolean; log2size: number; split: number }
  readonly shadowTable: { base: string; twoLevel: boolean } | null
  readonly streams: readonly {
    sid: number
    device: { name: string; model: string } | null
    host: string
    shadow: string | null
  }[]
}

export interface Queue {
  readonly enabled: boolean
  readonly base: string
  readonly entries: number
  readonly prod: number
  readonly cons: number
  readonly prodWrap: number
  readonly consWrap: number
  readonly pending: number
  readonly error: number
  readonly shown: readonly QueueEntry[]
}

export interface QueueEntry {
  readonly index: number
  readonly name: string
  readonly text: string
  readonly words: readonly string[]
  readonly verdict?: string
  /** Of the host's queue: where it is in the shadow. */
  readonly shadow?: number
}

export interface Queues {
  readonly host: Queue
  readonly shadow: Queue | null
  readonly events: Queue
}

export interface RegisterRow {
  readonly offset: string
  readonly name: string
  readonly bits: number
  readonly meaning: string
  readonly host: { value: string | null; text: string }
  readonly hardware: { value: string | null; text: string }
}

export interface Child {
  readonly kind: string
  readonly text: string
  readonly us?: number
  readonly verdict?: string
  readonly host?: Entry
  readonly shadow?: Entry
  readonly bytes?: string
}

export interface Reach {
  readonly sid: number
  readonly device: { name: string; model: string } | null
  readonly config: string
  readonly mapped: readonly { iova: string; base: string; size: number }[]
}

export interface Ownership {
  readonly from: string
  readonly to: string
  readonly ranges: readonly { base: string; size: number; state: string; vm: number }[]
}

export interface BreakpointView {
  readonly id: number
  readonly on: string
  readonly text: string
  readonly smmu: number | null
  readonly skip: number
  readonly once: boolean
  readonly enabled: boolean
  readonly matches: number
}

export interface FaultEntry {
  readonly name: string
  readonly summary: string
  readonly expect: readonly string[]
  readonly why: string
  readonly session: Readonly<Record<string, unknown>>
  readonly rules: readonly { readonly name: string; readonly text: string; readonly rule: FaultRule }[]
}

export interface FaultStatus {
  readonly armed: boolean
  readonly seed: number
  readonly rules: readonly {
    readonly rule: string
    readonly text: string
    readonly at: string
    readonly state: 'waiting' | 'firing' | 'spent'
    readonly matches: number
    readonly fired: number
  }[]
}

export interface FaultEffect {
  readonly before: Span
  readonly since: Span
  readonly over: boolean
}

export interface TableEntry {
  readonly index: number
  readonly input: string
  readonly value: string
  readonly type: 'table' | 'block' | 'page'
  readonly address: string
  readonly size: number
  readonly permissions: string
  readonly accessed: boolean
}
