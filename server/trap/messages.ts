// SPDX-License-Identifier: Apache-2.0
/** What the control thread and the trap thread tell each other. */
import type { Hello } from '../../protocol/generated/messages.ts'
import type { InjectorState } from '../faults/injector.ts'
import type { FaultPlan, Firing } from '../faults/rule.ts'
import type { Breakpoint } from './breakpoints.ts'
import type { HeldTrap, OperationFailure } from './operations.ts'
import type { ReporterState } from './reporter.ts'
import type { TranslateMode } from './translator.ts'

/** What the trap thread is started with. */
export interface ThreadOptions {
  /** Path of a Unix socket, or `host:port`. */
  readonly listen: string
  /** `passthrough`, `pkvm`, or the path of a TypeScript file with a policy. */
  readonly policy: string
  /** Options of the policy, e.g. `{ until: 'cmdq' }`. */
  readonly policyOptions: Readonly<Record<string, unknown>>
  /**
   * The file of guest RAM that this process created, or with a slash at its end a folder of such files; a memory that QEMU
   * says is elsewhere is reached over the wire.
   */
  readonly ramFile: string
  /** Shared memory: the trace ring (trace/ring.ts) and the counters (trace/counters.ts). */
  readonly ring: SharedArrayBuffer
  readonly counters: SharedArrayBuffer
  readonly panicOnWarn: boolean
  /** Who translates for devices; default `hardware`. */
  readonly translate?: TranslateMode
  /** Pages that are donated to a VM are filled with what it would find changed (faults/sessions/canary.ts). */
  readonly canaries?: boolean
  /** Every access of the guest is asked for, and every access to the hardware waited for. */
  readonly faithful?: boolean
  /**
   * What becomes of a running machine whose state cannot be taken over. `refuse` (default): QEMU ends with the reason.
   * `reset`: its traps are aborted until somebody resets it. `leave`: it is left to another server.
   */
  readonly onRefusal?: 'refuse' | 'reset' | 'leave'
  /** Rules that are armed from the start. */
  readonly faults?: FaultPlan
  /** The machine waits for a lost server: a thread that a fault ends is replaced. */
  readonly revive?: boolean
  /** How long code that may loop is waited for, ms; default 10,000. */
  readonly patienceMs?: number
}

/** From the trap thread. */
export type ThreadEvent =
  | { readonly event: 'loaded' }
  | {
      readonly event: 'connected'
      readonly machine: Hello
      /** The machine ran already: what had to be put right. */
      readonly resumed: boolean
      readonly repairs: readonly string[]
    }
  /** A connection's first trap was answered; ms since the epoch. */
  | { readonly event: 'first-trap'; readonly at: number }
  /** A running machine was not taken over (`onRefusal` leave). */
  | { readonly event: 'refused'; readonly message: string }
  /** A running machine could not be taken over, and waits for its reset. */
  | { readonly event: 'lost'; readonly message: string }
  | { readonly event: 'reset'; readonly cause: number }
  | { readonly event: 'shutdown'; readonly cause: number; readonly sections: Readonly<Record<string, unknown>> }
  | {
      readonly event: 'disconnected'
      readonly message: string
      readonly expected: boolean
      /** The policy threw. */
      readonly fault: boolean
    }
  | { readonly event: 'panic'; readonly text: string; readonly sections: Readonly<Record<string, unknown>> }
  | { readonly event: 'held'; readonly held: HeldTrap }
  | { readonly event: 'released'; readonly seq: number; readonly action: string }
  /** A fault was injected. */
  | { readonly event: 'fired'; readonly firing: Firing }
  /** A fault ends the thread. What is left is what people gave it: of the machine it takes nothing along. */
  | { readonly event: 'killed'; readonly left: Handover }
  | {
      readonly event: 'result'
      readonly id: number
      readonly value?: unknown
      readonly error?: string
      readonly failure?: OperationFailure
    }

/** To the trap thread; taken between traps. */
export interface ThreadCommand {
  readonly id: number
  readonly operation: string
  readonly args: readonly unknown[]
}

/** What a trap thread hands to the one that replaces it. */
export interface Handover {
  readonly breakpoints: readonly Breakpoint[]
  readonly report: ReporterState
  /** Null: no rule is armed. */
  readonly faults: InjectorState | null
  /** Number of the trap that was held, 0: none. It comes again. */
  readonly held: number
}
