// SPDX-License-Identifier: Apache-2.0
/** What the control thread and the trap thread tell each other. */
import type { Hello } from '../../protocol/generated/messages.ts'
import type { InjectorState } from '../faults/injector.ts'
import type { FaultPlan, Firing } from '../faults/rule.ts'
import type { Mapping } from '../machine/sharedMemory.ts'
import type { OracleState } from '../oracle/isolationOracle.ts'
import type { OperationFailure } from '../policy/operationError.ts'
import type { PolicyInfo } from '../policy/policy.ts'
import type { TranslateMode } from '../translate/translator.ts'
import type { Breakpoint } from './breakpoints.ts'
import type { HeldTrap, Operations, Release } from './operations.ts'
import type { ReporterState } from './reporter.ts'
import type { Call } from './rpc.ts'

/**
 * What frames travel through once a machine is welcome. `ring`: shared memory, or the machine is refused. `socket`: the socket, and
 * guest RAM is read and written by system calls. `auto`: shared memory where both ends have it.
 */
export const TRANSPORTS = ['auto', 'ring', 'socket'] as const
export type Transport = (typeof TRANSPORTS)[number]

/** What came of it. */
export interface TransportUse {
  readonly frames: 'ring' | 'socket'
  /** Guest RAM: memory of the server, a file, or read through the connection. */
  readonly ram: 'mapped' | 'file' | 'wire'
  /** Why there is no ring, though nobody asked for the socket. */
  readonly reason?: string
}

/** What the trap thread is started with. */
export interface ThreadOptions {
  /** Path of a Unix socket, or `host:port`. */
  readonly listen: string
  /** Name of a policy, or the path of a TypeScript file with one. */
  readonly policy: string
  /** Options of the policy, e.g. `{ until: 'cmdq' }`. */
  readonly policyOptions: Readonly<Record<string, unknown>>
  /**
   * The descriptor of guest RAM that the machine inherits from this process, which keeps it open for longer than the thread
   * runs; or the path of its file, or with a slash at its end a folder of such files. A memory that QEMU says is elsewhere is
   * reached over the wire.
   */
  readonly ramFile: number | string
  /** Where the process has mapped the file of that descriptor, all of it, for longer than the thread runs. */
  readonly ramMapping?: Mapping
  /** Default `auto`. */
  readonly transport?: Transport
  /** Shared memory: the trace ring (trace/ring.ts) and the counters (trace/counters.ts). */
  readonly ring: SharedArrayBuffer
  readonly counters: SharedArrayBuffer
  readonly panicOnWarn: boolean
  /**
   * What devices reach is held against the results of donations and reclaims, and against EL2's own tables where there is an EL2,
   * while the machine runs; what must not be stops it. Pages of VMs are filled with what these would find changed.
   */
  readonly oracle?: boolean
  /** The machine was saved while nothing was donated. */
  readonly restored?: boolean
  /** Who translates for devices; default `hardware`. */
  readonly translate?: TranslateMode
  /** Every access of the guest is asked for, and every access to the hardware waited for. */
  readonly faithful?: boolean
  /**
   * What becomes of a running machine whose state cannot be taken over. `refuse` (default): QEMU ends with the reason.
   * `reset`: its traps are aborted until somebody resets it. `leave`: it is left to another server.
   */
  readonly onRefusal?: 'refuse' | 'reset' | 'leave'
  /** Return addresses that are recorded with each trap, at most MAX_FRAMES; default 0. Then every access is asked for. */
  readonly callStacks?: number
  /** gdb may be attached to the machine: a trap that is held is parked for it. */
  readonly debugged?: boolean
  /** Rules that are armed from the start. */
  readonly faults?: FaultPlan
  /** The machine waits for a lost server: a thread that a fault ends is replaced. */
  readonly revive?: boolean
  /** What a peer has to know to be let in; absent: whoever reaches the socket is. Needed beyond loopback. */
  readonly token?: Uint8Array
  /** How long a peer may take to say hello and to answer until it is welcome, ms; default 5,000. */
  readonly handshakeMs?: number
  /**
   * Whoever made this thread made the machine's QEMU too, and ends that first: so the thread may sleep until QEMU says
   * something, and need not look whether it has to end.
   */
  readonly peerEnds?: boolean
  /** How long code that may loop is waited for, ms; default 10,000. */
  readonly patienceMs?: number
}

/** Sections of a report, by name. */
export type Sections = Readonly<Record<string, unknown>>

/** What the trap thread tells by itself, and what goes with it. */
export interface ThreadEvents {
  /** A module is about to be loaded; its file. */
  module: [path: string]
  /** The code is there; it does not serve yet. */
  loaded: []
  /** `resumed`: the machine ran already; `repairs` says what had to be put right. */
  connected: [machine: Hello, resumed: boolean, repairs: readonly string[], policy: PolicyInfo]
  /** A connection's first trap was answered; ms since the epoch. */
  firstTrap: [at: number]
  /** What the machine's frames travel through, and how its memory is reached. */
  transport: [use: TransportUse]
  /** The thread has mapped a file, or no longer: what is left when the thread ends is somebody else's to unmap. */
  mapped: [mapping: Mapping, is: boolean]
  /** A machine said hello and is not served. `resumed`: it ran already, and may look for another server. */
  refused: [message: string, resumed: boolean]
  /** A peer broke the protocol before it said hello, or said nothing in time. */
  turnedAway: [message: string]
  /** A running machine could not be taken over, and waits for its reset. */
  lost: [message: string]
  reset: [cause: number]
  shutdown: [cause: number, sections: Sections]
  /** `fault`: the policy threw. */
  disconnected: [message: string, expected: boolean, fault: boolean]
  /** The policy stopped the machine at a warning. */
  panic: [text: string, sections: Sections]
  /** A breakpoint stopped a trap. */
  held: [held: HeldTrap]
  /** `lost`: the machine or the thread is gone. */
  released: [seq: number, action: Release['action'] | 'lost']
  /** A fault was injected. */
  fired: [firing: Firing]
  /** A fault ends the thread. What is left is what people gave it: of the machine it takes nothing along. */
  killed: [left: Handover]
}

/** One of these events, as a message. */
export type ThreadEvent<K extends keyof ThreadEvents = keyof ThreadEvents> = {
  [E in K]: { readonly event: E; readonly args: ThreadEvents[E] }
}[K]

/** Sends an event. */
export type Post = <K extends keyof ThreadEvents>(event: K, ...args: ThreadEvents[K]) => void

/** What the control thread asks of a thread itself, around the replacement of code. */
export interface Lifecycle {
  /** Would this code take over the machine from that checkpoint? @throws Error why not. */
  try(machine: Hello, checkpoint: Uint8Array): void
  /** Takes QEMU's connection from now on. @param left by the thread before; null: there was none */
  serve(left: Handover | null): Promise<void>
  /** Gives up the machine. @returns what its successor goes on with; null: it never served */
  retire(): Promise<Handover | null>
}

/** Everything that the trap thread can be asked. */
export type ThreadInterface = Lifecycle & Operations

/** To the trap thread; taken between traps. */
export type ThreadCall = Call<Lifecycle> | Call<Operations>

/** From the trap thread. */
export type ThreadMessage = ThreadEvent | ThreadOutcome

/** What became of the call with this number. */
export interface ThreadOutcome {
  readonly id: number
  /** Its result; absent: it failed. */
  readonly value?: unknown
  readonly error?: { readonly message: string; readonly failure?: OperationFailure }
}

/** What a trap thread hands to the one that replaces it. */
export interface Handover {
  readonly breakpoints: readonly Breakpoint[]
  readonly report: ReporterState
  /** Null: no rule is armed. */
  readonly faults: InjectorState | null
  /** Null: the machine was not watched. */
  readonly oracle: OracleState | null
  /** Number of the trap that was held, 0: none. It comes again. */
  readonly held: number
  /** Traps that are held are parked. */
  readonly debugged: boolean
}
